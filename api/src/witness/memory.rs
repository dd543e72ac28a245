//! What a witness must never forget: its key, and the last checkpoint that it cosigned of each log.
//!
//! A file a log, whose name is the SHA-256 of the origin and whose text is the checkpoint with the log's own signature: so
//! damage is noticed. A file is replaced whole: written beside it, synced, renamed, and the folder synced, under one lock for
//! all logs.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use kimberlite_store::{
    proof::{Checkpoint, CosignerKey, KeyError, NOTE_BYTES_MAX, Note, Submission, VerifierKey},
    words::Hex,
};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::SubmitError;

const KEY: &str = "key";
const LOCK: &str = "lock";

/// Why a witness cannot start.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A file of its folder.
    #[error("{file}: {what}")]
    Io {
        /// Which.
        file: String,
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Two witnesses with one memory would forget.
    #[error("{0} is in use by another process")]
    InUse(String),
    /// A new key needs a name.
    #[error("this witness has no key yet: give it a name, such as --name witness.example/w1")]
    NoName,
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] KeyError),
    /// The key was made under another name, which its signatures do not say.
    #[error("this witness is {0}; another name needs another folder")]
    OtherName(String),
    /// The key's file is not what was written.
    #[error("{0} is damaged: restore it; without it nobody can tell that this is the same witness")]
    Key(String),
    /// Cosigned checkpoints are there, the key is not.
    #[error(
        "{0} holds checkpoints but no key: restore the key; a new one would be another witness"
    )]
    KeyLost(String),
    /// What was seen of a log cannot be told any more.
    #[error(
        "{file} is no checkpoint of {origin} under the keys given: restore the file, or give the key that signed it too"
    )]
    Seen {
        /// The log.
        origin: String,
        /// The file.
        file: String,
    },
}

pub(super) struct Memory {
    folder: PathBuf,
    key: CosignerKey,
    logs: Vec<VerifierKey>,
    /// By origin. Held from the question until the answer is durable.
    seen: Mutex<BTreeMap<String, Checkpoint>>,
    _lock: File,
}

impl Memory {
    pub(super) fn open(
        folder: &Path,
        name: Option<&str>,
        logs: Vec<VerifierKey>,
    ) -> Result<Self, MemoryError> {
        let at = |file: &str, what| {
            let file = folder.join(file).display().to_string();
            move |source| MemoryError::Io { file, what, source }
        };
        make(folder).map_err(at("", "making the folder"))?;
        let lock = File::create(folder.join(LOCK)).map_err(at(LOCK, "opening"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| MemoryError::InUse(folder.display().to_string()))?;
        let key = key(folder, name)?;
        let mut seen = BTreeMap::new();
        for log in &logs {
            if seen.contains_key(log.name()) {
                continue;
            }
            let file = file_name(log.name());
            let Some(text) = read(&folder.join(&file)).map_err(at(&file, "reading"))? else {
                continue;
            };
            let checkpoint = kept(&text, log.name(), &logs).ok_or_else(|| MemoryError::Seen {
                origin: log.name().to_owned(),
                file: folder.join(&file).display().to_string(),
            })?;
            seen.insert(log.name().to_owned(), checkpoint);
        }
        let folder = folder.to_owned();
        Ok(Self { folder, key, logs, seen: Mutex::new(seen), _lock: lock })
    }

    pub(super) fn verifier(&self) -> &VerifierKey {
        self.key.verifier()
    }

    /// Judges, keeps what is seen, and only then cosigns. Blocks.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub(super) fn cosign(
        &self,
        submission: &Submission,
        now_s: u64,
    ) -> Result<String, SubmitError> {
        let mut seen = self.seen.blocking_lock();
        let last = seen.get(submission.origin());
        let checkpoint = submission.judge(&self.logs, last)?.clone();
        if last != Some(&checkpoint) {
            let file = file_name(&checkpoint.origin);
            let text = submission.note().to_string();
            replace(&self.folder, &file, text.as_bytes()).map_err(SubmitError::Kept)?;
            seen.insert(checkpoint.origin.clone(), checkpoint);
        }
        Ok(self.key.cosign(submission.note().text(), now_s).to_string())
    }
}

/// Reads the key; makes one where the folder is new.
fn key(folder: &Path, name: Option<&str>) -> Result<CosignerKey, MemoryError> {
    let path = folder.join(KEY).display().to_string();
    let at = |what| {
        let file = path.clone();
        move |source| MemoryError::Io { file, what, source }
    };
    if let Some(text) = read(&folder.join(KEY)).map_err(at("reading"))? {
        let key = read_key(&text).ok_or(MemoryError::Key(path))?;
        let made_as = key.verifier().name();
        return match name {
            Some(name) if name != made_as => Err(MemoryError::OtherName(made_as.to_owned())),
            _ => Ok(key),
        };
    }
    let mut files = fs::read_dir(folder).map_err(at("listing"))?;
    let is_kept = |f: io::Result<fs::DirEntry>| {
        f.is_ok_and(|f| f.path().extension().is_some_and(|e| e == "checkpoint"))
    };
    if files.any(is_kept) {
        return Err(MemoryError::KeyLost(folder.display().to_string()));
    }
    let seed: [u8; 32] = rand::random();
    let key = CosignerKey::new(name.ok_or(MemoryError::NoName)?, &seed)?;
    let text = format!("{}\n{}\n", key.verifier(), Hex(&seed));
    replace(folder, KEY, text.as_bytes()).map_err(at("writing"))?;
    Ok(key)
}

/// The public key on one line, the seed in hex on the next.
fn read_key(text: &[u8]) -> Option<CosignerKey> {
    let (verifier, seed) = std::str::from_utf8(text).ok()?.strip_suffix('\n')?.split_once('\n')?;
    let mut bytes = [0; 32];
    if seed.len() != 64 || !seed.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&seed[2 * at..2 * at + 2], 16).ok()?;
    }
    let verifier: VerifierKey = verifier.parse().ok()?;
    let key = CosignerKey::new(verifier.name(), &bytes).ok()?;
    (*key.verifier() == verifier).then_some(key)
}

/// What was seen of a log, if it is still what its own key signed.
fn kept(text: &[u8], origin: &str, logs: &[VerifierKey]) -> Option<Checkpoint> {
    let note = Note::parse(text).ok()?;
    note.verify(logs.iter().filter(|key| key.name() == origin)).ok()?;
    Checkpoint::parse(note.text()).ok().filter(|checkpoint| checkpoint.origin == origin)
}

fn file_name(origin: &str) -> String {
    format!("{}.checkpoint", Hex(&<[u8; 32]>::from(Sha256::digest(origin))))
}

/// `None` where there is no such file.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut text = Vec::new();
    file.take(NOTE_BYTES_MAX as u64 + 1).read_to_end(&mut text)?;
    Ok(Some(text))
}

/// Makes the folder, durably, where it is not there.
fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    let absolute = std::path::absolute(folder)?;
    absolute.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Puts a whole file in the place of what was there; durable when it returns.
fn replace(folder: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let new = folder.join(format!("{name}.new"));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    file.sync_data()?;
    fs::rename(&new, folder.join(name))?;
    File::open(folder)?.sync_all()
}
