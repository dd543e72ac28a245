//! What an operator goes by: every metric, and the alerts that they make. One table each, from which
//! `/docs/operations` is made; tests hold them to what `/metrics` shows.

use std::fmt::Write as _;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from 0 at the start of the process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Counts of observations below bounds: `_bucket`, `_sum` and `_count`.
    Histogram,
}

impl Kind {
    /// Its word in the text format of Prometheus.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name as it is queried (a histogram's without `_bucket`).
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What is counted, or the unit.
    pub unit: &'static str,
    /// What it says.
    pub what: &'static str,
}

/// One alert.
#[derive(Clone, Copy, Debug)]
pub struct Alert {
    /// Its name.
    pub name: &'static str,
    /// When it fires, in the language of Prometheus.
    pub when: &'static str,
    /// How long that must hold first.
    pub lasts: &'static str,
    /// Why there.
    pub why: &'static str,
    /// What to do.
    pub action: &'static str,
}

/// Every metric of `/metrics`, in groups.
pub const METRICS: &[Metric] = &[
    metric(
        "kimberlite_http_requests_total",
        Kind::Counter,
        "requests",
        "Requests answered, by `route` (a template, or `unmatched`), `method` and `status`.",
    ),
    metric(
        "kimberlite_http_request_duration_seconds",
        Kind::Histogram,
        "seconds",
        "Time until the head of the answer, by `route` and `method`.",
    ),
    metric(
        "kimberlite_append_duration_seconds",
        Kind::Histogram,
        "seconds",
        "Time from a request's head until its append is on disk.",
    ),
    metric(
        "kimberlite_events_appended_total",
        Kind::Counter,
        "events",
        "Events appended over HTTP.",
    ),
    metric("kimberlite_followers", Kind::Gauge, "connections", "Open SSE connections."),
    metric(
        "kimberlite_append_queue",
        Kind::Gauge,
        "commands",
        "Commands that wait to be written. At 8,192, or 64 MiB, further ones get 503.",
    ),
    metric("kimberlite_ops_total", Kind::Counter, "batches", "Batches made durable, a sync each."),
    metric("kimberlite_records_total", Kind::Counter, "records", "Records written."),
    metric(
        "kimberlite_log_written_bytes_total",
        Kind::Counter,
        "bytes",
        "Bytes written to segments, before compression.",
    ),
    metric(
        "kimberlite_sync_seconds_total",
        Kind::Counter,
        "seconds",
        "Time in writing batches and `fdatasync`.",
    ),
    metric(
        "kimberlite_witness_cosignatures_total",
        Kind::Counter,
        "cosignatures",
        "Cosignatures that the witnesses of `log.witnesses` gave.",
    ),
    metric(
        "kimberlite_witness_failures_total",
        Kind::Counter,
        "times",
        "Times that a witness did not cosign what it was asked to.",
    ),
    metric(
        "kimberlite_witnesses_failing",
        Kind::Gauge,
        "witnesses",
        "Witnesses that did not cosign when they were asked last.",
    ),
    metric(
        "kimberlite_stamps_total",
        Kind::Counter,
        "stamps",
        "Stamps of the time authority of `timestamps.url` that became records.",
    ),
    metric(
        "kimberlite_stamp_failures_total",
        Kind::Counter,
        "times",
        "Times that a checkpoint was to be stamped and was not.",
    ),
    metric(
        "kimberlite_stamps_failing",
        Kind::Gauge,
        "1 or 0",
        "Whether the last try to have a checkpoint stamped failed.",
    ),
    metric(
        "kimberlite_stamp_time_seconds",
        Kind::Gauge,
        "seconds since 1970",
        "Time of the newest stamp; 0 while there is none. Its age is `time()` less this.",
    ),
    metric(
        "kimberlite_closed_time_seconds",
        Kind::Gauge,
        "seconds since 1970",
        "Every later event has a later time than this; it moves on when nothing happens.",
    ),
    metric("kimberlite_segments", Kind::Gauge, "files", "Segment files of the log."),
    metric(
        "kimberlite_checkpoints_total",
        Kind::Counter,
        "checkpoints",
        "Times that the index went to disk, about every 131,072 records.",
    ),
    metric(
        "kimberlite_checkpoints_failed_total",
        Kind::Counter,
        "checkpoints",
        "Checkpoints that found no room on the disk.",
    ),
    metric(
        "kimberlite_compressed_segments_total",
        Kind::Counter,
        "segments",
        "Closed segments compressed.",
    ),
    metric(
        "kimberlite_compressed_from_bytes_total",
        Kind::Counter,
        "bytes",
        "Bytes that these took before.",
    ),
    metric(
        "kimberlite_compressed_to_bytes_total",
        Kind::Counter,
        "bytes",
        "Bytes that they take now.",
    ),
    metric(
        "kimberlite_compressions_failed_total",
        Kind::Counter,
        "segments",
        "Closed segments that could not be compressed, each time that it was tried.",
    ),
    metric(
        "kimberlite_scrubbed_bytes_total",
        Kind::Counter,
        "bytes",
        "Bytes of closed files read again to find damage.",
    ),
    metric(
        "kimberlite_scrub_rounds_total",
        Kind::Counter,
        "rounds",
        "Times that all closed files were read again.",
    ),
    metric(
        "kimberlite_scrub_damage_total",
        Kind::Counter,
        "places",
        "Damaged places found by reading again.",
    ),
    metric(
        "kimberlite_scrub_derived_damage_total",
        Kind::Counter,
        "places",
        "Of these, places in the index and the tiles, which are made anew from the log.",
    ),
    metric(
        "kimberlite_scrub_unread_total",
        Kind::Counter,
        "files",
        "Closed files that could not be read again, in each round anew.",
    ),
    metric(
        "kimberlite_unsigned_seconds",
        Kind::Gauge,
        "seconds",
        "Age of the oldest record that no checkpoint covers; 0 where there is none. A checkpoint is to come within a second.",
    ),
    metric(
        "kimberlite_tenants_damaged",
        Kind::Gauge,
        "tenants",
        "Tenants whose log is known to be damaged: they refuse appends.",
    ),
    metric(
        "kimberlite_event_cache_bytes",
        Kind::Gauge,
        "bytes",
        "Rendered events kept for readers, at most 64 MiB.",
    ),
    metric(
        "kimberlite_request_bodies_bytes",
        Kind::Gauge,
        "bytes",
        "Bodies of requests held at this moment. Above 48 MiB further ones get 503.",
    ),
    metric(
        "kimberlite_pages_bytes",
        Kind::Gauge,
        "bytes",
        "Pages that are read and not yet sent. Above 64 MiB further ones get 503.",
    ),
    metric(
        "kimberlite_streams_bytes",
        Kind::Gauge,
        "bytes",
        "Lines (NDJSON) and frames (SSE) that are read or about to be, and not yet sent, at most 64 MiB: near it new readers get 503 and those under way wait.",
    ),
    metric(
        "kimberlite_queries_running",
        Kind::Gauge,
        "queries",
        "Queries that run at this moment, at most query.running_max; one counts until its last row is taken.",
    ),
    metric(
        "kimberlite_queries_waiting",
        Kind::Gauge,
        "queries",
        "Queries that wait for their turn, at most 64; further ones get 503.",
    ),
    metric(
        "kimberlite_idempotency_window_seconds",
        Kind::Gauge,
        "seconds",
        "How long an idempotency key is kept; a constant.",
    ),
    metric(
        "kimberlite_disk_free_bytes",
        Kind::Gauge,
        "bytes",
        "Room that the data folder's file system has for this process; absent where it cannot be asked.",
    ),
    metric(
        "kimberlite_disk_size_bytes",
        Kind::Gauge,
        "bytes",
        "Size of that file system; absent where it cannot be asked.",
    ),
    metric(
        "kimberlite_backups_failed_total",
        Kind::Counter,
        "backups",
        "Backups that failed since the start.",
    ),
    metric(
        "kimberlite_backup_last_success_timestamp_seconds",
        Kind::Gauge,
        "seconds since 1970",
        "When the last backup that was done since the start began; 0 before the first.",
    ),
    metric("kimberlite_backup_last_bytes", Kind::Gauge, "bytes", "Bytes that this backup holds."),
    metric(
        "process_resident_memory_bytes",
        Kind::Gauge,
        "bytes",
        "Memory of the process (RSS); absent outside Linux.",
    ),
    metric(
        "process_start_time_seconds",
        Kind::Gauge,
        "seconds since 1970",
        "When the server started.",
    ),
];

