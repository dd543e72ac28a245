#![no_main]

kimberlite_store_fuzz::target!(keys);
