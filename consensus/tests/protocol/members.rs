//! Who is counted: disks that are lost, those that take their place, standbys.

use kimberlite_consensus::{Envelope, Message, Op, ReplicaId, Tail, View};

use crate::scene::Scene;

/// Whether a message is counted for its sender's log or view.
fn counts(message: &Message) -> bool {
    matches!(message, Message::PrepareOk { .. } | Message::DoViewChange { .. })
}

/// Who says so, on whatever is delivered while time passes.
fn pass_watching(scene: &mut Scene, ms: u64, r: usize, lets: impl Fn(&Envelope) -> bool) -> bool {
    let said = std::cell::Cell::new(false);
    scene.pass_with(ms, |e| {
        said.set(said.get() || (usize::from(e.from.0) == r && counts(&e.message)));
        lets(e)
    });
    said.get()
}

/// Trap 1: a replica that lost its disk acknowledges nothing and votes for nothing before the others have committed that
/// they know its new disk; then it does.
#[test]
fn a_replaced_disk_counts_for_nothing_before_it_is_let_in() {
    let (mut scene, leader) = Scene::started(3);
    let (lost, other) = ((leader + 1) % 3, (leader + 2) % 3);
    scene.request(leader);
    scene.pass(500);
    assert_eq!(scene.actors[lost].committed, Op(1));
    scene.replace_disk(lost);
    // The op that lets it in cannot be committed without the third one.
    let without = |e: &Envelope| usize::from(e.from.0) != other && usize::from(e.to.0) != other;
    assert!(!pass_watching(&mut scene, 3_000, lost, without));
    assert!(!scene.actors[lost].replica.is_let_in());
    assert_eq!(scene.actors[leader].committed, Op(1), "one disk commits nothing");
    assert!(!scene.actors[leader].replica.leads(), "nor does its word keep a primary");
    assert!(pass_watching(&mut scene, 4_000, lost, |_| true));
    assert!(scene.actors[lost].replica.is_let_in());
    // It counts: the third one is away.
    let leader = scene.leader().unwrap();
    let third = (0..3).find(|r| *r != leader && *r != lost).unwrap_or(other);
    let header = scene.request(leader);
    let without = |e: &Envelope| usize::from(e.from.0) != third && usize::from(e.to.0) != third;
    scene.pass_with(1_000, without);
    assert_eq!(scene.actors[leader].committed, header.op);
    // And it is known after a restart at once.
    scene.restart(lost);
    assert!(scene.actors[lost].replica.is_let_in());
}

/// Trap 1: an acknowledgement of a disk that the log does not know is none, whoever sends it.
#[test]
fn what_an_unknown_disk_says_does_not_count() {
    let (mut scene, leader) = Scene::started(3);
    scene.request(leader);
    scene.pass(500);
    let header = scene.request(leader);
    scene.disk(leader);
    scene.wire.clear();
    let (view, op, identity) = (scene.view(leader), header.op, header.identity());
    let other = (leader + 1) % 3;
    let mut say = |incarnation| {
        let message = Message::PrepareOk { view, op, identity };
        let (from, to) = (ReplicaId(other as u8), ReplicaId(leader as u8));
        let cluster = crate::scene::CLUSTER;
        scene.wire = vec![Envelope { cluster, from, to, incarnation, message }];
        scene.deliver(|_| true);
        scene.actors[leader].committed
    };
    assert!(say(2) < op, "a disk that nobody let in");
    assert!(say(1) < op, "one that another has replaced");
}

