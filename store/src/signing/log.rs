//! One tenant's log as its key signs it: the tree over it, and the last checkpoint.

use std::{path::Path, sync::Arc};

use parking_lot::Mutex;

use super::{
    LogKeyLine, SignedLog, SigningError,
    keys::{KeyEntry, KeyFolder, not_durable},
    last::LastSigned,
};
use crate::{
    disk::Disk,
    error::ReadError,
    fragment::FragmentCache,
    index::{ForkBody, View},
    proof::{Checkpoint, Note},
    read::PayloadState,
    reader::Reader,
    record::RecordKind,
    tenant::TenantShared,
    tiles::{Filled, Hashes, Tiles},
    tree::Tree,
    words::{Hex, Position},
};

/// Holds a file for each tenant whose log was signed, so that a lost key is told from one that never was.
pub(crate) const MARKS: &str = "signed";

/// What the thread that signs knows of a tenant.
pub(crate) struct SigningLog {
    tenant: Arc<TenantShared>,
    tiles: Arc<Tiles>,
    keys: Vec<KeyEntry>,
    last: LastSigned,
    tree: Tree,
    /// The checkpoint that is published; `None` while nothing holds for this origin and key.
    shown: Option<(Checkpoint, Note)>,
}

/// What opening a log found.
pub(crate) enum Found {
    /// It goes on.
    Log(Box<SigningLog>),
    /// Nobody has signed it, as far as can be told.
    Unsigned,
    /// It is not what its key signed: it went back, or is another one. The origin that it had.
    Behind(String),
}

/// Where a log's keys, marks and tiles are.
pub(crate) struct Places<'a> {
    pub(crate) disk: &'a Arc<dyn Disk>,
    pub(crate) keys: &'a KeyFolder,
}

impl SigningLog {
    /// Goes on with the keys that are there.
    pub(crate) fn open(
        places: &Places<'_>,
        tenant: &Arc<TenantShared>,
    ) -> Result<Found, SigningError> {
        let reference = tenant.reference;
        let Some(keys) = places.keys.load(reference)? else {
            let mark = places.disk.exists(&mark(reference)).map_err(at("looking for", MARKS))?;
            let path = places.keys.keys(reference).path();
            return if mark { Err(SigningError::KeyMissing { path }) } else { Ok(Found::Unsigned) };
        };
        let (last, checkpoint, note) = LastSigned::open(places.keys, reference)?;
        // The key's file may have come to its name without a sync.
        places.keys.sync()?;
        let current = keys.last().expect("a file of keys has one");
        let signer = keys.iter().rev().find(|entry| {
            let verifier = entry.key.verifier();
            Checkpoint::verified(&note, verifier).is_ok()
        });
        let Some(signer) = signer else {
            return Err(SigningError::Damaged { path: last.path().to_owned() });
        };
        let same = signer.origin() == current.origin();
        let tiles = tiles(places, reference)?;
        let view = tenant.view();
        let from = if same { checkpoint.size } else { current.from };
        let origin = current.origin().to_owned();
        if from > view.count {
            return Ok(Found::Behind(origin));
        }
        let mut tree = tree(&tiles, &view, from)?;
        if same && tree.root() != checkpoint.root {
            // The files may be of another history; the index is checked against the log.
            tiles.clear().map_err(at("clearing", crate::tiles::FOLDER))?;
            tree = self::tree(&tiles, &view, from)?;
            if tree.root() != checkpoint.root {
                return Ok(Found::Behind(origin));
            }
        }
        let signs_still = std::ptr::eq(signer, current);
        let shown = signs_still.then_some((checkpoint, note));
        let log = Self { tenant: Arc::clone(tenant), tiles, keys, last, tree, shown };
        log.mark(places)?;
        log.publish();
        Ok(Found::Log(Box::new(log)))
    }

