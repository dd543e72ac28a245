//! Following: history, then live; resume; slow readers; the end.

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::{
    server,
    support::{Client, Frames, Server},
};

async fn append(client: &mut Client, stream: &str, from: u64, count: u64) {
    let events: Vec<Value> =
        (from..from + count).map(|n| json!({"type": "t", "data": n})).collect();
    let body = json!({ "events": events }).to_string();
    client.post(&format!("/v1/streams/{stream}/events"), body).await.ok(201);
}

#[tokio::test]
async fn a_follower_sees_history_then_what_comes_and_resumes_without_gap_or_repeat() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    append(&mut client, "s", 0, 30).await;
    let mut frames = Frames::open(&server.address, "/v1/events", None).await;
    for n in 0..30 {
        assert_eq!(frames.until("event").await.json()["data"], n);
    }
    assert_eq!(frames.next().await.unwrap().event, "caught-up");
    let mut seen = 30;
    let mut last = None;
    for round in 0..10 {
        append(&mut client, "s", seen, 5).await;
        // Cut anywhere: after some of the new ones.
        for n in seen..seen + 1 + round % 5 {
            let frame = frames.until("event").await;
            assert_eq!(frame.json()["data"], n);
            assert_eq!(frame.json()["cursor"], frame.id.clone().unwrap());
            last = frame.id;
        }
        drop(frames);
        append(&mut client, "s", seen + 5, 2).await;
        frames = Frames::open(&server.address, "/v1/events", last.as_deref()).await;
        for n in seen + 1 + round % 5..seen + 7 {
            let frame = frames.until("event").await;
            assert_eq!(frame.json()["data"], n, "after {last:?}");
            last = frame.id;
        }
        seen += 7;
    }
}

#[tokio::test]
async fn a_stream_that_does_not_exist_yet_is_waited_for() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    append(&mut client, "other", 0, 1).await;
    let mut frames = Frames::open(&server.address, "/v1/streams/later/events", None).await;
    assert_eq!(frames.next().await.unwrap().event, "caught-up");
    append(&mut client, "other", 1, 1).await;
    append(&mut client, "later", 7, 1).await;
    let event = frames.until("event").await.json();
    assert_eq!((&event["stream"], &event["data"]), (&json!("later"), &json!(7)));
}

#[tokio::test]
async fn who_waits_for_a_stream_resumes_without_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::with(folder.path(), &[("KIMBERLITE_FOLLOW_HEARTBEAT_MS", "100")]);
    let mut client = server.client().await;
    append(&mut client, "other", 0, 3).await;
    let path = "/v1/streams/gap/events?after=head";
    let mut frames = Frames::open(&server.address, path, None).await;
    let caught_up = frames.until("caught-up").await;
    let last = caught_up.id.clone().expect("an id to resume from");
    assert!(last.starts_with("2."), "{caught_up:?}");
    assert_eq!(caught_up.json()["cursor"], last);
    // Other streams move the id on.
    append(&mut client, "other", 3, 1).await;
    let progress = frames.until("progress").await;
    assert!(progress.id.is_some_and(|id| id.starts_with("3.")));
    // What is appended while the connection is cut.
    drop(frames);
    append(&mut client, "gap", 7, 1).await;
    let mut frames = Frames::open(&server.address, path, Some(&last)).await;
    assert_eq!(frames.until("event").await.json()["data"], 7);
}

#[tokio::test]
async fn the_first_version_asked_for_holds_while_waiting_and_after_a_cut() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    append(&mut client, "other", 0, 1).await;
    let path = "/v1/streams/later/events?from=3";
    let mut frames = Frames::open(&server.address, path, None).await;
    let last = frames.until("caught-up").await.id;
    append(&mut client, "later", 0, 5).await;
    assert_eq!(frames.until("event").await.json()["version"], 3);
    let mut frames = Frames::open(&server.address, path, last.as_deref()).await;
    assert_eq!(frames.until("event").await.json()["version"], 3);
}

#[tokio::test]
async fn a_foreign_cursor_is_refused_also_where_there_is_no_stream_yet() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    append(&mut client, "other", 0, 6).await;
    let sse = ("accept", "text/event-stream");
    for path in ["/v1/streams/unknown/events", "/v1/streams/other/events", "/v1/events"] {
        for after in ["999", "5.00000000", "999.00000000"] {
            let asked = format!("{path}?after={after}");
            client.send("GET", &asked, &[sse], "").await.problem(409, "diverged");
        }
        let last = ("last-event-id", "5.00000000");
        client.send("GET", path, &[sse, last], "").await.problem(409, "diverged");
    }
}

