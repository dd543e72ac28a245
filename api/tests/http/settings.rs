//! Every setting has an effect, and what is no setting is refused.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kimberlite_api::config::KEYS;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    query as queries, server, stamps,
    support::{Frames, PATIENCE, Server},
};

/// A command that ends by itself.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kimberlite"));
    let Output { status, stdout, stderr } =
        command.args(arguments).envs(environment.iter().copied()).output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

fn refused(arguments: &[&str], environment: &[(&str, &str)], says: &[&str]) {
    let (success, text) = run(arguments, environment);
    assert!(!success, "{arguments:?} with {environment:?}: {text}");
    for part in says {
        assert!(
            text.contains(part),
            "{arguments:?} with {environment:?} does not say {part}: {text}"
        );
    }
}

/// Reads until the server closes or `part` has come.
async fn heard(stream: &mut TcpStream, part: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while part.is_empty() || !text.contains(part) {
        match timeout(PATIENCE, stream.read(&mut buffer))
            .await
            .expect("an answer or an end in time")
        {
            Ok(0) | Err(_) => break,
            Ok(n) => text.push_str(&String::from_utf8_lossy(&buffer[..n])),
        }
    }
    text
}

async fn says(address: &str, bytes: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

const UNFINISHED: &str = "POST /v1/streams/s/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                          content-length: 100\r\n\r\n{";

#[tokio::test]
async fn every_setting_has_an_effect() {
    for key in KEYS {
        let folder = tempfile::tempdir().unwrap();
        let with = |value: &str| Server::with(folder.path(), &[(key.env, value)]);
        match key.name {
            "listen" => refused(
                &["dev", "--ephemeral"],
                &[(key.env, "192.0.2.1:1")],
                &["192.0.2.1:1", "loopback"],
            ),
            "data" => {
                let file = folder.path().join("file");
                fs::write(&file, "no folder").unwrap();
                let file = file.to_str().unwrap();
                refused(&["dev", "--listen", "127.0.0.1:0"], &[(key.env, file)], &[file]);
                data(key.env, &folder.path().join("kept")).await;
            }
            "url" => refused(&["read"], &[(key.env, "http://127.0.0.1:1")], &["127.0.0.1:1"]),
            "key" => {
                let server = Server::start(folder.path());
                let url = format!("http://{}", server.address);
                refused(
                    &["read"],
                    &[("KIMBERLITE_URL", &url), (key.env, "secret")],
                    &["credentials"],
                );
            }
            "http.hosts" => {
                let server = with("db.example.com");
                let own = [("host", "db.example.com:80")];
                server.client().await.send("GET", "/v1/events", &own, "").await.ok(200);
            }
            "cors.origins" => {
                let server = with("https://app.example.com");
                let origin = [("origin", "https://app.example.com")];
                server.client().await.send("GET", "/v1/events", &origin, "").await.ok(200);
            }
            "http.connections_max" => connections_max(&with("1")).await,
            "http.header_timeout_ms" => header_timeout(&with("200")).await,
            "http.body_timeout_ms" => {
                let server = with("100");
                let text = heard(&mut says(&server.address, UNFINISHED).await, "}").await;
                assert!(
                    text.starts_with("HTTP/1.1 408") && text.contains("body_timeout"),
                    "{text}"
                );
            }
            "http.send_timeout_ms" => send_timeout(&with("200")).await,
            "follow.heartbeat_ms" => {
                let server = with("50");
                let mut frames = Frames::open(&server.address, "/v1/events", None).await;
                let started = Instant::now();
                for _ in 0..3 {
                    frames.until("heartbeat").await;
                }
                assert!(
                    started.elapsed().as_secs() < 8,
                    "three of the default take thirty seconds"
                );
            }
            "shutdown.timeout_ms" => {
                let server = with("100");
                let _waits = says(&server.address, UNFINISHED).await;
                let started = Instant::now();
                server.stop();
                assert!(started.elapsed().as_secs() < 8, "the default waits ten seconds");
            }
            "log.segment_bytes" => segment_bytes(&with("1048576"), folder.path()).await,
            "store.scrub_bytes_per_s" => {
                let (idle, other) = (with("0"), tempfile::tempdir().unwrap());
                let rounds = "kimberlite_scrub_rounds_total ";
                until_counted(&Server::start(other.path()), rounds).await;
                assert_eq!(counted(&idle, rounds).await, "0.0", "the default begins at once");
            }
            "store.compression" => {
                let name = "kimberlite_compressed_segments_total ";
                for value in ["zstd", "none"] {
                    let folder = tempfile::tempdir().unwrap();
                    let small = ("KIMBERLITE_LOG_SEGMENT_BYTES", "1048576");
                    let server = Server::with(folder.path(), &[(key.env, value), small]);
                    segment_bytes(&server, folder.path()).await;
                    if value == "zstd" {
                        until_counted(&server, name).await;
                    } else {
                        // Longer than the other one takes to look.
                        tokio::time::sleep(Duration::from_secs(3)).await;
                        assert_eq!(counted(&server, name).await, "0.0");
                    }
                }
            }
            "log.origin" => origin(key.env, folder.path()).await,
            "log.witnesses" => witnesses(key.env, folder.path()).await,
            "timestamps.url" => stamps::url(key.env, folder.path()).await,
            "timestamps.every_s" => stamps::every(key.env, folder.path()).await,
            "keys.folder" => keys(key.env, folder.path()).await,
            "query.memory_bytes" => queries::memory(&with("1048576")).await,
            "query.running_max" => queries::running(&with("1")).await,
            "query.timeout_ms" => queries::timeout(&with("200")).await,
            "log.level" => log_level(key.env),
            unknown => panic!("no test shows an effect of {unknown}"),
        }
    }
}

/// It names the log, and cannot be changed later.
async fn origin(env: &str, folder: &Path) {
    let server = Server::with(folder, &[(env, "log.example")]);
    let keys = server.client().await.get("/v1/log/keys").await.ok(200);
    assert_eq!(keys["origin"], "log.example/dev");
    server.stop();
    let start = ["dev", "--listen", "127.0.0.1:0", "--data", folder.to_str().unwrap()];
    refused(&start, &[(env, "other.example")], &["log.origin", "log.example"]);
}

async fn keys(env: &str, folder: &Path) {
    let other = tempfile::tempdir().unwrap();
    let server = Server::with(folder, &[(env, other.path().to_str().unwrap())]);
    server.client().await.get("/v1/log/keys").await.ok(200);
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
    assert!(!folder.join("keys").exists(), "the default");
}

/// They are asked, where it says.
async fn witnesses(env: &str, folder: &Path) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let key = "w.example/w1+85687096+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X";
    let value = format!("http://{}/prefix/ {key}", listener.local_addr().unwrap());
    let _server = Server::with(folder, &[(env, &value)]);
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let text = heard(&mut stream, "/dev\n").await;
    assert!(text.starts_with("POST /prefix/add-checkpoint HTTP/1.1"), "{text}");
    assert!(text.contains("old 0\n\nkimberlite-"), "{text}");
}

