//! The scenes. Numbers are those of the list of traps that the project keeps.

use std::{cell::RefCell, collections::BTreeSet};

use bytes::Bytes;
use kimberlite_consensus::{
    Entry, Envelope, Header, Identity, Input, Message, Notice, Op, ReplicaId, Status, Tail, View,
};

use crate::scene::{CLUSTER, Job, Scene};

fn is_vote(message: &Message) -> bool {
    matches!(message, Message::DoViewChange { .. })
}

fn is_ok(message: &Message) -> bool {
    matches!(message, Message::PrepareOk { .. })
}

/// Trap 1: nothing of a view change is said before the view is durable.
#[test]
fn a_vote_waits_for_the_durable_view() {
    let mut scene = Scene::new(3);
    for r in [1, 2] {
        let message = Message::StartViewChange { view: View(1), joined: View(0) };
        scene.send(ReplicaId(r), ReplicaId(0), message);
    }
    scene.deliver(|_| true);
    assert_eq!((scene.view(0), scene.actors[0].replica.status()), (View(1), Status::ViewChange));
    assert!(!scene.said(0, is_vote), "the superblock is not written");
    scene.disk(0);
    assert!(scene.said(0, is_vote));
}

/// Trap 5: one replica's wish moves nobody, also when it is said twice.
#[test]
fn a_wish_alone_changes_nothing() {
    let mut scene = Scene::new(3);
    for _ in 0..2 {
        let message = Message::StartViewChange { view: View(7), joined: View(0) };
        scene.send(ReplicaId(1), ReplicaId(0), message);
    }
    scene.deliver(|_| true);
    assert_eq!(scene.view(0), View(0));
}

/// Trap 7: a backup acknowledges what it took over with the view.
#[test]
fn backups_acknowledge_the_log_that_a_view_begins_with() {
    let (mut scene, leader) = Scene::started(3);
    let header = scene.request(leader);
    // Written by all, acknowledged to nobody.
    scene.disk(leader);
    scene.deliver(|_| true);
    (0..3).for_each(|r| scene.disk(r));
    scene.wire.clear();
    let away = move |e: &Envelope| usize::from(e.from.0) != leader && usize::from(e.to.0) != leader;
    scene.pass_with(4_000, away);
    let next = scene.leader().unwrap();
    assert_ne!(next, leader);
    assert!(scene.actors[next].committed >= header.op, "it was acknowledged anew and committed");
}

/// Trap 8: a commit that is ahead of the log is remembered, and nothing beyond the log is committed.
#[test]
fn a_commit_ahead_of_the_log_commits_nothing() {
    let (mut scene, leader) = Scene::started(3);
    let backup = (leader + 1) % 3;
    let (view, from) = (scene.view(leader), ReplicaId(leader as u8));
    let identity = Identity([9; 32]);
    let message = Message::Commit { view, op: Op(5), identity, round: 1 };
    scene.send(from, ReplicaId(backup as u8), message);
    scene.deliver(|_| true);
    assert_eq!(scene.actors[backup].committed, Op(0));
    assert!(scene.said(backup, |m| matches!(m, Message::Fetch { op: Op(1), .. })));
}

