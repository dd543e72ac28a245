//! Every limit of this crate, with its unit. What is over a limit is refused, never cut.

/// Bytes of one request's SQL.
pub const SQL_BYTES_MAX: usize = 1 << 20;
/// Statements in one request.
pub const STATEMENTS_MAX: usize = 100;
/// Parameters of one request.
pub const PARAMETERS_MAX: usize = 1000;
/// Levels of expressions and queries inside each other.
pub const NESTING_MAX: usize = 200;
/// Tables, functions, operators and values in one statement.
pub const NODES_MAX: usize = 50_000;
/// Rows of one batch between operators.
pub const BATCH_ROWS: usize = 8192;
/// Bytes of texts after which a batch from the log ends early.
pub const BATCH_BYTES: usize = 4 << 20;
/// Batches ready for a caller who is slower than the query.
pub const BATCHES_AHEAD: usize = 2;
/// Streams that are looked at in one go.
pub const STREAMS_AT_ONCE: usize = 4096;
/// Milliseconds between two looks whether a time is closed by now.
pub const CLOSED_LOOK_MS: u64 = 20;
/// Milliseconds that a question as of a time waits at most until nothing up to that time can come any more.
pub const CLOSED_WAIT_MS: u64 = 3000;
/// How often a request that changes something is worked out before it is refused, as others were always faster.
pub const CHANGE_TRIES_MAX: usize = 4;
/// Rows of a table that are looked for one by one; for more of them, all are read.
pub const KEYS_MAX: usize = 1000;
/// Nice value of the threads that run queries.
pub const NICE: i32 = 10;
/// Bytes that a function makes in one call, for all rows of a batch.
pub const CALL_BYTES_MAX: usize = 64 << 20;
/// Steps of a function whose time grows faster than what it is given, in one call.
pub const CALL_STEPS_MAX: f64 = 1e9;
/// Bytes of answers that are sent at once.
pub const PART_BYTES: usize = 1 << 20;
