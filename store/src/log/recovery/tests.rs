//! The end of a log as a replica of several meets it.

use std::sync::Arc;

use super::*;
use crate::{
    Store,
    append::{Append, Expected, NewEvent, StreamAppend},
    checkpoint::Due,
    disk::simulated::SimulatedDisk,
    log::{
        holes,
        walk::{ClosedFrames, Frame},
    },
    words::{Actor, EventType, StreamName, TenantName},
};

/// One of several.
#[derive(Default)]
struct Others {
    damaged: usize,
}

impl Visitor for Others {
    fn op(&mut self, op: RecoveredOp<'_>) {
        self.damaged += op.sections.iter().filter(|(_, runs)| runs.is_err()).count();
    }

    fn lost(&mut self, _: Vec<Section>, _: Damage) {
        self.damaged += 1;
    }

    fn mends(&mut self, _: Damage) {}

    fn has_peers(&self) -> bool {
        true
    }
}

/// A log whose last two ops are large, as a crash leaves it.
async fn log() -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new();
    let due = Due { records: 1000, bytes: 1 << 20 };
    let store = Store::open_on(Arc::clone(&disk) as Arc<dyn Disk>, 1 << 20, due, None).unwrap();
    let (actor, name) = (Actor::new("a").unwrap(), TenantName::new("t").unwrap());
    let tenant = store.create_tenant(actor.clone(), name).await.unwrap();
    for _ in 0..3 {
        let event = NewEvent {
            id: None,
            event_type: EventType::new("t").unwrap(),
            data: Some(format!("\"{}\"", "x".repeat(3000)).into()),
            metadata: None,
            occurred_at: None,
            tags: Vec::new(),
        };
        let stream = StreamName::new("s").unwrap();
        let (expected, events) = (Expected::Any, vec![event]);
        let appends = vec![StreamAppend { stream, expected, recreate: false, events }];
        let append =
            Append { actor: actor.clone(), appends, conditions: Vec::new(), idempotency: None };
        store.append(&tenant, append).await.unwrap();
    }
    disk.crashed(|| true)
}

/// Where the ops of the first segment lie.
fn frames(disk: &SimulatedDisk) -> (String, Vec<(Op, u64, u64)>) {
    let path = list_segments(disk).unwrap().remove(0);
    let mut read = ClosedFrames::open(disk, cluster(disk).unwrap(), &path).unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = read.next().unwrap() {
        if let Frame::Op { offset, length, header, .. } = frame {
            frames.push((header.op, offset, length));
        }
    }
    (path, frames)
}

/// What is torn still says what the damaged op was. A start that cut it first would leave a hole that nobody can fill.
#[tokio::test]
async fn a_torn_op_behind_a_damaged_one_is_kept_until_that_is_whole() {
    for behind_its_front in [4, 2000] {
        let disk = log().await;
        let (path, frames) = frames(&disk);
        let [.., (op, damaged, _), (_, torn, length)] = frames[..] else {
            panic!("{frames:?}");
        };
        let file = disk.open(&path).unwrap();
        let turn = || {
            let mut byte = [0];
            file.read_exact_at(&mut byte, damaged + behind_its_front).unwrap();
            file.write_all_at(&[byte[0] ^ 1], damaged + behind_its_front).unwrap();
        };
        turn();
        file.write_all_at(&[0; 1024], torn + length - 1024).unwrap();
        let mut others = Others::default();
        let recovery = recover(&*disk, &mut others, None).unwrap();
        assert_eq!(recovery.damage.unwrap().offset, damaged, "{behind_its_front}");
        assert!(!recovery.superblock.uncertain);
        assert_eq!(others.damaged, 0, "nothing damaged is handed on");

        let cluster = cluster(&*disk).unwrap();
        let hole = holes::first(&*disk, cluster).unwrap().expect("what can be filled");
        assert_eq!((hole.from, hole.to, hole.gap.first, hole.gap.last), (damaged, torn, op, op));
        turn();
        assert!(holes::first(&*disk, cluster).unwrap().is_none());
        let recovery = recover(&*disk, &mut others, None).unwrap();
        assert_eq!(recovery.tip.unwrap().op, op);
        assert!(recovery.damage.is_none() && !recovery.superblock.uncertain);
    }
}

/// Whole ops lie behind it: they are not given up for it.
#[tokio::test]
async fn what_is_whole_behind_a_damaged_op_stays() {
    for behind_its_front in [4, 2000] {
        let disk = log().await;
        let (path, frames) = frames(&disk);
        let [.., (op, damaged, _), (last, behind, _)] = frames[..] else {
            panic!("{frames:?}");
        };
        let file = disk.open(&path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, damaged + behind_its_front).unwrap();
        file.write_all_at(&[byte[0] ^ 1], damaged + behind_its_front).unwrap();
        let recovery = recover(&*disk, &mut Others::default(), None).unwrap();
        assert_eq!(recovery.damage.unwrap().offset, damaged, "{behind_its_front}");
        assert!(!recovery.superblock.uncertain);
        let hole = holes::first(&*disk, cluster(&*disk).unwrap()).unwrap().expect("a hole");
        assert_eq!((hole.to, hole.gap.last), (behind, op));
        let (_, again) = self::frames(&disk);
        assert_eq!(again.last().unwrap().0, last);
    }
}

/// A write that went astray left another op's beginning inside of one: that of the next, or of one before it.
#[tokio::test]
async fn what_strayed_into_an_op_is_not_taken_for_the_one_that_follows() {
    for later in [false, true] {
        let disk = log().await;
        let (path, frames) = frames(&disk);
        let [.., (_, before, _), (op, damaged, _), (_, behind, _)] = frames[..] else {
            panic!("{frames:?}");
        };
        let file = disk.open(&path).unwrap();
        let mut stray = [0; 512];
        file.read_exact_at(&mut stray, if later { behind } else { before }).unwrap();
        file.write_all_at(&stray, damaged + 1024).unwrap();
        let recovery = recover(&*disk, &mut Others::default(), None).unwrap();
        assert_eq!(recovery.damage.unwrap().offset, damaged);
        let hole = holes::first(&*disk, cluster(&*disk).unwrap()).unwrap().expect("a hole");
        assert_eq!((hole.from, hole.to), (damaged, behind), "later: {later}");
        assert_eq!((hole.gap.first, hole.gap.last), (op, op));
    }
}
