//! The protocol around the API: HTTP/2, preflights, trace ids, conditions on reading, answers while
//! the body still comes, stopping, damage.

use std::fs;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kimberlite_api::problem::Code;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::{
    server,
    support::{Client, Frames, PATIENCE, Server},
};

const PATH: &str = "/v1/streams/s/events";
const EVENT: &str = r#"{"events":[{"type":"t"}]}"#;

#[tokio::test]
async fn http_2_works_without_tls() {
    let (server, _folder) = server();
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let url = |path: &str| format!("http://{}{path}", server.address);
    let append = Request::post(url(PATH)).header("content-type", "application/json");
    let append = append.body(Full::new(Bytes::from_static(EVENT.as_bytes()))).unwrap();
    assert_eq!(sender.send_request(append).await.unwrap().status(), 201);
    let read = Request::get(url("/v1/events")).body(Full::default()).unwrap();
    let body =
        sender.send_request(read).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let page: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(page["head"], 0);
    let foreign = Request::get("http://evil.example/v1/events").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(foreign).await.unwrap().status(), 421);
}

#[tokio::test]
async fn browsers_are_told_what_a_configured_origin_may_do() {
    let folder = tempfile::tempdir().unwrap();
    let server =
        Server::with(folder.path(), &[("KIMBERLITE_CORS_ORIGINS", "https://app.example.com")]);
    let mut client = server.client().await;
    let asks = |origin| [("origin", origin), ("access-control-request-method", "POST")];
    let told = client.send("OPTIONS", PATH, &asks("https://app.example.com"), "").await;
    assert_eq!(told.status, 204);
    assert_eq!(told.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert!(told.header("access-control-allow-methods").unwrap().contains("POST"));
    assert!(told.header("access-control-allow-headers").unwrap().contains("content-type"));
    client
        .send("OPTIONS", PATH, &asks("https://evil.example"), "")
        .await
        .problem(403, "origin_foreign");
    // A refusal must be readable by the page that caused it.
    let sent = [("origin", "https://app.example.com"), ("content-type", "text/plain")];
    let refused = client.send("POST", PATH, &sent, "x").await;
    refused.problem(415, "content_type_unsupported");
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://app.example.com"));
}

#[tokio::test]
async fn a_problem_carries_the_callers_trace_id() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{id}-00f067aa0ba902b7-01");
    let answer = client.send("GET", "/v1/streams/none", &[("traceparent", &parent)], "").await;
    assert_eq!(answer.problem(404, "stream_unknown")["trace_id"], id);
    for parent in ["", "00-xyz", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "ff-é"]
    {
        let answer = client.send("GET", "/v1/streams/none", &[("traceparent", parent)], "").await;
        let made = answer.problem(404, "stream_unknown")["trace_id"].as_str().unwrap().to_owned();
        assert!(made.len() == 32 && made != id && made.bytes().any(|b| b != b'0'), "{made}");
    }
}

#[tokio::test]
async fn every_problem_has_its_page() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    for code in Code::ALL {
        let page = client.get(&format!("/docs/problems/{}", code.row().code)).await;
        assert_eq!(page.status, 200, "{}", code.row().code);
        assert!(page.text().contains(&code.row().status.to_string()), "{}", code.row().code);
    }
    assert_eq!(client.get("/docs/problems/no_such_code").await.status, 404);
}

#[tokio::test]
async fn a_known_version_of_a_stream_is_not_sent_again() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    client.post(PATH, EVENT).await.ok(201);
    for (tag, status) in [("\"0\"", 304), ("W/\"0\"", 304), ("\"7\", \"0\"", 304), ("\"1\"", 200)] {
        let answer = client.send("GET", "/v1/streams/s", &[("if-none-match", tag)], "").await;
        assert_eq!(answer.status, status, "{tag}");
        assert_eq!(answer.header("etag"), Some("\"0\""));
    }
}

