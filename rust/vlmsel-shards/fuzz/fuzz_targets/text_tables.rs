//! `checks/text_tables.rs` under libFuzzer.
#![no_main]

#[path = "../checks/text_tables.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::check(bytes));
