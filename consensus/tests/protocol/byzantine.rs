//! A replica that lies, in every way that the simulator knows: what honest ones do, and what they say of it. A majority
//! with a liar in it can be made to disagree: what is claimed is that honest replicas stay whole and notice.

use bytes::Bytes;
use kimberlite_consensus::{
    CodecError, Entry, Envelope, Header, Identity, Input, Message, Notice, Op, ReplicaId,
    SECTION_BYTES, Tail, View, decode, encode, limits,
};

use crate::scene::{CLUSTER, Job, Scene};

fn id(r: usize) -> ReplicaId {
    ReplicaId(r as u8)
}

/// Something that nobody ordered.
fn invented(op: u64, view: View, parent: Identity, time_us: u64) -> Header {
    let time_us = time_us.cast_signed();
    let sections = Bytes::from(vec![0xee; SECTION_BYTES]);
    let op = Op(op);
    Header { cluster: CLUSTER, op, view, parent, time_us, members: None, sections }
}

fn prepare(view: View, commit: u64, header: &Header) -> Message {
    let entry = Entry { header: header.clone(), body: Bytes::new() };
    Message::Prepare { view, commit: Op(commit), entry }
}

/// A started cluster with nothing on the wire: leader, and two backups.
fn cluster() -> (Scene, [usize; 3]) {
    let (mut scene, leader) = Scene::started(3);
    scene.wire.clear();
    (scene, [leader, (leader + 1) % 3, (leader + 2) % 3])
}

/// One replica is told something, and its disk does what it is told to.
fn tell(scene: &mut Scene, from: usize, to: usize, message: Message) -> Vec<Notice> {
    scene.actors[to].notices.clear();
    scene.wire.clear();
    scene.send(id(from), id(to), message);
    scene.deliver(|_| true);
    scene.disk(to);
    scene.actors[to].notices.clone()
}

#[test]
fn equivocation_is_noticed_and_the_other_op_is_not_committed() {
    let (mut scene, [leader, _, backup]) = cluster();
    let (view, truth) = (scene.view(leader), scene.request(leader));
    let other = Header { time_us: truth.time_us + 1, ..truth.clone() };
    assert_eq!(tell(&mut scene, leader, backup, prepare(view, 0, &other)), []);
    assert_eq!(tell(&mut scene, leader, backup, prepare(view, 0, &truth)), [Notice::OtherOp]);
    let (op, identity) = (truth.op, truth.identity());
    let commit = Message::Commit { view, op, identity, round: 1 };
    assert_eq!(tell(&mut scene, leader, backup, commit), [Notice::Diverged]);
    assert_eq!(scene.actors[backup].committed, Op(0));
    // Whoever has the one op hears of the other in an acknowledgement.
    let ok = Message::PrepareOk { view, op, identity: other.identity() };
    assert_eq!(tell(&mut scene, backup, leader, ok), [Notice::OtherOp]);
}

#[test]
fn an_inflated_commit_is_noticed_in_a_prepare_and_commits_nothing_that_is_not_here() {
    let (mut scene, [leader, _, backup]) = cluster();
    let (view, header) = (scene.view(leader), scene.request(leader));
    let inflated = prepare(view, 1, &header);
    assert_eq!(tell(&mut scene, leader, backup, inflated), [Notice::NotInFlight]);
    let far = invented(limits::PIPELINE_MAX + 1, view, header.identity(), 1);
    assert_eq!(tell(&mut scene, leader, backup, prepare(view, 0, &far)), [Notice::NotInFlight]);
    let identity = Identity([3; 32]);
    let commit = Message::Commit { view, op: Op(9), identity, round: 1 };
    // A backup may be that far behind: it asks for what it lacks.
    assert_eq!(tell(&mut scene, leader, backup, commit), []);
    assert!(scene.said(backup, |m| matches!(m, Message::Fetch { op: Op(1), .. })));
    assert_eq!((scene.actors[backup].committed, scene.actors[backup].log.len()), (Op(0), 0));
}