    /// Makes the first key of a log, or, when it forked by its last record, the first of the new log.
    pub(crate) fn begin(
        places: &Places<'_>,
        tenant: &Arc<TenantShared>,
    ) -> Result<Self, SigningError> {
        let reference = tenant.reference;
        let tiles = tiles(places, reference)?;
        tiles.clear().map_err(at("clearing", crate::tiles::FOLDER))?;
        let view = tenant.view();
        let (from, forks) = forks(&view)?;
        let mut origin = format!("{}/{}", places.keys.origin, name(tenant));
        if forks > 0 {
            origin.push_str(&fork_suffix(tenant, from, forks)?);
        }
        let fresh = KeyEntry::fresh(&origin, from, forks);
        let mut keys = places.keys.load(reference)?.unwrap_or_default();
        let tree = tree(&tiles, &view, from)?;
        let checkpoint = Checkpoint { origin, size: from, root: tree.root() };
        let note = checkpoint.sign(&fresh.key);
        // With no key yet it is of no key, and is made anew should the next step not happen.
        let last = if keys.is_empty() {
            LastSigned::create(places.keys, reference, &note)?
        } else {
            LastSigned::open(places.keys, reference)?.0
        };
        keys.push(fresh);
        places.keys.save(reference, &keys)?;
        let shown = None;
        let mut log = Self { tenant: Arc::clone(tenant), tiles, keys, last, tree, shown };
        log.mark(places)?;
        log.sign()?;
        Ok(log)
    }

    /// Says in the data folder that there is a key.
    fn mark(&self, places: &Places<'_>) -> Result<(), SigningError> {
        let (disk, path) = (places.disk, mark(self.tenant.reference));
        let made = || {
            disk.make_folder(MARKS)?;
            disk.create(&path)
        };
        let made = made().map_err(at("marking", MARKS))?;
        // Also where it was there: whoever made it may have been killed before the sync, or have found no room for it.
        let synced = made.sync().and_then(|()| disk.sync_folder(MARKS));
        let synced = synced.and_then(|()| disk.sync_folder(""));
        synced.map_err(not_durable("marking", Path::new(MARKS)))
    }

    fn current(&self) -> &KeyEntry {
        self.keys.last().expect("there from the start")
    }

    /// What it is called now.
    pub(crate) fn origin(&self) -> &str {
        self.current().origin()
    }

    /// Whether there is something that the published checkpoint does not cover.
    pub(crate) fn is_behind(&self) -> bool {
        let size = self.shown.as_ref().map(|(checkpoint, _)| checkpoint.size);
        size != Some(*self.tenant.tip.borrow())
    }

    /// Takes in what was committed and signs it.
    pub(crate) fn advance(
        &mut self,
        places: &Places<'_>,
        fragments: &Mutex<FragmentCache>,
    ) -> Result<(), SigningError> {
        // The tip is published behind the index, so this view has at least that.
        let view = self.tenant.view();
        let (slices, mut filled) = (Arc::clone(&view.slices), Filled::default());
        let writing = || at("writing", crate::tiles::FOLDER);
        let known = self.tree.size();
        for slice in slices.iter().filter(|slice| slice.end() > known) {
            let (mut entries, end) = (slice.entries(true), slice.end().min(view.count));
            while self.tree.size() < end {
                for (kind, hash) in entries.leaves(self.tree.size(), end)? {
                    if kind == RecordKind::LogForked {
                        self.fork(places, fragments, self.tree.size())?;
                    }
                    filled.push(&mut self.tree, hash, &self.tiles).map_err(writing())?;
                }
            }
        }
        filled.write(&self.tiles).map_err(writing())?;
        self.sign()
    }

    /// From this record on the log is another one.
    fn fork(
        &mut self,
        places: &Places<'_>,
        fragments: &Mutex<FragmentCache>,
        position: u64,
    ) -> Result<(), SigningError> {
        let current = self.current();
        if position < current.from || position == current.from && current.forks > 0 {
            return Ok(());
        }
        let forks = current.forks + 1;
        let id = new_log_id(&self.tenant, fragments, position)?;
        let origin = format!("{}/{}{}", places.keys.origin, name(&self.tenant), suffix(forks, &id));
        self.keys.push(KeyEntry::fresh(&origin, position, forks));
        places.keys.save(self.tenant.reference, &self.keys)
    }

    /// From here on another key signs, for the same origin.
    pub(crate) fn rotate(&mut self, places: &Places<'_>) -> Result<(), SigningError> {
        let current = self.current();
        let fresh = KeyEntry::fresh(current.origin(), self.tree.size(), current.forks);
        self.keys.push(fresh);
        places.keys.save(self.tenant.reference, &self.keys)?;
        self.sign()
    }

