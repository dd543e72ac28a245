//! What is derived from the log and kept on disk: a database of names and states, and the runs beside it.
//!
//! Everything in the folder follows from the log. A checkpoint brings it forward in one transaction, so it always says
//! what the log said behind one op; what it does not hold yet is read from the log again at the next start.

pub(crate) mod compare;
mod lookup;
pub(crate) mod rows;

use std::{
    collections::HashMap,
    fs::File,
    io,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use lookup::Tables;
use parking_lot::RwLock;
use redb::{
    Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    names::{KnownActor, StreamHead, StreamState},
    rows::{ChangedRows, KnownTable},
    run::{Layout, NO_RUN},
};
use crate::{
    disk::{Disk, DiskFile, waiting},
    error::{Damage, ReadError},
    words::{Actor, EventType, Reference, StreamName},
};

/// Where derived files lie, relative to the data folder.
pub(crate) const FOLDER: &str = "index";
pub(crate) const DATABASE: &str = "index/names";
/// Its presence asks for everything derived to be made anew.
pub(crate) const REBUILD: &str = "index/rebuild";
/// What derived files of this version look like.
const VERSION: u32 = 5;
/// Bytes of the database's own cache.
const CACHE_BYTES: usize = 16 << 20;

type Bytes = TableDefinition<'static, &'static [u8], &'static [u8]>;
type Numbers = TableDefinition<'static, &'static [u8], u64>;

/// `"checkpoint"`: a [`Checkpoint`].
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Tenant: a [`TenantRow`].
const TENANTS: Bytes = TableDefinition::new("tenants");
/// Number of a run file: a [`RunRow`].
const RUNS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("runs");
/// Tenant and name: number of the stream.
const STREAM_NAMES: Numbers = TableDefinition::new("stream names");
/// Tenant and reference: number of the stream.
const STREAM_REFERENCES: Numbers = TableDefinition::new("stream references");
/// Tenant and number: state of the stream.
const STREAMS: Bytes = TableDefinition::new("streams");
/// Tenant and number: first position of the newest run with events of the stream.
const STREAM_RUNS: Numbers = TableDefinition::new("stream runs");
/// Tenant and number: reference and name.
const TYPES: Bytes = TableDefinition::new("types");
/// Tenant and name: reference.
const ACTORS: Bytes = TableDefinition::new("actors");

/// The op behind which the derived state is true.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) version: u32,
    pub(crate) cluster: [u8; 16],
    /// The op's header.
    pub(crate) header: Vec<u8>,
    /// First op of the segment that holds it.
    pub(crate) segment: u64,
    /// Where its frame begins and ends there.
    pub(crate) frame: (u64, u64),
}

/// What every version of a [`Checkpoint`] begins with.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// One tenant at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TenantRow {
    /// `None` for the system tenant.
    pub(crate) name: Option<String>,
    pub(crate) log_id: [u8; 16],
    pub(crate) count: u64,
    pub(crate) chain_head: [u8; 32],
    pub(crate) generation: u64,
    pub(crate) next_stream: u32,
    /// Position of the last time stamp.
    pub(crate) last_stamp: Option<u64>,
}

/// A run file and the parts in it, each of one tenant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunRow {
    pub(crate) parts: Vec<([u8; 16], Layout)>,
}

/// What a checkpoint changes of one tenant.
pub(crate) struct TenantChange {
    pub(crate) tenant: [u8; 16],
    pub(crate) row: TenantRow,
    pub(crate) streams: Arc<super::names::Changed>,
    /// New types and where they begin.
    pub(crate) first_type: u32,
    pub(crate) types: Vec<(EventType, Reference)>,
    pub(crate) actors: Vec<(Actor, KnownActor)>,
    /// Streams with events in the parts that are written, and the first position of the newest such part.
    pub(crate) stream_runs: HashMap<u32, u64>,
    /// Tables that were made or dropped.
    pub(crate) tables: Vec<(u32, KnownTable)>,
    pub(crate) rows: Arc<ChangedRows>,
}

