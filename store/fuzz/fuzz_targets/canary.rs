//! Shows that the allocator sees what it must: `.ci/fuzz` runs each of these by itself.

#![no_main]

use std::hint::black_box;

use kimberlite_store_fuzz::{AT_ONCE_BYTES_MAX, HELD_BYTES_MAX};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    match bytes.trim_ascii() {
        b"as much as may be" => drop(black_box(vec![0_u8; AT_ONCE_BYTES_MAX])),
        b"too much at once" => drop(black_box(vec![0_u8; AT_ONCE_BYTES_MAX + 1])),
        b"too much in pieces" => {
            let pieces = HELD_BYTES_MAX / (1 << 20) + 1;
            drop(black_box((0..pieces).map(|_| vec![0_u8; 1 << 20]).collect::<Vec<_>>()));
        }
        b"too much by growing" => {
            let mut grown: Vec<u8> = vec![1];
            while grown.len() <= AT_ONCE_BYTES_MAX {
                grown.resize(grown.len() * 2, 1);
                black_box(&grown);
            }
        }
        _ => {}
    }
});
