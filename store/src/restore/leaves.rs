//! The records in a backup, as the log that it would be brought back to has them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{RestoreError, failed, sixteen, source::Source};
use crate::{
    error::Damage,
    index::check_section,
    log::{
        Segment, packed,
        walk::{ClosedFrames, Frame},
    },
    record::genesis,
    verify::CheckedRecords,
    words::Hash,
};

/// Hands on the leaf hashes of all records in a backup, checked with everything that they commit to. Blocks.
///
/// # Errors
/// See [`RestoreError`].
pub fn read_backup(
    folder: &Path,
    take: &mut dyn FnMut(&CheckedRecords<'_>),
) -> Result<(), RestoreError> {
    let source = Source::open(folder)?;
    let manifest = &source.manifest;
    let damaged =
        |file: &str, offset, what| RestoreError::Damaged { file: folder.join(file), offset, what };
    let unreadable = || damaged(crate::backup::manifest::MANIFEST, None, "it cannot be read");
    let cluster = sixteen(&manifest.cluster).ok_or_else(unreadable)?;
    let mut logs: HashMap<[u8; 16], (&str, u64, Hash)> = HashMap::new();
    for line in &manifest.tenants {
        let ids = sixteen(&line.reference).zip(sixteen(&line.log_id));
        let (reference, log_id) = ids.ok_or_else(unreadable)?;
        logs.insert(reference, (&line.tenant, 0, genesis(log_id)));
    }
    for line in &manifest.files {
        let path: PathBuf = folder.join(&line.file);
        let reading = || failed("reading", &path);
        let file = packed::open(source.disk().open(&line.file).map_err(reading())?);
        let file = file.map_err(reading())?;
        let segment = Arc::new(Segment::new(file, line.file.clone(), line.first_op));
        let is_last = manifest.files.last() == Some(line);
        let end = if is_last { line.bytes } else { u64::MAX };
        let mut frames = ClosedFrames::of(cluster, &segment, end).map_err(reading())?;
        let wrong = |damage: &Damage| damaged(&line.file, Some(damage.offset), damage.what);
        while let Some(frame) = frames.next().map_err(reading())? {
            let (sections, offset) = match frame {
                Frame::Op { sections, offset, .. } => (sections, offset),
                Frame::Lost { damage, .. } => return Err(wrong(&damage)),
            };
            for (section, runs) in sections {
                let runs = runs.map_err(|damage| wrong(&damage))?;
                let at = |what| damaged(&line.file, Some(offset), what);
                let log = logs.get_mut(&section.tenant);
                let (tenant, count, chain) =
                    log.ok_or_else(|| at("a tenant that is not in the manifest"))?;
                let hashes = check_section(&section, &runs, *chain).map_err(at)?;
                take(&CheckedRecords { tenant, first: section.first_position, hashes: &hashes });
                *count += u64::from(section.records);
                *chain = section.chain_head;
            }
        }
    }
    let missing = manifest.tenants.iter().find(|line| {
        let log = sixteen(&line.reference).and_then(|reference| logs.get(&reference));
        log.is_none_or(|(_, count, _)| *count != line.records)
    });
    missing.map_or(Ok(()), |_| {
        Err(damaged(
            crate::backup::manifest::MANIFEST,
            None,
            "a tenant has another number of records",
        ))
    })
}
