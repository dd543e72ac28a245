//! What a run measured, and how it is printed.

use std::{
    io::{self, Write},
    time::Duration,
};

use comfy_table::{CellAlignment, Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::super::Output;

/// Longest latency that is told apart.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// Latencies to three digits.
#[derive(Clone, Debug)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(Histogram::new_with_max(LATENCY_MAX_NS, 3).expect("the bounds are valid"))
    }

    /// Takes one, in nanoseconds.
    pub(super) fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Takes one.
    pub(super) fn record(&mut self, latency: Duration) {
        self.record_ns(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Takes all of another's.
    pub(super) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// A quantile in milliseconds, to the microsecond.
    fn ms(&self, quantile: f64) -> Option<f64> {
        let us = (self.0.value_at_quantile(quantile) + 500) / 1000;
        (!self.0.is_empty()).then(|| divide(us, 1e3))
    }
}

/// What one connection, or all of them, did inside the measured time.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Requests that were answered, or frames that were delivered.
    pub(super) latencies: Latencies,
    pub(super) requests: u64,
    pub(super) events: u64,
    pub(super) bytes: u64,
    /// Requests that the server was too busy for; they were sent again.
    pub(super) refused: u64,
}

impl Tally {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { latencies: Latencies::new(), requests: 0, events: 0, bytes: 0, refused: 0 }
    }

    /// Takes all of another's.
    pub(super) fn add(&mut self, other: &Self) {
        self.latencies.add(&other.latencies);
        self.requests += other.requests;
        self.events += other.events;
        self.bytes += other.bytes;
        self.refused += other.refused;
    }
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) work: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connections: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) followers: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) batch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) size_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) page: Option<u64>,
    /// Measured seconds.
    pub(super) seconds: f64,
    /// Appended to feed the followers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) appended_per_s: Option<f64>,
    /// Requests answered with success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) requests: Option<u64>,
    pub(super) events: u64,
    pub(super) events_per_s: f64,
    pub(super) mb_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p99_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p999_ms: Option<f64>,
    /// Answers that asked to come again later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<u64>,
}

impl Report {
    /// Rates and latencies of a tally; what else is known is filled in by the caller.
    pub(super) fn new(work: &'static str, tally: &Tally, measured: Duration) -> Self {
        let seconds = measured.as_secs_f64();
        Self {
            work,
            connections: None,
            followers: None,
            batch: None,
            size_bytes: None,
            page: None,
            seconds,
            appended_per_s: None,
            requests: None,
            events: tally.events,
            events_per_s: per_s(tally.events, measured),
            mb_per_s: per_s(tally.bytes, measured) / 1e6,
            p50_ms: tally.latencies.ms(0.5),
            p99_ms: tally.latencies.ms(0.99),
            p999_ms: tally.latencies.ms(0.999),
            refused: None,
        }
    }

    /// Prints one JSON object, or two columns.
    ///
    /// # Errors
    /// Those of standard output.
    pub(super) fn print(&self, output: Output) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match output {
            Output::Json => {
                serde_json::to_writer(&mut out, self)?;
                writeln!(out)
            }
            Output::Table => writeln!(out, "{}", self.table().trim_fmt()),
        }
    }

    fn table(&self) -> Table {
        let whole = |value: Option<u64>| value.map(|value| value.to_string());
        let ms = |value: Option<f64>| value.map(|value| format!("{value:.3} ms"));
        let rate = |value: Option<f64>| value.map(|value| format!("{value:.0}"));
        let rows = [
            ("work", Some(self.work.to_owned())),
            ("connections", whole(self.connections)),
            ("followers", whole(self.followers)),
            ("events a request", whole(self.batch)),
            ("bytes an event's data", whole(self.size_bytes)),
            ("events a page", whole(self.page)),
            ("measured", Some(format!("{:.2} s", self.seconds))),
            ("appended/s", rate(self.appended_per_s)),
            ("requests", whole(self.requests)),
            ("events", Some(self.events.to_string())),
            ("events/s", rate(Some(self.events_per_s))),
            ("MB/s", Some(format!("{:.2}", self.mb_per_s))),
            ("p50", ms(self.p50_ms)),
            ("p99", ms(self.p99_ms)),
            ("p99.9", ms(self.p999_ms)),
            ("too busy (503, 429)", whole(self.refused)),
        ];
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        for (name, value) in rows {
            if let Some(value) = value {
                table.add_row(vec![name.to_owned(), value]);
            }
        }
        if let Some(values) = table.column_mut(1) {
            values.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// A rate.
pub(super) fn per_s(count: u64, measured: Duration) -> f64 {
    divide(count, measured.as_secs_f64())
}

#[allow(
    clippy::cast_precision_loss,
    reason = "three digits of a result are looked at, not 53 bits"
)]
fn divide(count: u64, by: f64) -> f64 {
    count as f64 / by
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_has_rates_and_percentiles_of_all_connections() {
        let mut all = Tally::new();
        for connection in 0..10 {
            let mut tally = Tally::new();
            for step in 1..=100 {
                tally.latencies.record(Duration::from_micros(connection * 100 + step));
            }
            (tally.requests, tally.events, tally.bytes) = (100, 200, 200_000);
            all.add(&tally);
        }
        let report = Report::new("append", &all, Duration::from_secs(2));
        let near = |value: f64, expected: f64| (value / expected - 1.0).abs() < 0.002;
        assert!(near(report.events_per_s, 1000.0) && near(report.mb_per_s, 1.0));
        assert!(near(report.p50_ms.unwrap(), 0.5) && near(report.p99_ms.unwrap(), 0.99));
        assert!(report.table().trim_fmt().contains("events/s"));
        assert_eq!(Report::new("append", &Tally::new(), Duration::from_secs(1)).p50_ms, None);
    }
}
