//! `checks/tar.rs` under libFuzzer.
#![no_main]

#[path = "../checks/tar.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::check(bytes));
