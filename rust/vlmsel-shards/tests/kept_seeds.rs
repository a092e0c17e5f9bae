//! What the fuzz targets check, over their kept seeds and a fixed number of changed ones: the same on every machine, and on
//! a stable compiler. `make fuzz` goes on from the same seeds for as long as one likes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[path = "../fuzz/checks/mod.rs"]
mod checks;

/// The largest piece of memory that a reader may ask for: a page of a table may hold 256 MiB, what it holds is read into
/// a buffer that grows by doubling.
const MOST_BYTES: usize = 600 << 20;

/// Says no where a reader believes a claim of gigabytes, on machines too that would give them. The process then ends.
struct Bounded;

#[global_allocator]
static MEMORY: Bounded = Bounded;

/// The case under way, counted from 1; the same number is the same case every time.
static CASE: AtomicU64 = AtomicU64::new(0);

impl Bounded {
    fn allows(bytes: usize) -> bool {
        if bytes > MOST_BYTES {
            // Nothing here may allocate.
            let mut said = *b"\nmore memory than a small file is worth, in case 00000000\n";
            let mut case = CASE.load(Ordering::Relaxed);
            for digit in said.iter_mut().rev().skip(1).take(8) {
                *digit = b'0' + (case % 10) as u8;
                case /= 10;
            }
            // SAFETY: the bytes are there.
            unsafe { libc::write(2, said.as_ptr().cast(), said.len()) };
        }
        bytes <= MOST_BYTES
    }
}

// SAFETY: the system's allocator does the work; refusing is allowed.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !Self::allows(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !Self::allows(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        if !Self::allows(bytes) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Numbers that look random and are the same every time (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// A place in `length` bytes; half of them near the end, where tables have their footer.
    fn place(&mut self, length: usize) -> usize {
        let tail = length.min(1500);
        if self.below(2) == 0 { self.below(length) } else { length - tail + self.below(tail) }
    }
}

/// Integers that readers are wrong about, as varints and in four and eight bytes.
const INTEGERS: [&[u8]; 12] = [
    &[0],
    &[1],
    &[0x7f],
    &[0x80, 0x01],
    &[0xfe, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0xff; 4],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0, 0, 0, 0x80],
    &[0xff; 8],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
];

/// One to four bytes changed, a bit flipped, an integer overwritten, a stretch cut, doubled or taken from elsewhere.
fn change(bytes: &mut Vec<u8>, others: &[Vec<u8>], numbers: &mut Numbers) {
    let at = numbers.place(bytes.len());
    let length = 1 + numbers.below(24);
    let until = (at + length).min(bytes.len());
    match numbers.below(8) {
        0 | 1 => {
            for _ in 0..=numbers.below(4) {
                let at = numbers.place(bytes.len());
                bytes[at] = numbers.next() as u8;
            }
        }
        2 => bytes[at] ^= 1 << numbers.below(8),
        3 | 4 => {
            let integer = INTEGERS[numbers.below(INTEGERS.len())];
            let end = (at + integer.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&integer[..end - at]);
        }
        5 if numbers.below(4) == 0 => bytes.truncate(at.max(1)),
        5 => drop(bytes.drain(at..until)),
        6 => {
            let stretch = bytes[at..until].to_vec();
            bytes.splice(at..at, stretch);
        }
        _ => {
            let other = &others[numbers.below(others.len())];
            let from = numbers.place(other.len());
            let stretch = other[from..(from + length).min(other.len())].to_vec();
            let end = (at + stretch.len()).min(bytes.len());
            bytes.splice(at..end, stretch);
        }
    }
    if bytes.is_empty() {
        bytes.push(0);
    }
}

/// Checks the seeds of a target and so many changed ones. A case that fails is left in a file.
fn run(target: &str, cases: u64, check: fn(&[u8])) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty());
    for seed in &seeds {
        check(seed);
    }
    let mut numbers = Numbers(1);
    for case in 1..=cases {
        let mut bytes = seeds[numbers.below(seeds.len())].clone();
        for _ in 0..=numbers.below(8) / 5 {
            change(&mut bytes, &seeds, &mut numbers);
        }
        CASE.store(case, Ordering::Relaxed);
        let caught = catch_unwind(AssertUnwindSafe(|| check(&bytes)));
        if let Err(panic) = caught {
            let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("failing-{target}"));
            std::fs::write(&place, &bytes).unwrap();
            println!("case {case} of {target}; its bytes are in {}", place.display());
            resume_unwind(panic);
        }
    }
}

#[test]
fn tars() {
    run("tar", 4_000, checks::tar::check);
}

#[test]
fn parquet_tables() {
    run("parquet", 12_000, checks::parquet::check);
}

#[test]
fn json_records() {
    run("json", 8_000, checks::json::check);
}

#[test]
fn text_tables() {
    run("text_tables", 6_000, checks::text_tables::check);
}

#[test]
fn manifests() {
    run("manifests", 1_500, checks::manifests::check);
}