/// One tenant as the database has it.
pub(crate) struct LoadedTenant {
    pub(crate) tenant: [u8; 16],
    pub(crate) row: TenantRow,
    pub(crate) types: Vec<(EventType, Reference)>,
    pub(crate) actors: HashMap<Actor, KnownActor>,
    pub(crate) tables: Vec<KnownTable>,
}

/// A checkpoint with its tenants and numbered runs.
pub(crate) type Loaded = (Checkpoint, Vec<LoadedTenant>, Vec<(u64, RunRow)>);

/// What the database holds.
pub(crate) enum Kept {
    Nothing,
    /// Rows of another [`VERSION`], which must go before any of this one are written.
    OtherVersion,
    At(Loaded),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Derived {
    disk: Arc<dyn Disk>,
    /// `None` after an error, until it could be opened again.
    database: RwLock<Option<Open>>,
    broken: Arc<AtomicBool>,
    /// Of the data folder, held for as long as the database is open: a second one would break it.
    _lock: Option<File>,
}

/// An open database. The tables go before it.
#[derive(Debug)]
struct Open {
    /// As the last checkpoint left them, once somebody has asked.
    tables: RwLock<Option<Arc<Tables>>>,
    database: Database,
}

/// The database's file. Notes failures behind which nobody knows what the disk holds: all but a lack of room that
/// shows before anything is synced.
#[derive(Debug)]
struct Backend {
    file: Arc<dyn DiskFile>,
    broken: Arc<AtomicBool>,
}

impl Backend {
    fn note<T>(&self, done: io::Result<T>) -> io::Result<T> {
        if done.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::StorageFull) {
            self.broken.store(true, Ordering::Relaxed);
        }
        done
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        // The database would take a failed read for a broken file.
        waiting(|| self.file.read_exact_at(out, offset))
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.note(self.file.set_length(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        let done = self.file.sync();
        self.broken.fetch_or(done.is_err(), Ordering::Relaxed);
        done
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(self.file.write_all_at(data, offset))
    }
}

fn other(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn reading(source: io::Error) -> ReadError {
    ReadError::Io { file: DATABASE.to_owned(), source }
}

/// The path of a run file.
pub(crate) fn run_name(number: u64) -> String {
    format!("{FOLDER}/{number:016x}.run")
}

/// A key: the tenant, and what distinguishes it there.
fn key(tenant: [u8; 16], rest: &[u8]) -> Vec<u8> {
    [&tenant[..], rest].concat()
}

impl Derived {
    /// Opens the folder; one that is not there, cannot be read or was condemned is made anew.
    pub(crate) fn open(disk: Arc<dyn Disk>, lock: Option<File>) -> io::Result<Self> {
        disk.make_folder(FOLDER)?;
        if disk.exists(REBUILD)? {
            Self::clear(&*disk)?;
        }
        let broken = Arc::new(AtomicBool::new(false));
        let there = disk.exists(DATABASE)?;
        let opened = match there.then(|| open_database(&*disk, &broken)) {
            // What is there is whole, and where there is no room it cannot be made anew.
            Some(Err(error)) if error.kind() == io::ErrorKind::StorageFull => return Err(error),
            opened => opened.and_then(Result::ok),
        };
        let database = if let Some(database) = opened {
            database
        } else {
            Self::clear(&*disk)?;
            create_database(&*disk, &broken)?
        };
        Ok(Self { disk, database: RwLock::new(Some(database)), broken, _lock: lock })
    }

    /// Forgets everything that is derived.
    pub(crate) fn reset(&self) -> io::Result<()> {
        let mut database = self.database.write();
        *database = None;
        Self::clear(&*self.disk)?;
        *database = Some(create_database(&*self.disk, &self.broken)?);
        Ok(())
    }

    fn clear(disk: &dyn Disk) -> io::Result<()> {
        for name in disk.list(FOLDER)? {
            disk.remove(&format!("{FOLDER}/{name}"))?;
        }
        disk.sync_folder(FOLDER)
    }

    /// Has everything made anew at the next start.
    pub(crate) fn condemn(&self) {
        let made = self.disk.create(REBUILD).and_then(|_| self.disk.sync_folder(FOLDER));
        if let Err(error) = made {
            tracing::error!(error = crate::error::chain(&error), "index not condemned");
        }
    }

    /// Opens the database again after an error.
    fn mend(&self) -> io::Result<()> {
        let mut database = self.database.write();
        if database.is_none() {
            *database = Some(open_database(&*self.disk, &self.broken)?);
        }
        Ok(())
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, ReadError> {
        let database = self.database.read();
        let Some(open) = &*database else {
            return Err(reading(broken("the index waits for its disk")));
        };
        let run = || read(&open.database.begin_read()?);
        // The database takes it for a bug when its file is not what it wrote.
        if let Ok(done) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            return done.map_err(|e| reading(other(e)));
        }
        let what = "the database cannot be read";
        Err(Damage { file: DATABASE.to_owned(), offset: 0, what }.into())
    }

    /// The checkpoint, tenants and runs.
    pub(crate) fn load(&self) -> Result<Kept, ReadError> {
        let loaded = self.read(|t| {
            let meta = match t.open_table(META) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            let Some(checkpoint) = meta.get("checkpoint")? else { return Ok(None) };
            let checkpoint = checkpoint.value().to_vec();
            let mut tenants = Vec::new();
            for entry in t.open_table(TENANTS)?.iter()? {
                let (tenant, row) = entry?;
                tenants.push((tenant.value().to_vec(), row.value().to_vec()));
            }
            let mut types = Vec::new();
            for entry in t.open_table(TYPES)?.iter()? {
                let (at, row) = entry?;
                types.push((at.value().to_vec(), row.value().to_vec()));
            }
            let mut actors = Vec::new();
            for entry in t.open_table(ACTORS)?.iter()? {
                let (at, row) = entry?;
                actors.push((at.value().to_vec(), row.value().to_vec()));
            }
            let tables = rows::tables(t)?;
            let mut runs = Vec::new();
            for entry in t.open_table(RUNS)?.iter()? {
                let (number, row) = entry?;
                runs.push((number.value(), row.value().to_vec()));
            }
            Ok(Some((checkpoint, tenants, types, actors, tables, runs)))
        })?;
        let Some((checkpoint, tenants, types, actors, tables, runs)) = loaded else {
            return Ok(Kept::Nothing);
        };
        let Versioned { version } = decode(&checkpoint)?;
        if version != VERSION {
            return Ok(Kept::OtherVersion);
        }
        let checkpoint: Checkpoint = decode(&checkpoint)?;
        let mut out: Vec<LoadedTenant> = Vec::new();
        for (tenant, row) in tenants {
            let tenant = sixteen(&tenant)?;
            let (types, actors, tables) = (Vec::new(), HashMap::new(), Vec::new());
            out.push(LoadedTenant { tenant, row: decode(&row)?, types, actors, tables });
        }
        let of = |out: &mut Vec<LoadedTenant>, at: &[u8]| {
            let tenant = at.get(..16).map(<[u8]>::to_vec);
            let i = out.iter().position(|t| Some(&t.tenant[..]) == tenant.as_deref());
            i.ok_or_else(|| reading(broken("a row of no tenant")))
        };
        for (at, row) in types {
            let i = of(&mut out, &at)?;
            let (reference, name) = row.split_at_checked(16).ok_or_else(unreadable)?;
            let name = EventType::new(text(name)?).map_err(|_| unreadable())?;
            out[i].types.push((name, Reference(sixteen(reference)?)));
        }
        for (at, row) in actors {
            let i = of(&mut out, &at)?;
            let name = Actor::new(text(&at[16..])?).map_err(|_| unreadable())?;
            let (reference, first) = row.split_at_checked(16).ok_or_else(unreadable)?;
            let first = u64::from_be_bytes(first.try_into().map_err(|_| unreadable())?);
            let reference = Reference(sixteen(reference)?);
            out[i].actors.insert(name, KnownActor { reference, first });
        }
        // In the order of their numbers.
        for (at, row) in tables {
            let i = of(&mut out, &at)?;
            out[i].tables.push(decode(&row)?);
        }
        let runs: Result<_, ReadError> =
            runs.into_iter().map(|(n, row)| Ok((n, decode(&row)?))).collect();
        Ok(Kept::At((checkpoint, out, runs?)))
    }

    /// Removes run files that no checkpoint speaks of; says which number the next one gets.
    pub(crate) fn tidy(&self, runs: &[(u64, RunRow)]) -> io::Result<u64> {
        let mut next = runs.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        for name in self.disk.list(FOLDER)? {
            let Some(hex) = name.strip_suffix(".run") else { continue };
            let number = u64::from_str_radix(hex, 16).unwrap_or(0);
            next = next.max(number + 1);
            if !runs.iter().any(|(known, _)| *known == number) {
                self.disk.remove(&format!("{FOLDER}/{name}"))?;
            }
        }
        Ok(next)
    }

    /// Brings the database forward, durably and in one step.
    pub(crate) fn commit(
        &self,
        checkpoint: &Checkpoint,
        tenants: &[TenantChange],
        run: Option<(u64, &RunRow)>,
    ) -> io::Result<()> {
        self.mend()?;
        let done = {
            let database = self.database.read();
            let open = database.as_ref().ok_or_else(|| broken("closed"))?;
            let done = write_all(&open.database, checkpoint, tenants, run).map_err(other);
            *open.tables.write() = None;
            done
        };
        if done.is_err() && !self.broken() {
            // There was no room. The database refuses everything until it is opened again.
            *self.database.write() = None;
            if let Err(error) = self.mend() {
                tracing::error!(error = crate::error::chain(&error), "index not opened");
            }
        }
        done
    }

    /// Whether a write or a sync failed so that nobody knows what the disk holds.
    pub(crate) fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

fn open_database(disk: &dyn Disk, broken: &Arc<AtomicBool>) -> io::Result<Open> {
    build(disk.open(DATABASE)?, broken)
}

fn create_database(disk: &dyn Disk, broken: &Arc<AtomicBool>) -> io::Result<Open> {
    let database = build(disk.create(DATABASE)?, broken)?;
    disk.sync_folder(FOLDER)?;
    Ok(database)
}

fn build(file: Arc<dyn DiskFile>, broken: &Arc<AtomicBool>) -> io::Result<Open> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    let backend = Backend { file, broken: Arc::clone(broken) };
    let database = builder.create_with_backend(backend).map_err(other)?;
    Ok(Open { tables: RwLock::default(), database })
}

fn write_all(
    database: &Database,
    checkpoint: &Checkpoint,
    tenants: &[TenantChange],
    run: Option<(u64, &RunRow)>,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    // So that opening after a crash does not walk through everything.
    transaction.set_quick_repair(true);
    {
        transaction.open_table(META)?.insert("checkpoint", &json(checkpoint)[..])?;
        let mut runs = transaction.open_table(RUNS)?;
        if let Some((number, row)) = run {
            runs.insert(number, &json(row)[..])?;
        }
        let mut rows = transaction.open_table(TENANTS)?;
        let mut types = transaction.open_table(TYPES)?;
        let mut actors = transaction.open_table(ACTORS)?;
        for change in tenants {
            rows.insert(&change.tenant[..], &json(&change.row)[..])?;
            for (id, (name, reference)) in (change.first_type..).zip(&change.types) {
                let row = [&reference.0, name.as_str().as_bytes()].concat();
                types.insert(&key(change.tenant, &id.to_be_bytes())[..], &row[..])?;
            }
            for (name, KnownActor { reference, first }) in &change.actors {
                let at = key(change.tenant, name.as_str().as_bytes());
                actors.insert(&at[..], &[&reference.0[..], &first.to_be_bytes()].concat()[..])?;
            }
        }
        drop((runs, rows, types, actors));
        write_streams(&transaction, tenants)?;
        rows::write(&transaction, tenants)?;
    }
    Ok(transaction.commit()?)
}

/// In the order of their keys, which is what a tree is quickest with.
fn write_streams(
    transaction: &redb::WriteTransaction,
    tenants: &[TenantChange],
) -> Result<(), redb::Error> {
    let mut states = transaction.open_table(STREAMS)?;
    let mut names = transaction.open_table(STREAM_NAMES)?;
    let mut references = transaction.open_table(STREAM_REFERENCES)?;
    let mut runs = transaction.open_table(STREAM_RUNS)?;
    for change in tenants {
        let mut changed: Vec<_> = change.streams.states.iter().collect();
        changed.sort_unstable_by_key(|(id, _)| **id);
        for (id, state) in &changed {
            let at = key(change.tenant, &id.to_be_bytes());
            states.insert(&at[..], &encode_state(state)[..])?;
            if let Some(run) = change.stream_runs.get(id) {
                runs.insert(&at[..], run)?;
            }
        }
        let mut new: Vec<_> =
            changed.into_iter().filter(|(id, _)| **id >= change.streams.first_new).collect();
        new.sort_unstable_by_key(|(_, state)| &state.name);
        for (id, state) in &new {
            let at = key(change.tenant, state.name.as_str().as_bytes());
            names.insert(&at[..], u64::from(**id))?;
        }
        new.sort_unstable_by_key(|(_, state)| state.head.reference.0);
        for (id, state) in new {
            references.insert(&key(change.tenant, &state.head.reference.0)[..], u64::from(*id))?;
        }
    }
    Ok(())
}

fn json(row: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(row).expect("plain fields serialise")
}

impl Checkpoint {
    pub(crate) fn new(cluster: [u8; 16], header: Vec<u8>, segment: u64, frame: (u64, u64)) -> Self {
        Self { version: VERSION, cluster, header, segment, frame }
    }
}

fn unreadable() -> ReadError {
    reading(broken("a row cannot be read"))
}

fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, ReadError> {
    serde_json::from_slice(json).map_err(|_| unreadable())
}

fn text(bytes: &[u8]) -> Result<&str, ReadError> {
    std::str::from_utf8(bytes).map_err(|_| unreadable())
}

fn sixteen(bytes: &[u8]) -> Result<[u8; 16], ReadError> {
    bytes.try_into().map_err(|_| unreadable())
}

fn encode_state(state: &StreamState) -> Vec<u8> {
    let head = &state.head;
    let mut out = Vec::with_capacity(49 + state.name.as_str().len());
    out.extend_from_slice(&head.reference.0);
    out.extend_from_slice(&head.version.to_le_bytes());
    out.extend_from_slice(&head.visible_from.to_le_bytes());
    out.push(u8::from(head.deleted));
    out.extend_from_slice(&state.first_time.to_le_bytes());
    out.extend_from_slice(&state.last_time.to_le_bytes());
    out.extend_from_slice(state.name.as_str().as_bytes());
    out
}

fn decode_state(row: &[u8]) -> Result<StreamState, ReadError> {
    let (fixed, name) = row.split_at_checked(49).ok_or_else(unreadable)?;
    let u64_at = |at: usize| u64::from_le_bytes(fixed[at..at + 8].try_into().expect("8"));
    let head = StreamHead {
        reference: Reference(sixteen(&fixed[..16])?),
        version: u64_at(16),
        visible_from: u64_at(24),
        deleted: fixed[32] != 0,
    };
    let name = StreamName::stored(text(name)?).map_err(|_| unreadable())?;
    let (first_time, last_time) = (u64_at(33).cast_signed(), u64_at(41).cast_signed());
    Ok(StreamState { name, head, first_time, last_time })
}

/// Reads bytes as each kind of row that is not JSON, and JSON as each that is.
#[cfg(feature = "fuzz")]
pub(crate) fn decode_rows(bytes: &[u8], json: &[u8]) {
    let _state = decode_state(bytes).is_ok();
    let _rows = (decode::<Checkpoint>(json).is_ok(), decode::<RunRow>(json).is_ok());
    let _row = decode::<TenantRow>(json).is_ok();
    let _table = decode::<KnownTable>(json).is_ok();
    rows::decode_rows(bytes);
}
