//! Prometheus metrics. Labels are route templates, methods and statuses: never paths or names.

use std::{
    fmt::{self, Write as _},
    hash::{Hash, Hasher},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use kimberlite_query::Engine;
use kimberlite_store::{Store, Tenant, limits::IDEMPOTENCY_WINDOW_US};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder, text,
    },
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use rustix::fs::statvfs;

use crate::{app::App, backups::Backups, body::BodyBudget, problem::Problem, query, room::Room};

/// Seconds, from well below a sync to far beyond patience.
const LATENCY_BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

type Latency = Family<RouteLabels, Histogram, fn() -> Histogram>;

/// All that is counted here, and the registry that shows it.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    latency: Latency,
    append: Histogram,
    events: Counter,
    followers: Gauge,
    pub(crate) witnesses: WitnessFigures,
    pub(crate) stamps: StampFigures,
}

/// How asking witnesses goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct WitnessFigures {
    /// Cosignatures that they gave.
    pub(crate) cosigned: Counter,
    /// Times that one did not.
    pub(crate) failures: Counter,
    /// Those that did not when they were asked last.
    pub(crate) failing: Gauge,
}

impl WitnessFigures {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "witness_cosignatures",
            "Cosignatures that witnesses gave",
            self.cosigned.clone(),
        );
        registry.register(
            "witness_failures",
            "Times that a witness did not cosign",
            self.failures.clone(),
        );
        registry.register(
            "witnesses_failing",
            "Witnesses that did not when they were asked last",
            self.failing.clone(),
        );
    }
}

/// How stamping checkpoints goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct StampFigures {
    /// Stamps that became records.
    pub(crate) stamps: Counter,
    /// Times that there was none.
    pub(crate) failures: Counter,
    /// 1 where there was none when it was last asked for.
    pub(crate) failing: Gauge,
    /// Of the newest, in seconds since 1970; 0 while there is none.
    pub(crate) time: Gauge,
}

impl StampFigures {
    fn register(&self, registry: &mut Registry) {
        registry.register("stamps", "Time stamps that became records", self.stamps.clone());
        registry.register(
            "stamp_failures",
            "Times that a checkpoint was not stamped",
            self.failures.clone(),
        );
        registry.register(
            "stamps_failing",
            "1 where the last try to have a checkpoint stamped failed",
            self.failing.clone(),
        );
        registry.register_with_unit(
            "stamp_time",
            "Time of the newest stamp, in seconds since 1970",
            Unit::Seconds,
            self.time.clone(),
        );
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: Route,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: Route,
    method: &'static str,
}

/// Which route a request took.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// No route matched.
    Unmatched,
    /// As the router has it.
    Matched(MatchedPath),
    /// One that is found without the router.
    Known(&'static str),
}

impl Route {
    /// Its template.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Unmatched => "unmatched",
            Self::Matched(path) => path.as_str(),
            Self::Known(template) => template,
        }
    }
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Route {}

impl Hash for Route {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl EncodeLabelValue for Route {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.as_str())
    }
}