#[tokio::test]
async fn following_takes_no_limit_no_end_and_no_other_format() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    client.post(PATH, EVENT).await.ok(201);
    let sse = [("accept", "text/event-stream")];
    for query in ["limit=1", "direction=backward"] {
        let answer = client.send("GET", &format!("/v1/events?{query}"), &sse, "").await;
        answer.problem(400, "invalid_parameter");
    }
    for id in ["x", "0", "0.123"] {
        let headers = [sse[0], ("last-event-id", id)];
        client.send("GET", "/v1/events", &headers, "").await.problem(400, "invalid_header");
    }
    client
        .send("GET", "/v1/events", &[("last-event-id", "0.00000000")], "")
        .await
        .problem(400, "unsupported_header");
    client.send("DELETE", "/v1/streams/s", &[], "").await;
    client.send("GET", PATH, &sse, "").await.problem(410, "stream_deleted");
}

#[tokio::test]
async fn a_follower_from_the_head_of_an_empty_log_misses_nothing() {
    let (server, _folder) = server();
    let mut frames = Frames::open(&server.address, "/v1/events?after=head", None).await;
    assert_eq!(frames.next().await.unwrap().event, "caught-up");
    let mut client = server.client().await;
    client.post(PATH, EVENT).await.ok(201);
    assert_eq!(frames.until("event").await.json()["position"], 0);
    let mut late = Frames::open(&server.address, "/v1/events?after=head", None).await;
    late.until("caught-up").await;
    client.post(PATH, EVENT).await.ok(201);
    assert_eq!(late.until("event").await.json()["position"], 1);
}

#[tokio::test]
async fn a_tag_given_twice_is_one_tag() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    client.post(PATH, r#"{"events":[{"type":"t","tags":["a","b","a"]}]}"#).await.ok(201);
    let found = client.get("/v1/events?tag=a").await.ok(200);
    assert_eq!(found["events"].as_array().unwrap().len(), 1);
    assert_eq!(found["events"][0]["tags"], json!(["a", "b"]));
}

/// A connection that is written by hand.
struct Raw {
    stream: BufReader<TcpStream>,
}

impl Raw {
    async fn open(server: &Server, text: &str) -> Self {
        let mut raw =
            Self { stream: BufReader::new(TcpStream::connect(&server.address).await.unwrap()) };
        raw.write(text).await;
        raw
    }

    async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// As a chunk of a chunked body.
    async fn chunk(&mut self, text: &str) {
        self.write(&format!("{:x}\r\n{text}\r\n", text.len())).await;
    }

    /// The next line with this text in it.
    async fn line_with(&mut self, part: &str) -> String {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            let read =
                timeout(PATIENCE, self.stream.read_line(&mut line)).await.expect("a line in time");
            assert!(read.unwrap() > 0, "no {part} came");
        }
        line
    }
}

const BULK: &str = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n\
                    transfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn bulk_lines_are_answered_while_more_are_to_come() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::with(folder.path(), &[("KIMBERLITE_HTTP_BODY_TIMEOUT_MS", "1500")]);
    let mut raw = Raw::open(&server, BULK).await;
    for n in 1..=3 {
        // A line cut in two, and an empty one behind it.
        raw.chunk("{\"stream\":\"s\",\"ty").await;
        raw.chunk("pe\":\"t\"}\r\n\n").await;
        let answer = raw.line_with("\"lines\"").await;
        let line = 2 * n - 1;
        assert!(answer.contains(&format!("\"lines\":[{line},{line}]")), "{answer}");
        let position = n - 1;
        assert!(answer.contains(&format!("\"first_position\":{position},")), "{answer}");
    }
    // Then nothing comes any more.
    let answer = raw.line_with("\"problem\"").await;
    assert!(answer.contains("\"body_timeout\""), "{answer}");
    assert_eq!(server.client().await.get("/v1/streams/s").await.ok(200)["version"], 2);
}

