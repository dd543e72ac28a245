//! Writes the small data folder that later versions must open: `cargo run -p kimberlite-store --example
//! write_format -- store/tests/format/<version>`.

use std::path::PathBuf;

use kimberlite_store::{
    Options, Store,
    append::{Append, DeleteStream, Expected, Idempotency, NewEvent, StreamAppend},
    read::{After, Direction, Filter, Selection, Shape, Source},
    words::{Actor, EventType, StreamName, Tag, TenantName, Timestamp},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let target = PathBuf::from(std::env::args().nth(1).ok_or("where to?")?);
    let folder = target.join("data");
    let store = Store::open(Options {
        folder,
        segment_bytes: 16 << 10,
        checkpoint_records: 1000,
        scrub_bytes_per_s: 0,
        compresses: false,
        signing: None,
    })?;
    let actor = Actor::new("operator")?;
    let tenant = store.create_tenant(actor.clone(), TenantName::new("dev")?).await?;
    for i in 0..40_u32 {
        let long = "long ".repeat(if i == 7 { 20_000 } else { 20 });
        let event = NewEvent {
            id: (i % 2 == 0).then(|| uuid::Uuid::from_u128(u128::from(i) + 1)),
            event_type: EventType::new(["opened", "Größe geändert", "closed"][i as usize % 3])?,
            data: (i % 5 != 4)
                .then(|| format!("{{ \"n\": {i}e400,\r\n\"text\":\"{long}\"}}").into()),
            metadata: (i % 3 == 0).then(|| "{\"source\":\"format\"}".into()),
            occurred_at: Timestamp::parse("2026-11-22T10:00:00.000001Z").filter(|_| i % 4 == 0),
            tags: if i % 2 == 0 { vec![Tag::new("even")?, Tag::new("n:1")?] } else { vec![] },
        };
        let stream = StreamAppend {
            stream: StreamName::new(&format!("case/{}", i % 4))?,
            expected: Expected::Any,
            recreate: i > 30,
            events: vec![event],
        };
        let idempotency = (i % 8 == 0).then(|| Idempotency {
            key: format!("key-{i}"),
            route: "append",
            request_digest: [i as u8; 32],
        });
        let (appends, conditions) = (vec![stream], Vec::new());
        let append = Append { actor: actor.clone(), appends, conditions, idempotency };
        store.append(&tenant, append).await?;
        if i == 30 {
            let stream = StreamName::new("case/1")?;
            let args = DeleteStream { actor: actor.clone(), stream, expected: Expected::Exists };
            store.delete_stream(&tenant, args).await?;
        }
    }
    let selection = Selection {
        source: Source::Log,
        after: After::Nothing,
        filter: Filter::default(),
        direction: Direction::Forward,
        limit: 1000,
        bytes: kimberlite_store::limits::PAGE_BYTES_MAX,
    };
    let batch = store.read(&tenant, &selection, Shape::Ndjson).await?;
    assert!(batch.finished, "small enough for one batch");
    std::fs::write(target.join("events.ndjson"), batch.pieces.concat())?;
    store.close().await;
    std::fs::remove_file(target.join("data/lock"))?;
    Ok(())
}