/// A follower, counted while it lives.
pub(crate) struct Follower(Gauge);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn new(figures: StoreFigures, backups: Arc<Backups>) -> Self {
        let mut all = Registry::default();
        all.register_collector(Box::new(ProcessFigures::new()));
        let registry = all.sub_registry_with_prefix("kimberlite");
        let histogram: fn() -> Histogram = || Histogram::new(LATENCY_BUCKETS);
        let latency = Latency::new_with_constructor(histogram);
        let (requests, append) = (Family::default(), histogram());
        let (events, followers) =
            (Counter::<u64, AtomicU64>::default(), Gauge::<i64, AtomicI64>::default());
        registry.register("http_requests", "Requests answered", requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "Time until the head of the answer",
            Unit::Seconds,
            latency.clone(),
        );
        registry.register_with_unit(
            "append_duration",
            "Time until an append is durable",
            Unit::Seconds,
            append.clone(),
        );
        registry.register("events_appended", "Events appended over HTTP", events.clone());
        registry.register("followers", "Open SSE connections", followers.clone());
        let witnesses = WitnessFigures::default();
        witnesses.register(registry);
        let stamps = StampFigures::default();
        stamps.register(registry);
        registry.register_collector(Box::new(figures));
        registry.register_collector(Box::new(BackupFigures(backups)));
        Self { registry: all, requests, latency, append, events, followers, witnesses, stamps }
    }

    /// Counts one answered request.
    pub(crate) fn request(
        &self,
        route: &Route,
        method: &Method,
        status: StatusCode,
        took: Duration,
    ) {
        let method = method_label(method);
        let labels = RequestLabels { route: route.clone(), method, status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
        let labels = RouteLabels { route: route.clone(), method };
        self.latency.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts one durable append.
    pub(crate) fn appended(&self, events: usize, took: Duration) {
        self.append.observe(took.as_secs_f64());
        self.events.inc_by(events as u64);
    }

    /// All of them, as they are shown.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("strings take all");
        text
    }

    pub(crate) fn follower(&self) -> Follower {
        self.followers.inc();
        Follower(self.followers.clone())
    }
}

/// Methods that we know; a label must not be the caller's to choose.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// What is not counted here but asked for when someone looks.
pub(crate) struct StoreFigures {
    pub(crate) store: Store,
    pub(crate) tenant: Tenant,
    /// The data folder.
    pub(crate) folder: PathBuf,
    pub(crate) bodies: BodyBudget,
    pub(crate) answers: BodyBudget,
    pub(crate) streams: Arc<Room>,
    pub(crate) engine: Engine,
}

impl fmt::Debug for StoreFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreFigures")
    }
}

impl Collector for StoreFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.store.stats();
        let mut counter = |name, help, unit: Option<&Unit>, value: f64| {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        counter("ops", "Batches made durable", None, float(stats.ops))?;
        counter("records", "Records written", None, float(stats.records))?;
        counter(
            "log_written",
            "Bytes written to segments",
            Some(&Unit::Bytes),
            float(stats.bytes),
        )?;
        counter("checkpoints", "Checkpoints of the index", None, float(stats.checkpoints))?;
        counter(
            "checkpoints_failed",
            "Checkpoints that found no room on the disk",
            None,
            float(stats.checkpoints_failed),
        )?;
        counter(
            "compressed_segments",
            "Closed segments compressed",
            None,
            float(stats.compressed_segments),
        )?;
        counter(
            "compressed_from",
            "Bytes that they took before",
            Some(&Unit::Bytes),
            float(stats.compressed_from_bytes),
        )?;
        counter(
            "compressed_to",
            "Bytes that they take now",
            Some(&Unit::Bytes),
            float(stats.compressed_to_bytes),
        )?;
        let failed = float(stats.compressions_failed);
        counter("compressions_failed", "Segments that could not be compressed", None, failed)?;
        counter(
            "scrubbed",
            "Bytes read again to find damage",
            Some(&Unit::Bytes),
            float(stats.scrubbed_bytes),
        )?;
        counter("scrub_rounds", "Times that all was read again", None, float(stats.scrub_rounds))?;
        counter("scrub_damage", "Damaged places found so", None, float(stats.scrub_damage))?;
        let derived = float(stats.scrub_derived_damage);
        counter("scrub_derived_damage", "Of these, places in derived files", None, derived)?;
        counter("scrub_unread", "Files not readable then", None, float(stats.scrub_unread))?;
        counter("sync", "Time in fdatasync", Some(&Unit::Seconds), stats.sync_seconds)?;
        let mut gauge = |name, help, unit: Option<&Unit>, value: i64| {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        gauge("queries_running", "Queries that run", None, count(self.engine.running()))?;
        gauge("queries_waiting", "Queries waiting for a turn", None, count(self.engine.waiting()))?;
        gauge("append_queue", "Commands waiting to be written", None, whole(stats.queue_commands))?;
        gauge("segments", "Segment files", None, whole(stats.segments))?;
        // Rounded down: a promise is never told to reach further than it does.
        let closed = stats.closed_us.div_euclid(1_000_000);
        gauge("closed_time", "Every later event is later", Some(&Unit::Seconds), closed)?;
        gauge(
            "event_cache",
            "Rendered events kept for readers",
            Some(&Unit::Bytes),
            whole(stats.fragment_bytes),
        )?;
        let unsigned = stats.unsigned_us / 1_000_000;
        gauge("unsigned", "Age of what no checkpoint covers", Some(&Unit::Seconds), unsigned)?;
        let damaged = self.store.damage(&self.tenant).is_some();
        gauge("tenants_damaged", "Tenants whose log is damaged", None, i64::from(damaged))?;
        let bodies = whole(self.bodies.bytes());
        gauge("request_bodies", "Bodies of requests held", Some(&Unit::Bytes), bodies)?;
        let pages = whole(self.answers.bytes());
        gauge("pages", "Pages read and not yet sent", Some(&Unit::Bytes), pages)?;
        let streams = whole(self.streams.bytes());
        gauge("streams", "Lines and frames read and not yet sent", Some(&Unit::Bytes), streams)?;
        if let Ok(disk) = statvfs(&self.folder) {
            let bytes = |blocks: u64| i64::try_from(blocks * disk.f_frsize).unwrap_or(i64::MAX);
            gauge("disk_free", "Room on the disk", Some(&Unit::Bytes), bytes(disk.f_bavail))?;
            gauge("disk_size", "Size of the disk", Some(&Unit::Bytes), bytes(disk.f_blocks))?;
        }
        let window = IDEMPOTENCY_WINDOW_US / 1_000_000;
        gauge("idempotency_window", "How long a key is kept", Some(&Unit::Seconds), window)
    }
}

