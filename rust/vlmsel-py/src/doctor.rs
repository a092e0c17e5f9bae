//! `_core.doctor`: options and findings as JSON.

use pyo3::prelude::*;
use vlmsel_pipeline::Error;
use vlmsel_pipeline::doctor::{DoctorOptions, doctor as run};

use crate::gil::{enter, raise};

/// Looks for what is wrong with a data set; returns the findings.
#[pyfunction]
#[pyo3(signature = (options, watch=None))]
fn doctor(py: Python<'_>, options: &str, watch: Option<Py<PyAny>>) -> PyResult<String> {
    let options: DoctorOptions =
        serde_json::from_str(options).map_err(|error| raise(py, &Error::usage(format!("doctor: {error}"))))?;
    let findings = enter(py, watch, |progress| run(&options, progress))?;
    serde_json::to_string(&findings).map_err(|error| raise(py, &Error::Bug(error.to_string())))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(doctor, module)?)
}
