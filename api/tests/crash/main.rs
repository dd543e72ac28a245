//! The real process, killed with SIGKILL at random moments while many clients append.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests fail by panicking and say what they did"
)]

#[path = "../support/mod.rs"]
mod support;
mod tables;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use support::{Client, Server};
use tokio::{task::JoinSet, time::timeout};
use uuid::Uuid;

const ROUNDS: u64 = 20;
const WRITERS: u64 = 64;

/// An acknowledged event: its position and hash.
type Acknowledged = HashMap<Uuid, (u64, String)>;

/// What one writer knows: events it got an answer for, and the one that it did not.
#[derive(Default)]
struct Writer {
    acknowledged: Acknowledged,
    in_doubt: Option<Uuid>,
    sent: u128,
}

/// Appends until the server goes away. The event in doubt is sent again first, under the same id.
async fn write(address: String, number: u64, mut writer: Writer) -> (u64, Writer) {
    let Some(mut client) = Client::connect(&address).await else { return (number, writer) };
    loop {
        let id = writer.in_doubt.unwrap_or_else(|| {
            writer.sent += 1;
            Uuid::from_u128(u128::from(number) << 64 | writer.sent)
        });
        writer.in_doubt = Some(id);
        let body = format!(
            r#"{{"events":[{{"type":"written","id":"{id}","data":{{"writer":{number}}},"tags":["w:{number}"]}}]}}"#
        );
        let path = format!("/v1/streams/s-{}/events", number % 10);
        let json = [("content-type", "application/json")];
        let Some(answer) = client.try_send("POST", &path, &json, body).await else {
            return (number, writer);
        };
        assert!(answer.status.is_success(), "{answer:?}");
        let receipt = answer.json();
        let position = receipt["first_position"].as_u64().unwrap();
        let hash = receipt["hash"].as_str().unwrap().to_owned();
        writer.acknowledged.insert(id, (position, hash));
        writer.in_doubt = None;
    }
}

/// Every event, by id; positions must be gapless and ids must not repeat.
async fn read_all(client: &mut Client) -> Acknowledged {
    let mut all = Acknowledged::new();
    for (position, event) in client.pages("/v1/events?limit=1000").await.iter().enumerate() {
        assert_eq!(event["position"], position, "positions are gapless");
        let id: Uuid = event["id"].as_str().unwrap().parse().unwrap();
        let hash = event["hash"].as_str().unwrap().to_owned();
        let twice = all.insert(id, (position as u64, hash));
        assert_eq!(twice, None, "an event is there twice");
    }
    all
}

/// Each leaf hashes to its record's hash and holds the hash before it.
async fn check_chain(client: &mut Client, all: &Acknowledged, from: u64) {
    let mut hashes: Vec<(u64, String)> = all.values().cloned().collect();
    hashes.sort();
    let mut previous = None;
    for (position, hash) in hashes.into_iter().filter(|(p, _)| *p >= from) {
        let path = format!("/v1/records/{position}/leaf");
        let leaf = client.get(&path).await.body;
        let digest = Sha256::new().chain_update([0]).chain_update(&leaf).finalize();
        assert_eq!(hex(&digest), hash, "leaf {position}");
        let before = hex(&leaf[leaf.len() - 32..]);
        assert!(previous.is_none_or(|p| p == before), "the chain at {position}");
        previous = Some(hash);
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, b| {
        write!(out, "{b:02x}").unwrap();
        out
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_events_survive_sigkill_under_many_writers() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut writers: Vec<(u64, Writer)> = (0..WRITERS).map(|n| (n, Writer::default())).collect();
    let mut checked = 0;
    for round in 0..ROUNDS {
        let server = Server::start(folder.path());
        let mut tasks = JoinSet::new();
        for (number, writer) in writers.drain(..) {
            tasks.spawn(write(server.address.clone(), number, writer));
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..400))).await;
        server.kill();
        let done = timeout(Duration::from_mins(1), tasks.join_all()).await;
        writers = done.expect("writers notice that the server is gone");
        writers.sort_by_key(|(n, _)| *n);

        let server = Server::start(folder.path());
        let mut client = server.client().await;
        let all = read_all(&mut client).await;
        for (number, writer) in &writers {
            for (id, was) in &writer.acknowledged {
                assert_eq!(all.get(id), Some(was), "writer {number}, round {round}, seed {seed}");
            }
        }
        let known: HashSet<Uuid> = writers
            .iter()
            .flat_map(|(_, w)| w.acknowledged.keys().copied().chain(w.in_doubt))
            .collect();
        assert!(all.keys().all(|id| known.contains(id)), "an event that nobody sent");
        check_chain(&mut client, &all, checked).await;
        checked = all.len().saturating_sub(1) as u64;
        server.kill();
    }
    let acknowledged: usize = writers.iter().map(|(_, w)| w.acknowledged.len()).sum();
    println!("{acknowledged} events acknowledged in {ROUNDS} rounds");
    assert!(acknowledged > 1000, "the writers wrote");
}