#[test]
fn a_forged_sender_is_noticed_where_it_cannot_be() {
    let (mut scene, [leader, other, backup]) = cluster();
    let (view, identity) = (scene.view(leader), Identity::root(CLUSTER));
    let message = Message::Commit { view, op: Op(0), identity, round: 1 };
    assert_eq!(tell(&mut scene, other, backup, message.clone()), [Notice::NotThePrimary]);
    assert_eq!(tell(&mut scene, 9, backup, message.clone()), [Notice::Misdirected]);
    assert_eq!(tell(&mut scene, backup, backup, message), [Notice::Misdirected]);
    let ok = Message::PrepareOk { view, op: Op(1), identity };
    assert_eq!(tell(&mut scene, other, backup, ok), [Notice::NeverSaid], "it leads nothing");
    // Of another cluster, from who would be the primary.
    let message = prepare(view, 0, &scene.request(leader));
    let (from, to, cluster) = (id(leader), id(backup), [7; 16]);
    let foreign = Envelope { cluster, from, to, incarnation: 1, message };
    scene.actors[backup].notices.clear();
    scene.step(backup, Input::Message(foreign));
    assert_eq!(scene.actors[backup].notices, [Notice::Misdirected]);
    assert_eq!(scene.actors[backup].replica.op(), Op(0));
}

/// Late messages are no lies: they are passed over.
#[test]
fn what_was_said_in_views_that_are_past_changes_nothing() {
    let (mut scene, leader) = Scene::started(3);
    let mut said: Vec<Envelope> = Vec::new();
    scene.request(leader);
    for _ in 0..5 {
        scene.now += 10;
        (0..3).for_each(|r| scene.disk(r));
        said.extend(scene.wire.iter().cloned());
        scene.deliver(|_| true);
    }
    scene.pass_with(4_000, |e| usize::from(e.from.0) != leader && usize::from(e.to.0) != leader);
    scene.pass(2_000);
    let next = scene.leader().unwrap();
    assert!(next != leader && said.len() >= 4);
    let now = |s: &Scene| {
        let of = |r: usize| (s.view(r), s.actors[r].log.clone(), s.actors[r].committed);
        (0..3).map(of).collect::<Vec<_>>()
    };
    let before = now(&scene);
    scene.wire = said;
    scene.deliver(|_| true);
    (0..3).for_each(|r| scene.disk(r));
    assert_eq!(now(&scene), before);
    assert!(scene.actors.iter().all(|a| a.notices.is_empty()));
}

#[test]
fn a_flood_of_prepares_is_counted_or_bounded() {
    let (mut scene, [leader, other, backup]) = cluster();
    let view = scene.view(leader);
    let mut parent = Identity::root(CLUSTER);
    for op in 1..2_000 {
        let header = invented(op, view, parent, op);
        let message = prepare(view, op - 1, &header);
        scene.send(id(other), id(backup), message);
        parent = header.identity();
    }
    scene.deliver(|_| true);
    let noticed = &scene.actors[backup].notices;
    assert!(noticed.len() == 1_999 && noticed.iter().all(|n| *n == Notice::NotThePrimary));
    assert_eq!(scene.actors[backup].replica.op(), Op(0));
    // From the primary itself: no more than can be taken in, however much it calls committed.
    let mut parent = Identity::root(CLUSTER);
    for op in 1..2_000 {
        let header = invented(op, view, parent, op);
        scene.send(id(leader), id(backup), prepare(view, op - 1, &header));
        parent = header.identity();
    }
    scene.deliver(|_| true);
    let jobs = scene.actors[backup].jobs.len() as u64;
    assert!(jobs > 0 && jobs <= limits::SUFFIX_MAX, "{jobs} writes are waiting");
}

#[test]
fn who_is_told_nothing_moves_nobody_and_catches_up() {
    let (mut scene, [leader, _, silent]) = cluster();
    let view = scene.view(leader);
    let header = scene.request(leader);
    let hears = |e: &Envelope| usize::from(e.from.0) != leader || usize::from(e.to.0) != silent;
    scene.pass_with(3_000, hears);
    assert_eq!((scene.leader(), scene.view(leader)), (Some(leader), view));
    assert_eq!(scene.actors[leader].committed, header.op);
    scene.pass(1_000);
    assert_eq!(scene.actors[silent].committed, header.op);
}

