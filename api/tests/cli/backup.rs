//! `backup` and `restore`.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    command,
    fake::{Server, answer, json, problem},
    kimberlite, stderr, stdout, text,
    verify::{Dev, report, verify},
};

fn restore(arguments: &[&str]) -> std::process::Output {
    command().arg("restore").args(arguments).output().unwrap()
}

fn read(dev: &Dev) -> String {
    let output = command().args(["--url", &dev.url, "read"]).output().unwrap();
    stdout(&output).to_owned()
}

fn backup(dev: &Dev, folder: &str) -> Value {
    let output = command().args(["--url", &dev.url, "backup", folder]).output().unwrap();
    serde_json::from_str(stdout(&output)).unwrap()
}

#[test]
fn what_was_backed_up_is_restored_after_a_kill() {
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name).to_str().unwrap().to_owned();
    let (data, copy, again, back) = (path("data"), path("copy"), path("again"), path("back"));
    let dev = Dev::start(Path::new(&data));
    for stream in ["a", "b", "a"] {
        dev.append(stream);
    }
    let events = read(&dev);
    let done = backup(&dev, &copy);
    assert_eq!((&done["status"], &done["folder"]), (&json!("done"), &json!(copy)), "{done}");
    dev.append("late");
    // kill -9
    drop(dev);
    let whole = report(&verify(&copy), 0);
    assert_eq!((&whole["whole"], &whole["tenants"]), (&json!(true), &json!(2)), "{whole}");

    let restored: Value =
        serde_json::from_str(stdout(&restore(&[&copy, "--data", &again]))).unwrap();
    let dev_of = |report: &Value| report["tenants"][1].clone();
    let kept = json!({"tenant": "dev", "records": 3, "lost": 0, "new_log_id": null});
    assert_eq!(dev_of(&restored), kept, "{restored}");
    assert_eq!(restored["data"], json!(again));
    let served = Dev::start(Path::new(&again));
    assert_eq!(read(&served), events);
    drop(served);
    assert!(stderr(&restore(&[&copy, "--data", &again]), 1).contains("is not empty"));

    let point = ["--tenant", "dev", "--position", "0"];
    let arguments = [&[copy.as_str(), "--data", &back][..], &point, &["--output", "table"]];
    let said = restore(&arguments.concat());
    assert!(stdout(&said).contains("dev: 1 records, 2 are gone"), "{}", stdout(&said));
    let served = Dev::start(Path::new(&back));
    assert_eq!(read(&served), format!("{}\n", events.lines().next().unwrap()));
    let moved = command().args(["--url", &served.url, "tail", "--after", "9"]).output().unwrap();
    assert!(stderr(&moved, 1).contains("diverged"), "{}", text(&moved.stderr));
}

#[test]
fn what_cannot_be_restored_is_said() {
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name).to_str().unwrap().to_owned();
    let (data, copy, again) = (path("data"), path("copy"), path("again"));
    let dev = Dev::start(Path::new(&data));
    dev.append("a");
    backup(&dev, &copy);
    for (arguments, code, says) in [
        (vec![copy.as_str()], 2, "--data"),
        (vec![&copy, "--data", &again, "--tenant", "dev"], 2, "--position"),
        (vec![&copy, "--data", &again, "--position", "1"], 2, "--tenant"),
        (vec![&copy, "--data", &again, "--tenant", "dev", "--position", "x"], 2, "--position"),
        (vec![&copy, "--data", &again, "--tenant", "dev", "--position", "1"], 1, "1 records"),
        (vec![&copy, "--data", &again, "--tenant", "no", "--position", "0"], 1, "no tenant no"),
        (vec![&data, "--data", &again], 1, "no backup"),
    ] {
        let said = restore(&arguments);
        assert!(stderr(&said, code).contains(says), "{arguments:?}: {}", text(&said.stderr));
    }
    let log = std::fs::read_dir(Path::new(&copy).join("log")).unwrap().next().unwrap().unwrap();
    let mut bytes = std::fs::read(log.path()).unwrap();
    bytes[4200] ^= 1;
    std::fs::write(log.path(), bytes).unwrap();
    let said = restore(&[&copy, "--data", &again]);
    let name = log.file_name().into_string().unwrap();
    assert!(stderr(&said, 1).contains(&name), "{}", text(&said.stderr));
    let found = report(&verify(&copy), 1);
    assert!(found["findings"][0]["place"].as_str().unwrap().ends_with(&name), "{found}");
    assert!(!Path::new(&again).exists());
    // As a restore leaves it that was killed.
    let half = path("half");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(Path::new(&half).join("restoring"), "").unwrap();
    let said =
        command().args(["dev", "--listen", "127.0.0.1:0", "--data", &half]).output().unwrap();
    assert!(stderr(&said, 1).contains("restore again"), "{}", text(&said.stderr));
}

fn shown(status: &str, problem: &str) -> String {
    let progress = r#"{"files":1,"files_total":2,"bytes":3,"bytes_total":4,"bytes_copied":3}"#;
    format!(
        r#"{{"id":"i","status":"{status}","progress":{progress},"created_at":"c","updated_at":"u",
           "problem":{problem},"folder":"/b"}}"#
    )
}

fn begun() -> String {
    let answer = answer("202 Accepted", "application/json", &shown("running", "null"));
    answer.replacen("content-type", "location: /v1/backups/i\r\ncontent-type", 1)
}

#[test]
fn backup_waits_until_it_is_over_and_fails_with_it() {
    let failed = r#"{"title":"It failed","status":422,"code":"backup_failed","detail":"No room"}"#;
    for (status, problem, code) in [
        ("done", "null", None),
        ("cancelled", "null", Some("cancelled")),
        ("failed", failed, Some("No room")),
    ] {
        let end = shown(status, problem);
        let server = Server::start(move |n, _| match n {
            0 => begun(),
            1 | 2 => json(&shown("running", "null")),
            _ => json(&end),
        });
        let output = kimberlite(&server, "backup /b");
        match code {
            None => assert!(stdout(&output).contains("\"done\"")),
            Some(says) => assert!(stderr(&output, 1).contains(says), "{}", text(&output.stderr)),
        }
        let requests = server.requests();
        assert_eq!(
            (&*requests[0].line, &*requests[0].body),
            ("POST /v1/backups", r#"{"folder":"/b"}"#)
        );
        assert!(requests[1..].iter().all(|r| r.line == "GET /v1/backups/i") && requests.len() == 4);
    }
}

#[test]
fn a_folder_is_meant_where_the_command_runs() {
    let refused = r#""title":"Under way","status":409,"code":"backup_running","retryable":true"#;
    let server = Server::start(move |_, _| problem("409 Conflict", refused));
    assert!(stderr(&kimberlite(&server, "backup here"), 1).contains("backup_running"));
    let here = std::env::current_dir().unwrap().join("here");
    assert_eq!(server.requests()[0].body, json!({ "folder": here }).to_string());
    let elsewhere = command().args(["--url", "http://example.org", "backup", "here"]).output();
    assert!(stderr(&elsewhere.unwrap(), 2).contains("absolute"));
}
