//! What all targets share: an allocator that ends the process where more memory is asked for than the limits allow.
//! libFuzzer's own limit on allocations needs a sanitizer's hooks, and memory that is never touched is in no resident set.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use kimberlite_store::limits::OP_BYTES_MAX;

#[doc(hidden)]
pub use {kimberlite_store, libfuzzer_sys};

/// Bytes asked for at once: an op is the largest thing that is read as a whole.
pub const AT_ONCE_BYTES_MAX: usize = OP_BYTES_MAX;
/// Bytes held together: an op as it was read, and its runs; a store that is open.
pub const HELD_BYTES_MAX: usize = 192 << 20;

/// A target that gives its bytes to the function of this name in `kimberlite_store::fuzz`.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        $crate::libfuzzer_sys::fuzz_target!(
            |bytes: &[u8]| $crate::kimberlite_store::fuzz::$name(bytes)
        );
    };
}

struct Bounded;

#[global_allocator]
static BOUNDED: Bounded = Bounded;

static HELD: AtomicUsize = AtomicUsize::new(0);

impl Bounded {
    fn take(bytes: usize) {
        let held = HELD.fetch_add(bytes, Relaxed) + bytes;
        if bytes > AT_ONCE_BYTES_MAX || held > HELD_BYTES_MAX {
            eprintln!("more memory than the limits allow: {bytes} bytes at once, {held} held");
            std::process::abort();
        }
    }
}

// SAFETY: the system's allocator does all of it; what is counted touches none of its memory.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::take(layout.size());
        // SAFETY: the caller's promises are those of this trait.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::take(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        Self::take(bytes);
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, bytes) }
    }
}
