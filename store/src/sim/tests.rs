use bytes::Bytes;
use kimberlite_consensus::{
    Entry, FIRST_INCARNATION, Message, Op, ReplicaId, View, sim::Workload as _,
};

use super::*;
use crate::{
    index::TenantBody,
    kernel::{NameUse, PreparedTenant, Seen},
    record::{PayloadKind, Payloads},
    words::{Actor, Hex, Reference},
};

/// A replica of a cluster of so many, with an empty disk.
fn host(replica: u8, replicas: u8) -> SimHost {
    let disk = SimHost::format(replica, FIRST_INCARNATION, None);
    SimHost::open(&disk, 0, replicas, replicas, None).unwrap()
}

fn work(host: &mut SimHost) {
    while host.has_work() {
        host.work(1).unwrap();
    }
}

/// The first op of a cluster.
fn op() -> Entry {
    begin(1);
    let mut alone = host(0, 1);
    let mut load = Load::new(Prng::new(1));
    alone.clock(1, 1_700_000_000_000_000).unwrap();
    work(&mut alone);
    for number in 0.. {
        let command = load.next(number);
        assert!(alone.submit(1_700_000_000_000_000, number, &command).unwrap());
        alone.seal(1).unwrap();
        if alone.has_work() {
            break;
        }
    }
    work(&mut alone);
    let (header, body) = holes::read(&*alone.disk, CLUSTER, Op(1)).unwrap().unwrap();
    Entry { header, body }
}

/// What a backup tells the third replica of an op that its primary ordered and that it has not written.
fn relayed(entry: Entry) -> Vec<Message> {
    let mut backup = host(1, 3);
    let identity = Some(entry.header.identity());
    let says = |from: u8, message: Message| {
        let (cluster, incarnation) = (CLUSTER, FIRST_INCARNATION);
        let (from, to) = (ReplicaId(from), ReplicaId(1));
        Input::Message(Envelope { cluster, from, to, incarnation, message })
    };
    backup.step(1, says(0, Message::Prepare { view: View(0), commit: Op(0), entry })).unwrap();
    assert!(backup.has_work(), "it is to be written");
    backup.sent();
    backup.step(1, says(2, Message::Fetch { op: Op(1), identity })).unwrap();
    backup.sent().into_iter().map(|envelope| envelope.message).collect()
}

#[test]
fn an_op_that_is_not_written_is_passed_on_only_if_it_holds() {
    let entry = op();
    let supply = Message::Supply { committed: false, entry: entry.clone() };
    assert_eq!(relayed(entry.clone()), [supply]);
    let mut body = entry.body.to_vec();
    body[40] ^= 1;
    assert_eq!(relayed(Entry { body: body.into(), ..entry }), []);
}

/// The same op with other sections, as a liar makes it.
fn with_sections(entry: &Entry, change: impl FnOnce(&mut Vec<u8>)) -> Entry {
    let mut sections = entry.header.sections.to_vec();
    change(&mut sections);
    let header = Header { sections: sections.into(), ..entry.header.clone() };
    Entry { header, body: entry.body.clone() }
}

#[test]
fn what_no_honest_primary_orders_is_refused_though_its_bytes_hold() {
    let entry = op();
    let later = Header { time_us: entry.header.time_us + 1, ..entry.header.clone() };
    let empty = with_sections(&entry, |sections| sections[24..32].fill(0));
    for (what, lie) in [
        ("records of another time", Entry { header: later, body: entry.body.clone() }),
        ("nobody made the tenant", with_sections(&entry, |s| s[..16].fill(0xee))),
        ("a tenant twice", with_sections(&entry, |s| s.extend_from_within(..))),
        ("no records", Entry { body: Bytes::new(), ..empty }),
        ("not at the end of the log", with_sections(&entry, |s| s[16] += 1)),
    ] {
        assert_eq!(relayed(lie), [], "{what}");
    }
}

/// An op that makes a tenant, and one with that tenant's first record.
fn tenant_and_record(body: &TenantBody, reference: [u8; 16]) -> [Entry; 2] {
    begin(1);
    let mut alone = host(0, 1);
    alone.clock(1, 1_700_000_000_000_000).unwrap();
    work(&mut alone);
    let mut payloads = Payloads::default();
    payloads.push_clear(PayloadKind::Body, &serde_json::to_vec(body).unwrap());
    let name = Actor::new("somebody").unwrap();
    let actor = NameUse { name, seen: Seen::Known(Reference([7; 16])) };
    let create = PreparedCommand::CreateTenant(PreparedTenant { actor, id: [1; 16], payloads });
    let mut order = |tenant: [u8; 16], command| {
        let State::Runs(runs) = &mut alone.state else { panic!("it runs") };
        assert!(runs.engine.leads());
        let prepared = Prepared { tenant, seen_at: u64::MAX, command, bytes: 0 };
        runs.engine.submit(1_700_000_000_000_000, prepared, 0);
        runs.engine.seal(1).unwrap();
        while runs.engine.has_work() {
            runs.engine.work(1).unwrap();
        }
        runs.engine.tenants.by_reference(&reference)
    };
    if let Some(made) = order(SYSTEM, create) {
        let mut load = Load::new(Prng::new(1));
        let append = (0..).find_map(|n| match load.next(n) {
            Command::Append(append) => resolve::append(&made, &append).ok(),
            Command::Delete(_) => None,
        });
        order(reference, PreparedCommand::Append(append.unwrap().0));
    }
    [Op(1), Op(2)].map(|op| {
        let (header, body) = holes::read(&*alone.disk, CLUSTER, op).unwrap().unwrap();
        Entry { header, body }
    })
}

#[test]
fn a_tenant_has_records_once_an_op_makes_it_committed_or_not() {
    let (reference, log_id) = ([0xee; 16], [0xdd; 16]);
    let body = TenantBody {
        tenant: "made".into(),
        reference: Hex(&reference).to_string(),
        log_id: Hex(&log_id).to_string(),
    };
    let entries = tenant_and_record(&body, reference);
    let acknowledged = |entries: &[Entry]| {
        let mut backup = host(1, 3);
        for entry in entries {
            let (cluster, incarnation) = (CLUSTER, FIRST_INCARNATION);
            let message = Message::Prepare { view: View(0), commit: Op(0), entry: entry.clone() };
            let envelope =
                Envelope { cluster, from: ReplicaId(0), to: ReplicaId(1), incarnation, message };
            backup.step(1, Input::Message(envelope)).unwrap();
        }
        work(&mut backup);
        let sent = backup.sent().into_iter();
        let acks = sent.filter_map(|envelope| match envelope.message {
            Message::PrepareOk { op, .. } => Some(op),
            _ => None,
        });
        acks.max()
    };
    assert_eq!(acknowledged(&entries), Some(Op(2)));
    // With no tenant of that reference behind it, the second op has no place.
    let mut other = entries.clone();
    other[1] = with_sections(&entries[1], |sections| sections[..16].fill(0xcc));
    assert_eq!(acknowledged(&other), Some(Op(1)));
}
