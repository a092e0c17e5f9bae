//! Plans and runs one command over many shards.
//!
//! A run gets its whole configuration as a value, reports through [`progress::Progress`], stops when that is cancelled, and
//! ends with an error or a summary in which every input row has exactly one class.

pub mod error;
pub mod progress;
pub mod select;

pub use error::{Error, Result};

pub mod doctor;
pub mod index;
pub mod policy;
pub mod shard;
pub mod shortlist;
pub mod sources;
pub mod threads;
