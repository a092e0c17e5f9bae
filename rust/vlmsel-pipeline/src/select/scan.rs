//! Running a pass: threads that take chunk after chunk, until one fails.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::pass::{Counts, Goal, Scan};
use super::worker::Worker;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::threads::start;

impl Scan<'_> {
    /// Reads everything once.
    ///
    /// # Errors
    /// Those of the options (`--strict`) and of the scratch disk, and cancellation. A broken table is in
    /// [`Counts::broken`].
    pub fn run(&self, goal: &Goal<'_>, progress: &Progress) -> Result<Counts> {
        let chunks = self.chunks();
        let next = AtomicUsize::new(0);
        let total = Mutex::new(Counts::default());
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        let failed = || failure.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            let outcome = Worker::new(self, goal, progress).and_then(|mut worker| {
                while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if failed().is_some() {
                        break;
                    }
                    worker.read(*chunk)?;
                }
                worker.finish()
            });
            match outcome {
                Ok(counts) => total.lock().unwrap_or_else(PoisonError::into_inner).add(counts),
                Err(error) => {
                    failed().get_or_insert(error);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.request.threads.clamp(1, chunks.len().max(1)) {
                if let Err(error) = start(scope, work) {
                    failed().get_or_insert(error);
                }
            }
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut counts = total.into_inner().unwrap_or_else(PoisonError::into_inner);
        for records in counts.listed.values_mut() {
            records.sort();
        }
        Ok(counts)
    }
}
