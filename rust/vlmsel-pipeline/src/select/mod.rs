//! `select`: the k best rows of any number of score tables, exactly.
//!
//! ```text
//! plan      which tables, which columns, which filters           plan.rs; id_set.rs
//! scan      every score once, in blocks; who may win is encoded  scan.rs, worker.rs
//! collect   the rows that may win, cut back as they pile up      collector.rs, distinct.rs; past the memory limit: external_sort.rs
//! choose    best first: size, repeats, ranks                     choose.rs, repeated_ids.rs; core::cutoff
//! write     selection.parquet, uids.npy, manifest                write.rs
//! ```
//! The result is a function of the rows and the options alone: any number of threads, order of files or memory limit
//! gives the same bytes.

mod choose;
mod collector;
mod distinct;
mod dry_run;
mod pass;
mod plan;
mod ranks;
mod repeated_ids;
mod report;
mod row;
mod row_codec;
mod row_layout;
mod run;
mod sameness;
mod scan;
mod target;
mod worker;
mod write;

pub use dry_run::{Plan, plan};
pub use plan::{Control, Order, Request, Size};
pub use report::{Outcome, SelectionReport};
pub use run::select;
pub use write::{TABLE, UIDS};
