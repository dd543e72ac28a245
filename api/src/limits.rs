//! Every limit of the HTTP surface, with its unit. What is over a limit is refused, never cut.
//!
//! Limits of events, names and pages are the store's: `kimberlite_store::limits`.

/// Bytes of a request body, after decompression (the bulk door has none: it is bounded line by
/// line).
pub const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Bytes of all request bodies, and of lines of bulk loads, that are held at one time: from when
/// they arrive until the store has answered.
pub const BODIES_BYTES_MAX: usize = 48 << 20;
/// Bytes of pages that are read and not yet sent.
pub const ANSWERS_BYTES_MAX: usize = 64 << 20;
/// Bytes of NDJSON lines and SSE frames of events that are read, or about to be, and not yet sent.
pub const STREAMS_BYTES_MAX: usize = 64 << 20;
/// Seconds that a new NDJSON answer or follower waits for room among those bytes.
pub const STREAMS_PATIENCE_S: u64 = 2;
/// Bytes of a refused body that are read and dropped, so that its sender gets to read the answer.
pub const DRAIN_BYTES_MAX: usize = 64 << 20;
/// Lines of one durable batch of the bulk door.
pub const BULK_BATCH_LINES_MAX: usize = kimberlite_store::limits::EVENTS_MAX;
/// Bytes of lines after which a batch of the bulk door is full.
pub const BULK_BATCH_BYTES: usize = 1 << 20;
/// Bytes of one line of the bulk door: the largest event and its envelope.
pub const BULK_LINE_BYTES_MAX: usize = 2 << 20;
/// Bytes that decompression puts out at a time.
pub const INFLATE_STEP_BYTES: usize = 64 << 10;
/// Base-2 logarithm of the largest window that a zstd body may ask for (8 MiB).
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Events of a page where the request names no `limit`.
pub const PAGE_EVENTS: usize = 100;
/// Values of one repeatable query parameter.
pub const FILTER_VALUES_MAX: usize = 32;
/// Events that an NDJSON answer or a follower takes from the log at a time.
pub const STREAM_BATCH_EVENTS: usize = 256;
/// Bytes of text after which that is enough.
pub const STREAM_BATCH_BYTES: usize = 256 << 10;
/// Seconds that a signed link may live.
pub const LINK_TTL_S_MAX: u64 = 3600;
/// Seconds that a signed link lives where the request names none.
pub const LINK_TTL_S: u64 = 300;
/// Bytes of a path that a link may be made for.
pub const LINK_PATH_BYTES_MAX: usize = 4096;
/// Bytes of the path of a backup's folder.
pub const BACKUP_PATH_BYTES_MAX: usize = 4096;
/// Backups that run at one time.
pub const BACKUPS_RUNNING_MAX: usize = 4;
/// Backups whose outcome is remembered.
pub const BACKUPS_KEPT: usize = 100;
/// Witnesses that a log has: as many cosignatures as every reader of notes must accept.
pub const WITNESSES_MAX: usize = 16;
/// Milliseconds in which a witness has to answer.
pub const WITNESS_PATIENCE_MS: u64 = 10_000;
/// Milliseconds until a witness that did not cosign is asked again; doubled each time.
pub const WITNESS_RETRY_MS: u64 = 500;
/// Milliseconds that this grows to.
pub const WITNESS_RETRY_MS_MAX: u64 = 60_000;
/// Bytes of a witness's answer.
pub const WITNESS_ANSWER_BYTES_MAX: usize = 64 << 10;
/// Milliseconds in which a time authority has to answer.
pub const STAMP_PATIENCE_MS: u64 = 10_000;
/// Milliseconds until a time authority that gave no token is asked again; doubled each time.
pub const STAMP_RETRY_MS: u64 = 1000;
/// Milliseconds that this grows to.
pub const STAMP_RETRY_MS_MAX: u64 = 10 * 60_000;
/// Bytes of a time authority's answer: a token with its certificates.
pub const STAMP_ANSWER_BYTES_MAX: usize = 64 << 10;
/// Seconds between two time stamps, at most.
pub const STAMP_EVERY_S_MAX: u64 = 366 * 24 * 3600;
/// HTTP/2 requests in flight on one connection.
pub const H2_STREAMS_MAX: u32 = 256;
/// Queries that wait for their turn.
pub const QUERIES_WAITING_MAX: usize = 64;
/// Rows of a JSON answer to a query, where the caller does not say.
pub const QUERY_ROWS: usize = 10_000;
/// Rows of a JSON answer to a query.
pub const QUERY_ROWS_MAX: usize = 10_000;
/// Bytes after which a JSON answer to a query ends early (it holds at least one row).
pub const QUERY_PAGE_BYTES: usize = 8 << 20;
/// Bytes of the address of a query's next rows.
pub const QUERY_NEXT_BYTES_MAX: usize = 32 << 10;