const fn metric(name: &'static str, kind: Kind, unit: &'static str, what: &'static str) -> Metric {
    Metric { name, kind, unit, what }
}

/// What to be woken for, the worst first.
pub const ALERTS: &[Alert] = &[
    Alert {
        name: "ServerGone",
        when: "up{job=\"kimberlite\"} == 0",
        lasts: "1m",
        why: "Prometheus cannot read `/metrics`, under a job that is called `kimberlite`: the server is down, or out of reach.",
        action: "Look at its log: a server that stops by itself says why, a failed sync for one. Started again, it serves all that was acknowledged.",
    },
    Alert {
        name: "LogDamaged",
        when: "kimberlite_tenants_damaged > 0 or increase(kimberlite_scrub_damage_total[1h]) > 0",
        lasts: "0m",
        why: "One damaged place is one too many: the tenant takes no appends, and `/health/ready` answers 503.",
        action: "The server's log names file and byte. Copy the data folder before anything else. Stop the server and run \
                 `kimberlite verify` on the folder: it names all that is damaged and changes nothing. Damage in `index` \
                 alone goes away with that folder, which is made again from the log; damage in `log` needs a copy from \
                 before it. Suspect the disk.",
    },
    Alert {
        name: "FilesUnreadable",
        when: "increase(kimberlite_scrub_unread_total[1h]) > 0",
        lasts: "0m",
        why: "The device reports errors where it should have what was written long ago. Nobody may have asked for it yet.",
        action: "The server's log names the file and the error. Make a backup now, to another disk, and see whether it and \
                 `kimberlite verify` go through. Replace the disk.",
    },
    Alert {
        name: "DiskFull",
        when: "increase(kimberlite_checkpoints_failed_total[10m]) > 0 or kimberlite_disk_free_bytes < 2e9",
        lasts: "0m",
        why: "A new segment takes 256 MiB at once, and one more is kept ready. Without room appends get 503 `disk_full`; reads go on.",
        action: "Make room or enlarge the disk; the server goes on by itself, without a restart. Never delete files of `log`.",
    },
    Alert {
        name: "DiskFillsUp",
        when: "predict_linear(kimberlite_disk_free_bytes[6h], 2 * 86400) < 0",
        lasts: "30m",
        why: "At the rate of the last six hours the disk is full within two days: time to act in working hours.",
        action: "Enlarge the disk, or find who writes so much: `rate(kimberlite_log_written_bytes_total[5m])` tells how much of it is ours.",
    },
    Alert {
        name: "AppendsRefused",
        when: "sum(rate(kimberlite_http_requests_total{method=\"POST\",status=\"503\"}[5m])) > 0.01 * \
               sum(rate(kimberlite_http_requests_total{method=\"POST\"}[5m]))",
        lasts: "5m",
        why: "A burst may be refused: callers come back after `Retry-After`. More than 1 % for five minutes is no burst.",
        action: "Look at LogDamaged and DiskFull first. Else the disk is too slow (SyncSlow) or callers send more than it takes: \
                 larger batches cost fewer syncs.",
    },
    Alert {
        name: "QueueNearItsLimit",
        when: "kimberlite_append_queue > 6000 or kimberlite_request_bodies_bytes > 36e6",
        lasts: "1m",
        why: "About three quarters of 8,192 commands, or of the room for bodies; at the limit callers get 503.",
        action: "As for AppendsRefused.",
    },
    Alert {
        name: "AnswersNotTaken",
        when: "kimberlite_streams_bytes > 56e6 or kimberlite_pages_bytes > 56e6",
        lasts: "2m",
        why: "Callers take their answers so slowly that the room for them is nearly used up: further readers wait, or get 503.",
        action: "Find connections that take nothing (`ss -ti`); a lower `http.send_timeout_ms` ends them sooner.",
    },
    Alert {
        name: "SyncSlow",
        when: "rate(kimberlite_sync_seconds_total[5m]) / rate(kimberlite_ops_total[5m]) > 0.02",
        lasts: "10m",
        why: "A sync takes well below 1 ms on a solid-state disk with a protected cache and a few on others; every append waits for one.",
        action: "Look for other work on the disk, for a cache that lost its battery, for a limit of the cloud's volume.",
    },
    Alert {
        name: "AppendsSlow",
        when: "histogram_quantile(0.99, sum by (le) (rate(kimberlite_append_duration_seconds_bucket[5m]))) > 0.25",
        lasts: "10m",
        why: "Far beyond what a healthy disk needs under load. Callers with a timeout of a second begin to retry.",
        action: "SyncSlow says whether it is the disk. If not, the processors are busy: look at other processes and at compression.",
    },
    Alert {
        name: "BackupOld",
        when: "increase(kimberlite_backups_failed_total[1d]) > 0 or (time() - kimberlite_backup_last_success_timestamp_seconds > \
               93600 and time() - process_start_time_seconds > 93600)",
        lasts: "0m",
        why: "For backups once a day, with two hours to spare. What a backup does not hold is gone with the disk.",
        action: "`GET /v1/backups` and the server's log say what failed; `kimberlite backup` takes one now.",
    },
    Alert {
        name: "LogNotSigned",
        when: "kimberlite_unsigned_seconds > 10",
        lasts: "1m",
        why: "A checkpoint covers each record within a second, ten on a disk that is very busy. Until one does there is neither proof \
              nor receipt of it; appends and reads go on.",
        action: "The server's log says why a log is not signed: there is no room where `keys.folder` lies, or a file there is gone. \
                 Where it says nothing, the disk takes too long (SyncSlow).",
    },
    Alert {
        name: "WitnessFails",
        when: "kimberlite_witnesses_failing > 0",
        lasts: "10m",
        why: "Each is asked again within a minute at most; ten are no restart. Until it cosigns, only the log vouches for new records.",
        action: "The server's log names the witness and why. One that saw more records than this log has, or another root, means that \
                 this log went back or was replaced, perhaps together with its keys, which nothing else here can notice: stop the server and \
                 compare it with backups before anything else.",
    },
    Alert {
        name: "StampFails",
        when: "kimberlite_stamps_failing > 0",
        lasts: "1h",
        why: "The authority is asked again within ten minutes; an hour is no restart of it. Until it stamps, only the log vouches for when new records came.",
        action: "The server's log says why. What came meanwhile is covered by the next stamp: nothing has to be made up for.",
    },
    Alert {
        name: "ServerErrors",
        when: "sum(rate(kimberlite_http_requests_total{status=\"500\"}[5m])) > 0",
        lasts: "0m",
        why: "An answer with status 500 is a defect of the server, never the caller's fault.",
        action: "Find the `trace_id` of the answer in the server's log and report what stands there.",
    },
    Alert {
        name: "CompressionFails",
        when: "increase(kimberlite_compressions_failed_total[10m]) > 0",
        lasts: "10m",
        why: "Closed segments stay as large as they were written. Nothing else is wrong with them: they are read as before.",
        action: "The server's log names the segment and the error: mostly that there is no room for the smaller file beside the \
                 larger one.",
    },
    Alert {
        name: "ScrubStands",
        when: "increase(kimberlite_scrubbed_bytes_total[1d]) == 0 and kimberlite_segments > 1",
        lasts: "1h",
        why: "Damage that nobody looks for is found when it is needed. All is read again at 8 MiB a second.",
        action: "`store.scrub_bytes_per_s` may be 0; otherwise the server's log says why reading stopped.",
    },
    Alert {
        name: "Restarted",
        when: "changes(process_start_time_seconds[1h]) > 1",
        lasts: "0m",
        why: "One restart is an update. More are a process that ends by itself: with status 70 after a failed write or sync.",
        action: "The last line of the server's log before it ended says why. After a failed sync, suspect the disk.",
    },
    Alert {
        name: "MemoryGrows",
        when: "process_resident_memory_bytes > 1e9",
        lasts: "10m",
        why: "Queues and caches have limits, so memory does not grow with the log. More than a gigabyte is a defect, or thousands of callers who take their answers slowly.",
        action: "A caller who takes nothing is cut off after `http.send_timeout_ms`; lower it, or `http.connections_max`. Report it if \
                 there is no such caller.",
    },
];

