//! What a store says of itself for metrics.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::Store;
use crate::{compress::CompressCounters, scrub::ScrubCounters, words::Timestamp};

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreStats {
    /// Commands waiting.
    pub queue_commands: usize,
    /// Every later event has a later time, also after a restart: microseconds since 1970-01-01 UTC. It moves on when nothing
    /// happens; 0 before anything did.
    pub closed_us: i64,
    /// Ops written since the start.
    pub ops: u64,
    /// Records written since the start.
    pub records: u64,
    /// Bytes written to segments since the start.
    pub bytes: u64,
    /// Seconds in writing and `fdatasync` since the start.
    pub sync_seconds: f64,
    /// Segments.
    pub segments: usize,
    /// Bytes of rendered events in the cache.
    pub fragment_bytes: usize,
    /// Checkpoints written since the start.
    pub checkpoints: u64,
    /// Checkpoints that failed for want of room since the start.
    pub checkpoints_failed: u64,
    /// Segments compressed since the start.
    pub compressed_segments: u64,
    /// Bytes that they took before.
    pub compressed_from_bytes: u64,
    /// Bytes that they take now.
    pub compressed_to_bytes: u64,
    /// Times that compressing a segment failed since the start.
    pub compressions_failed: u64,
    /// Bytes read again to find damage since the start.
    pub scrubbed_bytes: u64,
    /// How often everything closed was read again since the start.
    pub scrub_rounds: u64,
    /// Damaged places that reading again has found since the start.
    pub scrub_damage: u64,
    /// Of these, places in what is derived from the log.
    pub scrub_derived_damage: u64,
    /// Files that could not be read again since the start, in each round anew.
    pub scrub_unread: u64,
    /// Age of the oldest record that no checkpoint covers, in microseconds; 0 where there is none, or logs are not signed.
    pub unsigned_us: i64,
}

impl Store {
    /// Figures for metrics.
    pub fn stats(&self) -> StoreStats {
        let counters = &self.shared.node.counters;
        let compressed = |figure: fn(&CompressCounters) -> &AtomicU64| {
            let packer = self.shared.packer.as_ref();
            packer.map_or(0, |p| figure(p.counters()).load(Ordering::Relaxed))
        };
        let scrubbed = |figure: fn(&ScrubCounters) -> &AtomicU64| {
            let scrubber = self.shared.scrubber.as_ref();
            scrubber.map_or(0, |s| figure(s.counters()).load(Ordering::Relaxed))
        };
        StoreStats {
            closed_us: counters.closed_us.load(Ordering::Relaxed),
            queue_commands: counters.queue_commands.load(Ordering::Relaxed),
            ops: counters.ops.load(Ordering::Relaxed),
            records: counters.records.load(Ordering::Relaxed),
            bytes: counters.bytes.load(Ordering::Relaxed),
            sync_seconds: Duration::from_nanos(counters.sync_nanos.load(Ordering::Relaxed))
                .as_secs_f64(),
            segments: counters.segments.load(Ordering::Relaxed),
            fragment_bytes: self.shared.fragments.lock().bytes,
            checkpoints: self.shared.checkpoints.written.load(Ordering::Relaxed),
            checkpoints_failed: self.shared.checkpoints.failed.load(Ordering::Relaxed),
            compressed_segments: compressed(|c| &c.segments),
            compressed_from_bytes: compressed(|c| &c.before),
            compressed_to_bytes: compressed(|c| &c.after),
            compressions_failed: compressed(|c| &c.failed),
            scrubbed_bytes: scrubbed(|c| &c.bytes),
            scrub_rounds: scrubbed(|c| &c.rounds),
            scrub_damage: scrubbed(|c| &c.damage),
            scrub_derived_damage: scrubbed(|c| &c.derived),
            scrub_unread: scrubbed(|c| &c.unread),
            unsigned_us: self.unsigned_us(),
        }
    }

    fn unsigned_us(&self) -> i64 {
        if self.shared.signer.lock().is_none() {
            return 0;
        }
        let now = Timestamp::now().micros();
        let ages = self.shared.tenants.all().into_iter().filter_map(|tenant| {
            let signed = tenant.signed.borrow().as_ref().map_or(0, |s| s.checkpoint.size);
            // A damaged log is not signed, and that is told otherwise.
            let due = tenant.name.is_some() && tenant.index.read().damage.is_none();
            if !due || signed >= *tenant.tip.borrow() {
                return None;
            }
            let (_, entry) = tenant.view().entry(signed).ok()??;
            Some(now - entry.time)
        });
        ages.max().unwrap_or(0).max(0)
    }
}
