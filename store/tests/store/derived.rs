//! What is derived from the log: the same answers with it, without it, from memory and from disk; never a wrong one.

use std::{
    collections::HashMap, fmt::Write as _, fs::OpenOptions, os::unix::fs::FileExt, path::Path,
};

use kimberlite_store::{
    Store, Tenant,
    append::{Append, AppendError, DeleteStream, Expected, Idempotency, NewEvent, Rejection},
    error::ReadError,
    read::{After, Direction, Filter, NamedBefore, RecordView, Selection, Shape, Source},
    words::{Actor, EventType, Position, Tag, TenantName, Timestamp, Version},
};
use uuid::Uuid;

use crate::support::*;

const EVENTS: u32 = 700;

fn id(i: u32) -> Uuid {
    Uuid::from_u128(u128::from(i) << 64 | 7)
}

fn command(i: u32) -> Append {
    let event = NewEvent {
        id: i.is_multiple_of(3).then(|| id(i)),
        event_type: EventType::new(["opened", "moved", "closed"][i as usize % 3]).unwrap(),
        data: Some(format!("{{\"n\":{i}}}").into()),
        metadata: None,
        occurred_at: Timestamp::parse(&format!("2026-01-{:02}T00:00:00Z", 1 + i % 28))
            .filter(|_| !i.is_multiple_of(4)),
        tags: if i.is_multiple_of(5) {
            vec![Tag::new("five").unwrap(), Tag::new(&format!("n:{}", i % 10)).unwrap()]
        } else {
            vec![]
        },
    };
    let idempotency = i.is_multiple_of(50).then(|| Idempotency {
        key: format!("key-{i}"),
        route: "append",
        request_digest: [i as u8; 32],
    });
    let stream = to_stream(&format!("case/{}", i % 40), Expected::Any, vec![event]);
    let appends = vec![kimberlite_store::append::StreamAppend { recreate: true, ..stream }];
    let actor = if i < 500 { actor() } else { Actor::new("late").unwrap() };
    Append { actor, appends, conditions: Vec::new(), idempotency }
}

/// A folder whose index lies on disk for the most part, in several segments.
async fn filled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    for i in 0..EVENTS {
        store.append(&tenant, command(i)).await.unwrap();
        if i == 300 {
            let stream = stream("case/7");
            let args = DeleteStream { actor: actor(), stream, expected: Expected::Exists };
            store.delete_stream(&tenant, args).await.unwrap();
        }
    }
    store.close().await;
    folder
}

fn filters() -> Vec<Filter> {
    let types = |names: &[&str]| names.iter().map(|n| EventType::new(n).unwrap()).collect();
    let tags = |names: &[&str]| names.iter().map(|n| Tag::new(n).unwrap()).collect();
    let any = Filter::default;
    vec![
        any(),
        Filter { types: types(&["moved"]), ..any() },
        Filter { types: types(&["moved", "closed"]), ..any() },
        Filter { types: types(&["unheard of"]), ..any() },
        Filter { tags: tags(&["five"]), ..any() },
        Filter { tags: tags(&["five", "n:0"]), types: types(&["opened"]), ..any() },
        Filter { tags: tags(&["five", "unheard of"]), ..any() },
        Filter { stream_prefix: Some("case/1".to_owned()), ..any() },
        Filter { occurred_from: Timestamp::parse("2026-01-20T00:00:00Z"), ..any() },
        Filter {
            occurred_to: Timestamp::parse("2026-01-03T00:00:00Z"),
            tags: tags(&["five"]),
            ..any()
        },
    ]
}

