//! Payloads that are gone: no command removes any yet, so the log is changed here as it will be then.

use std::{fs, path::Path};

use bytes::Bytes;

use crate::{
    Options, Store, Tenant,
    append::{Append, Expected, NewEvent, StreamAppend},
    log::{
        SEGMENT_HEAD_BYTES,
        frame::{FrameHead, Runs, encode_frame},
        framed::{Framed, Spot},
    },
    read::{PayloadState, Shape},
    record::{Entry, Leaf, PayloadKind},
    verify::{Finding, Progress, Watcher, verify},
    words::{Actor, EventType, Position, StreamName, Tag, TenantName},
};

struct Told(Vec<Finding>);

impl Watcher for Told {
    fn progress(&mut self, _: &Progress) {}

    fn found(&mut self, finding: &Finding) {
        self.0.push(finding.clone());
    }
}

async fn open(folder: &Path) -> (Store, Tenant) {
    let store = Store::open(Options {
        folder: folder.to_owned(),
        segment_bytes: 64 << 10,
        checkpoint_records: 100,
        scrub_bytes_per_s: 0,
        compresses: false,
        signing: None,
    });
    let store = store.unwrap();
    let (actor, name) = (Actor::new("tester").unwrap(), TenantName::new("dev").unwrap());
    let tenant = store.create_tenant(actor, name).await.unwrap();
    (store, tenant)
}

async fn append(store: &Store, tenant: &Tenant) {
    let event = NewEvent {
        id: None,
        event_type: EventType::new("t").unwrap(),
        data: Some("1".into()),
        metadata: Some("{}".into()),
        occurred_at: None,
        tags: vec![Tag::new("a").unwrap()],
    };
    let (stream, events) = (StreamName::new("s").unwrap(), vec![event]);
    let append = StreamAppend { stream, expected: Expected::Any, recreate: false, events };
    let (actor, appends) = (Actor::new("tester").unwrap(), vec![append]);
    let append = Append { actor, appends, conditions: Vec::new(), idempotency: None };
    store.append(tenant, append).await.unwrap();
}

/// Puts states in the place of payloads of the last record, which is alone in its op.
fn drop_payloads(folder: &Path, gone: &[(PayloadKind, u8)]) {
    let path = folder.join("log/0000000000000001.segment");
    let mut file = fs::read(&path).unwrap();
    let mut at = SEGMENT_HEAD_BYTES as usize;
    let (head, frame, at) = loop {
        let head = FrameHead::decode(&Bytes::copy_from_slice(&file[at..])).unwrap();
        let end = at + head.length;
        if FrameHead::decode(&Bytes::copy_from_slice(&file[end..])).is_err() {
            break (head, Bytes::copy_from_slice(&file[at..end]), at);
        }
        at = end;
    };
    let spot = Some(Spot { first_op: 1, offset: at as u64 });
    let mut sections = Framed::new(frame.clone(), spot).sections(&head.header).unwrap();
    let (_, runs) = sections.pop().unwrap();
    let leaf = Leaf::decode(&runs.leaves[2..]).unwrap();
    let (mut left, mut payloads) = (&runs.payloads[..], Vec::new());
    for (kind, _) in leaf.payloads() {
        let before = left;
        Entry::take(&mut left).unwrap();
        match gone.iter().find(|(gone, _)| *gone == kind) {
            Some((_, state)) => payloads.extend([*state, 0, 0, 0, 0]),
            None => payloads.extend_from_slice(&before[..before.len() - left.len()]),
        }
    }
    let runs = Runs { leaves: runs.leaves, payloads };
    let (shorter, _) = encode_frame(&head.header, head.previous.as_ref(), vec![runs], spot);
    let shorter = shorter.bytes();
    file[at..at + frame.len()].fill(0);
    file[at..at + shorter.len()].copy_from_slice(shorter);
    fs::write(&path, file).unwrap();
    fs::remove_dir_all(folder.join("index")).unwrap();
}

#[tokio::test]
async fn what_was_erased_or_has_expired_is_said_and_the_rest_is_still_opened() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    append(&store, &tenant).await;
    append(&store, &tenant).await;
    let position = Position::new(1).unwrap();
    let (whole, names) = store.opening(&tenant, position).await.unwrap();
    store.close().await;
    drop((store, tenant));
    drop_payloads(folder.path(), &[(PayloadKind::Data, 1), (PayloadKind::Tags, 2)]);
    let (store, tenant) = open(folder.path()).await;
    let (record, still) = store.opening(&tenant, position).await.unwrap();
    assert_eq!((record.hash, &record.leaf, still), (whole.hash, &whole.leaf, names));
    let states: Vec<_> = record
        .payloads
        .iter()
        .map(|payload| match &payload.state {
            PayloadState::Clear { json, .. } => (payload.kind, str::from_utf8(json).unwrap()),
            PayloadState::Erased => (payload.kind, "erased"),
            PayloadState::Expired => (payload.kind, "expired"),
        })
        .collect();
    assert_eq!(states, [("data", "erased"), ("metadata", "{}"), ("tags", "expired")]);
    let commitments = |view: &crate::read::RecordView| {
        view.payloads.iter().map(|payload| payload.commitment).collect::<Vec<_>>()
    };
    assert_eq!(commitments(&record), commitments(&whole));
    let event = store.event(&tenant, position).await.unwrap();
    assert_eq!((event.data, event.metadata, event.tags), (None, Some("{}".into()), Vec::new()));
    let selection = crate::read::Selection {
        source: crate::read::Source::Log,
        after: crate::read::After::Position(Position::new(0).unwrap()),
        filter: crate::read::Filter::default(),
        direction: crate::read::Direction::Forward,
        limit: 10,
        bytes: 1 << 20,
    };
    let text = store.read(&tenant, &selection, Shape::Ndjson).await.unwrap().pieces.concat();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains(r#""data":null,"metadata":{},"subjects":[],"tags":[]"#), "{text}");
    store.close().await;
    drop((store, tenant));
    let mut told = Told(Vec::new());
    verify(folder.path(), &mut told).unwrap();
    assert!(told.0.is_empty(), "{:?}", told.0);
}
