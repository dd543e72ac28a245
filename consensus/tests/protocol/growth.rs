//! A cluster that grows and shrinks, one member at a time. Trap 9 is what happens where a step is taken too early, or by
//! the wrong members.

use kimberlite_consensus::{
    Change::{Add, Remove},
    ChangeRefused, Envelope, Input, Message, Op, ReplicaId,
};

use crate::scene::Scene;

fn may(scene: &Scene, r: usize, change: kimberlite_consensus::Change) -> Result<(), ChangeRefused> {
    scene.actors[r].replica.may_change(scene.now, change)
}

/// Has the leader change the members, and waits for it.
fn change(scene: &mut Scene, change: kimberlite_consensus::Change) {
    let leader = scene.leader().unwrap();
    assert_eq!(may(scene, leader, change), Ok(()), "{change:?}");
    scene.step(leader, Input::Change(change));
    scene.pass(500);
}

fn voters(scene: &Scene, r: usize) -> Vec<u8> {
    let voters = scene.actors[r].replica.members().voters();
    (0..15).filter(|r| voters.has(ReplicaId(*r))).collect()
}

/// What only those say to each other gets through.
fn among(who: &'static [usize]) -> impl Fn(&Envelope) -> bool {
    move |e| who.contains(&usize::from(e.from.0)) && who.contains(&usize::from(e.to.0))
}

#[test]
fn a_cluster_of_one_grows_to_five_and_shrinks_again() {
    let mut scene = Scene::with_standbys(1, 5);
    scene.pass(500);
    assert_eq!(scene.leader(), Some(0));
    let first = scene.request(0);
    scene.pass(500);
    for r in 1..5 {
        change(&mut scene, Add(ReplicaId(r)));
        let all: Vec<u8> = (0..=r).collect();
        assert!((0..=usize::from(r)).all(|a| voters(&scene, a) == all), "{r}");
    }
    // Any two may go now.
    let header = scene.request(0);
    scene.pass_with(300, among(&[0, 3, 4]));
    assert_eq!(scene.actors[0].committed, header.op);
    scene.pass(1_000);
    for _ in 0..4 {
        let leader = scene.leader().unwrap();
        let last = voters(&scene, leader).into_iter().rfind(|r| usize::from(*r) != leader).unwrap();
        change(&mut scene, Remove(ReplicaId(last)));
    }
    let leader = scene.leader().unwrap();
    assert_eq!(voters(&scene, leader), [leader as u8]);
    // It needs nobody, and those who were removed follow.
    let header = scene.request(leader);
    scene.pass_with(300, |_| false);
    assert_eq!(scene.actors[leader].committed, header.op);
    scene.pass(1_000);
    assert!(scene.actors.iter().all(|a| a.committed == header.op && header.op > first.op));
}

/// Trap 9: a step waits until all before it is committed, and nothing is ordered meanwhile. Two steps in flight could make
/// two quorums that do not meet.
#[test]
fn a_step_waits_until_all_before_it_is_committed() {
    let mut scene = Scene::with_standbys(3, 5);
    scene.pass(2_000);
    let leader = scene.leader().unwrap();
    let header = scene.request(leader);
    scene.step(leader, Input::Change(Add(ReplicaId(3))));
    assert!(!scene.actors[leader].replica.takes_requests());
    assert!(!scene.actors[leader].replica.wants_order());
    assert_eq!(may(&scene, leader, Add(ReplicaId(4))), Err(ChangeRefused::Underway));
    let wrote = |scene: &Scene| scene.actors[leader].log.len() as u64;
    scene.pass_with(200, |_| false);
    assert_eq!(wrote(&scene), header.op.0, "it is not ordered");
    scene.pass(60);
    assert_eq!(wrote(&scene), header.op.0 + 1);
    scene.pass(300);
    assert_eq!(voters(&scene, leader), [0, 1, 2, 3]);
    assert!(scene.actors[leader].replica.takes_requests());
    // While the next one is in flight, a third has to wait.
    scene.step(leader, Input::Change(Add(ReplicaId(4))));
    scene.step(leader, Input::Order);
    let gone = (leader + 1) % 3;
    assert_eq!(may(&scene, leader, Remove(ReplicaId(gone as u8))), Err(ChangeRefused::Underway));
}

