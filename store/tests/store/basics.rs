//! Append, read, refuse, repeat, restart.

use kimberlite_store::{
    Options, Store,
    append::{
        Actual, Append, AppendError, Condition, DeleteStream, Expected, FailedCondition,
        Idempotency, MatchItem, NewEvent, Place, Rejection,
    },
    limits::TYPES_MAX,
    read::{After, Direction, Filter, Selection, Shape, Source},
    words::{EventType, Position, Tag, TenantName, Timestamp, Version},
};
use uuid::Uuid;

use crate::support::*;

fn rejection(result: Result<kimberlite_store::append::Appended, AppendError>) -> Rejection {
    match result {
        Err(AppendError::Rejected(rejection)) => rejection,
        other => panic!("expected a rejection: {other:?}"),
    }
}

fn version(n: u64) -> Version {
    Version::new(n).unwrap()
}

#[tokio::test]
async fn appended_events_are_read_back_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    for i in 0..1000 {
        let name = format!("s-{}", i % 7);
        let data = format!("{{\"n\": {i}}}");
        let done = store
            .append(&tenant, append(&name, Expected::Any, vec![event("counted", &data)]))
            .await
            .unwrap();
        assert_eq!(done.receipts[0].first_position.get(), i);
        assert_eq!(done.receipts[0].last_version.get(), i / 7);
    }
    let before = dump(&store, &tenant).await.unwrap();
    assert_eq!(before.lines().count(), 1000);
    for (i, line) in before.lines().enumerate() {
        assert!(line.starts_with(&format!("{{\"position\":{i},")), "{line}");
        assert!(line.contains(&format!("\"data\":{{\"n\": {i}}}")), "{line}");
    }
    assert!(store.stats().segments > 3, "the log rolled: {:?}", store.stats());
    store.close().await;
    drop((store, tenant));
    let (store, tenant) = open(folder.path()).await;
    assert_eq!(dump(&store, &tenant).await.unwrap(), before);
    let done = store
        .append(&tenant, append("s-0", Expected::Version(version(142)), vec![event("x", "1")]))
        .await
        .unwrap();
    assert_eq!(done.receipts[0].first_position.get(), 1000);
}

/// Large ops are written from where they were encoded, small ones beside what lies in their first page.
#[tokio::test]
async fn ops_of_all_sizes_follow_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options {
        folder: folder.path().to_owned(),
        segment_bytes: 64 << 20,
        checkpoint_records: 1 << 20,
        scrub_bytes_per_s: 0,
        compresses: false,
        signing: None,
    };
    let store = Store::open(options.clone()).unwrap();
    let tenant = store.create_tenant(actor(), TenantName::new("dev").unwrap()).await.unwrap();
    for (i, events) in [1, 3, 1, 4, 5, 1, 1, 7, 6].into_iter().enumerate() {
        let bytes = if events == 1 { 100 + 997 * i } else { 60_000 + 777 * i };
        let data = format!("\"{}\"", "x".repeat(bytes));
        let events = vec![event("sized", &data); events];
        store.append(&tenant, append("s", Expected::Any, events)).await.unwrap();
    }
    let before = dump(&store, &tenant).await.unwrap();
    assert_eq!(before.lines().count(), 29);
    store.close().await;
    drop((store, tenant));
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let store = Store::open(options).unwrap();
    let tenant = store.tenant(&TenantName::new("dev").unwrap()).unwrap();
    assert_eq!(dump(&store, &tenant).await.unwrap(), before);
}

