//! What says that a backup is whole, and what belongs to it.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    disk::Disk,
    log::{FOLDER, SEGMENT_SUFFIX},
};

/// The form of a backup that this version writes and reads.
pub(crate) const BACKUP_FORMAT: u32 = 1;
/// The manifest's file.
pub(crate) const MANIFEST: &str = "manifest.json";
/// Says of which cluster a folder is a backup, before the first one is whole.
pub(crate) const MARK: &str = "kimberlite-backup";
/// A manifest is never larger: it is read at once.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;

/// What a backup holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// [`BACKUP_FORMAT`].
    pub(crate) format: u32,
    /// Of the log inside.
    pub(crate) log_format: u32,
    /// In hex.
    pub(crate) cluster: String,
    /// RFC 3339.
    pub(crate) created_at: String,
    pub(crate) tip: Tip,
    /// In the order of their references.
    pub(crate) tenants: Vec<TenantLine>,
    /// In the order of the log.
    pub(crate) files: Vec<FileLine>,
}

/// The last op inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tip {
    pub(crate) op: u64,
    pub(crate) view: u64,
    /// In hex.
    pub(crate) identity: String,
}

/// A tenant inside.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TenantLine {
    pub(crate) tenant: String,
    /// In hex.
    pub(crate) reference: String,
    /// In hex.
    pub(crate) log_id: String,
    /// How many records its log has: the position of the next.
    pub(crate) records: u64,
    /// What its log is called; absent where it was not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<String>,
}

/// A segment inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileLine {
    /// Its path in the backup. It tells the content, so a file is never written over.
    pub(crate) file: String,
    pub(crate) first_op: u64,
    pub(crate) generation: u16,
    pub(crate) bytes: u64,
    /// In hex.
    pub(crate) blake3: String,
}

impl FileLine {
    pub(crate) fn new(first_op: u64, generation: u16, bytes: u64, blake3: String) -> Self {
        let file = Self::path(first_op, &blake3);
        Self { file, first_op, generation, bytes, blake3 }
    }

    fn path(first_op: u64, blake3: &str) -> String {
        format!("{FOLDER}/{first_op:016x}.{blake3}{SEGMENT_SUFFIX}")
    }

    /// A path is only ever one that this version would give.
    fn holds(&self) -> bool {
        let hex = self.blake3.len() == 64 && self.blake3.bytes().all(|b| b.is_ascii_hexdigit());
        hex && self.file == Self::path(self.first_op, &self.blake3)
    }
}

/// The manifest as it stands in its file: its own bytes are sealed as well.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<'a> {
    #[serde(borrow)]
    manifest: &'a RawValue,
    blake3: &'a str,
}

/// Why there is no manifest to go by.
#[derive(Debug)]
pub(crate) enum ManifestError {
    Absent,
    /// It is not what was written.
    Damaged,
    Format(u32),
    Io(io::Error),
}

impl From<io::Error> for ManifestError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Of whatever version.
#[derive(Deserialize)]
struct AnyFormat {
    format: u32,
}

impl Manifest {
    /// Reads the manifest of a backup.
    pub(crate) fn read(disk: &dyn Disk) -> Result<Self, ManifestError> {
        if !disk.exists(MANIFEST)? {
            return Err(ManifestError::Absent);
        }
        let file = disk.open(MANIFEST)?;
        let length = file.length()?;
        if length > MANIFEST_BYTES_MAX {
            return Err(ManifestError::Damaged);
        }
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let sealed: Sealed<'_> =
            serde_json::from_slice(&bytes).map_err(|_| ManifestError::Damaged)?;
        let text = sealed.manifest.get();
        // Written anew it is the same to the byte: white space around the parts is sealed so too.
        if seal(text) != sealed.blake3 || document(text).as_bytes() != bytes {
            return Err(ManifestError::Damaged);
        }
        let any: AnyFormat = serde_json::from_str(text).map_err(|_| ManifestError::Damaged)?;
        if any.format != BACKUP_FORMAT {
            return Err(ManifestError::Format(any.format));
        }
        let manifest: Self = serde_json::from_str(text).map_err(|_| ManifestError::Damaged)?;
        if manifest.files.iter().all(FileLine::holds) {
            Ok(manifest)
        } else {
            Err(ManifestError::Damaged)
        }
    }

    /// Puts it in the place of the one that is there, durably. All that it names is durable by now.
    pub(crate) fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        const MADE: &str = "manifest.json.new";
        let text = serde_json::to_string_pretty(self).expect("plain fields serialise");
        let file = disk.create(MADE)?;
        let text = document(&text);
        file.write_all_at(text.as_bytes(), 0)?;
        file.sync()?;
        // The one that is there may be the only good one.
        let mut back = vec![0; text.len()];
        file.read_exact_at(&mut back, 0)?;
        if back != text.as_bytes() {
            let what = "the manifest reads back otherwise than it was written";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        disk.rename(MADE, MANIFEST)?;
        disk.sync_folder("")
    }
}

fn seal(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

fn document(text: &str) -> String {
    format!("{{\"manifest\":{text},\"blake3\":\"{}\"}}\n", seal(text))
}

/// What stands in [`MARK`].
pub(crate) fn mark(cluster: &str) -> String {
    format!("kimberlite backup {BACKUP_FORMAT} of cluster {cluster}\n")
}
