//! A run against the part that the log makes.

use super::{Layout, Run, Table, write_part};
use crate::{
    error::ReadError,
    index::{pages::Pages, part::MemoryPart},
};

impl Layout {
    /// The content behind the last table.
    pub(crate) fn end(&self) -> u64 {
        self.keys.at + self.keys.rows * super::KEY_BYTES
    }

    fn moved(mut self, by: u64) -> Self {
        let tables: [&mut Table; 7] = [
            &mut self.entries,
            &mut self.streams,
            &mut self.types,
            &mut self.tags,
            &mut self.postings,
            &mut self.ids,
            &mut self.keys,
        ];
        for table in tables {
            table.at += by;
        }
        self
    }

    /// What a byte of the content is about.
    fn about(&self, at: u64) -> &'static str {
        let tables = [
            (self.keys, "an idempotency key of the index is not the log's"),
            (self.ids, "an id of the index is not the log's"),
            (self.postings, "a posting of the index is not the log's"),
            (self.tags, "a tag of the index is not the log's"),
            (self.types, "a type of the index is not the log's"),
            (self.streams, "a stream of the index is not the log's"),
        ];
        let found = tables.iter().find(|(table, _)| at >= table.at);
        found.map_or("an entry of the index is not the log's", |(_, what)| what)
    }
}

impl Run {
    /// Checks every byte of the run against what the log makes of the same records: writing is a function of them. That
    /// is left in `content`, whose room the next run can use.
    ///
    /// # Errors
    /// Where they differ first, or why that cannot be said.
    pub(crate) fn compare(
        &self,
        part: &MemoryPart,
        previous: &mut dyn FnMut(u32) -> Result<u64, ReadError>,
        content: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        content.clear();
        let base = self.layout.entries.at;
        if write_part(content, part, previous)?.moved(base) != self.layout {
            let what = "the index says of a run what is not so";
            return Err(self.pages.damage(Pages::offset_of(base) / 4096, what));
        }
        let mut reader = self.pages.sequential();
        let mut read = vec![0; 64 << 10];
        for (i, expected) in content.chunks(read.len()).enumerate() {
            let at = base + (i * read.len()) as u64;
            let found = &mut read[..expected.len()];
            reader.read(at, found)?;
            if found == expected {
                continue;
            }
            if let Some(n) = found.iter().zip(expected).position(|(a, b)| a != b) {
                return Err(self.wrong(at + n as u64));
            }
        }
        Ok(())
    }

    /// That a byte of the content is not the log's.
    pub(super) fn wrong(&self, at: u64) -> ReadError {
        self.pages.damage(Pages::offset_of(at) / 4096, self.layout.about(at))
    }

    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }
}
