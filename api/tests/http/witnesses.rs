//! Witnesses of the log: what they cosign is shown, and those that lie, err or are silent hold nobody up.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kimberlite_store::proof::{
    Checkpoint, CosignerKey, Note, Receipt, Submission, VerifierKey, leaf_hash,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    log::WAITED,
    support::{Client, PATIENCE, Server},
};

const SETTING: &str = "KIMBERLITE_LOG_WITNESSES";

/// A `kimberlite witness`; killed, not stopped.
struct Witness {
    child: Child,
    address: String,
    key: VerifierKey,
}

impl Witness {
    fn start(folder: &Path, name: &str, listen: &str, log: &VerifierKey) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kimberlite"))
            .args(["witness", "--name", name, "--listen", listen, "--log", &log.to_string()])
            .arg("--data")
            .arg(folder.join(name))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = || {
            let mut line = String::new();
            assert!(out.read_line(&mut line).unwrap() > 0, "it ended early");
            line
        };
        let first = line();
        line();
        let key = line().trim().parse().unwrap();
        let address = first.split("http://").nth(1).unwrap().split_whitespace().next().unwrap();
        Self { address: address.to_owned(), child, key }
    }

    fn setting(&self) -> String {
        format!("http://{} {}", self.address, self.key)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

async fn append(client: &mut Client) -> Value {
    let headers = [("content-type", "application/json"), ("prefer", "return=receipt")];
    let body = json!({"events": [{"type": "t"}]}).to_string();
    client.send("POST", "/v1/streams/s/events", &headers, body).await.ok(201)
}

/// The log's key; made by a server that is stopped again.
async fn vkey(folder: &Path) -> VerifierKey {
    let server = Server::start(folder);
    let keys = server.client().await.get("/v1/log/keys").await.ok(200);
    server.stop();
    keys["vkey"].as_str().unwrap().parse().unwrap()
}

/// Asks until enough cosigned, which an answer waits for, but not for long.
async fn until_ok(client: &mut Client, path: &str) -> Vec<u8> {
    let started = Instant::now();
    loop {
        let answer = client.get(path).await;
        if answer.status == 200 {
            return answer.body.to_vec();
        }
        answer.problem(503, "checkpoint_pending");
        assert!(started.elapsed() < PATIENCE, "{path} waits for ever");
    }
}

async fn failing(client: &mut Client) -> String {
    let metrics = client.get("/metrics").await;
    let mut lines = metrics.text().lines();
    lines.find_map(|l| l.strip_prefix("kimberlite_witnesses_failing ")).unwrap().to_owned()
}

#[tokio::test]
async fn what_witnesses_cosigned_is_shown_and_outlives_them_and_the_server() {
    let (folder, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = vkey(folder.path()).await;
    let start = |name, listen: &str| Witness::start(others.path(), name, listen, &log);
    let (first, second) = (start("w1", "127.0.0.1:0"), start("w2", "127.0.0.1:0"));
    let setting = format!("{}, {}", first.setting(), second.setting());
    let keys = [first.key.clone(), second.key.clone()];
    let server = Server::with(folder.path(), &[(SETTING, &setting)]);
    let mut client = server.client().await;
    for _ in 0..3 {
        append(&mut client).await;
    }
    let leaf = leaf_hash(&client.get("/v1/records/2/leaf").await.body);
    let proof = until_ok(&mut client, "/v1/records/2/proof?cosigned=2").await;
    let covered = Receipt::parse(&proof).unwrap().verify(leaf, &log, &keys).unwrap();
    assert_eq!(covered.cosigned.len(), 2, "{covered:?}");
    let note = until_ok(&mut client, "/v1/log/checkpoint").await;
    assert_eq!(Note::parse(&note).unwrap().signatures().len(), 3, "the newest shows them too");
    for wrong in ["3", "", "-1", "one"] {
        let path = format!("/v1/log/checkpoint?cosigned={wrong}");
        client.get(&path).await.problem(400, "invalid_parameter");
    }

    let address = second.address.clone();
    drop(second);
    let position = append(&mut client).await["last_position"].as_u64().unwrap();
    let proof = until_ok(&mut client, &format!("/v1/events/{position}/proof?cosigned=1")).await;
    let signed = Receipt::parse(&proof).unwrap().checkpoint;
    assert_eq!(signed.verify(&keys).unwrap()[0].key, &keys[0]);
    let path = format!("/v1/events/{position}/proof?cosigned=2");
    let asked = Instant::now();
    client.get(&path).await.problem(503, "checkpoint_pending");
    assert!(WAITED.contains(&asked.elapsed()), "{:?}", asked.elapsed());
    let note = until_ok(&mut client, "/v1/log/checkpoint?cosigned=2").await;
    let note = Note::parse(&note).unwrap();
    let older = Checkpoint::verified(&note, &log).unwrap();
    assert_eq!((older.size, note.verify(&keys).unwrap().len()), (position, 2), "the one before");
    assert_eq!(failing(&mut client).await, "1");

    let _second = start("w2", &address);
    until_ok(&mut client, &path).await;
    drop(client);
    server.stop();
    // It asks what they saw last, and goes on from there.
    let server = Server::with(folder.path(), &[(SETTING, &setting)]);
    let mut client = server.client().await;
    until_ok(&mut client, &path).await;
    let position = append(&mut client).await["last_position"].as_u64().unwrap();
    until_ok(&mut client, &format!("/v1/events/{position}/proof?cosigned=2")).await;
    assert_eq!(failing(&mut client).await, "0");
}

/// What a rogue witness answers to a submission; `None`: it keeps the connection and says nothing.
type Rogue = fn(&Submission) -> Option<String>;

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn key(seed: u8) -> CosignerKey {
    CosignerKey::new(&format!("w.example/{seed}"), &[seed; 32]).unwrap()
}

/// Answers everybody who asks, after a while. Returns its setting, which names the key of this seed.
async fn rogue(
    seed: u8,
    delay_ms: u64,
    behaves: impl Fn(&Submission) -> Option<String> + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let submission = loop {
                let text = String::from_utf8_lossy(&request);
                if let Some((head, body)) = text.split_once("\r\n\r\n")
                    && head.contains(&format!("content-length: {}", body.len()))
                {
                    assert!(head.starts_with("POST /a/b/add-checkpoint HTTP/1.1\r\n"), "{head}");
                    break Submission::parse(body.as_bytes()).unwrap();
                }
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            };
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            match behaves(&submission) {
                Some(answer) => drop(stream.write_all(answer.as_bytes()).await),
                None => kept.push(stream),
            }
        }
    });
    format!("http://{address}/a/b {}", key(seed).verifier())
}