/// Everything that can be asked, as text.
async fn answers(store: &Store, tenant: &Tenant) -> Result<String, ReadError> {
    let mut out = dump(store, tenant).await?;
    let whole = out.clone();
    let half = store.event(tenant, Position::new(351).unwrap()).await?.time;
    let later = Filter { from_time: Some(half), ..Filter::default() };
    let sources = [
        Source::Log,
        Source::Stream { name: stream("case/3"), from: None },
        Source::Stream { name: stream("case/7"), from: None },
        Source::Stream { name: stream("case/3"), from: Version::new(9) },
        Source::Stream { name: stream("nowhere"), from: None },
    ];
    for source in &sources {
        for filter in filters().into_iter().chain([later.clone()]) {
            for direction in [Direction::Forward, Direction::Backward] {
                let (source, filter) = (source.clone(), filter.clone());
                let mut selection = Selection { source, filter, direction, ..everything() };
                selection.limit = 7;
                writeln!(out, "{selection:?}").unwrap();
                out.push_str(&pages(store, tenant, &mut selection).await);
            }
        }
    }
    for info in store.streams(tenant, "case/".into(), Some("case/2".into()), 100).await? {
        writeln!(out, "{info:?}").unwrap();
    }
    let mut named = HashMap::new();
    for i in 0..=EVENTS {
        let (record, names) = store.opening(tenant, Position::new(u64::from(i)).unwrap()).await?;
        assert_eq!(names, names_before(&mut named, &record), "record {i}");
        writeln!(out, "{} {} {}", record.position, record.kind, record.hash).unwrap();
    }
    assert_eq!(whole.lines().count(), EVENTS as usize);
    Ok(out)
}

/// Where a record's names stand that it does not have itself, as its leaf and those before it say.
fn names_before(named: &mut HashMap<[u8; 17], Position>, record: &RecordView) -> Vec<NamedBefore> {
    let references = usize::from(record.leaf[2]);
    let references = record.leaf[36..].chunks_exact(17).take(references);
    let kinds = ["stream", "type", "actor"];
    let mut before = Vec::new();
    for reference in references {
        let kind = kinds[usize::from(reference[0]) - 1];
        let reference = reference.try_into().unwrap();
        if record.payloads.iter().any(|payload| payload.kind == kind) {
            assert_eq!(named.insert(reference, record.position), None, "it is named twice");
        } else {
            before.push(NamedBefore { kind, position: named[&reference] });
        }
    }
    before
}

/// All pages of a selection, or why there are none.
async fn pages(store: &Store, tenant: &Tenant, selection: &mut Selection) -> String {
    let mut out = String::new();
    loop {
        let batch = match store.read(tenant, selection, Shape::Ndjson).await {
            Ok(batch) => batch,
            Err(error) => return format!("{out}{error}\n"),
        };
        let text = batch.pieces.concat();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().count(), batch.count);
        out.push_str(&text);
        let (true, Some(cursor)) = (!batch.finished, batch.cursor) else { return out };
        selection.after = After::Cursor(cursor);
        if let Source::Stream { from, .. } = &mut selection.source {
            *from = None;
        }
    }
}

/// What a writer is answered who comes again with what is there.
async fn replays(store: &Store, tenant: &Tenant) {
    for i in [0, 50, 350, 650] {
        let done = store.append(tenant, command(i)).await.unwrap();
        assert!(done.replayed, "key of {i}");
    }
    for i in [3, 33, 333, 699] {
        let done = store.append(tenant, command(i)).await.unwrap();
        assert!(done.replayed && done.receipts[0].stream == stream(&format!("case/{}", i % 40)));
        let mut other = command(i);
        other.appends[0].events[0].data = Some("1".into());
        let refused = store.append(tenant, other).await;
        let position = match refused {
            Err(AppendError::Rejected(Rejection::EventIdConflict { position, .. })) => position,
            other => panic!("id of {i}: {other:?}"),
        };
        let event = store.event(tenant, position.unwrap()).await.unwrap();
        assert_eq!(event.id, id(i));
    }
}

fn derived(folder: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(folder.join("index")).unwrap();
    let mut files: Vec<_> = files.map(|f| f.unwrap().path()).collect();
    files.sort();
    files
}

#[tokio::test]
async fn deleting_any_derived_file_changes_no_answer() {
    let folder = filled().await;
    let (store, tenant) = open(folder.path()).await;
    let whole = answers(&store, &tenant).await.unwrap();
    assert!(whole.contains("stream_deleted") && whole.contains("five"));
    replays(&store, &tenant).await;
    store.close().await;
    drop((store, tenant));
    // All, one run, the newest run, the database, nothing.
    let which: [fn(usize, usize) -> bool; 5] =
        [|_, _| true, |i, _| i == 0, |i, n| i + 2 == n, |i, n| i + 1 == n, |_, _| false];
    for (round, gone) in which.iter().enumerate() {
        let files = derived(folder.path());
        assert!(files.len() > 2 && files.last().unwrap().ends_with("names"), "{files:?}");
        for (i, file) in files.iter().enumerate().filter(|(i, _)| gone(*i, files.len())) {
            std::fs::remove_file(file).unwrap_or_else(|e| panic!("file {i}: {e}"));
        }
        let (store, tenant) = open(folder.path()).await;
        let now = answers(&store, &tenant).await.unwrap();
        assert!(now == whole, "other answers in round {round}");
        replays(&store, &tenant).await;
        store.close().await;
    }
}