/// Trap 9: that all it inherited is committed does not say that a quorum has the log of its view. A primary that nobody
/// follows yet orders no step.
#[test]
fn a_new_primary_orders_no_step_before_a_quorum_has_its_log() {
    let mut scene = Scene::with_standbys(3, 4);
    scene.pass(2_000);
    let old = scene.leader().unwrap();
    scene.request(old);
    scene.pass(500);
    // What the next primary says is lost, so nobody takes its log.
    let silent = |e: &Envelope| {
        let begins = matches!(e.message, Message::StartView { .. });
        usize::from(e.from.0) != old && !begins
    };
    let first = |scene: &Scene| {
        scene
            .actors
            .iter()
            .position(|a| a.replica.is_primary() && usize::from(a.replica.id().0) != old)
    };
    for _ in 0..300 {
        scene.pass_with(10, silent);
        if first(&scene).is_some() {
            break;
        }
    }
    let new = first(&scene).unwrap();
    let third = (0..3).find(|r| ![old, new].contains(r)).unwrap() as u8;
    assert_eq!(may(&scene, new, Remove(ReplicaId(third))), Err(ChangeRefused::NotLeading));
    let hears = move |e: &Envelope| usize::from(e.from.0) != old;
    scene.pass_with(300, hears);
    assert_eq!(may(&scene, new, Remove(ReplicaId(old as u8))), Ok(()));
}

/// Trap 9: who leads is not removed by itself: it goes first.
#[test]
fn a_primary_does_not_remove_itself() {
    let (mut scene, leader) = Scene::started(3);
    let own = ReplicaId(leader as u8);
    scene.pass(200);
    assert_eq!(may(&scene, leader, Remove(own)), Err(ChangeRefused::Primary));
    scene.step(leader, Input::Resign);
    scene.pass(3_000);
    let next = scene.leader().unwrap();
    assert_ne!(next, leader);
    change(&mut scene, Remove(own));
    assert!(!voters(&scene, next).contains(&own.0));
    // It follows, and neither its vote nor its acknowledgement is needed or counted.
    let header = scene.request(next);
    scene.pass(500);
    assert_eq!(scene.actors[leader].committed, header.op);
    let other = (0..3).find(|r| ![leader, next].contains(r)).unwrap();
    let header = scene.request(next);
    scene.pass_with(3_000, move |e| ![usize::from(e.from.0), usize::from(e.to.0)].contains(&other));
    assert!(scene.actors.iter().all(|a| a.committed < header.op), "one of two is no quorum");
    assert_eq!(scene.leader(), None);
}

/// Trap 14: an acknowledgement of who is no member is none, and neither is one from before it was added again.
#[test]
fn what_a_removed_member_acknowledged_does_not_count_once_it_is_back() {
    let mut scene = Scene::new(3);
    scene.pass(2_000);
    let leader = scene.leader().unwrap();
    let (gone, other) = ((leader + 1) % 3, (leader + 2) % 3);
    change(&mut scene, Remove(ReplicaId(gone as u8)));
    let header = scene.request(leader);
    scene.disk(leader);
    let (view, op, identity) = (scene.view(leader), header.op, header.identity());
    scene.wire.clear();
    let ok = Message::PrepareOk { view, op, identity };
    scene.send(ReplicaId(gone as u8), ReplicaId(leader as u8), ok);
    scene.deliver(|_| true);
    assert!(scene.actors[leader].committed < op, "it is no member");
    scene.pass(500);
    assert_eq!(scene.actors[leader].committed, op);
    change(&mut scene, Add(ReplicaId(gone as u8)));
    assert_eq!(voters(&scene, leader), [0, 1, 2]);
    let header = scene.request(leader);
    let without =
        move |e: &Envelope| ![usize::from(e.from.0), usize::from(e.to.0)].contains(&other);
    scene.pass_with(300, without);
    assert_eq!(scene.actors[leader].committed, header.op, "it counts again");
}

