use kimberlite_consensus::{
    Entry, FIRST_INCARNATION, Message, Op, ReplicaId, View, sim::Workload as _,
};

use super::*;

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
