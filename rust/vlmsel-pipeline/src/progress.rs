//! Counters that a front end may watch while a run works, and the flag that stops it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared between a run's threads and whoever watches. Reading it never slows the run down.
#[derive(Debug, Default)]
pub struct Progress {
    records: AtomicU64,
    records_total: AtomicU64,
    bytes: AtomicU64,
    bytes_total: AtomicU64,
    cancelled: AtomicBool,
}

/// What the counters showed at one moment; a total of 0 is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Records done.
    pub records: u64,
    /// Records to do.
    pub records_total: u64,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes to do.
    pub bytes_total: u64,
}

impl Progress {
    /// Sets what there is to do.
    pub fn expect(&self, records: u64, bytes: u64) {
        self.records_total.store(records, Ordering::Relaxed);
        self.bytes_total.store(bytes, Ordering::Relaxed);
    }

    /// Begins again at zero, for a run's next pass.
    pub fn restart(&self) {
        self.records.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// Adds what was done and stops the caller if the run was cancelled.
    ///
    /// # Errors
    /// [`vlmsel_shards::Error::Cancelled`] after [`Progress::cancel`].
    pub fn add(&self, records: u64, bytes: u64) -> vlmsel_shards::Result<()> {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.check()
    }

    /// Stops the caller if the run was cancelled.
    ///
    /// # Errors
    /// [`vlmsel_shards::Error::Cancelled`] after [`Progress::cancel`].
    pub fn check(&self) -> vlmsel_shards::Result<()> {
        if self.is_cancelled() { Err(vlmsel_shards::Error::Cancelled) } else { Ok(()) }
    }

    /// Asks the run to stop soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the run was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            records: self.records.load(Ordering::Relaxed),
            records_total: self.records_total.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
        }
    }
}
