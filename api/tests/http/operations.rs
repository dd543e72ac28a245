//! What an operator is told: metrics, and the page and rules made for them.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use kimberlite_api::operations::{ALERTS, METRICS};

use crate::{server, support::Server};

async fn figure(server: &Server, name: &str) -> f64 {
    let metrics = server.client().await.get("/metrics").await;
    let found = metrics.text().lines().find_map(|l| l.strip_prefix(name).map(str::to_owned));
    found.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

/// Names of the metrics that `/metrics` shows, each with its type: a counter's as it is queried.
fn shown(text: &str) -> BTreeMap<String, String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let pairs = types.map(|line| line.split_once(' ').unwrap());
    pairs
        .map(|(name, kind)| {
            let suffix = if kind == "counter" { "_total" } else { "" };
            (format!("{name}{suffix}"), kind.to_owned())
        })
        .collect()
}

#[tokio::test]
async fn page_of_operation_has_every_metric_and_no_other() {
    let (server, _folder) = server();
    let mut client = server.client().await;
    // What has labels is shown once something was counted.
    client.get("/health/live").await.ok(200);
    let metrics = client.get("/metrics").await;
    let shown = shown(metrics.text());
    let told: BTreeMap<_, _> =
        METRICS.iter().map(|m| (m.name.to_owned(), m.kind.name().to_owned())).collect();
    assert_eq!(shown, told);
    let page = client.get("/docs/operations").await;
    for metric in METRICS {
        assert!(page.text().contains(&format!("<code>{}</code>", metric.name)), "{}", metric.name);
    }
    let rules = client.get("/docs/operations/alerts.yml").await;
    for alert in ALERTS {
        assert!(page.text().contains(&format!("<h3>{}</h3>", alert.name)), "{}", alert.name);
        assert!(rules.text().contains(&format!("alert: {}\n", alert.name)), "{}", alert.name);
    }
    assert!(client.get("/docs").await.text().contains("href=\"/docs/operations\""));
}

#[tokio::test]
async fn metrics_of_disk_and_process_are_those_of_this_one() {
    let (server, _folder) = server();
    let started = figure(&server, "process_start_time_seconds ").await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - 60.0..=now).contains(&started), "{started} is not just before {now}");
    let free = figure(&server, "kimberlite_disk_free_bytes ").await;
    let size = figure(&server, "kimberlite_disk_size_bytes ").await;
    assert!(0.0 < free && free <= size, "{free} of {size}");
    let memory = figure(&server, "process_resident_memory_bytes ").await;
    assert!((1e6..1e9).contains(&memory), "{memory}");
    assert!(figure(&server, "kimberlite_tenants_damaged ").await.abs() < 0.5);
    assert!(figure(&server, "kimberlite_request_bodies_bytes ").await.abs() < 0.5);
}