#[test]
fn what_fails_its_checksum_is_refused() {
    let (mut scene, [leader, _, backup]) = cluster();
    let (view, header) = (scene.view(leader), scene.request(leader));
    let message = prepare(view, 0, &header);
    let (from, to) = (id(leader), id(backup));
    let envelope = Envelope { cluster: CLUSTER, from, to, incarnation: 1, message };
    let bytes = encode(&envelope);
    for at in 0..bytes.len() {
        let mut changed = bytes.to_vec();
        changed[at] ^= 1;
        assert_eq!(decode(&changed.into()), Err(CodecError::Checksum));
    }
    // A body that is not what its header says: the engine finds it before the write.
    scene.wire.clear();
    scene.step(backup, Input::Message(envelope.clone()));
    scene.actors[backup].jobs.clear();
    scene.step(backup, Input::Refused { op: header.op, identity: header.identity() });
    assert_eq!(scene.actors[backup].notices, [Notice::Body]);
    assert_eq!(scene.actors[backup].replica.op(), Op(0));
    assert!(!scene.said(backup, |m| matches!(m, Message::PrepareOk { .. })));
    scene.step(backup, Input::Message(envelope));
    scene.disk(backup);
    assert!(scene.said(backup, |m| matches!(m, Message::PrepareOk { op: Op(1), .. })));
}

#[test]
fn a_view_whose_primary_begins_nothing_is_passed_over() {
    let (mut scene, [leader, next, last]) = cluster();
    let blocks = |e: &Envelope| {
        let gone = usize::from(e.from.0) == leader || usize::from(e.to.0) == leader;
        let blocked =
            usize::from(e.from.0) == next && matches!(e.message, Message::StartView { .. });
        !gone && !blocked
    };
    scene.pass_with(8_000, blocks);
    assert_eq!(scene.leader().filter(|r| *r != leader), Some(last));
}

/// A vote that no honest replica gives does not count; two ops of one primary under one number are noticed.
#[test]
fn conflicting_tails_are_noticed() {
    let (mut scene, [leader, other, _]) = cluster();
    let before = scene.view(leader);
    let mut vote = |log_view: View, header: Option<Header>| {
        let view = View(before.0 + 3);
        let (commit, identity) = (Op(0), Identity::root(CLUSTER));
        let headers = header.into_iter().collect();
        let tail = Tail { commit, identity, members: None, headers };
        tell(
            &mut scene,
            other,
            leader,
            Message::DoViewChange { view, log_view, certain: true, closed_us: 0, tail },
        )
    };
    assert_eq!(vote(View(900), None), [Notice::NoVote]);
    let one = invented(1, View(1), Identity::root(CLUSTER), 5);
    assert_eq!(vote(View(1), Some(Header { view: View(99), ..one })), [Notice::Diverged]);
    assert_eq!(scene.view(leader), before, "neither moves it");

    let (mut scene, [leader, other, _]) = cluster();
    let truth = scene.request(leader);
    scene.disk(leader);
    let view = View(scene.view(leader).0 + 3);
    let (commit, identity) = (Op(0), Identity::root(CLUSTER));
    let headers = vec![Header { time_us: truth.time_us + 7, ..truth }];
    let log_view = scene.view(leader);
    let vote = Message::DoViewChange {
        view,
        log_view,
        certain: true,
        closed_us: 0,
        tail: Tail { commit, identity, members: None, headers },
    };
    assert_eq!(tell(&mut scene, other, leader, vote), [Notice::OtherOp]);
    // At who does not lead the view that it votes for.
    let (commit, headers) = (Op(0), Vec::new());
    let tail = Tail { commit, identity, members: None, headers };
    let vote = Message::DoViewChange {
        view: View(view.0 + 1),
        log_view,
        certain: true,
        closed_us: 0,
        tail,
    };
    assert_eq!(tell(&mut scene, other, leader, vote), [Notice::NoVote]);
    assert_eq!(scene.view(leader), view);
}

