//! Logs to ask, and how they are asked.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use kimberlite_query::{Answer, Engine, QueryError, Request, Settings};
use kimberlite_store::{
    Options, Store, Tenant,
    append::{Append, DeleteStream, Expected, NewEvent, StreamAppend},
    scan::Moment,
    words::{Actor, EventType, StreamName, Tag, TenantName, Timestamp},
};
use uuid::Uuid;

/// A store, its engine, and a tenant.
pub(crate) struct World {
    pub store: Store,
    pub engine: Engine,
    pub tenant: Tenant,
    pub folder: tempfile::TempDir,
}

pub(crate) const SETTINGS: Settings = Settings {
    memory_bytes: 64 << 20,
    running_max: 2,
    waiting_max: 16,
    timeout_max: Duration::from_mins(1),
};

pub(crate) fn open(folder: &Path) -> Store {
    Store::open(Options {
        folder: folder.to_owned(),
        segment_bytes: 64 << 10,
        checkpoint_records: 50,
        scrub_bytes_per_s: 0,
        compresses: false,
        signing: None,
    })
    .unwrap()
}

pub(crate) fn actor(name: &str) -> Actor {
    Actor::new(name).unwrap()
}

pub(crate) fn event(n: u128, event_type: &str, data: Option<&str>, tags: &[&str]) -> NewEvent {
    NewEvent {
        id: Some(Uuid::from_u128(n)),
        event_type: EventType::new(event_type).unwrap(),
        data: data.map(|d| Bytes::copy_from_slice(d.as_bytes())),
        metadata: None,
        occurred_at: None,
        tags: tags.iter().map(|t| Tag::new(t).unwrap()).collect(),
    }
}

impl World {
    pub(crate) async fn empty() -> Self {
        Self::with(SETTINGS).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let name = TenantName::new("dev").unwrap();
        let tenant = store.create_tenant(actor("tester"), name).await.unwrap();
        let engine = Engine::start(store.clone(), settings).unwrap();
        Self { store, engine, tenant, folder }
    }

    /// The log of a folder alone.
    pub(crate) fn reopened_without_index(folder: tempfile::TempDir) -> Self {
        std::fs::remove_dir_all(folder.path().join("index")).unwrap();
        let store = open(folder.path());
        let tenant = store.tenant(&TenantName::new("dev").unwrap()).unwrap();
        let engine = Engine::start(store.clone(), SETTINGS).unwrap();
        Self { store, engine, tenant, folder }
    }

    pub(crate) async fn append(&self, who: &str, stream: &str, events: Vec<NewEvent>) {
        let stream = StreamName::new(stream).unwrap();
        let append = StreamAppend { stream, expected: Expected::Any, recreate: true, events };
        let append = Append {
            actor: actor(who),
            appends: vec![append],
            conditions: Vec::new(),
            idempotency: None,
        };
        self.store.append(&self.tenant, append).await.unwrap();
    }

    pub(crate) async fn delete(&self, stream: &str) {
        let args = DeleteStream {
            actor: actor("tester"),
            stream: StreamName::new(stream).unwrap(),
            expected: Expected::Any,
        };
        self.store.delete_stream(&self.tenant, args).await.unwrap();
    }

    /// Eleven records: ten events and the deletion of a stream that is made again.
    pub(crate) async fn small() -> Self {
        let world = Self::empty().await;
        let order = |n, what, data| event(n, what, Some(data), &["shop", "sku:A7"]);
        world
            .append("anna", "order-1", vec![order(1, "order-placed", r#"{"sku":"A7","n":2}"#)])
            .await;
        world
            .append("anna", "order-2", vec![order(2, "order-placed", r#"{"sku":"B1","n":5}"#)])
            .await;
        let mut shipped =
            event(3, "order-shipped", Some(r#"{"by":"post","weight":1.5}"#), &["shop"]);
        shipped.occurred_at = Timestamp::parse("2026-01-31T12:00:00.5Z");
        shipped.metadata = Some(Bytes::from_static(br#"{"source":"web"}"#));
        world.append("ben", "order-1", vec![shipped]).await;
        world.append("ben", "user/7", vec![event(4, "joined", None, &[])]).await;
        world
            .append(
                "ben",
                "user/7",
                vec![
                    event(5, "renamed", Some(r#"{"name":"Zoë","old":null}"#), &[]),
                    event(6, "renamed", Some(r#"{"name":"Ada, \"A\""}"#), &["vip"]),
                ],
            )
            .await;
        world.append("ben", "user/8", vec![event(7, "joined", Some("[1, 2,\n 3]"), &[])]).await;
        world.delete("order-2").await;
        world
            .append("anna", "order-2", vec![order(8, "order-placed", r#"{"sku":"B1","n":1}"#)])
            .await;
        world
            .append(
                "anna",
                "order-3",
                vec![order(9, "order-placed", r#"{"sku":"A7","n":9007199254740993}"#)],
            )
            .await;
        world
            .append("anna", "order-3", vec![event(10, "order-cancelled", Some("true"), &["shop"])])
            .await;
        world
    }
}

pub(crate) fn request(sql: &str) -> Request {
    Request {
        sql: sql.to_owned(),
        parameters: Vec::new(),
        actor: actor("asker"),
        moment: Moment::Now,
        now_us: None,
        timeout: Duration::from_secs(30),
    }
}

pub(crate) async fn answer(world: &World, sql: &str) -> Result<Answer, QueryError> {
    ask(world, request(sql)).await
}

pub(crate) async fn ask(world: &World, request: Request) -> Result<Answer, QueryError> {
    world.engine.answer(&world.tenant, request, (0, 100_000, 64 << 20)).await
}

/// The rows of a statement.
pub(crate) async fn rows(world: &World, sql: &str) -> Vec<Vec<serde_json::Value>> {
    let answer = answer(world, sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    rows_of(&answer)
}

pub(crate) fn rows_of(answer: &Answer) -> Vec<Vec<serde_json::Value>> {
    let text = std::str::from_utf8(&answer.pages.last().unwrap().rows).unwrap();
    serde_json::from_str(&format!("[{text}]")).unwrap()
}
