//! The one door between Rust and Python: convert, release the GIL, poll signals, map errors.
//!
//! Options and summaries cross as JSON text, tables as Arrow streams, ids and weights of models as buffers; never one object
//! per row.

#![allow(clippy::needless_pass_by_value, reason = "pyo3 converts arguments by value")]

mod arrow;
mod blend;
mod dedup;
mod doctor;
mod gil;
mod index;
mod memory;
mod output;
mod rows;
mod select;
mod shard;
mod stream;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    memory::prepare();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    output::register(module)?;
    arrow::register(module)?;
    rows::register(module)?;
    select::register(module)?;
    index::register(module)?;
    dedup::register(module)?;
    shard::register(module)?;
    doctor::register(module)?;
    blend::register(module)?;
    Ok(())
}