/// A backup cannot know that its primary commits early. What it took for committed it keeps, and it says so when another
/// view begins with something else.
#[test]
fn an_early_commit_that_another_view_contradicts_is_noticed() {
    let (mut scene, [leader, next, backup]) = cluster();
    let (view, header) = (scene.view(leader), scene.request(leader));
    tell(&mut scene, leader, backup, prepare(view, 0, &header));
    let (op, identity) = (header.op, header.identity());
    tell(&mut scene, leader, backup, Message::Commit { view, op, identity, round: 1 });
    assert_eq!(scene.actors[backup].committed, op, "it has it, and believes");
    let later = View(view.0 + 1);
    assert_eq!(next as u64, later.0 % 3);
    let other = invented(1, later, Identity::root(CLUSTER), header.time_us.cast_unsigned() + 1);
    let (commit, identity) = (Op(0), Identity::root(CLUSTER));
    let tail = Tail { commit, identity, members: None, headers: vec![other] };
    let start = Message::StartView { view: later, nonce: 0, tail };
    assert_eq!(tell(&mut scene, next, backup, start), [Notice::Diverged]);
    assert_eq!(scene.actors[backup].log, [header]);
    assert!(!scene.said(backup, |m| matches!(m, Message::PrepareOk { .. })));
}

#[test]
fn a_log_merged_from_views_is_not_taken() {
    let (mut scene, [leader, next, backup]) = cluster();
    let view = View(scene.view(leader).0 + 1);
    let root = Identity::root(CLUSTER);
    let first = invented(1, View(view.0 + 1), root, 1);
    let back = invented(2, View(0), first.identity(), 2);
    let (commit, identity) = (Op(0), root);
    for headers in [vec![first.clone()], vec![Header { view, ..first.clone() }, back]] {
        let mut tail = Tail { commit, identity, members: None, headers };
        if let [a, b] = &mut tail.headers[..] {
            b.parent = a.identity();
        }
        assert!(tail.is_chain());
        let start = Message::StartView { view, nonce: 0, tail };
        assert_eq!(tell(&mut scene, next, backup, start), [Notice::Diverged]);
    }
    assert_eq!((scene.view(backup), scene.actors[backup].jobs.len()), (scene.view(leader), 0));
}

#[test]
fn a_commit_whose_identity_is_anothers_is_not_followed() {
    let (mut scene, [leader, _, backup]) = cluster();
    let (view, header) = (scene.view(leader), scene.request(leader));
    tell(&mut scene, leader, backup, prepare(view, 0, &header));
    let lie = Message::Commit { view, op: header.op, identity: header.parent, round: 2 };
    assert_eq!(tell(&mut scene, leader, backup, lie), [Notice::Diverged]);
    assert_eq!(scene.actors[backup].committed, Op(0));
}

#[test]
fn an_oversized_start_view_is_no_message_and_bounded_all_the_same() {
    let (mut scene, [leader, next, backup]) = cluster();
    let view = View(scene.view(leader).0 + 1);
    let (commit, identity) = (Op(0), Identity::root(CLUSTER));
    let mut headers: Vec<Header> = Vec::new();
    for op in 1..=200 {
        let parent = headers.last().map_or(identity, Header::identity);
        headers.push(invented(op, view, parent, op));
    }
    let message = Message::StartView {
        view,
        nonce: 0,
        tail: Tail { commit, identity, members: None, headers },
    };
    let (from, to) = (id(next), id(backup));
    let envelope = Envelope { cluster: CLUSTER, from, to, incarnation: 1, message };
    assert_eq!(decode(&encode(&envelope)), Err(CodecError::Malformed));
    tell(&mut scene, next, backup, envelope.message);
    let asked = scene.wire.iter().filter(|e| matches!(e.message, Message::Fetch { .. })).count();
    assert!(asked as u64 <= limits::FETCH_OPS_MAX);
    assert!(!scene.actors[backup].jobs.iter().any(|j| matches!(j, Job::Write(_))));
}

