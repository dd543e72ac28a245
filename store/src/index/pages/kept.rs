//! Pages of derived files that were read lately and hold: a lookup begins with the same few of each file.
//!
//! Each page has one place, which the last one read takes. Files never change, and a number is given once.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

/// 8 MiB of pages.
const PLACES: usize = 2048;

/// Tells open files apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileNumber(u64);

#[derive(Debug)]
struct Page {
    file: FileNumber,
    number: u64,
    content: Arc<[u8]>,
}

/// The pages.
pub(super) struct Kept(Box<[Mutex<Option<Page>>]>);

/// Of all files.
pub(super) static KEPT: LazyLock<Kept> = LazyLock::new(Kept::new);

/// The number of a file that is being opened.
pub(super) fn next_number() -> FileNumber {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    FileNumber(NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Kept {
    fn new() -> Self {
        Self((0..PLACES).map(|_| Mutex::new(None)).collect())
    }

    fn place(&self, file: FileNumber, page: u64) -> &Mutex<Option<Page>> {
        // Fibonacci hashing; pages of one file lie apart.
        let mixed = (file.0 << 24 ^ page).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        &self.0[(mixed >> 40) as usize % PLACES]
    }

    /// Puts the page's content into `out`, if it is here.
    pub(super) fn find(&self, file: FileNumber, page: u64, out: &mut Vec<u8>) -> bool {
        let kept = self.place(file, page).lock();
        let Some(found) = kept.as_ref().filter(|k| (k.file, k.number) == (file, page)) else {
            return false;
        };
        let content = Arc::clone(&found.content);
        drop(kept);
        out.clear();
        out.extend_from_slice(&content);
        true
    }

    /// Keeps a page whose checksum holds.
    pub(super) fn keep(&self, file: FileNumber, page: u64, content: &[u8]) {
        let kept = Page { file, number: page, content: content.into() };
        *self.place(file, page).lock() = Some(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_found_until_another_takes_its_place() {
        let kept = Kept::new();
        let (one, two) = (next_number(), next_number());
        let mut out = vec![9];
        assert!(!kept.find(one, 0, &mut out));
        kept.keep(one, 0, b"content");
        assert!(kept.find(one, 0, &mut out) && out == b"content");
        assert!(!kept.find(two, 0, &mut out) && !kept.find(one, 1, &mut out));
        let same = |page: &u64| std::ptr::eq(kept.place(one, *page), kept.place(one, 0));
        let other = (1..1 << 20).find(same).unwrap();
        kept.keep(one, other, b"another");
        assert!(!kept.find(one, 0, &mut out) && kept.find(one, other, &mut out));
        assert_eq!(out, b"another");
    }
}
