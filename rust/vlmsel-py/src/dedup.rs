//! `_core.dedup`: options and summary as JSON.

use pyo3::prelude::*;
use vlmsel_pipeline::Error;
use vlmsel_pipeline::dedup::{DedupOptions, dedup as run};

use crate::gil::{enter, raise};

/// Finds copies and chooses which of them to keep; returns the summary.
#[pyfunction]
#[pyo3(signature = (options, watch=None))]
fn dedup(py: Python<'_>, options: &str, watch: Option<Py<PyAny>>) -> PyResult<String> {
    let options: DedupOptions =
        serde_json::from_str(options).map_err(|error| raise(py, &Error::usage(format!("dedup: {error}"))))?;
    let summary = enter(py, watch, |progress| run(&options, progress))?;
    serde_json::to_string(&summary).map_err(|error| raise(py, &Error::Bug(error.to_string())))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(dedup, module)?)
}