/// The rules that Prometheus reads, made from [`ALERTS`].
pub(crate) fn rules() -> String {
    let mut text = "groups:\n  - name: kimberlite\n    rules:\n".to_owned();
    for alert in ALERTS {
        let Alert { name, when, lasts, .. } = alert;
        let when = serde_json::Value::from(*when);
        writeln!(text, "      - alert: {name}\n        expr: {when}\n        for: {lasts}")
            .expect("strings take all");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of metrics in an expression: words that begin like ours.
    fn named(expression: &str) -> Vec<&str> {
        let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        words.filter(|w| w.starts_with("kimberlite_") || w.starts_with("process_")).collect()
    }

    fn is_known(name: &str) -> bool {
        METRICS.iter().any(|m| match m.kind {
            Kind::Histogram => name
                .strip_prefix(m.name)
                .is_some_and(|rest| ["_bucket", "_sum", "_count"].contains(&rest)),
            Kind::Counter | Kind::Gauge => m.name == name,
        })
    }

    #[test]
    fn alerts_use_metrics_that_exist() {
        for alert in ALERTS {
            let names = named(alert.when);
            // `up` is made by Prometheus itself.
            assert!(!names.is_empty() || alert.when.starts_with("up{"), "{}", alert.name);
            for name in names {
                assert!(is_known(name), "{}: {name}", alert.name);
            }
            let open = alert.when.matches(['(', '[', '{']).count();
            assert_eq!(open, alert.when.matches([')', ']', '}']).count(), "{}", alert.name);
            assert!(rules().contains(&format!("alert: {}\n", alert.name)));
        }
        assert!(!is_known("kimberlite_append_duration_seconds"), "a histogram has no plain value");
        assert!(!is_known("kimberlite_none_total"));
    }

    #[test]
    fn names_say_kind_and_unit_and_stand_once() {
        for (i, metric) in METRICS.iter().enumerate() {
            assert_eq!(
                metric.kind == Kind::Counter,
                metric.name.ends_with("_total"),
                "{}",
                metric.name
            );
            let unit = metric.unit.split(' ').next().unwrap();
            if ["seconds", "bytes"].contains(&unit) {
                assert!(metric.name.contains(&format!("_{unit}")), "{}", metric.name);
            }
            assert!(METRICS[..i].iter().all(|other| other.name != metric.name), "{}", metric.name);
        }
    }
}