#[tokio::test]
async fn witnesses_that_lie_err_or_are_silent_hold_nobody_up() {
    let rogues: [(&str, Rogue); 9] = [
        ("silent", |_| None),
        ("another key's", |asked| {
            Some(answer("200 OK", &key(2).cosign(asked.note().text(), 1_700_000_000).to_string()))
        }),
        ("another text's", |_| Some(answer("200 OK", &key(1).cosign("a\n1\nb\n", 7).to_string()))),
        ("no line", |_| Some(answer("200 OK", "yes\n"))),
        ("nothing", |_| Some(answer("200 OK", ""))),
        ("no size", |_| Some(answer("409 Conflict", "more\n"))),
        ("a size that is none", |_| Some(answer("409 Conflict", "18446744073709551615\n"))),
        ("too much", |_| Some(answer("200 OK", &"x".repeat(1 << 20)))),
        ("no HTTP", |_| Some("hello".to_owned())),
    ];
    for (what, behaves) in rogues {
        let (folder, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let log = vkey(folder.path()).await;
        let honest = Witness::start(others.path(), "w1", "127.0.0.1:0", &log);
        let setting = format!("{}, {}", rogue(1, 0, behaves).await, honest.setting());
        let server = Server::with(folder.path(), &[(SETTING, &setting)]);
        let mut client = server.client().await;
        let started = Instant::now();
        let receipt = append(&mut client).await;
        let position = receipt["last_position"].as_u64().unwrap();
        let proof = until_ok(&mut client, &format!("/v1/events/{position}/proof?cosigned=1")).await;
        assert!(
            started.elapsed().as_secs() < 8,
            "{what}: it has ten seconds, others need not wait"
        );
        let shown = Receipt::parse(&proof).unwrap().checkpoint;
        let signers: Vec<_> = shown.signatures().iter().map(|s| s.name().to_owned()).collect();
        assert_eq!(signers, [log.name(), "w1"], "{what}");
        if what != "silent" {
            let started = Instant::now();
            while failing(&mut client).await != "1" {
                assert!(started.elapsed() < PATIENCE, "{what} counts as success");
            }
        }
        drop(client);
        let stopping = Instant::now();
        server.stop();
        assert!(stopping.elapsed().as_secs() < 8, "{what} keeps the server from stopping");
    }
}

/// Each takes its own time, and while it does there are several newer checkpoints: what the slower one cosigned, the faster
/// one did too.
#[tokio::test]
async fn slow_witnesses_cosign_the_same_checkpoints_while_records_keep_coming() {
    let cosigned: [Arc<Mutex<Vec<u64>>>; 2] = Default::default();
    let witness = |seed: u8, delay_ms| {
        let sizes = Arc::clone(&cosigned[usize::from(seed) - 1]);
        rogue(seed, delay_ms, move |asked| {
            let size = Checkpoint::parse(asked.note().text()).unwrap().size;
            sizes.lock().unwrap().push(size);
            let signature = key(seed).cosign(asked.note().text(), 1_800_000_000);
            Some(answer("200 OK", &signature.to_string()))
        })
    };
    let setting = format!("{}, {}", witness(1, 500).await, witness(2, 800).await);
    let folder = tempfile::tempdir().unwrap();
    let server = Server::with(folder.path(), &[(SETTING, &setting)]);
    let mut client = server.client().await;
    let started = Instant::now();
    let body = json!({"events": [{"type": "t"}]}).to_string();
    while cosigned[1].lock().unwrap().len() < 6 {
        client.post("/v1/streams/s/events", body.clone()).await.ok(201);
        assert!(started.elapsed() < PATIENCE, "they are not asked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let [fast, slow] = cosigned.map(|sizes| sizes.lock().unwrap().clone());
    // The last may still be under way at the other.
    assert!(slow[..5].iter().all(|size| fast.contains(size)), "{slow:?} {fast:?}");
    assert!(slow.is_sorted() && slow[0] < slow[5], "{slow:?}");
    let note = client.get("/v1/log/checkpoint?cosigned=2").await;
    let note = Note::parse(&note.body).unwrap();
    assert_eq!(note.verify([key(1).verifier(), key(2).verifier()]).unwrap().len(), 2);
    assert!(slow.contains(&Checkpoint::parse(note.text()).unwrap().size), "{note}");
}

#[tokio::test]
async fn a_log_that_went_back_is_seen_by_its_witness() {
    let (folder, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = vkey(folder.path()).await;
    let witness = Witness::start(others.path(), "w1", "127.0.0.1:0", &log);
    let setting = witness.setting();
    let earlier = tempfile::tempdir().unwrap();
    let server = Server::with(folder.path(), &[(SETTING, &setting)]);
    let mut client = server.client().await;
    append(&mut client).await;
    until_ok(&mut client, "/v1/events/0/proof?cosigned=1").await;
    drop(client);
    server.stop();
    // Folder and keys alike are set back: nothing here tells that the log was longer.
    copy(folder.path(), earlier.path());
    let server = Server::with(folder.path(), &[(SETTING, &setting)]);
    let mut client = server.client().await;
    append(&mut client).await;
    until_ok(&mut client, "/v1/events/1/proof?cosigned=1").await;
    drop(client);
    server.stop();
    let server = Server::with(earlier.path(), &[(SETTING, &setting)]);
    let mut client = server.client().await;
    client.get("/v1/log/checkpoint?cosigned=1").await.problem(503, "checkpoint_pending");
    assert_eq!(failing(&mut client).await, "1", "it has fewer records than the witness saw");
    for _ in 0..3 {
        let body = json!({"events": [{"type": "another"}]}).to_string();
        client.post("/v1/streams/s/events", body).await.ok(201);
    }
    client.get("/v1/events/3/proof?cosigned=1").await.problem(503, "checkpoint_pending");
    assert_eq!(failing(&mut client).await, "1", "another history");
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
