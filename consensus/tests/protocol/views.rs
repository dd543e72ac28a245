//! Scenes of traps on the way from one view to the next: what of the view before must not reach into it.

use bytes::Bytes;
use kimberlite_consensus::{
    Entry, Envelope, Header, Identity, Input, Message, Op, ReplicaId, Status, Tail, View,
};

use crate::scene::{CLUSTER, Job, Scene};

fn id(r: usize) -> ReplicaId {
    ReplicaId(r as u8)
}

/// A started cluster with nothing on the wire: leader, who leads the next view, and the third.
fn cluster() -> (Scene, [usize; 3]) {
    let (mut scene, leader) = Scene::started(3);
    scene.wire.clear();
    (scene, [leader, (leader + 1) % 3, (leader + 2) % 3])
}

/// A replica is told something; its disk waits.
fn tell(scene: &mut Scene, from: usize, to: usize, message: Message) {
    scene.wire.clear();
    scene.send(id(from), id(to), message);
    scene.deliver(|_| true);
}

fn is_ok_in(view: View) -> impl Fn(&Message) -> bool {
    move |m| matches!(m, Message::PrepareOk { view: of, .. } if *of == view)
}

fn tail(commit: u64, identity: Identity, headers: Vec<Header>) -> Tail {
    Tail { commit: Op(commit), identity, members: None, headers }
}

fn vote(view: View, log_view: View, tail: Tail) -> Message {
    Message::DoViewChange { view, log_view, certain: true, closed_us: 0, tail }
}

/// The leader orders something, and one other writes it; what that says is on the wire.
fn order(scene: &mut Scene, leader: usize, to: usize) -> Header {
    let header = scene.request(leader);
    scene.deliver(|e| e.to == id(to) && matches!(e.message, Message::Prepare { .. }));
    scene.disk(to);
    header
}

/// Trap 14: a primary that leads again counts nothing of what was acknowledged while it led before.
#[test]
fn a_primary_that_leads_again_counts_no_acknowledgement_of_before() {
    let (mut scene, [leader, third, backup]) = cluster();
    let before = scene.view(leader);
    let header = order(&mut scene, leader, backup);
    // Its own disk has not done it, so that it commits nothing yet.
    scene.deliver(|e: &Envelope| e.to == id(leader));
    assert_eq!(scene.actors[leader].committed, Op(0));
    let view = View(before.0 + 3);
    assert_eq!(view.0 % 3, leader as u64);
    tell(&mut scene, third, leader, Message::StartViewChange { view, joined: view });
    scene.disk(leader);
    tell(&mut scene, third, leader, vote(view, before, tail(0, Identity::root(CLUSTER), vec![])));
    scene.disk(leader);
    let replica = &scene.actors[leader].replica;
    assert!(replica.is_primary() && replica.view() == view && replica.op() == header.op);
    assert_eq!(scene.actors[leader].committed, Op(0), "nobody has said so in this view");
    let ok = Message::PrepareOk { view, op: header.op, identity: header.identity() };
    tell(&mut scene, backup, leader, ok);
    assert_eq!(scene.actors[leader].committed, header.op);
}

/// Trap 11: nothing is acknowledged in a view before its log view is durable, though the op is.
#[test]
fn an_acknowledgement_waits_for_the_durable_log_view() {
    let (mut scene, [leader, next, backup]) = cluster();
    let header = order(&mut scene, leader, backup);
    let view = View(scene.view(leader).0 + 1);
    let log = tail(0, Identity::root(CLUSTER), vec![header.clone()]);
    tell(&mut scene, next, backup, Message::StartView { view, nonce: 0, tail: log });
    let last = scene.actors[backup].jobs.pop().unwrap();
    assert!(matches!(last, Job::Superblock(s) if s.log_view == view), "{last:?}");
    scene.disk(backup);
    assert_eq!(scene.actors[backup].superblock.view, view);
    // Also where the primary goes on meanwhile.
    let entry = Entry { header, body: Bytes::new() };
    scene.send(id(next), id(backup), Message::Prepare { view, commit: Op(0), entry });
    scene.deliver(|_| true);
    assert!(!scene.said(backup, is_ok_in(view)), "a crash would bring it back in the view before");
    scene.actors[backup].jobs.push(last);
    scene.disk(backup);
    assert!(scene.said(backup, is_ok_in(view)));
}