/// Trap 23: nobody is added who would have to copy first, and no state is copied: the log is, and checked.
#[test]
fn who_has_not_caught_up_is_not_added() {
    let mut scene = Scene::with_standbys(1, 3);
    scene.pass(500);
    scene.pass_with(500, among(&[0, 2]));
    for _ in 0..30 {
        scene.request(0);
        scene.pass_with(20, among(&[0, 2]));
    }
    assert_eq!(may(&scene, 0, Add(ReplicaId(1))), Err(ChangeRefused::Behind), "nobody heard it");
    assert_eq!(may(&scene, 0, Add(ReplicaId(2))), Ok(()));
    // It is heard, and gets nothing to copy.
    scene.pass_with(200, |e| !matches!(e.message, Message::Supply { .. }));
    assert!(scene.actors[1].replica.op() < Op(10));
    assert_eq!(may(&scene, 0, Add(ReplicaId(1))), Err(ChangeRefused::Behind), "it lacks too much");
    scene.pass(2_000);
    assert_eq!(scene.actors[1].committed, Op(30));
    change(&mut scene, Add(ReplicaId(1)));
    assert_eq!(voters(&scene, 0), [0, 1]);
    // Who was heard long ago is not there.
    scene.pass_with(500, among(&[0, 1]));
    assert_eq!(may(&scene, 0, Add(ReplicaId(2))), Err(ChangeRefused::Behind));
}

#[test]
fn what_would_leave_no_quorum_is_refused_and_so_is_what_cannot_be() {
    let mut scene = Scene::with_standbys(3, 4);
    scene.pass(2_000);
    let leader = scene.leader().unwrap();
    let (a, b) = ((leader + 1) % 3, (leader + 2) % 3);
    let id = |r: usize| ReplicaId(r as u8);
    let refused = |scene: &Scene, change| may(scene, leader, change).unwrap_err();
    assert_eq!(refused(&scene, Add(id(9))), ChangeRefused::Unknown);
    assert_eq!(refused(&scene, Add(id(a))), ChangeRefused::Already);
    assert_eq!(refused(&scene, Remove(id(3))), ChangeRefused::Already);
    assert_eq!(may(&scene, a, Remove(id(b))), Err(ChangeRefused::NotLeading));
    // One is away: without the other nothing would be committed any more.
    scene.pass_with(1_000, move |e| ![usize::from(e.from.0), usize::from(e.to.0)].contains(&a));
    assert_eq!(refused(&scene, Remove(id(b))), ChangeRefused::TooFew);
    assert_eq!(may(&scene, leader, Remove(id(a))), Ok(()));
    let mut alone = Scene::with_standbys(1, 2);
    alone.pass(500);
    assert_eq!(may(&alone, 0, Remove(id(0))), Err(ChangeRefused::Last));
    alone.replace_disk(1);
    alone.pass(500);
    assert_eq!(may(&alone, 0, Add(id(1))), Err(ChangeRefused::NewDisk));
}

/// Who is no member by its own log may be one by another's: its vote is not for itself to withhold.
#[test]
fn a_member_that_does_not_know_it_yet_votes() {
    let mut scene = Scene::with_standbys(1, 2);
    scene.pass(500);
    scene.request(0);
    scene.pass(300);
    scene.step(0, Input::Change(Add(ReplicaId(1))));
    scene.step(0, Input::Order);
    scene.disk(0);
    // Nobody else hears of it, and the primary begins anew.
    scene.wire.clear();
    scene.restart(0);
    scene.pass(5_000);
    let leader = scene.leader().unwrap();
    assert_eq!(voters(&scene, leader), [0, 1]);
    let header = scene.request(leader);
    scene.pass(500);
    assert!(scene.actors.iter().all(|a| a.committed == header.op));
}

