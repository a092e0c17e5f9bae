//! `_core.shard`: options and summary as JSON.

use pyo3::prelude::*;
use vlmsel_pipeline::Error;
use vlmsel_pipeline::shard::{ShardOptions, shard as run};

use crate::gil::{enter, raise};

/// Writes the selected samples as tars; returns the summary.
#[pyfunction]
#[pyo3(signature = (options, watch=None))]
fn shard(py: Python<'_>, options: &str, watch: Option<Py<PyAny>>) -> PyResult<String> {
    let options: ShardOptions =
        serde_json::from_str(options).map_err(|error| raise(py, &Error::usage(format!("shard: {error}"))))?;
    let summary = enter(py, watch, |progress| run(&options, progress))?;
    serde_json::to_string(&summary).map_err(|error| raise(py, &Error::Bug(error.to_string())))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(shard, module)?)
}
