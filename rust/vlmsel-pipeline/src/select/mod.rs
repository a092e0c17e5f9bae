//! `select`: the k best rows of any number of score tables, exactly.
//!
//! ```text
//! plan      which tables, which columns, which filters           plan.rs, ids.rs
//! scan      every score once, in blocks; who may win is encoded  scan.rs
//! collect   the rows that may win, cut back as they pile up      rows.rs; past the memory limit: sorter.rs
//! walk      best first: size, repeats, ranks                     walk.rs
//! write     selection.parquet, uids.npy, manifest                write.rs
//! ```
//! The result is a function of the rows and the options alone: any number of threads, order of files or memory limit
//! gives the same bytes.

mod gather;
mod ids;
mod plan;
mod ranks;
mod rows;
mod run;
mod scan;
mod sorter;
mod walk;
mod write;

pub(crate) use ids::for_each_id;
pub use plan::{Control, Order, Request, Size};
pub use run::{Outcome, Plan, SelectionReport, plan, select};
