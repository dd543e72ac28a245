//! What is derived, and the superblock: the index against the log, and checksums.

use std::{sync::Arc, time::Duration};

use super::{Ended, Round, Stop};
use crate::{
    error::{Damage, ReadError},
    index::{Numbers, RunCheck, Slice, Wrong, derived::DATABASE, entries_of},
    log::{frame::SectionRuns, superblock},
    record::{Leaf, Role},
    tenant::TenantShared,
    tiles::{StoredHash, Tiles},
    words::{Hash, Reference},
};

/// Streams whose numbers are remembered.
const STREAMS_MAX: usize = 1 << 14;
/// Looks at the superblock before a copy counts as damaged, and milliseconds between two.
const LOOKS: u32 = 5;
const LOOK_MS: u64 = 20;
/// Hashes of a tile, all of whose bytes are counted together.
const HASHES: u64 = 256;
const HASH_BYTES: u64 = 36;

impl Round {
    /// Holds the index against neighbouring records that hold, from position `at` on; their frame begins there in the
    /// segment.
    pub(super) fn compare(
        &mut self,
        tenant: &Arc<TenantShared>,
        mut at: u64,
        (path, offset): (&str, u64),
        (runs, hashes): (&SectionRuns, &[Hash]),
    ) -> Result<(), Stop> {
        let entries = entries_of(offset, runs, hashes, &mut |leaf| self.numbers(tenant, leaf));
        let entries = match entries {
            Ok(entries) => entries,
            Err(Wrong::Read(error)) => {
                self.differs(tenant, DATABASE, error);
                return Ok(());
            }
            Err(Wrong::Record(what)) => {
                self.found(&Damage { file: path.to_owned(), offset, what }, &[Arc::clone(tenant)]);
                return Ok(());
            }
        };
        let (end, mut entries) = (at + entries.len() as u64, entries.into_iter());
        while at < end {
            let open = self.checks.remove(&tenant.reference).filter(|check| check.next() == at);
            let view = tenant.view();
            let mut check = match (open, view.slice_of(at)) {
                (Some(check), _) => check,
                (None, Some(Slice::Disk(run))) if run.first() == at => {
                    RunCheck::begin(Arc::clone(run))
                }
                (None, Some(slice)) => {
                    // It is in memory, or became a run in the midst of this round.
                    let next = slice.end().min(end);
                    entries.by_ref().take((next - at) as usize).for_each(drop);
                    at = next;
                    continue;
                }
                (None, None) => return Ok(()),
            };
            let next = check.run_end().min(end);
            let compared = check.records(entries.by_ref().take((next - at) as usize));
            at = next;
            let file = check.file().to_owned();
            let compared = match compared {
                Ok(()) if check.is_whole() => {
                    self.read(check.bytes())?;
                    check.end()
                }
                Ok(()) => {
                    self.checks.insert(tenant.reference, check);
                    Ok(())
                }
                failed => failed,
            };
            if let Err(error) = compared {
                self.differs(tenant, &file, error);
                return Ok(());
            }
        }
        Ok(())
    }

    fn differs(&mut self, tenant: &Arc<TenantShared>, file: &str, error: ReadError) {
        match error {
            ReadError::Damaged(damage) => self.found(&damage, std::slice::from_ref(tenant)),
            error => self.unread(file, &error),
        }
    }

    /// The numbers under which the index knows a leaf's stream and type.
    fn numbers(&mut self, tenant: &TenantShared, leaf: &Leaf<'_>) -> Result<Numbers, ReadError> {
        let unknown = |what| Damage { file: DATABASE.to_owned(), offset: 0, what };
        let stream = leaf.reference(Role::Stream);
        let stream = stream.map(|reference| {
            let id = self.stream_number(tenant, reference)?;
            id.ok_or_else(|| unknown("a stream of the log that the index does not know"))
                .map_err(ReadError::from)
        });
        let event_type = leaf.reference(Role::Type).map(|reference| {
            let id = tenant.index.read().names.types.by_reference(reference);
            id.ok_or_else(|| unknown("a type of the log that the index does not know"))
                .map_err(ReadError::from)
        });
        Ok((stream.transpose()?, event_type.transpose()?))
    }

    fn stream_number(
        &mut self,
        tenant: &TenantShared,
        reference: Reference,
    ) -> Result<Option<u32>, ReadError> {
        let key = (tenant.reference, reference);
        if let Some(id) = self.streams.get(&key) {
            return Ok(Some(*id));
        }
        let Some(id) = tenant.stream_number(reference)? else { return Ok(None) };
        if self.streams.len() >= STREAMS_MAX {
            self.streams.clear();
        }
        self.streams.insert(key, id);
        Ok(Some(id))
    }

    /// The copies of the superblock. One is written while others are read, so one that does not hold is looked at again.
    pub(super) fn superblock(&mut self) -> Result<(), Stop> {
        let mut damaged: Option<Vec<u64>> = None;
        for _ in 0..LOOKS {
            let found = match superblock::damaged_copies(&*self.disk) {
                Ok(found) => found,
                Err(source) => {
                    let file = superblock::NAME.to_owned();
                    self.unread(superblock::NAME, &ReadError::Io { file, source });
                    return Ok(());
                }
            };
            let still = |at: &u64| damaged.as_ref().is_none_or(|before| before.contains(at));
            let left: Vec<u64> = found.into_iter().filter(still).collect();
            if left.is_empty() {
                return Ok(());
            }
            damaged = Some(left);
            self.wait(Duration::from_millis(LOOK_MS))?;
        }
        for offset in damaged.into_iter().flatten() {
            let what = "a copy of the superblock does not hold";
            let file = superblock::NAME.to_owned();
            // The others stand in for it, and it is written anew in its turn.
            self.found(&Damage { file, offset, what }, &[]);
        }
        Ok(())
    }

    /// The checksums of a tenant's tiles. What does not hold is made anew when it is needed.
    pub(super) fn tiles(&mut self, tenant: &TenantShared) -> Result<(), Ended> {
        let Some(signed) = tenant.signed.borrow().clone() else { return Ok(()) };
        for level in Tiles::levels() {
            for index in 0..signed.checkpoint.size >> (8 * u32::from(level)) {
                let stored = signed.tiles.stored(level, index);
                let io = |source| ReadError::Io { file: crate::tiles::FOLDER.to_owned(), source };
                if stored.map_err(io)? == StoredHash::Damaged {
                    let what = "a hash that does not hold its checksum";
                    self.found(&signed.tiles.damage(level, index, what), &[]);
                }
                if (index + 1).is_multiple_of(HASHES) {
                    self.read(HASHES * HASH_BYTES)?;
                }
            }
        }
        Ok(())
    }
}
