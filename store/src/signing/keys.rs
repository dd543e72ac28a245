//! Signing keys of logs, in files of their own: outside every backup, readable by their owner alone.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::fs::fsync;
use zeroize::Zeroizing;

use super::SigningError;
use crate::{
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
    folder: PathBuf,
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

impl KeyFolder {
    /// Opens or makes the keys of a cluster. `wanted` is what origins are to begin with; empty where the operator leaves
    /// that to us. `known` says that the data folder knows of keys.
    pub(crate) fn open(
        folder: &Path,
        cluster: [u8; 16],
        wanted: &str,
        known: bool,
    ) -> Result<Self, SigningError> {
        let folder = folder.join(Hex(&cluster).to_string());
        let path = folder.join(ORIGIN);
        match fs::read_to_string(&path) {
            Ok(kept) => {
                let origin = kept.trim_end_matches('\n').to_owned();
                if !is_origin(&origin) {
                    return Err(SigningError::Damaged { path });
                }
                if !wanted.is_empty() && wanted != origin {
                    let set = wanted.to_owned();
                    return Err(SigningError::OriginChanged { kept: origin, set });
                }
                Ok(Self { folder, origin })
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(SigningError::Io { action: "reading", path, source: error })
            }
            Err(_) if known => Err(SigningError::KeyMissing { path }),
            Err(_) => {
                let origin = match wanted {
                    "" => format!("kimberlite-{}", Hex(&cluster[..8])),
                    wanted => wanted.to_owned(),
                };
                if !is_origin(&origin) {
                    return Err(SigningError::Origin { set: origin });
                }
                make_folder(&folder)?;
                let made = Self { folder, origin };
                made.write(ORIGIN, format!("{}\n", made.origin).as_bytes())?;
                Ok(made)
            }
        }
    }

    fn path(&self, tenant: [u8; 16], what: &str) -> PathBuf {
        self.folder.join(format!("{}.{what}", Hex(&tenant)))
    }

    /// Where a tenant's keys are.
    pub(crate) fn keys(&self, tenant: [u8; 16]) -> PathBuf {
        self.path(tenant, "keys")
    }

    /// Where it says what they signed last.
    pub(crate) fn last(&self, tenant: [u8; 16]) -> PathBuf {
        self.path(tenant, "last")
    }

    /// A tenant's keys, the oldest first; `None` where it has none.
    pub(crate) fn load(&self, tenant: [u8; 16]) -> Result<Option<Vec<KeyEntry>>, SigningError> {
        let path = self.keys(tenant);
        let text = match fs::read_to_string(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SigningError::Io { action: "reading", path, source }),
        };
        parse(&text).map(Some).ok_or(SigningError::Damaged { path })
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
        self.write(&format!("{}.keys", Hex(&tenant)), text.as_bytes())
    }

    /// Puts a file in the place of the one before, durably.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), SigningError> {
        let (path, fresh) = (self.folder.join(name), self.folder.join(format!("{name}.new")));
        let made = private(&fresh).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        made.map_err(failed("writing", &fresh))?;
        fs::rename(&fresh, &path).map_err(failed("renaming", &fresh))?;
        sync(&self.folder)
    }

    /// Makes the names in the folder durable.
    pub(crate) fn sync(&self) -> Result<(), SigningError> {
        sync(&self.folder)
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

/// Makes or empties a file that nobody else reads.
pub(super) fn private(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn make_folder(folder: &Path) -> Result<(), SigningError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed("making", folder))?;
    // All the way up to what was there before; more does no harm.
    folder.ancestors().skip(1).take(2).filter(|f| !f.as_os_str().is_empty()).try_for_each(sync)
}

fn sync(folder: &Path) -> Result<(), SigningError> {
    let synced = File::open(folder).and_then(|file| Ok(fsync(file)?));
    synced.map_err(failed("syncing", folder))
}