#[tokio::test]
async fn expectations_hold_or_refuse_with_what_is() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let one = || vec![event("a", "1")];
    let cases = [
        (Expected::Exists, Some(Actual::Absent)),
        (Expected::Version(version(0)), Some(Actual::Absent)),
        (Expected::None, None),
        (Expected::None, Some(Actual::Version(version(0)))),
        (Expected::Version(version(0)), None),
        (Expected::Exists, None),
        (Expected::Version(version(1)), Some(Actual::Version(version(2)))),
        (Expected::Any, None),
    ];
    for (expected, refused) in cases {
        let result = store.append(&tenant, append("s", expected, one())).await;
        match refused {
            None => assert!(result.is_ok(), "{expected:?}"),
            Some(actual) => {
                let place = Place::Append(0);
                let failed =
                    vec![FailedCondition::Stream { place, stream: stream("s"), expected, actual }];
                assert_eq!(rejection(result), Rejection::ConditionsFailed(failed));
            }
        }
    }
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing_and_names_every_failed_condition() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let streams = |a, b, c| Append {
        appends: vec![
            to_stream("a", a, vec![event("t", "1"), event("t", "2")]),
            to_stream("b", b, vec![event("t", "3")]),
            to_stream("c", c, vec![event("u", "4")]),
        ],
        ..append("x", Expected::Any, vec![])
    };
    let bad = streams(Expected::Exists, Expected::None, Expected::Version(version(3)));
    let Rejection::ConditionsFailed(failed) = rejection(store.append(&tenant, bad).await) else {
        panic!("conditions");
    };
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert_eq!(dump(&store, &tenant).await.unwrap(), "");
    let good = streams(Expected::None, Expected::None, Expected::None);
    let done = store.append(&tenant, good).await.unwrap();
    let versions: Vec<u64> = done.receipts.iter().map(|r| r.last_version.get()).collect();
    assert_eq!(versions, [1, 0, 0]);
    let twice = Append {
        appends: vec![
            to_stream("a", Expected::Any, vec![event("t", "1")]),
            to_stream("a", Expected::Any, vec![event("t", "1")]),
        ],
        ..append("x", Expected::Any, vec![])
    };
    assert!(matches!(store.append(&tenant, twice).await, Err(AppendError::StreamTwice(_))));
}

fn seat(tags: &[&str], after: Option<u64>) -> Append {
    let item = MatchItem {
        types: vec![EventType::new("seat-taken").unwrap()],
        tags: tags.iter().map(|t| Tag::new(t).unwrap()).collect(),
    };
    let after = after.map(|p| Position::new(p).unwrap());
    let condition = Condition::NoMatch { items: vec![item], after };
    let events = vec![tagged("seat-taken", tags)];
    Append { conditions: vec![condition], ..append("seats", Expected::Any, events) }
}

#[tokio::test]
async fn a_boundary_lets_one_of_many_through() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let (store, tenant) = (store.clone(), tenant.clone());
            tokio::spawn(async move { store.append(&tenant, seat(&["seat:12A"], None)).await })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => won += 1,
            Err(AppendError::Rejected(Rejection::ConditionsFailed(failed))) => {
                let position = Position::ZERO;
                let place = Place::Condition(0);
                assert_eq!(failed, [FailedCondition::Match { place, position }]);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(won, 1);
    assert!(store.append(&tenant, seat(&["seat:12B"], None)).await.is_ok());
    assert!(store.append(&tenant, seat(&["seat:12A"], Some(0))).await.is_ok());
    assert!(store.append(&tenant, seat(&["seat:12A"], Some(1))).await.is_err());
}

#[tokio::test]
async fn a_boundary_behind_a_position_that_the_log_has_not_reached_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let alone = |after| Append { appends: Vec::new(), ..seat(&["seat:12A"], Some(after)) };
    for records in 0..3 {
        for after in [records, records + 1, 99_999] {
            let position = Position::new(after).unwrap();
            let refused = rejection(store.append(&tenant, alone(after)).await);
            assert_eq!(refused, Rejection::Diverged { position });
        }
        if let Some(head) = records.checked_sub(1) {
            let held = store.append(&tenant, alone(head)).await.unwrap();
            assert_eq!(held.position, Position::new(head));
        }
        let other = vec![event("other", "1")];
        store.append(&tenant, append("s", Expected::Any, other)).await.unwrap();
    }
}