/// Whatever a client resumes with, and wherever: what it saw is not here any more, so it must not go on as if it were.
#[tokio::test]
async fn a_server_restored_from_an_older_state_refuses_each_cursor_from_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&data);
    append(&mut server.client().await, "s", 0, 5).await;
    server.stop();
    let older = folder.path().join("older");
    let copied = std::process::Command::new("cp").arg("-r").arg(&data).arg(&older).status();
    assert!(copied.unwrap().success());

    let server = Server::start(&data);
    let mut client = server.client().await;
    append(&mut client, "s", 5, 5).await;
    let mut kept = Vec::new();
    for path in ["/v1/events", "/v1/streams/s/events"] {
        let page = client.get(&format!("{path}?limit=8")).await.ok(200);
        kept.push((path, page["events"][7]["cursor"].as_str().unwrap().to_owned()));
        let next = page["next"].as_str().unwrap();
        let next = next.split("after=").nth(1).unwrap().split('&').next().unwrap();
        kept.push((path, next.to_owned()));
        let mut frames = Frames::open(&server.address, path, None).await;
        let mut id = None;
        for _ in 0..9 {
            id = frames.until("event").await.id;
        }
        kept.push((path, id.unwrap()));
    }
    server.stop();

    // The positions come again, and hold something else.
    let server = Server::start(&older);
    let mut client = server.client().await;
    append(&mut client, "s", 100, 5).await;
    let formats = [
        "application/json",
        "application/x-ndjson",
        "application/cloudevents-batch+json",
        "text/event-stream",
    ];
    for (path, cursor) in &kept {
        for format in formats {
            let asked = format!("{path}?after={cursor}");
            client.send("GET", &asked, &[("accept", format)], "").await.problem(409, "diverged");
        }
        let headers = [("accept", formats[3]), ("last-event-id", cursor.as_str())];
        client.send("GET", path, &headers, "").await.problem(409, "diverged");
    }
    // What it saw before the state that was restored holds.
    let page = client.get("/v1/events?limit=5").await.ok(200);
    let cursor = page["events"][4]["cursor"].as_str().unwrap();
    let rest = client.get(&format!("/v1/events?after={cursor}")).await.ok(200);
    assert_eq!(rest["events"][0]["data"], 100);
}

#[tokio::test]
async fn a_filter_that_matches_nothing_moves_its_id_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::with(folder.path(), &[("KIMBERLITE_FOLLOW_HEARTBEAT_MS", "200")]);
    let mut client = server.client().await;
    append(&mut client, "s", 0, 3).await;
    let mut frames = Frames::open(&server.address, "/v1/events?type=never", None).await;
    frames.until("caught-up").await;
    append(&mut client, "s", 3, 4).await;
    loop {
        let frame = frames.next().await.unwrap();
        assert_ne!(frame.event, "event");
        if frame.id.as_deref().is_some_and(|id| id.starts_with("6.")) {
            break;
        }
    }
    let heartbeat = frames.until("heartbeat").await.json();
    assert!(heartbeat["head"].is_u64(), "{heartbeat}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_followers_see_each_of_ten_thousand_events_once_in_order() {
    const FOLLOWERS: usize = 500;
    const EVENTS: u64 = 10_000;
    let (server, _folder) = server();
    let mut client = server.client().await;
    append(&mut client, "s", 0, 100).await;
    // Followers that never read must not cost memory, or slow the others.
    let mut silent = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream
            .write_all(
                b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n",
            )
            .await
            .unwrap();
        silent.push(stream);
    }
    let mut followers = JoinSet::new();
    for _ in 0..FOLLOWERS {
        let address = server.address.clone();
        followers.spawn(async move {
            let mut frames = Frames::open(&address, "/v1/events", None).await;
            let mut text = String::new();
            for n in 0..EVENTS {
                let frame = frames.until("event").await;
                text.clear();
                text.push_str("\"data\":");
                text.push_str(&n.to_string());
                text.push(',');
                assert!(frame.data.contains(&text), "event {n}: {}", frame.data);
            }
        });
    }
    let mut n = 100;
    while n < EVENTS {
        let count = (n % 97 + 1).min(EVENTS - n);
        append(&mut client, "s", n, count).await;
        n += count;
    }
    let mut done = 0;
    while let Some(follower) = followers.join_next().await {
        follower.unwrap();
        done += 1;
    }
    assert_eq!(done, FOLLOWERS);
    let memory = server.memory_kib();
    assert!(memory < 400 << 10, "{memory} KiB resident");
    drop(silent);
}

#[tokio::test]
async fn a_follower_that_never_reads_costs_no_memory() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let big = "x".repeat(100_000);
    let body = json!({"events": [{"type": "t", "data": big}]}).to_string();
    for _ in 0..20 {
        client.post("/v1/streams/s/events", body.clone()).await.ok(201);
    }
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream
            .write_all(
                b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n",
            )
            .await
            .unwrap();
        silent.push(stream);
    }
    let before = server.memory_kib();
    for _ in 0..600 {
        client.post("/v1/streams/s/events", body.clone()).await.ok(201);
    }
    // 60 MB went past 50 followers that read none of it: held for each, it would be 3 GB.
    let grown = server.memory_kib().saturating_sub(before);
    assert!(grown < 300 << 10, "{grown} KiB more");
    drop(silent);
}

#[tokio::test]
async fn followers_are_told_that_the_server_stops() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    append(&mut client, "s", 0, 1).await;
    let mut frames = Frames::open(&server.address, "/v1/events", None).await;
    frames.until("caught-up").await;
    server.terminate();
    frames.until("draining").await;
    while frames.next().await.is_some() {}
    server.stop();
}
