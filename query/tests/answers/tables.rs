//! Tables that users make: races, time, restarts.

use std::{collections::BTreeMap, time::Duration};

use kimberlite_query::{Answer, QueryError, Request};
use kimberlite_store::{
    scan::Moment,
    words::{Position, TenantName},
};
use serde_json::{Value, json};

use crate::{
    truth::Dice,
    world::{SETTINGS, World, answer, ask, event, open, request, rows, rows_of},
};

async fn done(world: &World, sql: &str) -> Answer {
    answer(world, sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

fn records(world: &World) -> u64 {
    *world.store.tip(&world.tenant).borrow()
}

/// Carries out the same request several times at once.
async fn at_once(world: &World, requests: Vec<String>) -> Vec<Result<Answer, QueryError>> {
    let asked = requests.into_iter().map(|sql| {
        let (engine, tenant) = (world.engine.clone(), world.tenant.clone());
        tokio::spawn(async move {
            loop {
                // A small queue: who finds it full comes again, and so does who lost every try.
                match engine.answer(&tenant, request(&sql), (0, 1000, 1 << 20)).await {
                    Err(QueryError::Overloaded | QueryError::Contended) => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    other => return other,
                }
            }
        })
    });
    let asked: Vec<_> = asked.collect();
    let mut answers = Vec::new();
    for one in asked {
        answers.push(one.await.unwrap());
    }
    answers
}

#[tokio::test]
async fn of_many_who_insert_a_key_at_once_one_does() {
    let world = World::empty().await;
    done(&world, "CREATE TABLE t (id INT PRIMARY KEY, who INT)").await;
    for id in 0..10 {
        let requests = (0..8).map(|who| format!("INSERT INTO t VALUES ({id}, {who})")).collect();
        let answers = at_once(&world, requests).await;
        assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), 1, "{id}");
        for refused in answers.into_iter().filter_map(Result::err) {
            assert!(matches!(refused, QueryError::Duplicate { .. }), "{refused:?}");
        }
    }
    assert_eq!(rows(&world, "SELECT count(*) FROM t").await, [[json!(10)]]);
}

#[tokio::test]
async fn of_many_who_add_to_a_row_at_once_none_is_lost() {
    let world = World::empty().await;
    done(&world, "CREATE TABLE t (id INT PRIMARY KEY, n INT)").await;
    done(&world, "INSERT INTO t VALUES (1, 0), (2, 0)").await;
    let requests = (0..40).map(|i| format!("UPDATE t SET n = n + 1 WHERE id = {}", i % 2 + 1));
    for added in at_once(&world, requests.collect()).await {
        added.unwrap();
    }
    let requests = (0..20).map(|_| {
        "INSERT INTO t VALUES (3, 1) ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n".to_owned()
    });
    for added in at_once(&world, requests.collect()).await {
        added.unwrap();
    }
    let now = rows(&world, "SELECT id, n FROM t ORDER BY id").await;
    assert_eq!(now, [[1, 20], [2, 20], [3, 20]].map(|row| row.map(|n| json!(n)).to_vec()));
}

#[tokio::test]
async fn no_two_rest_on_what_the_other_takes_away() {
    let world = World::empty().await;
    done(&world, "CREATE TABLE doctors (id INT PRIMARY KEY, on_call BOOLEAN)").await;
    for round in 0..10 {
        done(
            &world,
            "DELETE FROM doctors; INSERT INTO doctors VALUES (1, true), (2, true), (3, true)",
        )
        .await;
        // Each leaves if somebody else stays: by a count over all, and by looking at single rows.
        let requests: Vec<String> = (1..=3)
            .map(|id| match round % 2 {
                0 => format!(
                    "UPDATE doctors SET on_call = false \
                     WHERE id = {id} AND (SELECT count(*) FROM doctors WHERE on_call) > 1"
                ),
                _ => format!(
                    "UPDATE doctors SET on_call = false WHERE id = {id} AND \
                     ((SELECT on_call FROM doctors WHERE id = {}) OR (SELECT on_call FROM doctors WHERE id = {}))",
                    id % 3 + 1,
                    (id + 1) % 3 + 1
                ),
            })
            .collect();
        for left in at_once(&world, requests).await {
            left.unwrap();
        }
        let stay = rows(&world, "SELECT count(*) FROM doctors WHERE on_call").await;
        assert_eq!(stay, [[json!(1)]], "round {round}");
    }
}

