use std::sync::Arc;

use kimberlite_consensus::{Header, Members, Op, ReplicaId, Superblock, View};

use super::*;
use crate::{
    disk::{
        Disk,
        simulated::{ReadFault, SimulatedDisk},
    },
    error::Damage,
    log::{
        Log, Written,
        frame::Section,
        framed::Framed,
        recovery::{self, RecoveredOp, Recovery, Visitor},
    },
};

const CLUSTER: [u8; 16] = [5; 16];
const SEGMENT_BYTES: u64 = 64 << 10;

/// Takes what is there.
struct Any;

impl Visitor for Any {
    fn op(&mut self, _: RecoveredOp<'_>) {}

    fn lost(&mut self, _: Vec<Section>, damage: Damage) {
        panic!("{damage:?}");
    }

    fn has_peers(&self) -> bool {
        true
    }
}

fn recover(disk: &SimulatedDisk) -> Recovery {
    let recovery = recovery::recover(disk, &mut Any, None).unwrap();
    assert!(recovery.damage.is_none() && !recovery.superblock.uncertain, "{:?}", recovery.damage);
    recovery
}

fn open(disk: &Arc<SimulatedDisk>, recovery: &Recovery) -> Log {
    let end = recovery.end();
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    Log::new(disk, CLUSTER, SEGMENT_BYTES, end, recovery.segments).unwrap()
}

fn header(op: u64, before: Option<&Header>) -> Header {
    let parent = before.map_or(Identity::root(CLUSTER), Header::identity);
    let members = Members::first(3).with_reset(ReplicaId(1), 2);
    let (cluster, time_us, sections) = (CLUSTER, i64::try_from(op).unwrap(), Bytes::new());
    Header { cluster, op: Op(op), view: View(0), parent, time_us, members, sections }
}

fn append(log: &mut Log, header: &Header, before: Option<&Header>) -> Written {
    let frame = Framed::around(header, before, &[]);
    log.append(&frame, header.op.0, header.parent).unwrap()
}

/// A log of so many ops that its last page begins inside of one, and where they lie.
fn log() -> (Arc<SimulatedDisk>, Vec<(Header, Written)>) {
    let disk = SimulatedDisk::new();
    recovery::create(&*disk, Superblock::fresh(CLUSTER), SEGMENT_BYTES).unwrap();
    let mut log = open(&disk, &recover(&disk));
    let mut ops: Vec<(Header, Written)> = Vec::new();
    for op in 1..=30 {
        let before = ops.last().map(|(header, _)| header.clone());
        let header = header(op, before.as_ref());
        let written = append(&mut log, &header, before.as_ref());
        ops.push((header, written));
    }
    (disk, ops)
}

/// How many reads this takes, and what it leaves on the disk where one of them is wrong, each in turn.
fn with_each_read_wrong(run: impl Fn(&Arc<SimulatedDisk>, Option<(u64, ReadFault)>) -> u64) -> u64 {
    let reads = run(&log().0, None);
    for n in 1..=reads {
        for how in [ReadFault::Turned, ReadFault::Astray] {
            run(&log().0, Some((n, how)));
        }
    }
    reads
}

#[test]
fn what_was_read_wrongly_at_a_start_is_not_written_again() {
    let reads = with_each_read_wrong(|disk, wrong| {
        let recovery = recover(disk);
        let before = disk.reads();
        if let Some((n, how)) = wrong {
            disk.fail_read(n, how);
        }
        let mut log = open(disk, &recovery);
        let reads = disk.reads() - before;
        let tip = recovery.tip.unwrap();
        append(&mut log, &header(31, Some(&tip)), Some(&tip));
        assert_eq!(recover(&disk.crashed(|| true)).tip.unwrap().op, Op(31), "{wrong:?}");
        reads
    });
    assert!(reads > 2, "{reads}");
}

#[test]
fn what_was_read_wrongly_after_a_cut_is_not_written_again() {
    let (_, ops) = log();
    let [.., (tip, _), (_, from)] = &ops[..] else { panic!("there are some") };
    let reads = with_each_read_wrong(|disk, wrong| {
        let recovery = recover(disk);
        let mut log = open(disk, &recovery);
        let from = Written { segment: recovery.segment, offset: from.offset };
        let before = disk.reads();
        if let Some((n, how)) = wrong {
            disk.fail_read(n, how);
        }
        log.truncate(&from, tip.identity()).unwrap();
        let reads = disk.reads() - before;
        for n in [30, 31] {
            let before = if n == 30 { tip.clone() } else { header(30, Some(tip)) };
            append(&mut log, &header(n, Some(&before)), Some(&before));
        }
        assert_eq!(recover(&disk.crashed(|| true)).tip.unwrap().op, Op(31), "{wrong:?}");
        reads
    });
    assert!(reads > 2, "{reads}");
}

#[test]
fn a_log_goes_on_in_its_last_page_where_that_holds() {
    let (disk, _) = log();
    let recovery = recover(&disk);
    let mut log = open(&disk, &recovery);
    let tip = recovery.tip.unwrap();
    let written = append(&mut log, &header(31, Some(&tip)), Some(&tip));
    assert_eq!((written.segment.first_op, written.offset), (1, recovery.at));
}