#[tokio::test]
async fn an_idempotency_key_replays_its_first_receipts() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let keyed = |digest: u8| Append {
        appends: vec![
            to_stream("a", Expected::None, vec![event("t", "1"), event("t", "2")]),
            to_stream("b", Expected::Any, vec![event("t", "3")]),
        ],
        idempotency: Some(Idempotency {
            key: "k1".into(),
            route: "append",
            request_digest: [digest; 32],
        }),
        ..append("x", Expected::Any, vec![])
    };
    let both = tokio::join!(store.append(&tenant, keyed(1)), store.append(&tenant, keyed(1)));
    let (one, two) = (both.0.unwrap(), both.1.unwrap());
    assert_eq!(one.receipts, two.receipts);
    assert_ne!(one.replayed, two.replayed);
    assert_eq!(rejection(store.append(&tenant, keyed(2)).await), Rejection::IdempotencyMismatch);
    store.close().await;
    drop((store, tenant));
    let (store, tenant) = open(folder.path()).await;
    let again = store.append(&tenant, keyed(1)).await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.receipts, one.receipts);
    assert_eq!(dump(&store, &tenant).await.unwrap().lines().count(), 3);
}

#[tokio::test]
async fn known_ids_replay_with_the_same_content_and_conflict_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let ids: Vec<Uuid> = (1..=3).map(Uuid::from_u128).collect();
    let with = |n: usize, data: &str| NewEvent {
        id: Some(ids[n]),
        metadata: Some("{\"m\":1}".into()),
        occurred_at: Timestamp::parse("2026-11-22T09:59:58Z"),
        ..tagged(data, &["t:1"])
    };
    let two = || vec![with(0, "a"), with(1, "b")];
    // The condition held the first time; a replay is recognised before it is looked at.
    let first = store.append(&tenant, append("s", Expected::None, two())).await.unwrap();
    let again = store.append(&tenant, append("s", Expected::None, two())).await.unwrap();
    assert!(again.replayed && !first.replayed);
    assert_eq!(again.receipts, first.receipts);
    let conflicts = [
        ("s", vec![with(0, "other"), with(1, "b")]),
        ("s", vec![with(0, "a"), with(2, "c")]),
        ("s", vec![with(1, "b"), with(0, "a")]),
        ("elsewhere", two()),
        ("s", vec![with(2, "c"), with(2, "c")]),
    ];
    for (name, events) in conflicts {
        let result = store.append(&tenant, append(name, Expected::Any, events)).await;
        assert!(matches!(rejection(result), Rejection::EventIdConflict { .. }), "{name}");
    }
    assert_eq!(dump(&store, &tenant).await.unwrap().lines().count(), 2);
}

#[tokio::test]
async fn a_deleted_stream_is_gone_until_it_is_recreated() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let one = || vec![event("a", "1")];
    let delete = |expected| DeleteStream { actor: actor(), stream: stream("s"), expected };
    let unknown = store.delete_stream(&tenant, delete(Expected::Any)).await;
    assert!(matches!(unknown, Err(AppendError::Rejected(Rejection::StreamUnknown(_)))));
    for _ in 0..3 {
        store.append(&tenant, append("s", Expected::Any, one())).await.unwrap();
    }
    let stale = store.delete_stream(&tenant, delete(Expected::Version(version(1)))).await;
    assert!(matches!(stale, Err(AppendError::Rejected(Rejection::ConditionsFailed(_)))));
    assert!(!dump(&store, &tenant).await.unwrap().contains("stream_deleted"));
    store.delete_stream(&tenant, delete(Expected::Version(version(2)))).await.unwrap();
    let all = dump(&store, &tenant).await.unwrap();
    assert_eq!(all.matches("\"stream_deleted\":true").count(), 3);
    let refused = store.append(&tenant, append("s", Expected::Any, one())).await;
    assert_eq!(rejection(refused), Rejection::StreamDeleted(stream("s")));
    let mut again = append("s", Expected::Version(version(2)), one());
    again.appends[0].recreate = true;
    let done = store.append(&tenant, again).await.unwrap();
    assert_eq!(done.receipts[0].first_version, version(3));
    let source = Source::Stream { name: stream("s"), from: None };
    let selection = Selection { source, ..everything() };
    let batch = store.read(&tenant, &selection, Shape::Json).await.unwrap();
    assert_eq!((batch.count, batch.versions), (1, Some((version(3), version(3)))));
    let all = dump(&store, &tenant).await.unwrap();
    assert_eq!(all.matches("\"stream_deleted\":true").count(), 3);
    let info = store.stream(&tenant, &stream("s")).unwrap().unwrap();
    assert_eq!((info.version, info.first_version, info.deleted), (version(3), version(3), false));
}

