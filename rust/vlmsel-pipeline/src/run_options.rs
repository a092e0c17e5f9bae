//! Options that every command over shards has, and on how many threads it works.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use vlmsel_shards::workspace::manifest::Tolerated;

use crate::error::{Error, Result};
use crate::threads::{cannot_start, start};
use crate::tolerance::Tolerance;

/// Options that every command over shards has; none of them decides what a finished output holds.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunOptions {
    /// Threads; 0 for as many as there are cores.
    pub threads: usize,
    /// Bytes of memory to stay under; 0 for no limit.
    pub memory_limit: u64,
    /// End at the first bad record.
    pub strict: bool,
    /// Quarantined records over input records.
    pub max_bad_fraction: f64,
    /// Files that may be damaged.
    pub allow_bad_files: u64,
    /// Replace a finished output of other inputs or options.
    pub overwrite: bool,
    /// Plan only.
    pub dry_run: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            threads: 0,
            memory_limit: 0,
            strict: false,
            max_bad_fraction: 0.001,
            allow_bad_files: 0,
            overwrite: false,
            dry_run: false,
        }
    }
}

/// What a thread may need at its worst: buffers, a row group and its encoded form.
const THREAD_BYTES: u64 = 96 << 20;

impl RunOptions {
    /// A pool of the asked size, smaller where the memory limit does not allow as many.
    pub fn pool(&self) -> Result<rayon::ThreadPool> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let wanted = if self.threads == 0 { cores } else { self.threads };
        let afforded = if self.memory_limit == 0 { wanted as u64 } else { (self.memory_limit / THREAD_BYTES).max(1) };
        rayon::ThreadPoolBuilder::new()
            .num_threads(wanted.min(afforded as usize))
            .build()
            .map_err(|error| cannot_start(&error).into())
    }

    /// Does `work` for every item (it gets the item's number too), each in one of `threads` threads of its own, which may
    /// hand parts of it to a pool. Not done on the pool itself: a thread that waits for such a part would begin another
    /// item meanwhile, and hold the memory of both. After an error no item is begun.
    pub(crate) fn each<T: Sync>(
        threads: usize,
        items: &[T],
        work: impl Fn(usize, &T) -> Result<()> + Sync,
    ) -> Result<()> {
        let (next, stopped, first) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
        let fail = |error: Error| {
            stopped.store(true, Ordering::Relaxed);
            first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        };
        let run = || {
            while !stopped.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(number) else { return };
                work(number, item).unwrap_or_else(fail);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..threads.clamp(1, items.len().max(1)) {
                if let Err(error) = start(scope, run) {
                    fail(error);
                }
            }
        });
        first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Which losses the run puts up with.
    pub fn tolerance(&self) -> Tolerance {
        let tolerated = Tolerated { max_bad_fraction: self.max_bad_fraction, allow_bad_files: self.allow_bad_files };
        Tolerance { tolerated, strict: self.strict }
    }
}
