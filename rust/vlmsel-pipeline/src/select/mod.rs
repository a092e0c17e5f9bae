//! `select`: the k best rows of any number of score tables, exactly.
//!
//! ```text
//! plan      which tables, which columns, which filters           plan.rs, ids.rs
//! scan      every score once, in blocks; who may win is encoded  scan.rs, worker.rs
//! collect   the rows that may win, cut back as they pile up      rows.rs, repeats.rs; past the memory limit: sorter.rs
//! walk      best first: size, repeats, ranks                     walk.rs
//! write     selection.parquet, uids.npy, manifest                write.rs
//! ```
//! The result is a function of the rows and the options alone: any number of threads, order of files or memory limit
//! gives the same bytes.

mod arena;
mod dry_run;
mod gather;
mod ids;
mod pass;
mod plan;
mod ranks;
mod repeats;
mod report;
mod row_layout;
mod rows;
mod run;
mod sameness;
mod scan;
mod sorter;
mod target;
mod walk;
mod worker;
mod write;

pub use dry_run::{Plan, plan};
pub(crate) use ids::for_each_id;
pub use plan::{Control, Order, Request, Size};
pub use report::{Outcome, SelectionReport};
pub use run::select;