#[tokio::test]
async fn the_first_time_of_a_stream_is_that_of_its_first_visible_event() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let mut times = Vec::new();
    for recreate in [false, false, true, true] {
        if times.len() == 2 {
            let delete =
                DeleteStream { actor: actor(), stream: stream("s"), expected: Expected::Any };
            store.delete_stream(&tenant, delete).await.unwrap();
            let info = store.stream(&tenant, &stream("s")).unwrap().unwrap();
            assert_eq!((info.first_time, info.last_time), (times[0], times[1]));
        }
        let mut one = append("s", Expected::Any, vec![event("a", "1")]);
        one.appends[0].recreate = recreate;
        times.push(store.append(&tenant, one).await.unwrap().receipts[0].time);
    }
    let info = store.stream(&tenant, &stream("s")).unwrap().unwrap();
    assert_eq!((info.first_time, info.last_time), (times[2], times[3]));
}

#[tokio::test]
async fn records_that_are_no_events_have_uuids_too() {
    let is_v7 = |id: Uuid| (id.get_version_num(), id.get_variant()) == (7, uuid::Variant::RFC4122);
    // The ids are random: one try in 64 would pass by chance.
    for _ in 0..8 {
        let folder = tempfile::tempdir().unwrap();
        let (store, tenant) = open(folder.path()).await;
        let one = append("s", Expected::Any, vec![event("a", "1")]);
        store.append(&tenant, one).await.unwrap();
        let delete = DeleteStream { actor: actor(), stream: stream("s"), expected: Expected::Any };
        let position = store.delete_stream(&tenant, delete).await.unwrap();
        let deletion = store.record(&tenant, position).await.unwrap();
        assert_eq!(deletion.kind, "stream_deleted");
        assert!(is_v7(deletion.id), "{}", deletion.id);
        store.close().await;
        // The tenant's creation: the first leaf of the log, behind the heads of segment, frame and block.
        let log = std::fs::read(folder.path().join("log/0000000000000001.segment")).unwrap();
        let leaf = &log[4096 + 20 + 140 + 32 + 2..];
        assert_eq!(leaf[..2], [1, 4], "a leaf of version 1, a tenant created");
        let creation = Uuid::from_slice(&leaf[4..20]).unwrap();
        assert!(is_v7(creation), "{creation}");
    }
}

/// Positions of the events that a selection finds, over all its batches.
async fn positions(
    store: &kimberlite_store::Store,
    tenant: &kimberlite_store::Tenant,
    mut selection: Selection,
) -> Vec<u64> {
    let mut found = Vec::new();
    loop {
        let (events, batch) = store.read_events(tenant, &selection).await.unwrap();
        let text = store.read(tenant, &selection, Shape::Ndjson).await.unwrap();
        assert_eq!(text.count, events.len(), "both ways of reading agree");
        found.extend(events.iter().map(|e| e.position.get()));
        if batch.finished {
            return found;
        }
        selection.after = After::Cursor(batch.cursor.unwrap());
    }
}

type Check = Box<dyn Fn(u64) -> bool>;