#[tokio::test]
async fn compressed_bulk_loads_are_whole_or_end_with_a_problem() {
    use std::io::Write;
    let (server, _folder) = server();
    let count = 20_000;
    let lines = (0..count).map(|n| format!("{{\"stream\":\"s\",\"type\":\"t\",\"data\":{n}}}\n"));
    let text = lines.collect::<Vec<_>>().concat();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::stream::encode_all(text.as_bytes(), 1).unwrap();
    let mut total = 0;
    for (encoding, bytes) in [("gzip", gzip), ("zstd", zstd)] {
        let headers = [("content-type", "application/x-ndjson"), ("content-encoding", encoding)];
        let whole = server.client().await.send("POST", "/v1/events", &headers, bytes.clone()).await;
        let last: Value = serde_json::from_str(whole.text().lines().last().unwrap()).unwrap();
        assert_eq!(last["lines"][1], count, "{encoding}: {last}");
        total += count;
        let cut = bytes[..bytes.len() - 1].to_vec();
        let broken = server.client().await.send("POST", "/v1/events", &headers, cut).await;
        let last: Value = serde_json::from_str(broken.text().lines().last().unwrap()).unwrap();
        assert_eq!(last["problem"]["code"], "invalid_encoding", "{encoding}: {last}");
        // What was answered before is kept, and nothing else.
        let kept = broken
            .text()
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).unwrap()["last_position"].as_u64());
        let head =
            server.client().await.get("/v1/events?limit=1").await.ok(200)["head"].as_u64().unwrap();
        let expected = kept.max().unwrap_or(total - 1);
        assert_eq!(head, expected, "{encoding}");
        total = head + 1;
    }
}

#[tokio::test]
async fn stopping_finishes_what_was_accepted() {
    let (server, folder) = server();
    let mut idle = server.client().await;
    idle.get("/health/ready").await.ok(200);
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        EVENT.len()
    );
    let mut raw = Raw::open(&server, &head).await;
    raw.write(&EVENT[..5]).await;
    // Once a follower is told, the server is stopping.
    let mut frames = Frames::open(&server.address, "/v1/events", None).await;
    server.terminate();
    frames.until("draining").await;
    raw.write(&EVENT[5..]).await;
    raw.line_with("HTTP/1.1 201").await;
    while Client::connect(&server.address).await.is_some() {
        tokio::task::yield_now().await;
    }
    server.stop();
    let server = Server::start(folder.path());
    assert_eq!(server.client().await.get("/v1/streams/s").await.ok(200)["version"], 0);
}

#[tokio::test]
async fn damage_is_a_503_that_names_file_and_byte() {
    let (server, folder) = server();
    let mut client = server.client().await;
    let marked = r#"{"events":[{"type":"t","data":"to be damaged"}]}"#;
    client.post(PATH, marked).await.ok(201);
    client.post(PATH, EVENT).await.ok(201);
    server.stop();
    let log = fs::read_dir(folder.path().join("log")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&log).unwrap();
    let at = bytes.windows(13).position(|w| w == b"to be damaged").unwrap();
    bytes[at] ^= 1;
    fs::write(&log, bytes).unwrap();
    let server = Server::start(folder.path());
    let mut client = server.client().await;
    let name = log.file_name().unwrap().to_str().unwrap();
    for answer in [
        client.get("/health/ready").await,
        client.post(PATH, EVENT).await,
        client.get("/v1/events").await,
    ] {
        let problem = answer.problem(503, "log_damaged");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(name) && detail.contains("byte"), "{detail}");
    }
    assert!(client.get("/metrics").await.text().contains("kimberlite_tenants_damaged 1\n"));
    client.get("/health/live").await.ok(200);
}

#[tokio::test]
async fn followers_are_counted_while_they_live() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    let mut frames = Frames::open(&server.address, "/v1/events", None).await;
    frames.until("caught-up").await;
    assert!(client.get("/metrics").await.text().contains("kimberlite_followers 1\n"));
    drop(frames);
    loop {
        // The server notices with the next thing that it has to tell.
        client.post(PATH, EVENT).await.ok(201);
        if client.get("/metrics").await.text().contains("kimberlite_followers 0\n") {
            break;
        }
    }
}
