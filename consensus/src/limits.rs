//! Bounds of the protocol, each with its unit.

/// Replicas of a cluster at most: acknowledgements are bits of a number.
pub const REPLICAS_MAX: u8 = 15;
/// Ops that a primary prepares behind its last committed one. An op's existence thus says that all ops so far behind
/// it are committed, and what a view change has to speak of is bounded. Ops that exist depend on it: it may grow
/// from one version to the next, and must not shrink.
pub const PIPELINE_MAX: u64 = 8;
/// Ops that a replica asks for at once when it lacks them.
pub const FETCH_OPS_MAX: u64 = 16;
/// Ops behind the last committed one that a replica takes into its log.
pub const SUFFIX_MAX: u64 = PIPELINE_MAX + FETCH_OPS_MAX;
/// Ops of its primary that a replica keeps which came in before those that they follow.
pub const HELD_OPS_MAX: usize = 2 * PIPELINE_MAX as usize;
/// Ops that it asked for and keeps in the same way.
pub const SUPPLIED_OPS_MAX: usize = 2 * FETCH_OPS_MAX as usize;
/// Bytes of the body of an op in a message at most.
pub const BODY_BYTES_MAX: usize = 64 << 20;
/// Milliseconds between two heartbeats of a primary.
pub const HEARTBEAT_MS: u64 = 50;
/// Milliseconds without a word of the primary after which a backup wants another.
pub const ELECTION_MS: u64 = 300;
/// Milliseconds that each replica's number adds to that, so that they do not all speak at once.
pub const ELECTION_STEP_MS: u64 = 60;
/// Milliseconds without a quorum's answers after which a primary stops speaking.
pub const ABDICATE_MS: u64 = 400;
/// Milliseconds without progress after which a view change is given up for the next.
pub const VIEW_CHANGE_MS: u64 = 600;
/// Milliseconds after which what was not answered is said again.
pub const RESEND_MS: u64 = 60;
/// Milliseconds for which what another's clock showed counts.
pub const READING_MS: u64 = 2000;
/// Milliseconds that a closed time may lie behind what the clocks show, at least, before another is promised.
pub const CLOSE_MS: u64 = 500;
/// No time lies beyond this: microseconds since 1970-01-01 UTC, at the end of the year 9998.
pub const TIME_MAX_US: i64 = 253_370_764_800_000_000;
/// Views that a message may be ahead of a replica's own before that is noticed: at one in each [`HEARTBEAT_MS`], those of six years.
pub const VIEWS_AHEAD_MAX: u64 = 1 << 32;
/// Milliseconds for which a wish for another view counts.
pub const WISH_MS: u64 = 600;