/// What is appended lands in the folder: a server that is told of it by flag finds it there.
async fn data(env: &str, folder: &Path) {
    let server = Server::run(&[], &[(env, folder.to_str().unwrap())]);
    let body = r#"{"events":[{"type":"t"}]}"#;
    server.client().await.post("/v1/streams/kept/events", body).await.ok(201);
    server.stop();
    let server = Server::start(folder);
    server.client().await.get("/v1/streams/kept").await.ok(200);
}

/// A head that does not come, and silence behind an answer, end an HTTP/1.1 connection; an HTTP/2
/// connection lasts while its caller answers PINGs.
async fn header_timeout(server: &Server) {
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (mut there, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let live = format!("http://{}/health/live", server.address);
    let ask = || Request::get(&live).body(Full::<Bytes>::default()).unwrap();
    assert_eq!(there.send_request(ask()).await.unwrap().status(), 200);
    let silent = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let idle = "GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let unfinished = "GET /v1/events HTTP/1.1\r\nhost: loc";
    for bytes in ["", "G", unfinished, "PRI * HTTP/2.0\r\n", silent, idle] {
        let mut stream = says(&server.address, bytes).await;
        let started = Instant::now();
        let text = heard(&mut stream, "").await;
        let took = started.elapsed();
        assert_eq!(text.contains("200 OK"), bytes == idle, "{bytes:?}: {text}");
        assert!(took.as_millis() >= 150, "{bytes:?}: closed after {took:?}");
        assert!(took.as_secs() < 8, "{bytes:?}: {took:?}; the default is thirty seconds");
    }
    assert_eq!(there.send_request(ask()).await.unwrap().status(), 200);
}

/// Answers that nobody takes end with their connection, which frees its place.
async fn send_timeout(server: &Server) {
    let body = json!({"events": [{"type": "t", "data": "x".repeat(900_000)}]}).to_string();
    let mut client = server.client().await;
    for _ in 0..10 {
        client.post("/v1/streams/s/events", body.clone()).await.ok(201);
    }
    for accept in ["application/json", "application/x-ndjson", "text/event-stream"] {
        let head =
            format!("GET /v1/events?{}", if accept.ends_with("json") { "limit=4" } else { "" });
        let head = head.trim_end_matches('?');
        let request = format!("{head} HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\n\r\n");
        let mut stream = says(&server.address, &request.repeat(8)).await;
        // Longer than the timeout; then what was on its way is read to the end that came.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let ended = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "{accept}: the connection goes on");
    }
    client.get("/v1/streams/s").await.ok(200);
}

async fn connections_max(server: &Server) {
    let mut first = server.client().await;
    first.get("/v1/events").await.ok(200);
    let mut second =
        says(&server.address, "GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let text = heard(&mut second, "").await;
    assert!(
        text.starts_with("HTTP/1.1 503")
            && text.contains("\"overloaded\"")
            && text.contains("retry-after"),
        "{text}"
    );
    first.get("/v1/events").await.ok(200);
}

async fn segment_bytes(server: &Server, folder: &Path) {
    let mut client = server.client().await;
    let body = json!({"events": [{"type": "t", "data": "x".repeat(400_000)}]}).to_string();
    for _ in 0..6 {
        client.post("/v1/streams/s/events", body.clone()).await.ok(201);
    }
    let segments = fs::read_dir(folder.join("log")).unwrap().count();
    assert!(segments > 1, "{segments} segments");
}

async fn counted(server: &Server, name: &str) -> String {
    let metrics = server.client().await.get("/metrics").await;
    let found = metrics.text().lines().find_map(|l| l.strip_prefix(name).map(str::to_owned));
    found.expect("the metric is there")
}

async fn until_counted(server: &Server, name: &str) {
    let started = Instant::now();
    while counted(server, name).await == "0.0" {
        assert!(started.elapsed() < PATIENCE, "{name}stays at zero");
    }
}

/// What a server that cannot have its port logs before it ends does not depend on the level, so one
/// is run and stopped.
fn log_level(env: &str) {
    for (level, shown) in [("error", false), ("info", true)] {
        let log = logged(&[(env, level)], |_| {});
        assert_eq!(log.contains("listening"), shown, "{level}: {log}");
    }
}

/// The standard error of a server that was started, used and stopped.
fn logged(environment: &[(&str, &str)], used: impl FnOnce(&str)) -> String {
    use std::io::{BufRead, BufReader};
    let mut child = Command::new(env!("CARGO_BIN_EXE_kimberlite"))
        .args(["dev", "--ephemeral", "--listen", "127.0.0.1:0"])
        .envs(environment.iter().copied())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("http://127.0.0.1:") {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "it ended early");
    }
    let address = line.split("http://").nth(1).unwrap().split_whitespace().next().unwrap();
    used(address);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_log_shows_routes_but_no_paths_names_or_bodies() {
    let log = logged(&[("KIMBERLITE_LOG_LEVEL", "trace")], |address| {
        use std::io::{Read, Write};
        let body =
            r#"{"events":[{"type":"hidden-type","data":"hidden-data","tags":["hidden-tag"]}]}"#;
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let head = "POST /v1/streams/hidden-stream/events?recreate=true HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
        let rest = format!(
            "content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(format!("{head}{rest}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    });
    assert!(log.contains("/v1/streams/{stream}/events"), "{log}");
    assert!(!log.contains("hidden"), "{log}");
    for line in log.lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line).is_ok_and(|l| l["level"].is_string()),
            "{line}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_set_or_used_is_said() {
    refused(&["dev", "--ephemeral"], &[("KIMBERLITE_LISTN", "x")], &["KIMBERLITE_LISTN"]);
    refused(
        &["dev", "--ephemeral"],
        &[("KIMBERLITE_LOG_LEVEL", "loud")],
        &["KIMBERLITE_LOG_LEVEL"],
    );
    refused(&["dev", "--ephemeral", "--listen", "0.0.0.0:0"], &[], &["loopback", "--listen"]);
    refused(&["dev", "--ephemeral", "--data", "folder"], &[], &["--data"]);
    let unused = tempfile::tempdir().unwrap();
    let unused = unused.path().join("unused");
    logged(&[("KIMBERLITE_DATA", unused.to_str().unwrap())], |_| {});
    assert!(!unused.exists(), "--ephemeral keeps nothing");
    let (server, _folder) = server();
    refused(
        &["dev", "--ephemeral", "--listen", &server.address],
        &[],
        &[&server.address, "in use", "--listen"],
    );
    let (success, table) = run(&["config", "--explain"], &[]);
    assert!(success);
    let page = server.client().await.get("/docs/config").await;
    for key in KEYS {
        for part in [key.name, key.env, key.default] {
            assert!(table.contains(part) && page.text().contains(part), "{part}");
        }
    }
}
