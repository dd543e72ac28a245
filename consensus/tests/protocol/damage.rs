//! Scenes of damaged logs. Numbers are those of the list of traps that the project keeps.

use kimberlite_consensus::{
    Envelope, Header, Identity, Message, Op, ReplicaId, Status, Tail, View,
};

use crate::scene::{CLUSTER, Scene};

/// A cluster of three in which the leader and one backup have an op, and the third does not know of it.
fn one_op_on_two() -> (Scene, [usize; 3], Header) {
    let (mut scene, leader) = Scene::started(3);
    let (backup, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let header = scene.request(leader);
    scene.pass_with(30, |e| usize::from(e.to.0) != other);
    assert_eq!(scene.actors[backup].log.last(), Some(&header));
    assert_eq!(scene.actors[leader].committed, header.op, "the backup acknowledged it");
    scene.wire.clear();
    (scene, [leader, backup, other], header)
}

fn without(away: usize) -> impl Fn(&Envelope) -> bool {
    move |e| usize::from(e.from.0) != away && usize::from(e.to.0) != away
}

/// Trap 12: what the primary said of the view before an op was acknowledged here does not make that op forgotten.
#[test]
fn an_old_start_view_is_not_taken_by_who_does_not_know_what_it_had() {
    let (mut scene, [leader, backup, _], header) = one_op_on_two();
    scene.restart_damaged(backup);
    let (commit, identity) = (Op(0), Identity::root(CLUSTER));
    let tail = Tail { commit, identity, members: None, headers: Vec::new() };
    let message = Message::StartView { view: scene.view(leader), nonce: 0, tail };
    scene.send(ReplicaId(leader as u8), ReplicaId(backup as u8), message);
    scene.deliver(|_| true);
    scene.disk(backup);
    assert_eq!(scene.actors[backup].replica.status(), Status::ViewChange);
    assert!(scene.actors[backup].superblock.uncertain);
    scene.pass(1_000);
    assert!(!scene.actors[backup].superblock.uncertain, "the answer to its own question is taken");
    assert_eq!(scene.actors[backup].log, [header]);
}

/// Traps 11, 29, 31: who may have had an op that is damaged counts neither for it nor against it.
#[test]
fn a_damaged_end_is_no_nack() {
    let (mut scene, [leader, backup, other], header) = one_op_on_two();
    scene.restart_damaged(backup);
    let mut voted = false;
    for _ in 0..200 {
        scene.pass_with(10, without(leader));
        voted |= scene.said(backup, |m| matches!(m, Message::DoViewChange { certain: true, .. }));
        scene.deliver(without(leader));
    }
    assert!(!voted, "that would say that its log ends there");
    let views: Vec<_> = [backup, other].map(|r| scene.actors[r].replica.leads()).to_vec();
    assert_eq!(views, [false, false], "one of three that knows what it had is no quorum");
    scene.restart(leader);
    scene.pass(4_000);
    let next = scene.leader().unwrap();
    assert_eq!(scene.actors[next].log.first(), Some(&header), "it was acknowledged, and stays");
    assert!((0..3).all(|r| scene.actors[r].log == scene.actors[next].log));
    assert!(!scene.actors[backup].superblock.uncertain);
}

/// Trap 31, the other way: who has a later view's log needs only to hear that somebody acknowledged nothing in that view.
#[test]
fn a_damaged_end_of_an_earlier_view_does_not_hold_up_the_next() {
    let (mut scene, [leader, backup, other], header) = one_op_on_two();
    let mut next = None;
    for _ in 0..200 {
        scene.pass_with(20, without(leader));
        next =
            next.or_else(|| [backup, other].into_iter().find(|r| scene.actors[*r].replica.leads()));
    }
    let next = next.unwrap();
    let third = if next == backup { other } else { backup };
    let later = scene.request(next);
    scene.pass_with(500, without(leader));
    assert_eq!(scene.actors[next].committed, later.op);
    scene.wire.clear();
    scene.restart_damaged(leader);
    assert!(scene.actors[leader].superblock.log_view < scene.actors[next].superblock.log_view);
    // It led its view, so it does not go on in it.
    scene.restart(next);
    let mut voted = false;
    for _ in 0..400 {
        scene.pass_with(10, without(third));
        voted |= scene.said(leader, |m| matches!(m, Message::DoViewChange { certain: false, .. }))
            || scene.actors[leader].replica.leads();
    }
    assert!(voted && [leader, next].iter().any(|r| scene.actors[*r].replica.leads()));
    for r in [leader, next] {
        assert_eq!(scene.actors[r].log[..2], [header.clone(), later.clone()]);
        assert!(!scene.actors[r].superblock.uncertain);
    }
}

/// Trap 30: a log that lost its end below what it knew to be committed fetches it, and its floor does not go back.
#[test]
fn a_log_below_its_floor_is_filled_up() {
    let (mut scene, [leader, backup, other], header) = one_op_on_two();
    scene.pass(200);
    scene.step(backup, kimberlite_consensus::Input::Idle);
    scene.disk(backup);
    assert_eq!(scene.actors[backup].superblock.commit, header.op);
    scene.restart_damaged(backup);
    assert_eq!(scene.actors[backup].replica.commit(), Op(0));
    let view = View(scene.view(leader).0 + 1);
    let message = Message::StartViewChange { view, joined: view };
    scene.send(ReplicaId(other as u8), ReplicaId(backup as u8), message);
    scene.deliver(|_| true);
    scene.disk(backup);
    assert_eq!(scene.actors[backup].superblock.view, view);
    assert_eq!(scene.actors[backup].superblock.commit, header.op, "the floor stays");
    scene.pass(4_000);
    assert_eq!(scene.actors[backup].log, [header]);
    assert!(!scene.actors[backup].superblock.uncertain);
}
