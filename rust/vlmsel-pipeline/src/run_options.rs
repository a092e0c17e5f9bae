//! How much unreadable input a run puts up with, and on how many threads it works.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use vlmsel_shards::workspace::manifest::{Losses, Tolerated};
use vlmsel_shards::workspace::quarantine::Quarantined;

use crate::error::{Error, Result};
use crate::threads::{cannot_start, start};

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

/// What a run or a reader puts up with.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// How much may be lost.
    pub tolerated: Tolerated,
    /// Nothing may.
    pub strict: bool,
}

impl Tolerance {
    /// Refuses what is in `folder` if the run that made it lost more than this puts up with.
    ///
    /// # Errors
    /// Exit 3, or 5 under `--strict`, with what to accept it with.
    pub fn accept(&self, folder: &Path, losses: Option<&Losses>) -> Result<()> {
        let Some(losses) = losses else { return Ok(()) };
        let Losses { input, quarantined, bad_files, .. } = losses;
        let Tolerated { max_bad_fraction, allow_bad_files } = self.tolerated;
        let records = *quarantined as f64 > max_bad_fraction * *input as f64;
        let files = bad_files.len() as u64 > allow_bad_files;
        if !records && !files && !self.strict {
            return Ok(());
        }
        let mut what = Vec::new();
        let mut advice = Vec::new();
        if *quarantined > 0 {
            what.push(format!("{quarantined} of {input} records, which could not be used"));
            let fraction = *quarantined as f64 / (*input).max(1) as f64;
            advice.push(format!("--max-bad-fraction {:.4}", (fraction * 1e4).ceil() / 1e4));
        }
        if !bad_files.is_empty() {
            let first = bad_files.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            what.push(format!("{} file(s) that could not be read whole ({first})", bad_files.len()));
            advice.push(format!("--allow-bad-files {}", bad_files.len()));
        }
        let text = format!("{} was made without {}", folder.display(), what.join(" and without "));
        if self.strict {
            return Err(Error::Strict(format!(
                "{text}; without --strict it may be accepted with {}",
                advice.join(" ")
            )));
        }
        Err(Error::TooMuchUnreadable(format!(
            "{text}; mend the data and make it again, or accept it with {}",
            advice.join(" ")
        )))
    }
}

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

    /// Under `--strict` a bad record ends the run.
    pub fn refuse(&self, bad: &Quarantined) -> Result<()> {
        if !self.strict {
            return Ok(());
        }
        let place = bad.position.map(|at| format!(", {} {at}", bad.unit)).unwrap_or_default();
        let key = bad.key.as_deref().map(|key| format!(", key {key:?}")).unwrap_or_default();
        Err(Error::Strict(format!(
            "{}{place}{key}: {} ({:?}); without --strict such records are put aside",
            bad.file, bad.reason, bad.detail
        )))
    }

    /// Which losses the run puts up with.
    pub fn tolerance(&self) -> Tolerance {
        let tolerated = Tolerated { max_bad_fraction: self.max_bad_fraction, allow_bad_files: self.allow_bad_files };
        Tolerance { tolerated, strict: self.strict }
    }

    /// Judges a finished run: `damaged` names the files that could not be read to their end, and why.
    pub fn judge(&self, input: u64, quarantined: u64, damaged: &[String], where_listed: &str) -> Result<()> {
        if damaged.len() as u64 > self.allow_bad_files {
            let shown = damaged.iter().take(10).map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
            let more = damaged.len().saturating_sub(10);
            let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
            let text = format!(
                "{} file(s) cannot be read to their end, {} allowed:\n{shown}{more}\nRepair or leave them out, or keep what can be read with --allow-bad-files {}",
                damaged.len(),
                self.allow_bad_files,
                damaged.len()
            );
            return Err(if self.strict { Error::Strict(text) } else { Error::TooMuchUnreadable(text) });
        }
        if self.strict && quarantined > 0 {
            // Read by an earlier run, which was not strict.
            return Err(Error::Strict(format!(
                "{quarantined} of {input} records cannot be used: {where_listed}; without --strict they are put aside"
            )));
        }
        if quarantined as f64 > self.max_bad_fraction * input as f64 {
            let fraction = quarantined as f64 / input.max(1) as f64;
            return Err(Error::TooMuchUnreadable(format!(
                "{quarantined} of {input} records cannot be used ({fraction:.4}, allowed {}): {where_listed}\n`vlmsel doctor` says what is wrong with each; accept it with --max-bad-fraction {:.4}",
                self.max_bad_fraction,
                (fraction * 1e4).ceil() / 1e4
            )));
        }
        Ok(())
    }
}
