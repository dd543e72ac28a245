//! Signing keys of logs, in files of their own: outside every backup, readable by their owner alone.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::SigningError;
use crate::{
    disk::{Disk, DiskFile},
    proof::{Checkpoint, LogKey},
    words::Hex,
};

/// Bytes of `log.origin`: a checkpoint with its tenant and a fork stays short.
const ORIGIN_BYTES_MAX: usize = 128;
/// Says what the logs of a cluster are called.
const ORIGIN: &str = "origin";
/// First line of a file of keys.
const HEAD: &str = "kimberlite log keys 1";

/// One cluster's keys.
#[derive(Debug)]
pub(crate) struct KeyFolder {
    disk: Arc<dyn Disk>,
    /// Where that is, for messages.
    folder: PathBuf,
    /// The folder in it of this cluster.
    cluster: String,
    /// What origins begin with.
    pub(crate) origin: String,
}

/// A key and where in the log it began to sign.
#[derive(Debug)]
pub(crate) struct KeyEntry {
    /// Records before.
    pub(crate) from: u64,
    /// Forks of the log up to there, the one that brought this key included.
    pub(crate) forks: u32,
    pub(crate) key: LogKey,
    seed: Zeroizing<[u8; 32]>,
}

impl KeyEntry {
    /// A key that nobody has had before.
    pub(crate) fn fresh(origin: &str, from: u64, forks: u32) -> Self {
        let seed = Zeroizing::new(rand::random::<[u8; 32]>());
        let key = LogKey::new(origin, &seed).expect("origins are checked to be names");
        Self { from, forks, key, seed }
    }

    pub(crate) fn origin(&self) -> &str {
        self.key.verifier().name()
    }

    fn line(&self) -> Zeroizing<String> {
        let seed = Zeroizing::new(STANDARD.encode(*self.seed));
        let (from, forks) = (self.from, self.forks);
        Zeroizing::new(format!("{from} {forks} {} {}\n", self.key.verifier(), *seed))
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (from, forks) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let (vkey, seed) = (words.next()?, words.next()?);
        let decoded = Zeroizing::new(STANDARD.decode(seed).ok()?);
        let seed = Zeroizing::new(<[u8; 32]>::try_from(decoded.as_slice()).ok()?);
        // A vkey has its name, which has no plus, and then a hash over name and key.
        let (origin, _) = vkey.split_once('+')?;
        let key = LogKey::new(origin, &seed).ok()?;
        let whole = words.next().is_none() && key.verifier().to_string() == vkey;
        whole.then_some(Self { from, forks, key, seed })
    }
}

/// A file of a [`KeyFolder`].
pub(super) struct KeyFile<'a> {
    folder: &'a KeyFolder,
    name: String,
}