/// What client libraries of Prometheus show of any process, under their names.
#[derive(Debug)]
struct ProcessFigures {
    started: SystemTime,
}

impl ProcessFigures {
    fn new() -> Self {
        Self { started: SystemTime::now() }
    }
}

impl Collector for ProcessFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name, help, unit, value: f64| {
            let metric = ConstGauge::new(value);
            let kind = metric.metric_type();
            metric.encode(encoder.encode_descriptor(name, help, Some(unit), kind)?)
        };
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        gauge("process_start_time", "When the server started", &Unit::Seconds, started)?;
        if let Some(bytes) = resident_bytes() {
            gauge("process_resident_memory", "Memory", &Unit::Bytes, float(bytes))?;
        }
        Ok(())
    }
}

/// Memory of this process, where the system says so.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[derive(Debug)]
struct BackupFigures(Arc<Backups>);

impl Collector for BackupFigures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let figures = self.0.figures();
        let failures = ConstCounter::new(float(figures.failures.load(Ordering::Relaxed)));
        let kind = failures.metric_type();
        failures.encode(encoder.encode_descriptor(
            "backups_failed",
            "Backups that failed",
            None,
            kind,
        )?)?;
        let mut gauge = |name, help, unit: &Unit, value: &AtomicU64| {
            let value = i64::try_from(value.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(
                name,
                help,
                Some(unit),
                metric.metric_type(),
            )?)
        };
        gauge(
            "backup_last_success_timestamp",
            "When the last backup that was done began, in Unix time; 0 before the first",
            &Unit::Seconds,
            &figures.last_time_s,
        )?;
        gauge("backup_last", "Bytes that it holds", &Unit::Bytes, &figures.last_bytes)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for a graph")]
fn float(n: u64) -> f64 {
    n as f64
}

fn whole(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Metrics in the text format of Prometheus (`OpenMetrics`).
#[utoipa::path(
    get, path = "/metrics", tag = "operations", summary = "Metrics",
    responses((status = 200, description = "Metrics", content_type = "application/openmetrics-text", body = String))
)]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, Problem> {
    query::none(request.uri().query())?;
    let text = app.metrics.text();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response())
}
