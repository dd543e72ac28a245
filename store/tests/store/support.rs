//! What the tests share.

use std::path::Path;

use bytes::Bytes;
use kimberlite_store::{
    Options, Store, Tenant,
    append::{Append, Expected, NewEvent, StreamAppend},
    error::{OpenError, ReadError},
    read::{Direction, Filter, Selection, Shape, Source},
    words::{Actor, EventType, StreamName, Tag, TenantName},
};

pub(crate) fn actor() -> Actor {
    Actor::new("tester").unwrap()
}

pub(crate) fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

pub(crate) fn event(event_type: &str, data: &str) -> NewEvent {
    NewEvent {
        id: None,
        event_type: EventType::new(event_type).unwrap(),
        data: Some(Bytes::copy_from_slice(data.as_bytes())),
        metadata: None,
        occurred_at: None,
        tags: Vec::new(),
    }
}

pub(crate) fn tagged(event_type: &str, tags: &[&str]) -> NewEvent {
    let tags = tags.iter().map(|t| Tag::new(t).unwrap()).collect();
    NewEvent { tags, ..event(event_type, "{}") }
}

pub(crate) fn to_stream(name: &str, expected: Expected, events: Vec<NewEvent>) -> StreamAppend {
    StreamAppend { stream: stream(name), expected, recreate: false, events }
}

pub(crate) fn append(name: &str, expected: Expected, events: Vec<NewEvent>) -> Append {
    Append {
        actor: actor(),
        appends: vec![to_stream(name, expected, events)],
        conditions: Vec::new(),
        idempotency: None,
    }
}

pub(crate) fn try_open(folder: &Path) -> Result<Store, OpenError> {
    Store::open(Options {
        folder: folder.to_owned(),
        segment_bytes: 64 << 10,
        checkpoint_records: 50,
        scrub_bytes_per_s: 0,
        compresses: false,
        signing: None,
    })
}

pub(crate) async fn open(folder: &Path) -> (Store, Tenant) {
    let store = try_open(folder).unwrap();
    let name = TenantName::new("dev").unwrap();
    let tenant = store.create_tenant(actor(), name).await.unwrap();
    (store, tenant)
}

pub(crate) fn everything() -> Selection {
    Selection {
        source: Source::Log,
        after: kimberlite_store::read::After::Nothing,
        filter: Filter::default(),
        direction: Direction::Forward,
        limit: 1000,
        bytes: kimberlite_store::limits::PAGE_BYTES_MAX,
    }
}

/// Every event of a tenant as a line of JSON.
pub(crate) async fn dump(store: &Store, tenant: &Tenant) -> Result<String, ReadError> {
    let mut selection = everything();
    let mut out = String::new();
    loop {
        let batch = store.read(tenant, &selection, Shape::Ndjson).await?;
        for piece in &batch.pieces {
            out.push_str(std::str::from_utf8(piece).unwrap());
        }
        if batch.finished {
            return Ok(out);
        }
        selection.after = kimberlite_store::read::After::Cursor(batch.cursor.unwrap());
    }
}