#[tokio::test]
async fn an_index_in_memory_alone_gives_the_same_answers() {
    let folder = filled().await;
    let (store, tenant) = open(folder.path()).await;
    let from_disk = answers(&store, &tenant).await.unwrap();
    store.close().await;
    drop((store, tenant));
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let store = Store::open(kimberlite_store::Options {
        folder: folder.path().to_owned(),
        segment_bytes: 64 << 10,
        checkpoint_records: 100_000,
        scrub_bytes_per_s: 0,
        compresses: false,
        signing: None,
    });
    let store = store.unwrap();
    let tenant = store.tenant(&TenantName::new("dev").unwrap()).unwrap();
    assert!(answers(&store, &tenant).await.unwrap() == from_disk);
    store.close().await;
    drop((store, tenant));
    assert_eq!(derived(folder.path()).len(), 1, "the database alone");
}

#[tokio::test]
async fn a_flipped_byte_in_a_run_is_named_and_gone_after_the_next_start() {
    let folder = filled().await;
    let (store, tenant) = open(folder.path()).await;
    let whole = answers(&store, &tenant).await.unwrap();
    store.close().await;
    drop((store, tenant));
    let run = derived(folder.path()).into_iter().find(|f| f.extension().is_some()).unwrap();
    for page in 0..std::fs::metadata(&run).unwrap().len() / 4096 {
        let file = OpenOptions::new().read(true).write(true).open(&run).unwrap();
        let at = page * 4096 + 1000 + page;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        let (store, tenant) = open(folder.path()).await;
        match answers(&store, &tenant).await {
            Err(ReadError::Damaged(damage)) => {
                assert!(damage.file.starts_with("index/"), "{damage}");
                let refused = store.append(&tenant, command(9999)).await;
                assert!(matches!(refused, Err(AppendError::Damaged(_))), "{refused:?}");
            }
            // The page holds what nothing asked for, or the damage came out as a page's problem.
            Ok(now) => assert!(now == whole || store.damage(&tenant).is_some(), "page {page}"),
            Err(other) => panic!("page {page}: {other}"),
        }
        let found = store.damage(&tenant).is_some();
        store.close().await;
        drop((store, tenant));
        if found {
            let (store, tenant) = open(folder.path()).await;
            assert_eq!(store.damage(&tenant), None, "page {page}");
            assert!(answers(&store, &tenant).await.unwrap() == whole, "page {page}");
            store.close().await;
            return;
        }
    }
    panic!("no flip was ever noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_whole_while_checkpoints_come() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let writer = {
        let (store, tenant) = (store.clone(), tenant.clone());
        tokio::spawn(async move {
            for _ in 0..1500 {
                let new = vec![event("t", "1"), event("t", "2")];
                store.append(&tenant, append("s", Expected::Any, new)).await.unwrap();
            }
        })
    };
    let mut seen = 0;
    let mut selection = everything();
    selection.source = Source::Stream { name: stream("s"), from: None };
    while !writer.is_finished() {
        selection.after = After::Nothing;
        let (mut next, mut rounds) = (0, 0);
        loop {
            let (events, batch) = match store.read_events(&tenant, &selection).await {
                Err(ReadError::StreamUnknown) => break,
                read => read.unwrap(),
            };
            for event in events {
                assert_eq!(event.version.get(), next, "a gap in round {rounds}");
                next += 1;
            }
            rounds += 1;
            if batch.finished {
                break;
            }
            selection.after = After::Cursor(batch.cursor.unwrap());
        }
        assert!(next >= seen, "{next} events, {seen} before");
        seen = next;
    }
    writer.await.unwrap();
    assert!(store.stats().checkpoints > 20);
    store.close().await;
}
