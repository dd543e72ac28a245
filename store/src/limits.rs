//! Every limit of this crate, with its unit. What is over a limit is refused, never cut.

/// Bytes of one event: data, metadata and tags together.
pub const EVENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of the payloads of one command.
pub const COMMAND_BYTES_MAX: usize = 16 << 20;
/// Events in one append, or in one bulk batch.
pub const EVENTS_MAX: usize = 1000;
/// Streams in one transaction.
pub const APPENDS_MAX: usize = 1000;
/// Conditions in one transaction.
pub const CONDITIONS_MAX: usize = 100;
/// Items in one `fail_if_events_match`.
pub const MATCH_ITEMS_MAX: usize = 32;
/// Bytes of a stream name, a type, a tag or a subject.
pub const NAME_BYTES_MAX: usize = 256;
/// Event types of one tenant, for good: all of them lie in memory (about 30 MiB where each name is as long as can be).
pub const TYPES_MAX: usize = 65_536;
/// Tables of one tenant, for good, those that were dropped included: what they were lies in memory.
pub const TABLES_MAX: usize = 4096;
/// Columns of one table.
pub const COLUMNS_MAX: usize = 256;
/// Bytes of a table's or a column's name.
pub const COLUMN_NAME_BYTES_MAX: usize = 128;
/// Bytes of one row as it is stored.
pub const ROW_BYTES_MAX: usize = 1 << 20;
/// Bytes of a row's key as it is looked for.
pub const ROW_KEY_BYTES_MAX: usize = 1024;
/// Records that the statements of one request may write: changed rows, and tables made or dropped.
pub const CHANGES_MAX: usize = 10_000;
/// Tags of one event.
pub const TAGS_MAX: usize = 32;
/// Subjects of one event.
pub const SUBJECTS_MAX: usize = 8;
/// Levels of arrays and objects in one JSON value.
pub const JSON_DEPTH_MAX: usize = 128;
/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// How long an idempotency key is kept, in microseconds (7 days).
pub const IDEMPOTENCY_WINDOW_US: i64 = 7 * 24 * 3600 * 1_000_000;
/// Events in one page.
pub const PAGE_EVENTS_MAX: usize = 1000;
/// Bytes after which a page or a streamed batch ends early (it holds at least one event).
pub const PAGE_BYTES_MAX: usize = 4 << 20;
/// Bytes of one leaf, its previous hash included.
pub const LEAF_BYTES_MAX: usize = 2048;
/// Bytes inside one leaf or payload block.
pub const BLOCK_BYTES_MAX: usize = 64 << 10;
/// Bytes inside the blocks that this version writes: to read one record, the blocks it lies in are read and checked.
pub const BLOCK_BYTES: usize = 4 << 10;
/// Records in one op.
pub const OP_RECORDS_MAX: usize = 16_384;
/// Bytes of records in one op after which no further command joins it.
pub const OP_BYTES_TARGET: usize = 4 << 20;
/// Bytes of the largest op there can be: one command of the largest size and its overhead.
pub const OP_BYTES_MAX: usize = 64 << 20;
/// Bytes of a segment file at most: places inside it have 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 4 << 30;
/// Bytes of a closed segment that are compressed together, and so decompressed to read one of them.
pub const STRETCH_BYTES: usize = 16 << 10;
/// Decompressed stretches kept for readers (8 MiB).
pub const STRETCHES_KEPT: u64 = 512;
/// Milliseconds between two looks for segments that were closed.
pub const COMPRESS_PAUSE_MS: u64 = 1000;
/// Bytes a second written to the log from which on compression waits: it would slow writers down.
pub const COMPRESS_BUSY_BYTES_PER_S: u64 = 16 << 20;
/// Closed segments from which on it waits no longer (4 GiB of the usual size).
pub const COMPRESS_WAITING_MAX: usize = 16;
/// Records behind which the index goes to disk.
pub const CHECKPOINT_RECORDS: u64 = 131_072;
/// The largest number of them: a record's number in a run has 24 bits, and a late checkpoint has more records.
pub const CHECKPOINT_RECORDS_MAX: u64 = 1 << 21;
/// Bytes of log behind which the index goes to disk.
pub const CHECKPOINT_BYTES: u64 = 128 << 20;
/// Commands waiting to become part of an op.
pub const QUEUE_COMMANDS_MAX: usize = 8192;
/// Bytes of commands waiting to become part of an op.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Records of committed ops whose write-sets the window remembers.
pub const WINDOW_RECORDS: usize = 65_536;
/// How often a stale command is resolved again before it is refused as contended.
pub const RESOLVE_TRIES_MAX: usize = 16;
/// Streams' states kept between looking them up for a command and applying it.
pub const HANDED_STREAMS_MAX: usize = 16_384;
/// Bytes of rendered events kept for readers and followers.
pub const FRAGMENT_CACHE_BYTES: usize = 64 << 20;
/// Milliseconds without a write after which the superblock records the tip.
pub const IDLE_SUPERBLOCK_MS: u64 = 1000;
/// Milliseconds from one look for records that no checkpoint covers to the next.
pub const SIGN_PAUSE_MS: u64 = 200;
/// Milliseconds that a proof waits at most for the checkpoint that covers its record.
pub const PROOF_WAIT_MS: u64 = 2000;
/// Cosigned checkpoints of a log that are remembered, so that witnesses who take long still meet on one.
pub const COSIGNED_KEPT: usize = 64;
/// Milliseconds between two rounds of reading everything on disk again.
pub const SCRUB_PAUSE_MS: u64 = 60_000;