/// Trap 6: what any of the votes knows to be committed is, whosever log is chosen.
#[test]
fn a_view_begins_with_the_farthest_commit_of_the_votes() {
    let (mut scene, [leader, next, _]) = cluster();
    let log_view = scene.view(leader);
    let [first, second] = [(); 2].map(|()| order(&mut scene, leader, next));
    assert_eq!((scene.actors[next].replica.op(), scene.actors[next].committed), (Op(2), Op(0)));
    // The shorter log knows of the commit.
    let view = View(log_view.0 + 1);
    tell(&mut scene, leader, next, vote(view, log_view, tail(1, first.identity(), vec![])));
    scene.disk(next);
    let actor = &scene.actors[next];
    assert!(actor.replica.is_primary() && actor.replica.view() == view);
    assert_eq!((actor.committed, actor.replica.op()), (first.op, second.op));
    let begins = |m: &Message| matches!(m, Message::StartView { tail, .. } if tail.commit == first.op && tail.op() == second.op);
    assert!(scene.said(next, begins));
}

/// Trap 21: a superblock that is written only when its replica is in a later view begins nothing there.
#[test]
fn a_superblock_of_a_view_that_was_left_begins_nothing() {
    let (mut scene, [leader, next, backup]) = cluster();
    let before = scene.view(leader);
    let [one, two] = [1, 3].map(|more| View(before.0 + more));
    let log = tail(0, Identity::root(CLUSTER), vec![]);
    tell(&mut scene, next, backup, Message::StartView { view: one, nonce: 0, tail: log });
    tell(&mut scene, leader, backup, Message::StartViewChange { view: two, joined: two });
    let superblock = |job: &Job| match job {
        Job::Superblock(s) => *s,
        Job::Write(_) | Job::Truncate(_) => panic!("{job:?}"),
    };
    let asked: Vec<_> = scene.actors[backup].jobs.iter().map(superblock).collect();
    let views: Vec<_> = asked.iter().map(|s| (s.view, s.log_view)).collect();
    assert_eq!(views, [(one, before), (one, one), (two, one)]);
    scene.actors[backup].jobs.clear();
    scene.wire.clear();
    for written in &asked[..2] {
        scene.step(backup, Input::SuperblockWritten(*written));
        let replica = &scene.actors[backup].replica;
        assert_eq!((replica.view(), replica.status()), (two, Status::ViewChange));
        assert!(scene.wire.is_empty(), "{:?}", scene.wire);
    }
    scene.step(backup, Input::SuperblockWritten(asked[2]));
    let votes = |m: &Message| matches!(m, Message::DoViewChange { view, log_view, .. } if (*view, *log_view) == (two, one));
    assert!(scene.said(backup, votes));
}

/// Trap 17: what is cut for a view's log does not come back, wherever a crash interrupts the cut.
#[test]
fn what_is_cut_does_not_come_back_after_a_crash() {
    for steps in 0..=4 {
        let (mut scene, [leader, next, backup]) = cluster();
        let stale = [(); 2].map(|()| order(&mut scene, leader, backup));
        let before = scene.view(leader);
        let view = View(before.0 + 1);
        let other = Header { view, time_us: stale[0].time_us + 9, ..stale[0].clone() };
        let root = Identity::root(CLUSTER);
        let log = tail(0, root, vec![other.clone()]);
        tell(&mut scene, next, backup, Message::StartView { view, nonce: 0, tail: log.clone() });
        let jobs = std::mem::take(&mut scene.actors[backup].jobs);
        let cut = jobs.iter().position(|j| matches!(j, Job::Truncate(Op(0)))).unwrap();
        assert!(cut + 1 < jobs.len() && jobs.len() <= 4, "{jobs:?}");
        // The disk does so much of it.
        scene.actors[backup].jobs = jobs.iter().take(steps).cloned().collect();
        scene.disk(backup);
        scene.restart(backup);
        let actor = &scene.actors[backup];
        assert_eq!(actor.log.is_empty(), steps >= cut, "{steps}: a cut that began is ended");
        assert_eq!(actor.replica.log_view(), before, "{steps}: its log is not the view's yet");
        // It takes the view's log then, and is not in the way of another crash.
        scene.send(id(next), id(backup), Message::StartView { view, nonce: 0, tail: log });
        scene.deliver(|_| true);
        scene.disk(backup);
        let entry = Entry { header: other.clone(), body: Bytes::new() };
        scene.send(id(next), id(backup), Message::Supply { committed: false, entry });
        scene.deliver(|_| true);
        scene.disk(backup);
        scene.restart(backup);
        let actor = &scene.actors[backup];
        assert_eq!(actor.log, [other], "{stale:?} are gone");
        assert_eq!(actor.replica.log_view(), view);
        assert!(actor.notices.is_empty());
    }
}
