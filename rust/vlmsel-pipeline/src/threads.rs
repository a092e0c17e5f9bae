//! Starting threads, and the pool of each process that sorts and samples for `select`.
//!
//! Rayon's own pool is made once, and a process that Python forks from one that used it (workers of `multiprocessing`, of a
//! `DataLoader`) inherits the pool without its threads: whoever hands it work waits for ever.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::Result;

/// Starts a thread that is joined with the scope.
///
/// # Errors
/// [`vlmsel_shards::Error::Resource`] where the system starts no more; `Scope::spawn` would panic.
pub fn start<'scope, 'env, T: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().spawn_scoped(scope, work).map_err(|error| cannot_start(&error).into())
}

/// What it means that a thread does not start.
pub(crate) fn cannot_start(error: &dyn std::fmt::Display) -> vlmsel_shards::Error {
    vlmsel_shards::Error::Resource(format!(
        "cannot start a thread: {error}; lower --threads, or raise the limits of processes and of memory (ulimit -u, ulimit -v), and run the same command again"
    ))
}

static POOL: Shared = Shared(AtomicPtr::new(ptr::null_mut()));

/// Does `work` in the pool of this process, so that what rayon splits up is done there. It is told whether there is one:
/// where no threads can be started, it runs on this one, and has to do everything itself.
pub(crate) fn in_pool<T: Send>(work: impl FnOnce(bool) -> T + Send) -> T {
    match POOL.of(std::process::id()) {
        Some(threads) => threads.install(|| work(true)),
        None => work(false),
    }
}

struct Pool {
    /// The process that has its threads.
    process: u32,
    threads: ThreadPool,
}

/// A pointer and not a lock, because a lock that another thread holds during a fork stays locked in the child. What it points
/// to is never freed: nothing but leaving it alone can be done with a pool of the parent.
struct Shared(AtomicPtr<Pool>);

impl Shared {
    fn of(&self, process: u32) -> Option<&'static ThreadPool> {
        // SAFETY: it is null or came from `Box::into_raw` below, and is never freed once it is here.
        let threads_of = |at: *mut Pool| unsafe { at.as_ref() }.filter(|pool| pool.process == process);
        let before = self.0.load(Ordering::Acquire);
        if let Some(pool) = threads_of(before) {
            return Some(&pool.threads);
        }
        let made = Box::into_raw(Box::new(Pool { process, threads: ThreadPoolBuilder::new().build().ok()? }));
        match self.0.compare_exchange(before, made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => threads_of(made).map(|pool| &pool.threads),
            Err(other) => {
                // Another thread of this process was faster.
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(made) });
                threads_of(other).map(|pool| &pool.threads)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_of_a_process_share_a_pool_and_another_process_makes_its_own() {
        let shared = Shared(AtomicPtr::new(ptr::null_mut()));
        let place = |process| ptr::from_ref(shared.of(process).unwrap()).addr();
        let pools: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| place(1))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(pools.iter().all(|pool| *pool == pools[0]), "{pools:?}");
        let of_child = place(2);
        assert_ne!(of_child, pools[0]);
        assert_eq!(place(2), of_child);
    }

    #[test]
    fn work_is_done_in_a_pool() {
        assert!(in_pool(|parallel| parallel && rayon::current_thread_index().is_some()));
    }
}