    /// Signs what the tree has, and publishes it once it is durable.
    fn sign(&mut self) -> Result<(), SigningError> {
        let key = &self.current().key;
        let origin = key.verifier().name().to_owned();
        let checkpoint = Checkpoint { origin, size: self.tree.size(), root: self.tree.root() };
        let note = checkpoint.sign(key);
        self.last.write(&note)?;
        self.shown = Some((checkpoint, note));
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        let Some((checkpoint, note)) = self.shown.clone() else { return };
        let lines = self
            .keys
            .iter()
            .map(|entry| LogKeyLine { vkey: entry.key.verifier().clone(), from: entry.from });
        let signed =
            SignedLog { checkpoint, note, keys: lines.collect(), tiles: Arc::clone(&self.tiles) };
        self.tenant.signed.send_replace(Some(Arc::new(signed)));
    }
}

fn at(action: &'static str, what: &'static str) -> impl FnOnce(std::io::Error) -> SigningError {
    move |source| SigningError::Io { action, path: what.into(), source }
}

pub(super) fn mark(tenant: [u8; 16]) -> String {
    format!("{MARKS}/{}", Hex(&tenant))
}

fn tiles(places: &Places<'_>, tenant: [u8; 16]) -> Result<Arc<Tiles>, SigningError> {
    let tiles = Tiles::open(Arc::clone(places.disk), tenant);
    Ok(Arc::new(tiles.map_err(at("opening", crate::tiles::FOLDER))?))
}

fn tree(tiles: &Tiles, view: &View, size: u64) -> Result<Tree, SigningError> {
    Ok(Hashes { tiles, view }.tree(size)?)
}

/// Only named tenants' logs are signed.
fn name(tenant: &TenantShared) -> &str {
    tenant.name.as_ref().expect("asked only for named tenants").as_str()
}

/// Where a log forked last, and how often.
fn forks(view: &View) -> Result<(u64, u32), ReadError> {
    let mut found = (0, 0);
    for slice in view.slices.iter() {
        let mut entries = slice.entries(true);
        for position in slice.first()..slice.end().min(view.count) {
            if entries.get(position)?.kind == RecordKind::LogForked {
                found = (position, found.1 + 1);
            }
        }
    }
    Ok(found)
}

fn fork_suffix(tenant: &TenantShared, position: u64, forks: u32) -> Result<String, ReadError> {
    Ok(suffix(forks, &new_log_id(tenant, &Mutex::default(), position)?))
}

fn suffix(forks: u32, new_log_id: &str) -> String {
    format!("/fork-{forks}-{}", &new_log_id[..8])
}

/// What a log is called from the record at `position` on, which says that it forked.
fn new_log_id(
    tenant: &TenantShared,
    fragments: &Mutex<FragmentCache>,
    position: u64,
) -> Result<String, ReadError> {
    let position = Position::new(position).ok_or(ReadError::NoRecord)?;
    let record = Reader { tenant, fragments }.record(position)?;
    let body = record.payloads.iter().find_map(|payload| match &payload.state {
        PayloadState::Clear { json, .. } if payload.kind == "body" => {
            serde_json::from_slice::<ForkBody>(json).ok()
        }
        _ => None,
    });
    let id = body.map(|body| body.new_log_id);
    id.filter(|id| crate::node::sixteen(id).is_some()).ok_or(ReadError::NoRecord)
}

/// What the next record says when the log forks there.
pub(crate) fn fork_body(
    places: &Places<'_>,
    tenant: &TenantShared,
    origin: String,
) -> Result<ForkBody, SigningError> {
    let tiles = tiles(places, tenant.reference)?;
    tiles.clear().map_err(at("clearing", crate::tiles::FOLDER))?;
    let view = tenant.view();
    let tree = tree(&tiles, &view, view.count)?;
    let new_log_id = Hex(&rand::random::<[u8; 16]>()).to_string();
    Ok(ForkBody { new_log_id, origin, size: view.count, root: tree.root().to_string() })
}
