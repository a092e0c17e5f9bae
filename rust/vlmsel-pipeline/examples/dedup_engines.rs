//! The two engines of exact and of near-image dedup by themselves, for `benches/dedup.py`.
//!
//! ```text
//! dedup_engines exact IDS.parquet THREADS MEMORY_BYTES SCRATCH   ids of 16 bytes in column uid -> keep bits
//! dedup_engines codes COUNT THREADS RADIUS                       random codes, a part of them near copies
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use vlmsel_pipeline::dedup::code_pairs::code_pairs;
use vlmsel_pipeline::dedup::equal::EqualKeys;
use vlmsel_pipeline::dedup::row_set::RowSet;
use vlmsel_pipeline::progress::Progress;
use vlmsel_shards::parquet::table::ParquetTable;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

#[allow(clippy::print_stdout, reason = "what an example is for")]
fn main() -> Outcome {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["exact", ids, threads, memory, scratch] => exact(ids, threads.parse()?, memory.parse()?, scratch),
        ["codes", count, threads, radius] => codes(count.parse()?, threads.parse()?, radius.parse()?),
        _ => Err("exact IDS.parquet THREADS MEMORY_BYTES SCRATCH, or codes COUNT THREADS RADIUS".into()),
    }
}

#[allow(clippy::print_stdout, reason = "what an example is for")]
fn exact(ids: &str, threads: usize, memory: u64, scratch: &str) -> Outcome {
    let begun = Instant::now();
    let progress = Progress::default();
    let table = ParquetTable::open(Path::new(ids), ids)?;
    let keys = EqualKeys::new(Path::new(scratch), table.rows(), memory, threads);
    let next = AtomicUsize::new(0);
    let read = || -> Outcome {
        let mut writer = keys.writer();
        loop {
            let group = next.fetch_add(1, Ordering::Relaxed);
            if group >= table.groups() {
                break;
            }
            let mut row = table.group_rows(group).0 as u32;
            for batch in table.rows_of(group, None, &["uid"], 1 << 40)? {
                let batch = batch?;
                let uids = batch.column(0).as_fixed_size_binary();
                for at in 0..uids.len() {
                    writer.push(uids.value(at).try_into()?, row)?;
                    row += 1;
                }
            }
        }
        Ok(writer.finish()?)
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
        all.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })?;
    let read_s = begun.elapsed().as_secs_f64();
    let keep = RowSet::new(table.rows());
    keep.insert_all();
    let spilled = keys.spilled_bytes();
    keys.finish(
        threads,
        &progress,
        || (),
        |(), class, row| {
            if class != row {
                keep.remove(row);
            }
            Ok(())
        },
        |()| Ok(()),
    )?;
    println!(
        "{{\"rows\": {}, \"kept\": {}, \"read_s\": {read_s:.3}, \"wall_s\": {:.3}, \"spilled_bytes\": {spilled}}}",
        table.rows(),
        keep.count(),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

#[allow(clippy::print_stdout, reason = "what an example is for")]
fn codes(count: u64, threads: usize, radius: u32) -> Outcome {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let (mut codes, mut planted) = (Vec::with_capacity(count as usize), Vec::new());
    while (codes.len() as u64) < count {
        let code = random();
        codes.push(code);
        if random() % 100 == 0 && (codes.len() as u64) < count {
            let near = (0..=random() % u64::from(radius)).fold(code, |near, _| near ^ 1 << (random() % 64));
            if near != code {
                codes.push(near);
                planted.push((code.min(near), code.max(near)));
            }
        }
    }
    codes.sort_unstable();
    codes.dedup();
    planted.sort_unstable();
    planted.dedup();
    let distinct = codes.len();
    let (pairs, met) = (AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    code_pairs(codes, radius, threads, &Progress::default(), |found| {
        pairs.fetch_add(found.len() as u64, Ordering::Relaxed);
        let known = found.iter().filter(|pair| planted.binary_search(&(pair.a, pair.b)).is_ok()).count();
        met.fetch_add(known as u64, Ordering::Relaxed);
        Ok(())
    })?;
    println!(
        "{{\"codes\": {distinct}, \"radius\": {radius}, \"threads\": {threads}, \"planted\": {}, \"planted_found\": {}, \"pairs\": {}, \"wall_s\": {:.3}}}",
        planted.len(),
        met.into_inner(),
        pairs.into_inner(),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}