/// Trap 1: what a replica said before it lost its disk is no vote once the op that lets its new disk in stands in a log that
/// is looked at, also where that op is long committed, and with who has not heard of the new disk.
#[test]
fn a_vote_of_a_lost_disk_does_not_count() {
    let (mut scene, leader) = Scene::started(5);
    let lost = (leader + 1) % 5;
    scene.request(leader);
    scene.pass(500);
    scene.replace_disk(lost);
    // Who is to lead hears nothing of all this.
    let deaf = (leader + 2) % 5;
    let hears = move |e: &Envelope| usize::from(e.to.0) != deaf && usize::from(e.from.0) != deaf;
    scene.pass_with(2_000, hears);
    assert!(scene.actors[lost].replica.is_let_in());
    let voter = (0..5).find(|r| ![leader, lost, deaf].contains(r)).unwrap();
    let mut view = View(scene.view(leader).0 + 1);
    while view.0 % 5 != deaf as u64 {
        view = View(view.0 + 1);
    }
    let tail = |scene: &Scene, r: usize| {
        let tip = scene.actors[r].replica.tip().unwrap();
        let members = tip.members.clone();
        Tail { commit: tip.op, identity: tip.identity(), members, headers: Vec::new() }
    };
    let vote = |tail| Message::DoViewChange {
        view,
        log_view: View(view.0 - 1),
        certain: true,
        closed_us: 0,
        tail,
    };
    let envelope = |from: usize, incarnation, tail| {
        let (from, to) = (ReplicaId(from as u8), ReplicaId(deaf as u8));
        let cluster = crate::scene::CLUSTER;
        Envelope { cluster, from, to, incarnation, message: vote(tail) }
    };
    // What the lost disk had said: everything that the one who hears nothing has.
    let old = tail(&scene, deaf);
    let known = tail(&scene, voter);
    assert!(old.members.is_none() && known.members.is_some());
    scene.wire = vec![envelope(lost, 1, old), envelope(voter, 1, known)];
    scene.deliver(|_| true);
    scene.disk(deaf);
    let began = |scene: &Scene| scene.said(deaf, |m| matches!(m, Message::Fetch { .. }));
    assert!(!began(&scene), "two votes and one of a lost disk are no quorum");
    let another = (0..5).find(|r| ![leader, lost, deaf, voter].contains(r)).unwrap();
    let known = tail(&scene, another);
    scene.wire = vec![envelope(another, 1, known)];
    scene.deliver(|_| true);
    assert!(began(&scene), "three votes are");
}

/// Trap 25: standbys that hear nobody wish another view, since one of them may have been added and not know it; what they
/// wish moves no member.
#[test]
fn what_standbys_wish_moves_nobody() {
    let mut scene = Scene::with_standbys(3, 5);
    scene.pass(3_000);
    let leader = scene.leader().unwrap();
    let backup = (leader + 1) % 3;
    let before = scene.view(backup);
    let wished = std::cell::Cell::new(false);
    scene.pass_with(4_000, |e| {
        let wish = matches!(e.message, Message::StartViewChange { .. });
        wished.set(wished.get() || (wish && e.from.0 >= 3));
        e.to.0 < 3
    });
    assert!(wished.get() && scene.view(backup) == before && scene.leader() == Some(leader));
    let joined = scene.view(backup);
    scene.wire.clear();
    for standby in [3, 4] {
        let message = Message::StartViewChange { view: View(joined.0 + 1), joined };
        scene.send(ReplicaId(standby), ReplicaId(backup as u8), message);
    }
    scene.deliver(|_| true);
    assert_eq!(scene.view(backup), joined);
}

/// Trap 25: a standby follows, and neither what it says nor what it does not hear moves anybody.
#[test]
fn a_standby_follows_and_counts_for_nothing() {
    let mut scene = Scene::with_standbys(3, 5);
    scene.pass(3_000);
    let leader = scene.leader().unwrap();
    assert!(leader < 3);
    let header = scene.request(leader);
    assert!(!pass_watching(&mut scene, 1_000, 3, |_| true));
    assert!(scene.actors.iter().all(|a| a.committed == header.op));
    // Deaf standbys do not look for another primary.
    let view = scene.view(leader);
    scene.pass_with(4_000, |e| e.to.0 < 3);
    assert_eq!((scene.leader(), scene.view(leader)), (Some(leader), view));
    // One member with all standbys orders nothing and leads nothing.
    let header = scene.request(leader);
    let left = |r: ReplicaId| usize::from(r.0) == leader || r.0 >= 3;
    scene.pass_with(4_000, |e| left(e.to) && left(e.from));
    assert!(scene.actors.iter().all(|a| a.committed < header.op));
    assert_eq!(scene.leader(), None);
}
