#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kimberlite_store::fuzz::proof(bytes));