impl KeyFolder {
    /// Opens or makes the keys of a cluster on a disk, which is `folder` in messages. `wanted` is what origins are to begin
    /// with; empty where the operator leaves that to us. `known` says that the data folder knows of keys.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        cluster: [u8; 16],
        wanted: &str,
        known: bool,
    ) -> Result<Self, SigningError> {
        let (folder, name) = (folder.to_owned(), Hex(&cluster).to_string());
        let mut opened = Self { disk, folder, cluster: name, origin: String::new() };
        let file = opened.file(ORIGIN.to_owned());
        let path = file.path();
        match file.read()? {
            Some(kept) => {
                let text = std::str::from_utf8(&kept).unwrap_or_default();
                let origin = text.trim_end_matches('\n').to_owned();
                if !is_origin(&origin) {
                    return Err(SigningError::Damaged { path });
                }
                if !wanted.is_empty() && wanted != origin {
                    let set = wanted.to_owned();
                    return Err(SigningError::OriginChanged { kept: origin, set });
                }
                opened.origin = origin;
                Ok(opened)
            }
            None if known => Err(SigningError::KeyMissing { path }),
            None => {
                let origin = match wanted {
                    "" => format!("kimberlite-{}", Hex(&cluster[..8])),
                    wanted => wanted.to_owned(),
                };
                if !is_origin(&origin) {
                    return Err(SigningError::Origin { set: origin });
                }
                opened.make()?;
                opened.origin = origin;
                opened.write(ORIGIN, format!("{}\n", opened.origin).as_bytes())?;
                Ok(opened)
            }
        }
    }

    fn make(&self) -> Result<(), SigningError> {
        self.disk.make_folder(&self.cluster).map_err(failed("making", &self.path("")))?;
        // The folder of keys may be new, too: its name stands in the one around it.
        for (name, what) in [("", ""), ("..", "..")] {
            let path = self.folder.join(what);
            self.disk.sync_folder(name).map_err(not_durable("syncing", &path))?;
        }
        Ok(())
    }

    fn file(&self, name: String) -> KeyFile<'_> {
        KeyFile { folder: self, name }
    }

    /// A tenant's keys.
    pub(super) fn keys(&self, tenant: [u8; 16]) -> KeyFile<'_> {
        self.file(format!("{}.keys", Hex(&tenant)))
    }

    /// What they signed last.
    pub(super) fn last(&self, tenant: [u8; 16]) -> KeyFile<'_> {
        self.file(format!("{}.last", Hex(&tenant)))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(&self.cluster).join(name)
    }

    /// A tenant's keys, the oldest first; `None` where it has none.
    pub(crate) fn load(&self, tenant: [u8; 16]) -> Result<Option<Vec<KeyEntry>>, SigningError> {
        let file = self.keys(tenant);
        let Some(text) = file.read()? else { return Ok(None) };
        let keys = std::str::from_utf8(&text).ok().and_then(parse);
        keys.map(Some).ok_or_else(|| SigningError::Damaged { path: file.path() })
    }

    /// Writes the keys that are there again: behind a sync that found no room, another one says something only of what was
    /// written anew.
    pub(crate) fn rewrite(&self, tenant: [u8; 16]) -> Result<(), SigningError> {
        self.load(tenant)?.map_or(Ok(()), |keys| self.save(tenant, &keys))
    }

    /// Keeps a tenant's keys, durably.
    pub(crate) fn save(&self, tenant: [u8; 16], keys: &[KeyEntry]) -> Result<(), SigningError> {
        let mut text = Zeroizing::new(format!("{HEAD}\n"));
        for entry in keys {
            text.push_str(&entry.line());
        }
        let sum = blake3::hash(text.as_bytes()).to_hex();
        text.push_str(&sum);
        text.push('\n');
        self.write(&self.keys(tenant).name, text.as_bytes())
    }

    /// Puts a file in the place of the one before, durably.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), SigningError> {
        let (file, fresh) = (self.file(name.to_owned()), self.file(format!("{name}.new")));
        let there = fresh.create()?;
        let written = there.write_all_at(bytes, 0).and_then(|()| there.sync());
        written.map_err(not_durable("writing", &fresh.path()))?;
        let renamed = self.disk.rename(&fresh.place(), &file.place());
        renamed.map_err(not_durable("renaming", &fresh.path()))?;
        self.sync()
    }

    /// Makes the names in the folder durable.
    pub(crate) fn sync(&self) -> Result<(), SigningError> {
        let synced = self.disk.sync_folder(&self.cluster);
        synced.map_err(not_durable("syncing", &self.path("")))
    }
}

impl KeyFile<'_> {
    /// Its path on the disk.
    fn place(&self) -> String {
        format!("{}/{}", self.folder.cluster, self.name)
    }

    /// Its path in messages.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path(&self.name)
    }

    /// Makes or empties it.
    pub(super) fn create(&self) -> Result<Arc<dyn DiskFile>, SigningError> {
        self.folder.disk.create(&self.place()).map_err(failed("making", &self.path()))
    }

    /// `None` where it is not there.
    pub(super) fn open(&self) -> Result<Option<Arc<dyn DiskFile>>, SigningError> {
        match self.folder.disk.open(&self.place()) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("opening", &self.path())(error)),
        }
    }

    /// All of it; `None` where it is not there.
    fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, SigningError> {
        let Some(file) = self.open()? else { return Ok(None) };
        let all = file.length().and_then(|length| {
            let mut bytes = Zeroizing::new(vec![0; length as usize]);
            file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes)
        });
        all.map(Some).map_err(failed("reading", &self.path()))
    }
}

/// Reads a file of keys: a head, a line for each key, the BLAKE3 of all that.
fn parse(text: &str) -> Option<Vec<KeyEntry>> {
    let rest = text.strip_suffix('\n')?;
    let (lines, sum) = rest.split_at(rest.rfind('\n')? + 1);
    if blake3::hash(lines.as_bytes()).to_hex().as_str() != sum {
        return None;
    }
    let mut lines = lines.lines();
    let entries: Option<Vec<_>> =
        (lines.next() == Some(HEAD)).then(|| lines.map(KeyEntry::parse).collect())?;
    entries.filter(|entries| !entries.is_empty())
}

/// Whether origins may begin so.
pub(crate) fn is_origin(text: &str) -> bool {
    text.len() <= ORIGIN_BYTES_MAX && Checkpoint::is_origin(text)
}

pub(super) fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> SigningError + 'a {
    move |source| SigningError::Io { action, path: path.to_owned(), source }
}

/// Where something was to be made durable.
pub(super) fn not_durable<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> SigningError + 'a {
    move |source| SigningError::NotDurable { action, path: path.to_owned(), source }
}
