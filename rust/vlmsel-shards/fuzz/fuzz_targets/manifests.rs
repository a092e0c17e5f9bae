//! `checks/manifests.rs` under libFuzzer.
#![no_main]

#[path = "../checks/manifests.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::check(bytes));