#[tokio::test]
async fn rows_that_come_in_between_are_seen() {
    let world = World::empty().await;
    done(&world, "CREATE TABLE seats (id INT PRIMARY KEY, room INT)").await;
    // At most three in a room, whoever comes at once: the rows that a condition speaks of are not there yet.
    let requests = (0..12).map(|id| {
        format!(
            "INSERT INTO seats SELECT {id}, 1 WHERE (SELECT count(*) FROM seats WHERE room = 1) < 3"
        )
    });
    for seated in at_once(&world, requests.collect()).await {
        seated.unwrap();
    }
    assert_eq!(rows(&world, "SELECT count(*) FROM seats").await, [[json!(3)]]);
}

#[tokio::test]
async fn what_rests_on_events_is_worked_out_again_when_one_comes() {
    let world = World::empty().await;
    done(&world, "CREATE TABLE counts (n BIGINT PRIMARY KEY)").await;
    let counting = {
        let (engine, tenant) = (world.engine.clone(), world.tenant.clone());
        tokio::spawn(async move {
            let sql = "INSERT INTO counts SELECT count(*) FROM events ON CONFLICT DO NOTHING";
            let mut written = Vec::new();
            for _ in 0..30 {
                match engine.answer(&tenant, request(sql), (0, 10, 1 << 20)).await {
                    Ok(answer) if answer.pages[0].count == 1 => written.push(answer.records),
                    Ok(_) | Err(QueryError::Contended) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            written
        })
    };
    for n in 0..60 {
        world.append("a", "s", vec![event(n, "t", None, &[])]).await;
    }
    for records in counting.await.unwrap() {
        // As of the record before, there were as many events as the row says.
        let sql = format!(
            "SELECT (SELECT max(position) FROM events AS OF POSITION {0}) < {0}, \
             (SELECT count(*) FROM counts WHERE n = (SELECT count(*) FROM events AS OF POSITION {0})) = 1",
            records - 1
        );
        let found = rows(&world, &sql).await;
        assert_ne!(found[0][0], json!(false), "{found:?}");
        assert_eq!(found[0][1], json!(true));
    }
}

#[tokio::test]
async fn a_table_that_is_dropped_meanwhile_takes_no_rows() {
    let world = World::empty().await;
    for _ in 0..5 {
        done(&world, "CREATE TABLE t (id INT PRIMARY KEY)").await;
        let mut requests: Vec<String> =
            (0..6).map(|id| format!("INSERT INTO t VALUES ({id})")).collect();
        requests.insert(3, "DROP TABLE t".to_owned());
        let answers = at_once(&world, requests).await;
        assert!(answers[3].is_ok());
        for refused in answers.into_iter().filter_map(Result::err) {
            assert!(matches!(refused, QueryError::Meaning(_)), "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_request_is_one_op_and_says_where_its_last_record_is() {
    let world = World::small().await;
    let before = records(&world);
    let written = done(
        &world,
        "CREATE TABLE t (id INT PRIMARY KEY); INSERT INTO t VALUES (1), (2); DELETE FROM t WHERE id = 1",
    )
    .await;
    assert_eq!((written.records, records(&world)), (before + 4, before + 4));
    let counts: Vec<usize> = written.pages.iter().map(|p| p.count).collect();
    assert_eq!(counts, [0, 2, 1]);
    let mut times = Vec::new();
    for position in before..before + 4 {
        let position = Position::new(position).unwrap();
        times.push(world.store.record(&world.tenant, position).await.unwrap().time);
    }
    times.dedup();
    assert_eq!(times.len(), 1, "one op has one time");
    // Nothing to write, nothing written.
    let none = done(&world, "DELETE FROM t WHERE id = 1; DROP TABLE IF EXISTS u").await;
    assert_eq!((none.records, records(&world)), (before + 4, before + 4));
    // One statement fails, so does the whole.
    let failed = answer(&world, "INSERT INTO t VALUES (3); INSERT INTO t VALUES (2)").await;
    assert!(matches!(failed, Err(QueryError::Duplicate { .. })), "{failed:?}");
    assert_eq!(records(&world), before + 4);
    // Tables are not events.
    assert_eq!(rows(&world, "SELECT count(*) FROM events").await, [[json!(10)]]);
}

#[tokio::test]
async fn parameters_are_values_of_their_columns() {
    let world = World::empty().await;
    done(&world, "CREATE TABLE t (id BIGINT PRIMARY KEY, d DECIMAL(10,2), at TIMESTAMP, j JSON)")
        .await;
    let with = |sql: &str, parameters: Vec<Value>| Request { parameters, ..request(sql) };
    let parameters =
        vec![json!(7), json!("1.50"), json!("2026-01-31T12:00:00"), json!({"a": [1, 2]})];
    ask(&world, with("INSERT INTO t VALUES ($1, $2, $3, $4)", parameters)).await.unwrap();
    let parameters = vec![json!(8), json!(2.25), json!("9"), Value::Null, json!("{}")];
    let sql = "INSERT INTO t (d, id, j) VALUES ($2, $1, $4), ('3', $3, $5), (4.5, 10, 'null')";
    ask(&world, with(sql, parameters)).await.unwrap();
    let inserted = rows(&world, "SELECT id, d, j FROM t WHERE id > 7 ORDER BY id").await;
    let expected = [
        [json!(8), json!("2.25"), Value::Null],
        [json!(9), json!("3.00"), json!({})],
        [json!(10), json!("4.50"), Value::Null],
    ];
    assert_eq!(inserted, expected);
    let sql = "UPDATE t SET d = d + $2, j = $3 WHERE id = $1 RETURNING id, d, at, j";
    let updated = ask(&world, with(sql, vec![json!(7), json!(1), Value::Null])).await.unwrap();
    assert_eq!(
        rows_of(&updated),
        [[json!(7), json!("2.50"), json!("2026-01-31T12:00:00.000000"), Value::Null]]
    );
}

#[tokio::test]
async fn limits_are_refused_by_their_names_and_nothing_is_written() {
    let world = World::empty().await;
    done(&world, "CREATE TABLE t (id INT PRIMARY KEY, v TEXT)").await;
    let before = records(&world);
    let limited = async |sql: &str, name: &str| match answer(&world, sql).await {
        Err(QueryError::Limit { limit, .. }) => assert_eq!(limit, name, "{sql}"),
        other => panic!("{sql}: {other:?}"),
    };
    limited("INSERT INTO t SELECT i, '' FROM generate_series(1, 10001) s(i)", "request_changes")
        .await;
    limited(
        "INSERT INTO t SELECT i, '' FROM generate_series(1, 6000) s(i); \
         INSERT INTO t SELECT i, '' FROM generate_series(6001, 12000) s(i)",
        "request_changes",
    )
    .await;
    limited("INSERT INTO t VALUES (1, repeat('x', 1100000))", "row_bytes").await;
    limited(
        "INSERT INTO t SELECT i, repeat('x', 900000) FROM generate_series(1, 20) s(i)",
        "request_bytes",
    )
    .await;
    done(&world, "CREATE TABLE k (id TEXT PRIMARY KEY)").await;
    limited("INSERT INTO k VALUES (repeat('x', 1025))", "row_key_bytes").await;
    let sql = "INSERT INTO t SELECT i, '' FROM generate_series(1, 20) s(i) RETURNING id";
    let few = world.engine.answer(&world.tenant, request(sql), (0, 19, 1 << 20)).await;
    assert!(matches!(few, Err(QueryError::Limit { limit: "query_rows", .. })), "{few:?}");
    assert_eq!(records(&world), before + 1);
    // As many as can be.
    let most =
        done(&world, "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 10000) s(i)").await;
    assert_eq!(most.pages[0].count, 10_000);
    assert_eq!(done(&world, "UPDATE t SET v = 'y' WHERE id > 0").await.pages[0].count, 10_000);
    assert_eq!(rows(&world, "SELECT count(*), min(v) FROM t").await, [[json!(10_000), json!("y")]]);
}

#[tokio::test]
async fn what_was_is_not_changed() {
    let world = World::small().await;
    done(&world, "CREATE TABLE t (id INT PRIMARY KEY)").await;
    let last = Position::new(records(&world) - 1).unwrap();
    for moment in [Moment::Position(last), Moment::Records(records(&world))] {
        let asked = Request { moment, ..request("INSERT INTO t VALUES (1)") };
        let refused = ask(&world, asked).await;
        assert!(matches!(refused, Err(QueryError::Unsupported { .. })), "{refused:?}");
    }
    let then = Request {
        moment: Moment::Position(Position::new(3).unwrap()),
        ..request("SELECT * FROM t")
    };
    let refused = ask(&world, then).await;
    let Err(QueryError::Meaning(what)) = refused else { panic!("{refused:?}") };
    assert!(what.ends_with("as of position 3"), "{what}");
}

/// Waits until the last query's thread has let go of the folder.
async fn free(folder: &tempfile::TempDir) {
    let lock = std::fs::File::open(folder.path().join("lock")).unwrap();
    while lock.try_lock().is_err() {
        tokio::task::yield_now().await;
    }
    lock.unlock().unwrap();
}

/// A statement that works whatever the rows are.
fn deed(dice: &mut Dice) -> String {
    let (id, n) = (dice.below(20), dice.below(100));
    match dice.below(7) {
        0 => format!("DELETE FROM t WHERE id = {id}"),
        1 => format!("DELETE FROM t WHERE n % 7 = {}", n % 7),
        2 => format!("UPDATE t SET n = n + 1 WHERE id < {id}"),
        3 => format!("UPDATE t SET n = {n} WHERE id IN ({id}, {})", (id + 3) % 20),
        4 => {
            "INSERT INTO u SELECT id, n FROM t ON CONFLICT (id) DO UPDATE SET n = excluded.n + u.n"
                .into()
        }
        5 => format!("INSERT INTO t VALUES ({id}, {n}) ON CONFLICT DO NOTHING"),
        _ => format!(
            "INSERT INTO t SELECT i, {n} FROM generate_series({id}, {}) s(i) ON CONFLICT (id) DO UPDATE SET n = 0",
            id + 4
        ),
    }
}

const QUESTIONS: [&str; 3] = [
    "SELECT * FROM t{v} ORDER BY id",
    "SELECT count(*), sum(a.n), max(b.n) FROM t{v} a LEFT JOIN u{v} b ON a.id = b.id",
    "SELECT n FROM u{v} WHERE id = 7",
];

#[tokio::test]
async fn tables_as_of_a_position_are_what_they_were_also_after_a_restart_without_what_is_derived() {
    for seed in [1, 2] {
        let world = World::empty().await;
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed);
        done(&world, "CREATE TABLE t (id INT PRIMARY KEY, n INT); CREATE TABLE u (id INT PRIMARY KEY, n BIGINT)")
            .await;
        let mut truth: BTreeMap<u64, Vec<Vec<Vec<Value>>>> = BTreeMap::new();
        for _ in 0..60 {
            let written = done(&world, &deed(&mut dice)).await;
            let mut now = Vec::new();
            for question in QUESTIONS {
                now.push(rows(&world, &question.replace("{v}", "")).await);
            }
            truth.insert(written.records - 1, now);
        }
        let hold = async |world: &World| {
            for (position, then) in &truth {
                for (question, then) in QUESTIONS.iter().zip(then) {
                    let sql = question.replace("{v}", &format!(" AS OF POSITION {position}"));
                    assert_eq!(rows(world, &sql).await, *then, "seed {seed}: {sql}");
                }
            }
        };
        hold(&world).await;
        let World { store, engine, tenant, folder } = world;
        store.close().await;
        drop((store, engine, tenant));
        free(&folder).await;
        let store = open(folder.path());
        let tenant = store.tenant(&TenantName::new("dev").unwrap()).unwrap();
        let engine = kimberlite_query::Engine::start(store.clone(), SETTINGS).unwrap();
        let again = World { store, engine, tenant, folder };
        hold(&again).await;
        let World { store, engine, tenant, folder } = again;
        store.close().await;
        drop((store, engine, tenant));
        free(&folder).await;
        let anew = World::reopened_without_index(folder);
        hold(&anew).await;
    }
}
