//! Derived files: a run of bytes cut into pages, each of which is checked whenever it comes from disk.

mod kept;

use std::{io, sync::Arc};

use crate::{
    disk::{Disk, DiskFile},
    error::{Damage, ReadError},
};

const PAGE: usize = 4096;
/// Bytes of content in a page; CRC-32 of it and of the page's number follows.
const CONTENT: usize = PAGE - 4;
/// Pages read at once by a sequential reader that has come far.
const AHEAD: usize = 16;

/// A file of pages, open for reading.
#[derive(Debug)]
pub(crate) struct Pages {
    file: Arc<dyn DiskFile>,
    /// Relative to the data folder.
    name: String,
    number: kept::FileNumber,
}

/// Reads at one place after the other and keeps the last pages.
#[derive(Debug)]
pub(crate) struct PageReader<'a> {
    pages: &'a Pages,
    first: u64,
    content: Vec<u8>,
    /// Room for pages as they are on disk.
    raw: Vec<u8>,
    ahead: usize,
    ahead_max: usize,
}

/// Writes `content` as a file of pages, durable but for its name.
pub(crate) fn write_pages(disk: &dyn Disk, name: &str, content: &[u8]) -> io::Result<()> {
    let file = disk.create(name)?;
    let mut out = Vec::with_capacity(content.len().div_ceil(CONTENT) * PAGE);
    for (number, part) in content.chunks(CONTENT).enumerate() {
        let start = out.len();
        out.extend_from_slice(part);
        out.resize(start + CONTENT, 0);
        let crc = page_crc(number as u64, &out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }
    file.write_all_at(&out, 0)?;
    // A lack of room that shows only now is like any other failed sync.
    file.sync().map_err(io::Error::other)
}

fn page_crc(number: u64, content: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&number.to_le_bytes());
    crc.update(content);
    crc.finalize()
}

impl Pages {
    pub(crate) fn open(disk: &dyn Disk, name: String) -> io::Result<Self> {
        Ok(Self { file: disk.open(&name)?, name, number: kept::next_number() })
    }

    /// How many pages there are, the last one cut off perhaps.
    pub(crate) fn count(&self) -> Result<u64, ReadError> {
        let io = |source| ReadError::Io { file: self.name.clone(), source };
        Ok(self.file.length().map_err(io)?.div_ceil(PAGE as u64))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How many pages content of this length takes.
    pub(crate) fn pages_of(content: u64) -> u64 {
        content.div_ceil(CONTENT as u64)
    }

    /// The byte of the content in its file.
    pub(crate) fn offset_of(content: u64) -> u64 {
        content / CONTENT as u64 * PAGE as u64 + content % CONTENT as u64
    }

    /// A reader of single places. Pages that were read lately are not read again.
    pub(crate) fn point(&self) -> PageReader<'_> {
        let (content, raw) = (Vec::new(), Vec::new());
        PageReader { pages: self, first: 0, content, raw, ahead: 1, ahead_max: 1 }
    }

    /// A reader of neighbouring places, from the disk.
    pub(crate) fn sequential(&self) -> PageReader<'_> {
        PageReader { ahead_max: AHEAD, ..self.point() }
    }

    pub(crate) fn damage(&self, page: u64, what: &'static str) -> ReadError {
        Damage { file: self.name.clone(), offset: page * PAGE as u64, what }.into()
    }
}

impl PageReader<'_> {
    /// Checks one page.
    pub(crate) fn check(&mut self, page: u64) -> Result<(), ReadError> {
        self.load(page)
    }

    /// `N` bytes of the content from `at` on.
    pub(crate) fn array<const N: usize>(&mut self, at: u64) -> Result<[u8; N], ReadError> {
        let mut out = [0; N];
        self.read(at, &mut out)?;
        Ok(out)
    }

    pub(crate) fn read(&mut self, mut at: u64, mut out: &mut [u8]) -> Result<(), ReadError> {
        while !out.is_empty() {
            let (page, inside) = (at / CONTENT as u64, (at % CONTENT as u64) as usize);
            self.load(page)?;
            let from = (page - self.first) as usize * CONTENT + inside;
            let n = out.len().min(self.content.len() - from);
            let (now, later) = out.split_at_mut(n);
            now.copy_from_slice(&self.content[from..from + n]);
            out = later;
            at += n as u64;
        }
        Ok(())
    }

    /// Makes sure that `page` is among the kept ones.
    fn load(&mut self, page: u64) -> Result<(), ReadError> {
        let held = (self.content.len() / CONTENT) as u64;
        if page >= self.first && page < self.first + held {
            return Ok(());
        }
        let single = self.ahead_max == 1;
        if single && kept::KEPT.find(self.pages.number, page, &mut self.content) {
            self.first = page;
            return Ok(());
        }
        self.raw.resize(self.ahead * PAGE, 0);
        self.ahead = (self.ahead * 2).min(self.ahead_max);
        let read = self.pages.file.read_at(&mut self.raw, page * PAGE as u64);
        let read =
            read.map_err(|source| ReadError::Io { file: self.pages.name.clone(), source })?;
        self.content.clear();
        self.first = page;
        for (number, part) in (page..).zip(self.raw[..read].chunks(PAGE)) {
            if part.len() < PAGE {
                break;
            }
            let (content, crc) = part.split_at(CONTENT);
            if crc != page_crc(number, content).to_le_bytes() {
                if number == page {
                    return Err(self.pages.damage(page, "a page's checksum does not match"));
                }
                break;
            }
            self.content.extend_from_slice(content);
        }
        if self.content.is_empty() {
            return Err(self.pages.damage(page, "the file ends before its content does"));
        }
        if single {
            kept::KEPT.keep(self.pages.number, page, &self.content);
        }
        Ok(())
    }
}
