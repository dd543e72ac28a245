//! `/v1/backups`: made while the server goes on, watched, cancelled, refused.

use std::path::Path;

use kimberlite_store::{
    restore::{Restore, restore},
    words::Actor,
};
use serde_json::{Value, json};

use crate::{
    server,
    support::{Answer, Client, PATIENCE, Server},
};

async fn begin(client: &mut Client, folder: &Path) -> Answer {
    client.post("/v1/backups", json!({ "folder": folder }).to_string()).await
}

/// Waits until a backup is over.
async fn ended(client: &mut Client, path: &str) -> Value {
    let waiting = async {
        loop {
            let backup = client.get(path).await.ok(200);
            if backup["status"] != "running" {
                return backup;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the backup ends in time")
}

async fn append(client: &mut Client, stream: &str) {
    let body = json!({"events": [{"type": "t", "data": "x".repeat(1000)}]}).to_string();
    client.post(&format!("/v1/streams/{stream}/events"), body).await.ok(201);
}

fn restored(backup: &Path, folder: &Path) {
    let (backup, folder) = (backup.to_owned(), folder.to_owned());
    let actor = Actor::new("operator").unwrap();
    let args = Restore { backup, folder, until: None, actor, keeps_origin: false };
    let restored = std::thread::spawn(move || restore(&args, &mut |_| {}).map(drop));
    restored.join().unwrap().unwrap();
}

fn metric(text: &str, name: &str) -> f64 {
    let name = format!("{name} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name)).expect("it is there");
    value.parse().unwrap()
}

#[tokio::test]
async fn a_backup_is_made_watched_and_restored() {
    let (server, _folder) = server();
    let target = tempfile::tempdir().unwrap();
    let mut client = server.client().await;
    for n in 0..20 {
        append(&mut client, &format!("s{}", n % 3)).await;
    }
    let before = client.pages("/v1/events").await;
    assert_eq!(client.get("/v1/backups").await.ok(200), json!({"backups": []}));
    let backup = target.path().join("backups/of mine");
    let answer = begin(&mut client, &backup).await;
    let body = answer.ok(202);
    append(&mut client, "late").await;
    let path = answer.header("location").unwrap().to_owned();
    assert_eq!(path, format!("/v1/backups/{}", body["id"].as_str().unwrap()));
    let done = ended(&mut client, &path).await;
    assert_eq!((&done["status"], &done["problem"]), (&json!("done"), &Value::Null), "{done:#}");
    assert_eq!(done["folder"], backup.to_str().unwrap());
    let progress = &done["progress"];
    assert_eq!(progress["files"], progress["files_total"]);
    assert_eq!(progress["bytes"], progress["bytes_total"]);
    assert_eq!(progress["bytes_copied"], progress["bytes_total"]);
    assert!(progress["bytes"].as_u64().unwrap() > 20_000, "{done:#}");
    assert!(done["updated_at"].as_str().unwrap() >= done["created_at"].as_str().unwrap());
    assert_eq!(client.get("/v1/backups").await.ok(200), json!({ "backups": [done] }));
    let metrics = client.get("/metrics").await;
    let held = metric(metrics.text(), "kimberlite_backup_last_bytes");
    assert_eq!(held.to_string(), progress["bytes"].to_string());
    let name = "kimberlite_backup_last_success_timestamp_seconds";
    assert!(metric(metrics.text(), name) > 1.7e9);
    assert!(metric(metrics.text(), "kimberlite_backups_failed_total") < 0.5);
    client.send("DELETE", &path, &[], "").await;
    assert_eq!(client.get(&path).await.ok(200), done, "what is over stays as it is");

    let folder = target.path().join("data");
    restored(&backup, &folder);
    let again = Server::start(&folder);
    assert_eq!(again.client().await.pages("/v1/events").await, before);
}

#[tokio::test]
async fn folders_that_cannot_take_a_backup_are_refused() {
    let (server, data) = server();
    let target = tempfile::tempdir().unwrap();
    let mut client = server.client().await;
    for folder in ["backups", "", "/tmp/../backups"] {
        let problem = begin(&mut client, Path::new(folder)).await.problem(400, "invalid_body");
        assert_eq!(problem["errors"][0]["pointer"], "/folder");
    }
    let long = format!("/{}", "x".repeat(4096));
    begin(&mut client, Path::new(&long)).await.problem(400, "invalid_body");
    begin(&mut client, Path::new("/a\0b")).await.problem(400, "invalid_body");
    let taken = begin(&mut client, &data.path().join("log")).await;
    taken.problem(409, "backup_folder_taken");
    std::fs::write(target.path().join("mine"), "x").unwrap();
    begin(&mut client, target.path()).await.problem(409, "backup_folder_taken");
    let file = target.path().join("mine/deeper");
    begin(&mut client, &file).await.problem(422, "backup_failed");
    for path in ["/v1/backups/0199a5c0-7b1e-7000-8000-000000000000", "/v1/backups/x"] {
        client.get(path).await.problem(404, "backup_unknown");
        client.send("DELETE", path, &[], "").await.problem(404, "backup_unknown");
    }
    client.post("/v1/backups", r#"["/tmp"]"#).await.problem(400, "invalid_body");
    client.post("/v1/backups", r#"{"folder":"/a","b":1}"#).await.problem(400, "invalid_body");
    client.get("/v1/backups?limit=1").await.problem(400, "unknown_parameter");
    assert_eq!(client.get("/v1/backups").await.ok(200), json!({"backups": []}));
}

#[tokio::test]
async fn one_backup_at_a_time_goes_to_a_folder_and_one_that_fails_says_why() {
    let (server, _folder) = server();
    let target = tempfile::tempdir().unwrap();
    let mut client = server.client().await;
    append(&mut client, "s").await;
    let path = begin(&mut client, target.path()).await.header("location").unwrap().to_owned();
    ended(&mut client, &path).await;
    // Somebody else holds the folder, as a backup that runs does.
    let mark = std::fs::File::open(target.path().join("kimberlite-backup")).unwrap();
    rustix::fs::flock(&mark, rustix::fs::FlockOperation::LockExclusive).unwrap();
    begin(&mut client, target.path()).await.problem(409, "backup_running");
    drop(mark);
    // A folder stands where the copy of the open segment is to be made.
    append(&mut client, "s").await;
    let blocked = target.path().join("log/0000000000000001.segment.new");
    std::fs::create_dir(&blocked).unwrap();
    let path = begin(&mut client, target.path()).await.header("location").unwrap().to_owned();
    let failed = ended(&mut client, &path).await;
    assert_eq!(failed["status"], "failed");
    let problem = &failed["problem"];
    assert_eq!(problem["code"], "backup_failed", "{failed:#}");
    assert!(problem["detail"].as_str().unwrap().contains("segment.new"), "{failed:#}");
    let metrics = client.get("/metrics").await;
    assert!(metric(metrics.text(), "kimberlite_backups_failed_total") > 0.5);
    let folder = tempfile::tempdir().unwrap();
    restored(target.path(), folder.path());
    std::fs::remove_dir(blocked).unwrap();
    let path = begin(&mut client, target.path()).await.header("location").unwrap().to_owned();
    assert_eq!(ended(&mut client, &path).await["status"], "done");
}

#[tokio::test]
async fn a_backup_that_is_cancelled_leaves_the_one_before_it() {
    let (server, _folder) = server();
    let target = tempfile::tempdir().unwrap();
    let mut client = server.client().await;
    append(&mut client, "s").await;
    let path = begin(&mut client, target.path()).await.header("location").unwrap().to_owned();
    assert_eq!(ended(&mut client, &path).await["status"], "done");
    let manifest = std::fs::read(target.path().join("manifest.json")).unwrap();
    // Large enough that it still runs when it is cancelled.
    let line =
        json!({"stream": "big", "type": "t", "data": "x".repeat(1 << 20)}).to_string() + "\n";
    for _ in 0..8 {
        let lines = line.repeat(8);
        let kind = [("content-type", "application/x-ndjson")];
        assert_eq!(client.send("POST", "/v1/events", &kind, lines).await.status, 200);
    }
    let path = begin(&mut client, target.path()).await.header("location").unwrap().to_owned();
    assert_eq!(client.send("DELETE", &path, &[], "").await.status, 204);
    let cancelled = ended(&mut client, &path).await;
    assert_eq!(cancelled["status"], "cancelled", "{cancelled:#}");
    assert_eq!(cancelled["problem"], Value::Null);
    assert_eq!(std::fs::read(target.path().join("manifest.json")).unwrap(), manifest);
    let folder = tempfile::tempdir().unwrap();
    restored(target.path(), folder.path());
    server.stop();
}
