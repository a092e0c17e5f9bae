//! What all steps of one search share: its options, and threads that hand over what they find.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use vlmsel_core::jaccard::Jaccard;
use vlmsel_core::prefix_join::{MAX_ITEMS, PrefixJoin};
use vlmsel_core::word_set::SetsOf;

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::threads::start;

/// What is searched for, and with what.
#[derive(Debug, Clone)]
pub struct NearTextOptions {
    /// Jaccard similarity from which on two texts are near.
    pub threshold: Jaccard,
    /// What a text is a set of.
    pub sets: SetsOf,
    /// Bytes of memory to stay under; 0 for no limit, and less than [`LEAST_MEMORY`] is taken for that. Tables and buffers of
    /// a few MiB for each thread come on top, as does what one text needs.
    pub memory_limit: u64,
    /// Threads; at least 1.
    pub threads: usize,
}

/// Two texts whose sets are near and not equal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TextEdge {
    /// The smaller number.
    pub a: u32,
    /// The greater number.
    pub b: u32,
    /// Jaccard similarity of the sets, rounded; the decision was exact.
    pub similarity: f32,
}

/// The options, and what every step needs beside them.
pub struct Run<'a, H> {
    pub options: &'a NearTextOptions,
    pub hasher: H,
    pub scratch: &'a Path,
    pub progress: &'a Progress,
    pub plan: PrefixJoin,
}

impl<H> Run<'_, H> {
    /// Bytes to stay under.
    pub fn memory(&self) -> u64 {
        memory(self.options)
    }

    pub fn threads(&self) -> usize {
        self.options.threads.max(1)
    }

    /// Sets of more items are found by their bands.
    pub fn longest_exact(&self) -> usize {
        match self.options.sets {
            SetsOf::Words => MAX_ITEMS,
            SetsOf::Chars(_) => 0,
        }
    }

    /// The smallest set that may be near one that is found by its bands.
    pub fn shortest_banded(&self) -> usize {
        self.options.threshold.least(self.longest_exact() + 1)
    }
}

/// Less memory than this would only make more files.
pub const LEAST_MEMORY: u64 = 4096;

/// The limit of the options; without one, what no machine has.
pub fn memory(options: &NearTextOptions) -> u64 {
    if options.memory_limit == 0 { 1 << 50 } else { options.memory_limit.max(LEAST_MEMORY) }
}

/// Where a thread puts what it found.
pub struct Outlet<T> {
    sender: SyncSender<T>,
}

impl<T> Outlet<T> {
    /// Hands something over; waits while nobody takes it.
    ///
    /// # Errors
    /// After another thread failed, or whoever takes.
    pub fn give(&self, found: T) -> Result<()> {
        self.sender.send(found).map_err(|_| Error::Shards(vlmsel_shards::Error::Cancelled))
    }
}

/// Does jobs 0 to `jobs` in threads of their own, and gives what they hand over to `take` on this one, in no order. Returns the
/// first error of whoever took, else of a job.
pub fn in_parallel<T: Send>(
    threads: usize,
    jobs: u32,
    work: impl Fn(u32, &Outlet<T>) -> Result<()> + Sync,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let (next, stopped) = (AtomicU32::new(0), AtomicBool::new(false));
    let (sender, receiver) = sync_channel(2 * threads);
    let loop_over_jobs = |outlet: Outlet<T>| -> Result<()> {
        while !stopped.load(Ordering::Relaxed) {
            let job = next.fetch_add(1, Ordering::Relaxed);
            if job >= jobs {
                break;
            }
            work(job, &outlet).inspect_err(|_| stopped.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    let loop_over_jobs = &loop_over_jobs;
    std::thread::scope(|scope| {
        let mut workers = Vec::new();
        let mut result = Ok(());
        for _ in 0..threads.min(jobs as usize).max(1) {
            let outlet = Outlet { sender: sender.clone() };
            match start(scope, move || loop_over_jobs(outlet)) {
                Ok(worker) => workers.push(worker),
                Err(error) => result = Err(error),
            }
        }
        drop(sender);
        if result.is_ok() {
            result = receiver.iter().try_for_each(&mut take);
        }
        if result.is_err() {
            stopped.store(true, Ordering::Relaxed);
        }
        drop(receiver);
        for worker in workers {
            let ended = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result = result.and(ended);
        }
        result
    })
}

/// Splits `0..n` into about equal ranges, one for each thread.
pub fn ranges(n: usize, threads: usize) -> Vec<std::ops::Range<usize>> {
    let each = n.div_ceil(threads.max(1)).max(1);
    (0..n).step_by(each).map(|start| start..(start + each).min(n)).collect()
}

/// Does `work` for every item in a thread of its own, and returns what they return in the items' order.
pub fn map_in_parallel<I: Send, T: Send>(items: Vec<I>, work: impl Fn(I) -> T + Sync) -> Result<Vec<T>> {
    let work = &work;
    if items.len() < 2 {
        return Ok(items.into_iter().map(work).collect());
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| start(scope, move || work(item))).collect();
        threads
            .into_iter()
            .map(|thread| Ok(thread?.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_done_once_and_errors_end_them() {
        for threads in [1, 2, 8] {
            let mut taken = Vec::new();
            let double = |job: u32, outlet: &Outlet<u32>| outlet.give(job).and_then(|()| outlet.give(job));
            in_parallel(threads, 100, double, |job| {
                taken.push(job);
                Ok(())
            })
            .unwrap();
            taken.sort_unstable();
            assert!(taken.iter().copied().eq((0..200).map(|at| at / 2)));
            let refused =
                in_parallel(threads, 1000, double, |job| if job == 3 { Err(Error::usage("taker")) } else { Ok(()) });
            assert_eq!(refused.unwrap_err().to_string(), "taker");
            let fail = |job, outlet: &Outlet<u32>| if job == 7 { Err(Error::usage("job")) } else { outlet.give(job) };
            assert_eq!(in_parallel(threads, 1000, fail, |_| Ok(())).unwrap_err().to_string(), "job");
            assert_eq!(map_in_parallel(ranges(10, threads), Iterator::sum::<usize>).unwrap().iter().sum::<usize>(), 45);
        }
        assert!(ranges(0, 3).is_empty());
    }
}