/// Of an op that is committed long since, nobody knows whether it is this one.
#[test]
fn another_op_of_a_committed_number_is_not_acknowledged() {
    let (mut scene, [leader, _, backup]) = cluster();
    let view = scene.view(leader);
    let ops = [scene.request(leader), scene.request(leader), scene.request(leader)];
    scene.pass(1_000);
    assert_eq!(scene.actors[backup].committed, Op(3));
    let lie = invented(1, view, Identity::root(CLUSTER), 5);
    scene.wire.clear();
    scene.send(id(leader), id(backup), prepare(view, 0, &lie));
    scene.deliver(|e| usize::from(e.to.0) == backup);
    let says = |op: &Header| {
        let (op, identity) = (op.op, op.identity());
        move |m: &Message| matches!(m, Message::PrepareOk { op: o, identity: i, .. } if (*o, *i) == (op, identity))
    };
    assert!(scene.said(backup, says(&ops[2])) && !scene.said(backup, says(&lie)));
}

/// Whoever is moved to the last view moves to none behind it (decision 0015): what can be done is to say so.
#[test]
fn a_view_that_nobody_can_have_come_to_is_noticed() {
    let last = View((1 << 53) - 1);
    let (commit, identity) = (Op(0), Identity::root(CLUSTER));
    let far = invented(1, last, identity, 5);
    let tail = Tail { commit, identity, members: None, headers: vec![far.clone()] };
    let entry = Entry { header: far.clone(), body: Bytes::new() };
    for message in [
        Message::StartViewChange { view: View(0), joined: last },
        Message::StartViewChange { view: last, joined: View(0) },
        Message::StartView { view: last, nonce: 0, tail: tail.clone() },
        Message::StartView { view: View(0), nonce: 0, tail },
        Message::Commit { view: last, op: Op(0), identity, round: 1 },
        Message::Supply { committed: true, entry },
        prepare(View(0), 0, &far),
    ] {
        let (mut scene, [_, other, backup]) = cluster();
        assert_eq!(tell(&mut scene, other, backup, message)[0], Notice::NoView);
    }
    let (mut scene, [_, other, backup]) = cluster();
    let joined = View(scene.view(backup).0 + limits::VIEWS_AHEAD_MAX);
    let jump = Message::StartViewChange { view: joined, joined };
    assert_eq!(tell(&mut scene, other, backup, jump), []);
    assert_eq!(scene.view(backup), joined);
}

/// Whoever takes the last time that there is leaves none for others: they order nothing, and stay whole.
#[test]
fn an_op_of_the_last_time_is_followed_by_none() {
    let (mut scene, [leader, next, backup]) = cluster();
    let view = scene.view(leader);
    let last = limits::TIME_MAX_US.cast_unsigned();
    let header = invented(1, view, Identity::root(CLUSTER), last);
    let beyond = invented(1, view, Identity::root(CLUSTER), last + 1);
    let envelope = |header| {
        let (from, to) = (id(leader), id(backup));
        let message = prepare(view, 0, header);
        Envelope { cluster: CLUSTER, from, to, incarnation: 1, message }
    };
    assert!(decode(&encode(&envelope(&header))).is_ok());
    assert_eq!(decode(&encode(&envelope(&beyond))), Err(CodecError::Malformed));
    for to in [next, backup] {
        tell(&mut scene, leader, to, prepare(view, 0, &header));
    }
    scene.wire.clear();
    let gone = |e: &Envelope| usize::from(e.from.0) != leader && usize::from(e.to.0) != leader;
    scene.pass_with(8_000, gone);
    let leads = scene.leader().filter(|r| *r != leader).expect("a quorum is left");
    assert_eq!(scene.actors[leads].replica.op(), Op(1), "it was acknowledged");
    assert!(scene.actors[leads].replica.leads() && !scene.actors[leads].replica.takes_requests());
}

/// An answer to a round of heartbeats that has not begun would let a replaced primary answer from what it has.
#[test]
fn an_answer_to_what_was_not_asked_is_noticed() {
    let (mut scene, [leader, backup, _]) = cluster();
    let view = scene.view(leader);
    let confirmed = scene.actors[leader].replica.confirmed();
    let lie = Message::Alive { view, round: u64::MAX };
    assert_eq!(tell(&mut scene, backup, leader, lie), [Notice::NeverSaid]);
    assert_eq!(scene.actors[leader].replica.confirmed(), confirmed);
}