#[tokio::test]
async fn filters_find_what_a_look_at_every_event_finds() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let at = |i: u64| Timestamp::from_micros(i.cast_signed() * 1_000_000).unwrap();
    let mut times = Vec::new();
    for i in 0..600_u64 {
        let mut new = tagged(&format!("t-{}", i % 3), &[]);
        for (modulus, tag) in [(2, "even"), (5, "five")] {
            if i % modulus == 0 {
                new.tags.push(Tag::new(tag).unwrap());
            }
        }
        new.occurred_at = (i % 7 != 0).then(|| at(i));
        let name = format!("{}/{}", ["a", "ab", "b"][i as usize % 3], i % 4);
        let done = store.append(&tenant, append(&name, Expected::Any, vec![new])).await.unwrap();
        times.push(done.receipts[0].time);
    }
    let types = |names: &[&str]| names.iter().map(|n| EventType::new(n).unwrap()).collect();
    let tags = |names: &[&str]| names.iter().map(|n| Tag::new(n).unwrap()).collect();
    let f = Filter::default;
    let cases: Vec<(Filter, Check)> = vec![
        (f(), Box::new(|_| true)),
        (Filter { types: types(&["t-1"]), ..f() }, Box::new(|i| i % 3 == 1)),
        (Filter { types: types(&["t-1", "t-2", "no"]), ..f() }, Box::new(|i| i % 3 != 0)),
        (Filter { types: types(&["no"]), ..f() }, Box::new(|_| false)),
        (Filter { tags: tags(&["even"]), ..f() }, Box::new(|i| i % 2 == 0)),
        (Filter { tags: tags(&["even", "five"]), ..f() }, Box::new(|i| i % 10 == 0)),
        (Filter { tags: tags(&["even", "no"]), ..f() }, Box::new(|_| false)),
        (Filter { stream_prefix: Some("a".into()), ..f() }, Box::new(|i| i % 3 != 2)),
        (Filter { stream_prefix: Some("ab/3".into()), ..f() }, Box::new(|i| i % 12 == 7)),
        (Filter { from_time: Some(times[333]), ..f() }, Box::new(|i| i >= 333)),
        (
            Filter { occurred_from: Some(at(100)), occurred_to: Some(at(200)), ..f() },
            Box::new(|i| (100..200).contains(&i) && i % 7 != 0),
        ),
        (
            Filter {
                types: types(&["t-0"]),
                tags: tags(&["five"]),
                occurred_from: Some(at(50)),
                ..f()
            },
            Box::new(|i| i % 15 == 0 && i >= 50 && i % 7 != 0),
        ),
    ];
    for (filter, matches) in cases {
        for limit in [1, 7, 1000] {
            let selection = Selection { filter: filter.clone(), limit, ..everything() };
            let mut expected: Vec<u64> = (0..600).filter(|i| matches(*i)).collect();
            let found = positions(&store, &tenant, selection.clone()).await;
            assert_eq!(found, expected, "{filter:?} by {limit}");
            expected.reverse();
            let backward = Selection { direction: Direction::Backward, ..selection };
            let found = positions(&store, &tenant, backward).await;
            assert_eq!(found, expected, "{filter:?} by {limit} backward");
        }
    }
}

#[tokio::test]
async fn streams_read_forward_and_backward_from_a_version() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    for i in 0..50 {
        for name in ["one", "two"] {
            let data = i.to_string();
            let new = vec![event("n", &data)];
            store.append(&tenant, append(name, Expected::Any, new)).await.unwrap();
        }
    }
    for (direction, from, expected) in [
        (Direction::Forward, None, (0, 9)),
        (Direction::Forward, Some(20), (20, 29)),
        (Direction::Forward, Some(45), (45, 49)),
        (Direction::Backward, None, (49, 40)),
        (Direction::Backward, Some(5), (5, 0)),
    ] {
        let source = Source::Stream { name: stream("two"), from: from.map(version) };
        let selection = Selection { source, direction, limit: 10, ..everything() };
        let (events, batch) = store.read_events(&tenant, &selection).await.unwrap();
        assert!(events.iter().all(|e| e.stream.as_str() == "two"));
        let (first, last) = batch.versions.unwrap();
        assert_eq!((first.get(), last.get()), expected, "{direction:?} from {from:?}");
    }
}

#[tokio::test]
async fn a_cursor_of_another_history_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    store.append(&tenant, append("s", Expected::Any, vec![event("a", "1")])).await.unwrap();
    let good = store.cursor(&tenant, Position::ZERO).unwrap().unwrap();
    let mut other = good;
    other.check[0] ^= 1;
    let beyond = After::Position(Position::new(1).unwrap());
    for (after, fine) in
        [(After::Cursor(good), true), (After::Cursor(other), false), (beyond, false)]
    {
        let selection = Selection { after, ..everything() };
        assert_eq!(store.read(&tenant, &selection, Shape::Json).await.is_ok(), fine, "{after:?}");
    }
}

#[tokio::test]
async fn stored_json_comes_back_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let odd = "[ 1e400,\t0.1000000000000000055,\r\n \"\\u00e9\" ]";
    store.append(&tenant, append("s", Expected::Any, vec![event("a", odd)])).await.unwrap();
    for (shape, expected) in [
        (Shape::Json, odd.to_owned()),
        (Shape::Ndjson, odd.replace(['\r', '\n'], " ")),
        (Shape::Sse, odd.replace(['\r', '\n'], " ")),
    ] {
        let batch = store.read(&tenant, &everything(), shape).await.unwrap();
        let text = String::from_utf8(batch.pieces.concat()).unwrap();
        assert!(text.contains(&format!("\"data\":{expected},")), "{shape:?}: {text}");
    }
}

