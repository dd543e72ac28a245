//! Whom a replica with a hole in its log asks, whom it answers, and what it gives up for.

use bytes::Bytes;
use kimberlite_consensus::{
    Entry, Envelope, Form, Gap, Header, Identity, Mender, Message, Op, ReplicaId, SECTION_BYTES,
    Superblock, Tail, Told, View,
};

use crate::scene::CLUSTER;

const NONCE: u64 = 7;

/// Three ops, of which the first is known to be committed.
fn log() -> ([Header; 3], Superblock) {
    let root = Identity::root(CLUSTER);
    let sections = Bytes::from(vec![0; SECTION_BYTES]);
    let op = |op, parent, time_us| Header {
        cluster: CLUSTER,
        op: Op(op),
        view: View(0),
        parent,
        time_us,
        members: None,
        sections: sections.clone(),
    };
    let first = op(1, root, 1);
    let second = op(2, first.identity(), 2);
    let third = op(3, second.identity(), 3);
    let identity = first.identity();
    let view = View(2);
    let superblock = Superblock { commit: Op(1), identity, view, ..Superblock::fresh(CLUSTER) };
    ([first, second, third], superblock)
}

/// Replica 0 of three, which lacks these.
fn mender(missing: &[Header], superblock: Superblock) -> Mender {
    let (first, last) = (&missing[0], &missing[missing.len() - 1]);
    let gap = Gap { first: first.op, last: last.op, identity: last.identity() };
    Mender::new(0, superblock, 3, gap, NONCE)
}

fn from_one(message: Message) -> Envelope {
    let (from, to) = (ReplicaId(1), ReplicaId(0));
    Envelope { cluster: CLUSTER, from, to, incarnation: 1, message }
}

/// Each of the others is asked in turn, not more often than is useful, and whether the op is in the view's log only where
/// it may not be.
#[test]
fn the_others_are_asked_in_turn() {
    let (log, superblock) = log();
    let fetch =
        |header: &Header| Message::Fetch { op: header.op, identity: Some(header.identity()) };
    let start = Message::RequestStartView { view: superblock.view, nonce: NONCE };
    let mut above = mender(&log[1..], superblock);
    let mut below = mender(&log[..1], superblock);
    for (now, other) in [(0, 1), (10_000, 2), (20_000, 1)] {
        let to = ReplicaId(other);
        assert_eq!(above.tick(now), [(to, fetch(&log[2])), (to, start.clone())]);
        assert_eq!(above.tick(now + 1), []);
        assert_eq!(below.tick(now), [(to, fetch(&log[0]))], "it is committed");
    }
}

/// What does not come from another of this cluster to this one is not heard.
#[test]
fn strangers_are_not_heard() {
    let (log, superblock) = log();
    let mender = mender(&log[1..], superblock);
    let entry = Entry { header: log[2].clone(), body: Bytes::new() };
    let supply = from_one(Message::Supply { committed: true, entry: entry.clone() });
    let strange = [
        Envelope { cluster: [9; 16], ..supply.clone() },
        Envelope { from: ReplicaId(3), ..supply.clone() },
        Envelope { from: ReplicaId(0), ..supply.clone() },
        Envelope { to: ReplicaId(2), ..supply.clone() },
    ];
    for envelope in strange {
        assert_eq!(mender.message(envelope), Told::Nothing);
    }
    assert_eq!(mender.message(supply), Told::Given(entry));
}

/// By its number alone an op is given only where it is committed, and only then called so.
#[test]
fn what_is_not_committed_is_given_by_identity() {
    let (log, superblock) = log();
    let mender = mender(&log[2..], superblock);
    let asked = |op, identity| mender.message(from_one(Message::Fetch { op: Op(op), identity }));
    let given = |op, committed| Told::Asked {
        to: ReplicaId(1),
        op: Op(op),
        form: Form::Supply { committed },
    };
    assert_eq!(asked(1, None), given(1, true));
    assert_eq!(asked(2, Some(log[1].identity())), given(2, false));
    assert_eq!(asked(2, None), Told::Nothing);
    assert_eq!(asked(0, None), Told::Nothing, "there is none");
}

/// Traps 12, 31: only a log of this view or a later one shows that an op never was, and not where that log has gone past it.
#[test]
fn an_op_is_given_up_for_what_the_view_has_in_its_place() {
    let (log, superblock) = log();
    let mender = mender(&log[1..], superblock);
    let told = |view, commit: usize, headers: &[Header]| {
        let identity = log[commit - 1].identity();
        let headers = headers.to_vec();
        let tail = Tail { commit: Op(commit as u64), identity, members: None, headers };
        mender.message(from_one(Message::StartView { view: View(view), nonce: NONCE, tail }))
    };
    let other = Header { time_us: 99, ..log[2].clone() };
    assert_eq!(told(1, 1, &[]), Told::Nothing, "a view that is past");
    assert_eq!(told(2, 3, &[]), Told::Nothing, "it may be one of those that were committed");
    assert_eq!(told(2, 1, &log[1..]), Told::Nothing, "it is there");
    assert_eq!(told(2, 1, &[log[1].clone(), other]), Told::NeverWas);
    assert_eq!(told(2, 1, &[]), Told::NeverWas);
}