/// Trap 26: a number that a later view committed says nothing of this view's op under it, also not with the next commit
/// that this view's primary tells of.
#[test]
fn a_number_committed_in_a_later_view_commits_nothing_of_this_one() {
    let (mut scene, leader) = Scene::started(3);
    let (backup, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let header = scene.request(leader);
    scene.wire.retain(|e| usize::from(e.to.0) == backup);
    scene.deliver(|e| matches!(e.message, Message::Prepare { .. }));
    scene.disk(backup);
    let view = scene.view(leader);
    let later = Header { view: View(view.0 + 1), time_us: header.time_us + 1, ..header };
    let entry = Entry { header: later, body: Bytes::new() };
    let (to, from) = (ReplicaId(backup as u8), ReplicaId(other as u8));
    scene.send(from, to, Message::Supply { committed: true, entry });
    let identity = Identity::root(CLUSTER);
    let heartbeat = Message::Commit { view, op: Op(0), identity, round: 9 };
    scene.send(ReplicaId(leader as u8), to, heartbeat);
    scene.deliver(|_| true);
    assert_eq!(scene.actors[backup].committed, Op(0));
}

/// Trap 11: an op is acknowledged once it is durable, not when it is known.
#[test]
fn an_acknowledgement_waits_for_the_disk() {
    let (mut scene, leader) = Scene::started(3);
    let backup = (leader + 1) % 3;
    scene.request(leader);
    scene.wire.retain(|e| usize::from(e.to.0) == backup);
    scene.deliver(|e| matches!(e.message, Message::Prepare { .. }));
    let ack =
        |scene: &Scene| scene.said(backup, |m| matches!(m, Message::PrepareOk { op: Op(1), .. }));
    assert!(matches!(scene.actors[backup].jobs[..], [Job::Write(_)]) && !ack(&scene));
    scene.disk(backup);
    assert!(ack(&scene));
}

/// Trap 14: what was acknowledged in one view does not count in the next.
#[test]
fn acknowledgements_of_an_earlier_view_are_void() {
    let (mut scene, leader) = Scene::started(3);
    let header = scene.request(leader);
    scene.disk(leader);
    let (view, identity) = (scene.view(leader), header.identity());
    let stale = Message::PrepareOk { view: View(view.0 - 1), op: header.op, identity };
    scene.wire.clear();
    let backup = ReplicaId(((leader + 1) % 3) as u8);
    scene.send(backup, ReplicaId(leader as u8), stale);
    scene.deliver(|_| true);
    assert_eq!(scene.actors[leader].committed, Op(0));
    let fresh = Message::PrepareOk { view, op: header.op, identity };
    scene.send(backup, ReplicaId(leader as u8), fresh);
    scene.deliver(|_| true);
    assert_eq!(scene.actors[leader].committed, header.op);
}

/// Trap 6: the log of the latest log view wins over a longer one; what is cut was never committed (traps 10, 17).
#[test]
fn a_longer_log_of_an_older_view_loses() {
    let (mut scene, leader) = Scene::started(3);
    let stale: Vec<_> = (0..3).map(|_| scene.request(leader)).collect();
    scene.disk(leader);
    scene.wire.clear();
    let apart =
        |r: usize| move |e: &Envelope| usize::from(e.from.0) != r && usize::from(e.to.0) != r;
    scene.pass_with(3_000, apart(leader));
    let next = scene.leader().unwrap();
    let header = scene.request(next);
    scene.pass_with(300, apart(leader));
    assert_eq!(scene.actors[next].committed, header.op);
    scene.pass_with(6_000, apart(next));
    let last = scene.leader().unwrap();
    assert_ne!(last, next);
    assert_eq!(scene.actors[leader].log, [header], "{stale:?} are gone");
    let durable = scene.actors[leader].superblock;
    assert_eq!((durable.cut, durable.log_view), (None, scene.view(last)));
}

/// Trap 22: a new primary that is far behind copies what it lacks before its view begins.
#[test]
fn a_primary_that_is_far_behind_catches_up_first() {
    let (mut scene, leader) = Scene::started(3);
    let behind = (leader + 1) % 3;
    for _ in 0..60 {
        scene.request(leader);
        scene.pass_with(30, |e| usize::from(e.to.0) != behind);
    }
    let committed = scene.actors[leader].committed;
    assert!(committed >= Op(60) && scene.actors[behind].log.is_empty());
    scene.pass_with(6_000, |e| usize::from(e.from.0) != leader && usize::from(e.to.0) != leader);
    assert!(scene.leader().is_some_and(|r| r != leader));
    assert!(scene.actors[behind].committed >= committed);
    assert_eq!(scene.actors[behind].log[..60], scene.actors[leader].log[..60]);
}

/// Trap 24: two replicas that lost each other agree again once they meet.
#[test]
fn two_replicas_that_gave_each_other_up_go_on() {
    let (mut scene, leader) = Scene::started(2);
    scene.pass_with(3_000, |_| false);
    assert!(!scene.actors[leader].replica.leads());
    scene.pass(3_000);
    let leader = scene.leader().unwrap();
    let header = scene.request(leader);
    scene.pass(300);
    assert!(scene.actors.iter().all(|a| a.committed == header.op));
}

/// Trap 18: a replica alone goes on in its view, without timers or messages.
#[test]
fn a_cluster_of_one_needs_nobody() {
    let mut scene = Scene::new(1);
    let header = scene.request(0);
    scene.disk(0);
    assert_eq!(scene.actors[0].committed, header.op);
    scene.pass(5_000);
    assert!(scene.wire.is_empty() && scene.view(0) == View(0));
}

/// Trap 21: a write that completes after its op was replaced commits and acknowledges nothing.
#[test]
fn a_completion_of_what_is_gone_is_ignored() {
    let (mut scene, leader) = Scene::started(3);
    let header = scene.request(leader);
    scene.wire.clear();
    scene.step(leader, Input::Written { op: header.op, identity: header.parent });
    assert_eq!(scene.actors[leader].committed, Op(0));
    assert!(!scene.said(leader, is_ok));
}

/// Trap 25: who can send and not hear does not keep others from working.
#[test]
fn a_deaf_replica_does_not_disturb() {
    let (mut scene, leader) = Scene::started(3);
    let deaf = (leader + 1) % 3;
    let view = scene.view(leader);
    scene.pass_with(5_000, |e| usize::from(e.to.0) != deaf);
    assert_eq!(scene.leader(), Some(leader));
    assert_eq!(scene.view(leader), view);
}

/// Trap 25: a primary that no quorum answers stops speaking, and another leads.
#[test]
fn a_primary_that_hears_nobody_gives_up() {
    let (mut scene, leader) = Scene::started(3);
    scene.pass_with(5_000, |e| usize::from(e.to.0) != leader);
    let next = scene.leader().unwrap();
    assert!(next != leader && !scene.actors[leader].replica.is_primary());
}

/// Trap 26: backups learn of commits without further requests.
#[test]
fn a_quiet_cluster_commits_everywhere() {
    let (mut scene, leader) = Scene::started(3);
    let header = scene.request(leader);
    scene.pass(200);
    assert!(scene.actors.iter().all(|a| a.committed == header.op));
}

/// A primary that crashed behind a prepare and before its write does not lead the same view again.
#[test]
fn a_restarted_primary_prepares_nothing_else_under_the_same_number() {
    let (mut scene, leader) = Scene::started(3);
    scene.request(leader);
    let view = scene.view(leader);
    // The backups get it; its own disk does not.
    scene.deliver(|_| true);
    for r in (0..3).filter(|r| *r != leader) {
        scene.disk(r);
    }
    scene.restart(leader);
    scene.wire.clear();
    assert!(!scene.actors[leader].replica.leads());
    scene.pass(5_000);
    let next = scene.leader().unwrap();
    assert!(scene.view(next) > view && scene.actors[next].committed == Op(1));
}

/// Trap 2: who hears of a later view leaves its log as it is until the log of that view is there.
#[test]
fn a_later_view_cuts_nothing_before_its_log_is_here() {
    let (mut scene, leader) = Scene::started(3);
    let (next, backup) = ((leader + 1) % 3, (leader + 2) % 3);
    let header = scene.request(leader);
    scene.wire.retain(|e| usize::from(e.to.0) == backup);
    scene.deliver(|e| matches!(e.message, Message::Prepare { .. }));
    scene.disk(backup);
    let before = scene.actors[backup].superblock;
    let (view, identity) = (View(scene.view(leader).0 + 1), Identity::root(CLUSTER));
    let beat = Message::Commit { view, op: Op(0), identity, round: 1 };
    scene.wire.clear();
    scene.send(ReplicaId(next as u8), ReplicaId(backup as u8), beat);
    scene.deliver(|_| true);
    scene.disk(backup);
    let after = scene.actors[backup].superblock;
    assert_eq!((after.view, after.log_view, after.cut), (view, before.log_view, None));
    assert_eq!(scene.actors[backup].log, std::slice::from_ref(&header));
    // Also over a crash: its vote still has the op, under the old log view.
    scene.restart(backup);
    scene.wire.clear();
    scene.pass_with(100, |_| false);
    assert_eq!(scene.actors[backup].replica.op(), header.op);
    assert_eq!(scene.actors[backup].replica.log_view(), before.log_view);
}

/// Trap 3: a cluster that lost its power as a whole needs nobody who stayed up.
#[test]
fn a_cluster_that_crashed_as_a_whole_goes_on() {
    let (mut scene, leader) = Scene::started(3);
    let header = scene.request(leader);
    scene.pass(200);
    (0..3).for_each(|r| scene.restart(r));
    scene.wire.clear();
    scene.pass(3_000);
    let leader = scene.leader().unwrap();
    assert_eq!(scene.actors[leader].log, [header]);
    let second = scene.request(leader);
    scene.pass(200);
    assert!(scene.actors.iter().all(|a| a.committed == second.op));
}

/// Trap 4: who asks for a view's log asks anew once there is a later view, and takes none of the earlier one.
#[test]
fn who_asks_for_a_log_asks_anew_and_takes_that_of_its_view() {
    let (mut scene, leader) = Scene::started(3);
    let (next, backup) = ((leader + 1) % 3, (leader + 2) % 3);
    let (old, identity) = (scene.view(leader), Identity::root(CLUSTER));
    let mut nonces = Vec::new();
    for more in [1, 4] {
        let view = View(old.0 + more);
        let from = ReplicaId(next as u8);
        scene.wire.clear();
        let beat = Message::Commit { view, op: Op(0), identity, round: 1 };
        scene.send(from, ReplicaId(backup as u8), beat);
        scene.deliver(|_| true);
        scene.disk(backup);
        nonces.extend(scene.wire.iter().filter_map(|e| match &e.message {
            Message::RequestStartView { view: of, nonce } if *of == view => Some(*nonce),
            _ => None,
        }));
    }
    assert_eq!(nonces.len(), 2, "one in each view");
    // The answer of the view that it asked in first.
    let tail = Tail { commit: Op(0), identity, members: None, headers: Vec::new() };
    let late = Message::StartView { view: View(old.0 + 1), nonce: nonces[0], tail };
    scene.send(ReplicaId(next as u8), ReplicaId(backup as u8), late);
    scene.deliver(|_| true);
    scene.disk(backup);
    let replica = &scene.actors[backup].replica;
    assert_eq!((replica.view(), replica.status()), (View(old.0 + 4), Status::ViewChange));
    assert_eq!(replica.log_view(), old);
}

/// Trap 15: an op that does not follow the log's end is no reason to cut it.
#[test]
fn an_op_that_does_not_follow_cuts_nothing() {
    let (mut scene, leader) = Scene::started(3);
    let backup = (leader + 1) % 3;
    let (first, second) = (scene.request(leader), scene.request(leader));
    scene.wire.retain(|e| usize::from(e.to.0) == backup);
    let first_only = |e: &Envelope| matches!(&e.message, Message::Prepare { entry, .. } if entry.header.op == Op(1));
    scene.deliver(first_only);
    scene.disk(backup);
    let broken = Header { parent: Identity([8; 32]), ..second };
    let entry = Entry { header: broken, body: Bytes::new() };
    let message = Message::Prepare { view: scene.view(leader), commit: Op(0), entry };
    scene.wire.clear();
    scene.send(ReplicaId(leader as u8), ReplicaId(backup as u8), message);
    scene.deliver(|_| true);
    assert_eq!(scene.actors[backup].notices, [Notice::NoSuccessor]);
    scene.disk(backup);
    assert_eq!(scene.actors[backup].log, [first]);
}

/// Trap 15: nor is it taken once the ops before it are there, whether it came early or is called committed.
#[test]
fn an_op_that_does_not_follow_is_not_taken_later() {
    let (mut scene, leader) = Scene::started(3);
    let backup = (leader + 1) % 3;
    let [first, second, third] = [(); 3].map(|()| scene.request(leader));
    let (view, commit) = (scene.view(leader), Op(0));
    let (from, to) = (ReplicaId(leader as u8), ReplicaId(backup as u8));
    let entry = |header: &Header| Entry { header: header.clone(), body: Bytes::new() };
    let broken = |header: &Header| Header { parent: Identity([8; 32]), ..header.clone() };
    scene.wire.clear();
    for header in [&first, &broken(&third), &second] {
        scene.send(from, to, Message::Prepare { view, commit, entry: entry(header) });
    }
    scene.deliver(|_| true);
    scene.disk(backup);
    assert_eq!(scene.actors[backup].log, [first.clone(), second.clone()]);
    let committed = Message::Supply { committed: true, entry: entry(&broken(&third)) };
    scene.wire.clear();
    scene.send(from, to, committed);
    scene.deliver(|_| true);
    scene.disk(backup);
    assert_eq!(scene.actors[backup].log, [first, second]);
    assert_eq!(scene.actors[backup].committed, Op(0));
}

/// Trap 32: who asks for an op by its identity is not given another one of that number.
#[test]
fn an_op_is_supplied_by_identity() {
    let (mut scene, leader) = Scene::started(3);
    let header = scene.request(leader);
    scene.disk(leader);
    let supplied = |scene: &Scene| scene.said(leader, |m| matches!(m, Message::Supply { .. }));
    for (identity, known) in [(Identity([9; 32]), false), (header.identity(), true)] {
        let fetch = Message::Fetch { op: header.op, identity: Some(identity) };
        scene.wire.clear();
        scene.send(ReplicaId(((leader + 1) % 3) as u8), ReplicaId(leader as u8), fetch);
        scene.deliver(|_| true);
        assert_eq!(supplied(&scene), known);
    }
}

/// Trap 4: what the log of a view is only the primary of that view says.
#[test]
fn a_log_is_taken_from_the_primary_of_its_view() {
    let (mut scene, leader) = Scene::started(3);
    let (next, backup) = ((leader + 1) % 3, (leader + 2) % 3);
    let (old, identity) = (scene.view(leader), Identity::root(CLUSTER));
    let view = View(old.0 + 1);
    for (from, joined, notices) in
        [(leader, old, vec![Notice::NotThePrimary]), (next, view, Vec::new())]
    {
        let tail = Tail { commit: Op(0), identity, members: None, headers: Vec::new() };
        scene.wire.clear();
        scene.actors[backup].notices.clear();
        let message = Message::StartView { view, nonce: 0, tail };
        scene.send(ReplicaId(from as u8), ReplicaId(backup as u8), message);
        scene.deliver(|_| true);
        scene.disk(backup);
        let actor = &scene.actors[backup];
        assert_eq!((actor.superblock.log_view, &actor.notices), (joined, &notices));
    }
}

/// Trap 16: who is still taking a view's log votes with what is durable, under the log view of before, also after a crash.
#[test]
fn a_vote_amid_a_log_is_what_is_durable() {
    let (mut scene, leader) = Scene::started(3);
    let (next, backup) = ((leader + 1) % 3, (leader + 2) % 3);
    let own = scene.request(leader);
    scene.wire.retain(|e| usize::from(e.to.0) == backup);
    scene.deliver(|e| matches!(e.message, Message::Prepare { .. }));
    scene.disk(backup);
    let log_view = scene.actors[backup].superblock.log_view;
    // The log of the next view has one op more, which does not come.
    let view = View(scene.view(leader).0 + 1);
    let more =
        Header { op: Op(2), view, parent: own.identity(), time_us: own.time_us + 1, ..own.clone() };
    let (commit, identity) = (Op(0), Identity::root(CLUSTER));
    let tail = Tail { commit, identity, members: None, headers: vec![own.clone(), more] };
    let start = Message::StartView { view, nonce: 0, tail };
    scene.wire.clear();
    scene.send(ReplicaId(next as u8), ReplicaId(backup as u8), start);
    scene.deliver(|_| true);
    scene.disk(backup);
    assert!(scene.said(backup, |m| matches!(m, Message::Fetch { op: Op(2), .. })));
    let mut votes = Vec::new();
    for crash in [false, true] {
        if crash {
            scene.restart(backup);
        }
        scene.wire.clear();
        // Others want a view that this one does not lead.
        let joined = View(view.0 + if crash { 3 } else { 2 });
        assert_ne!(joined.0 % 3, backup as u64);
        let wish = Message::StartViewChange { view: joined, joined };
        scene.send(ReplicaId(leader as u8), ReplicaId(backup as u8), wish);
        scene.deliver(|_| true);
        scene.disk(backup);
        scene.now += 100;
        scene.step(backup, Input::Tick);
        let said = scene.wire.iter().find_map(|e| match &e.message {
            Message::DoViewChange { log_view, tail, .. } => Some((*log_view, tail.clone())),
            _ => None,
        });
        votes.extend(said);
    }
    let durable = Tail { commit, identity, members: None, headers: vec![own] };
    assert_eq!(votes, [(log_view, durable.clone()), (log_view, durable)]);
}

/// Trap 27: who is behind catches up while others go on: it acknowledges what it has as it gets it.
#[test]
fn who_is_behind_catches_up_under_load() {
    let (mut scene, leader) = Scene::started(3);
    let behind = (leader + 1) % 3;
    for _ in 0..60 {
        scene.request(leader);
        scene.pass_with(30, |e| usize::from(e.to.0) != behind);
    }
    assert!(scene.actors[behind].log.is_empty());
    for _ in 0..40 {
        scene.request(leader);
        scene.pass(30);
    }
    let lag = scene.actors[leader].committed.0 - scene.actors[behind].committed.0;
    assert!(lag <= 1, "still {lag} ops behind");
}

/// Trap 27: those who are silent are asked in turn, but not all of them before the primary is asked again.
#[test]
fn who_is_not_answered_asks_the_primary_every_other_time() {
    let (mut scene, leader) = Scene::started(5);
    let behind = (leader + 1) % 5;
    for _ in 0..40 {
        scene.request(leader);
        scene.pass_with(30, |e| usize::from(e.to.0) != behind);
    }
    // What it asks for is lost; that it lacks something it hears.
    let asked = RefCell::new(Vec::new());
    scene.pass_with(1000, |e| {
        let fetch = matches!(e.message, Message::Fetch { .. });
        if fetch && asked.borrow().last() != Some(&e.to) {
            asked.borrow_mut().push(e.to);
        }
        !fetch
    });
    let (asked, leader) = (asked.into_inner(), ReplicaId(leader as u8));
    assert!(asked.chunks_exact(2).all(|two| two.contains(&leader)), "{asked:?}");
    let others = asked.iter().filter(|r| **r != leader).collect::<BTreeSet<_>>();
    assert_eq!(others.len(), 3, "{asked:?}");
}