#[tokio::test]
async fn texts_are_shared_between_readers_unless_they_would_keep_much_more() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let large = format!("\"{}\"", "x".repeat(2000));
    let events = vec![event("a", &large); 250];
    store.append(&tenant, append("s", Expected::Any, events)).await.unwrap();
    let read = async |limit, bytes| {
        let selection = Selection { limit, bytes, ..everything() };
        store.read(&tenant, &selection, Shape::Json).await.unwrap()
    };
    let all = read(1000, usize::MAX).await;
    assert_eq!((all.count, all.pieces.len()), (250, 1));
    let range = all.pieces[0].as_ptr_range();
    for (limit, shared) in [(1000, true), (200, true), (100, false), (1, false)] {
        let again = read(limit, usize::MAX).await;
        assert_eq!(range.contains(&again.pieces[0].as_ptr()), shared, "{limit} events");
    }
    let events = vec![event("a", &large); 500];
    store.append(&tenant, append("s", Expected::Any, events)).await.unwrap();
    let (some, all) = (read(1000, 100_000).await, read(1000, usize::MAX).await);
    assert_eq!((all.count, all.finished, some.finished), (750, true, false));
    assert!((100_000 / 2300..300).contains(&some.count), "{}", some.count);
}

/// In silence the closed time moves on; a restart neither forgets it nor lets an event fall below it.
#[tokio::test]
async fn a_quiet_store_promises_later_times_and_keeps_that() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let put = || append("s", Expected::Any, vec![event("counted", "1")]);
    let first = store.append(&tenant, put()).await.unwrap().receipts[0].time.micros();
    let started = std::time::Instant::now();
    while store.stats().closed_us <= first {
        assert!(started.elapsed().as_secs() < 20, "{:?}", store.stats());
        tokio::task::yield_now().await;
    }
    let promised = store.stats().closed_us;
    let second = store.append(&tenant, put()).await.unwrap().receipts[0].time.micros();
    assert!(second > promised);
    let started = std::time::Instant::now();
    while store.stats().closed_us <= second {
        assert!(started.elapsed().as_secs() < 20, "{:?}", store.stats());
        tokio::task::yield_now().await;
    }
    let promised = store.stats().closed_us;
    store.close().await;
    drop((store, tenant));
    let (store, _tenant) = open(folder.path()).await;
    assert!(store.stats().closed_us >= promised);
}

#[tokio::test]
async fn types_are_refused_once_there_are_as_many_as_there_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let numbered =
        |n: std::ops::Range<usize>| n.map(|n| event(&format!("t-{n}"), "1")).collect::<Vec<_>>();
    let mut made = 0;
    while made < TYPES_MAX {
        let more = numbered(made..(made + 1000).min(TYPES_MAX));
        made += more.len();
        store.append(&tenant, append("s", Expected::Any, more)).await.unwrap();
    }
    let known = append("s", Expected::Any, numbered(TYPES_MAX - 1..TYPES_MAX));
    let new = append("s", Expected::Any, numbered(TYPES_MAX - 1..TYPES_MAX + 1));
    let exhausted = EventType::new(&format!("t-{TYPES_MAX}")).unwrap();
    let exhausted = Rejection::TypesExhausted { event_type: exhausted };
    assert_eq!(rejection(store.append(&tenant, new.clone()).await), exhausted);
    store.append(&tenant, known.clone()).await.unwrap();
    let lines = [known.appends.clone(), new.appends.clone(), known.appends.clone()].concat();
    let done = store.append_lines(&tenant, actor(), lines).await;
    assert_eq!(done.receipts.len(), 1);
    assert!(matches!(done.refused, Some(AppendError::Rejected(r)) if r == exhausted));
    store.close().await;
    drop((store, tenant));
    let (store, tenant) = open(folder.path()).await;
    assert_eq!(rejection(store.append(&tenant, new).await), exhausted);
    store.append(&tenant, known).await.unwrap();
}
