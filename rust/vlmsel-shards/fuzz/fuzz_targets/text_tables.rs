//! `checks/text_tables.rs` under libFuzzer.
#![no_main]

#[path = "../checks/mod.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::text_tables::check(bytes));