/// Nor is its wish: without it those who know would be too few to look for another primary.
#[test]
fn a_member_that_does_not_know_it_yet_wishes() {
    let mut scene = Scene::with_standbys(4, 5);
    scene.pass(3_000);
    scene.request(scene.leader().unwrap());
    scene.pass(300);
    let leader = scene.leader().unwrap();
    let others: Vec<usize> = (0..4).filter(|r| *r != leader).collect();
    let (knows, gone) = (others[0], others[2]);
    scene.step(leader, Input::Change(Add(ReplicaId(4))));
    scene.pass_with(200, |e| e.to.0 != 4 && usize::from(e.to.0) != gone);
    assert_eq!((voters(&scene, knows).len(), voters(&scene, 4).len()), (5, 4));
    let left = [others[0], others[1], 4];
    scene.pass_with(10_000, |e| {
        left.contains(&usize::from(e.from.0)) && left.contains(&usize::from(e.to.0))
    });
    let leader = left.into_iter().find(|r| scene.actors[*r].replica.leads()).unwrap();
    let header = scene.request(leader);
    scene.pass_with(500, |e| {
        left.contains(&usize::from(e.from.0)) && left.contains(&usize::from(e.to.0))
    });
    assert!(left.iter().all(|r| scene.actors[*r].committed == header.op));
}

/// An op that changes who votes says that all before it is committed: it need not be acknowledged again, by whom it removed.
#[test]
fn what_lies_before_a_step_is_committed() {
    let mut scene = Scene::with_standbys(1, 2);
    scene.pass(500);
    change(&mut scene, Add(ReplicaId(1)));
    scene.request(0);
    scene.pass(500);
    change(&mut scene, Remove(ReplicaId(1)));
    let header = scene.request(0);
    scene.pass(500);
    assert_eq!(scene.actors[0].committed, header.op);
    // What it knows to be committed is not durable, and the other one never comes back.
    scene.actors[0].superblock.commit = Op(0);
    scene.actors[0].superblock.identity =
        kimberlite_consensus::Identity::root(crate::scene::CLUSTER);
    scene.restart(0);
    scene.pass_with(5_000, |_| false);
    assert_eq!(scene.leader(), Some(0));
    assert_eq!(scene.actors[0].committed, header.op);
}

/// The same, for who learns the log of its view from another that does not know it either.
#[test]
fn what_lies_before_a_step_is_committed_for_who_takes_the_log_too() {
    let (mut scene, leader) = Scene::started(4);
    let [next, other, gone] = [1, 2, 3].map(|n| (leader + n) % 4);
    scene.request(leader);
    scene.pass(500);
    let without = move |e: &Envelope| ![usize::from(e.from.0), usize::from(e.to.0)].contains(&next);
    scene.request(leader);
    scene.pass_with(300, without);
    scene.step(leader, Input::Change(Remove(ReplicaId(gone as u8))));
    scene.pass_with(300, without);
    assert_eq!(scene.actors[leader].committed, Op(3));
    scene.actors[other].superblock.commit = Op(0);
    scene.actors[other].superblock.identity =
        kimberlite_consensus::Identity::root(crate::scene::CLUSTER);
    scene.restart(other);
    // Two of the three that are left; they were two of four when the op before was ordered.
    let both = move |e: &Envelope| {
        [e.from.0, e.to.0].iter().all(|r| [next, other].contains(&usize::from(*r)))
    };
    scene.pass_with(6_000, both);
    assert_eq!(scene.leader(), Some(next));
    assert_eq!(scene.actors[next].committed, Op(3));
}
