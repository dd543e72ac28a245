//! A data folder or a backup, held against checkpoints that the keys of its logs signed: no server is asked.

use std::{collections::BTreeMap, path::Path};

use kimberlite_store::{
    proof::{Checkpoint, Note},
    verify::{CheckedRecords, Finding, Progress, Watcher, last_signed},
};

use super::{
    FolderError, Told, VerifyError,
    checkpoints::{Checkpoints, Signers, found},
    offline,
};

/// One tenant's log as far as it was read.
struct Log {
    checkpoints: Checkpoints,
    count: u64,
}

/// Tells of findings, and grows the trees of logs with the records that hold.
pub(super) struct Held<'a> {
    told: &'a mut Told,
    /// By tenant.
    logs: BTreeMap<String, Log>,
}

impl<'a> Held<'a> {
    /// Takes the checkpoint in `file`, and those beside the keys, where they lie in the folder: these were signed before anybody
    /// cosigned them.
    ///
    /// # Errors
    /// There is none, or one cannot be read.
    pub(super) fn new(
        folder: &Path,
        signers: &Signers<'_>,
        file: Option<&Path>,
        told: &'a mut Told,
    ) -> Result<Self, VerifyError> {
        let mut held = Self { told, logs: BTreeMap::new() };
        let Signers { keys, witnesses, .. } = *signers;
        if keys.is_empty() {
            return Ok(held);
        }
        if let Some(file) = file {
            held.add(&file.display().to_string(), &offline::read(file)?, signers);
        } else if !witnesses.is_empty() {
            return Err(VerifyError::NotCosigned);
        }
        let signers = Signers { keys, witnesses: &[], quorum: 0 };
        let mut is_held = file.is_some();
        let lies = last_signed(&folder.join("keys")).map_err(FolderError::from)?;
        for (place, note) in lies {
            if note.is_empty() {
                held.told.add(found("damage", &place, "no copy of it holds".to_owned()));
            }
            // A folder has logs of several tenants; the keys may be of one.
            if keys.iter().any(|key| origin(&note) == Some(key.name().to_owned())) {
                held.add(&place, &note, &signers);
                is_held = true;
            }
        }
        if is_held { Ok(held) } else { Err(VerifyError::NoCheckpoint(folder.to_owned())) }
    }

    fn add(&mut self, place: &str, note: &[u8], signers: &Signers<'_>) {
        let tenant = origin(note).map(|origin| tenant(&origin).to_owned()).unwrap_or_default();
        let log = self.logs.entry(tenant);
        let log = log.or_insert_with(|| Log { checkpoints: Checkpoints::new(), count: 0 });
        log.checkpoints.add(place, note, signers, self.told);
    }

    /// How many checkpoints were compared.
    pub(super) fn end(self) -> u64 {
        let logs = self.logs.into_values();
        logs.map(|log| log.checkpoints.end(log.count, self.told)).sum()
    }

    pub(super) fn take(&mut self, records: &CheckedRecords<'_>) {
        let Some(log) = self.logs.get_mut(records.tenant) else { return };
        if records.first != log.count {
            log.checkpoints.push(None, self.told);
        }
        for hash in records.hashes {
            log.checkpoints.push(Some(*hash), self.told);
        }
        log.count = records.first + records.hashes.len() as u64;
    }

    /// Whether there is anything to compare them with.
    pub(super) fn wants_records(&self) -> bool {
        !self.logs.is_empty()
    }

    pub(super) fn told(&mut self) -> &mut Told {
        self.told
    }
}

impl Watcher for Held<'_> {
    fn progress(&mut self, progress: &Progress) {
        self.told.progress(progress);
    }

    fn found(&mut self, finding: &Finding) {
        self.told.found(finding);
    }

    fn records(&mut self, records: &CheckedRecords<'_>) {
        self.take(records);
    }
}

/// What a note is a checkpoint of, whoever signed it.
fn origin(note: &[u8]) -> Option<String> {
    let note = Note::parse(note).ok()?;
    Some(Checkpoint::parse(note.text()).ok()?.origin)
}

/// Whose log an origin is: its last part, before what a fork added.
fn tenant(origin: &str) -> &str {
    let (before, last) = origin.rsplit_once('/').unwrap_or(("", origin));
    let is_fork = last.strip_prefix("fork-").is_some_and(|rest| {
        rest.split_once('-').is_some_and(|(n, id)| n.parse::<u32>().is_ok() && id.len() == 8)
    });
    if is_fork && before.contains('/') { before.rsplit('/').next().unwrap_or(last) } else { last }
}

#[cfg(test)]
mod tests {
    use super::tenant;

    #[test]
    fn an_origin_names_its_tenant() {
        for (origin, of) in [
            ("log.example/t1", "t1"),
            ("a/b/t1", "t1"),
            ("log.example/t1/fork-2-00c0ffee", "t1"),
            ("log.example/fork-2-00c0ffee", "fork-2-00c0ffee"),
            ("log.example/fork-x-00c0ffee", "fork-x-00c0ffee"),
            ("t1", "t1"),
        ] {
            assert_eq!(tenant(origin), of, "{origin}");
        }
    }
}
