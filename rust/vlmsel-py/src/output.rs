//! `_core.Output`, `_core.fingerprint` and `_core.verify`: the commit of an output folder, for stages written in Python.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use pyo3::prelude::*;
use serde_json::Value;
use vlmsel_pipeline::Error;
use vlmsel_pipeline::stage::{Begun, Done, Run, Unit};
use vlmsel_pipeline::tolerance::{Excess, Tolerance};
use vlmsel_shards::workspace::manifest::{Manifest, Tolerated};
use vlmsel_shards::workspace::output::{OutputSpec, Summary};

use crate::gil::{enter, raise, raise_shards};

fn parse<T: serde::de::DeserializeOwned>(py: Python<'_>, what: &str, text: &str) -> PyResult<T> {
    serde_json::from_str(text).map_err(|error| raise(py, &Error::usage(format!("{what}: {error}"))))
}

/// A path on its way to Python, which decodes it by its own rule: that of the locale, which may not be UTF-8.
type Bytes = Cow<'static, [u8]>;

fn bytes(path: PathBuf) -> Bytes {
    Cow::Owned(path.into_os_string().into_vec())
}

/// An output folder being written; see `vlmsel.Output`.
#[pyclass(module = "vlmsel._core")]
struct Output {
    inner: Option<Run>,
    path: PathBuf,
    finished: bool,
    manifest: Option<String>,
}

impl Output {
    fn run(&self, py: Python<'_>) -> PyResult<&Run> {
        self.inner.as_ref().ok_or_else(|| raise(py, &Error::usage("this output is closed")))
    }

    fn open(&self, py: Python<'_>) -> PyResult<&vlmsel_shards::workspace::output::Output> {
        Ok(self.run(py)?.output())
    }
}

#[pymethods]
impl Output {
    #[staticmethod]
    #[pyo3(signature = (path, command, config, inputs, units, guarded, overwrite, extend, resume))]
    #[allow(
        clippy::too_many_arguments,
        clippy::fn_params_excessive_bools,
        reason = "one keyword per field of OutputSpec"
    )]
    fn begin(
        py: Python<'_>,
        path: PathBuf,
        command: String,
        config: &str,
        inputs: &str,
        units: &str,
        guarded: Vec<PathBuf>,
        overwrite: bool,
        extend: bool,
        resume: bool,
    ) -> PyResult<Self> {
        let config: Value = parse(py, "config", config)?;
        let inputs = parse(py, "inputs", inputs)?;
        let units: Vec<Unit> = parse(py, "units", units)?;
        let spec = OutputSpec { path: path.clone(), command, config, inputs, guarded, overwrite, extend, resume };
        match enter(py, None, |_| Run::begin(spec, &units, &|_| Ok(()), &|_, _, _| Ok(true)))? {
            Begun::Finished(found) => {
                let manifest = serde_json::to_string(&found).ok();
                Ok(Self { inner: None, path, finished: true, manifest })
            }
            Begun::Left(run) => {
                Ok(Self { path: run.output().path().to_path_buf(), inner: Some(*run), finished: false, manifest: None })
            }
        }
    }

    #[getter]
    fn finished(&self) -> bool {
        self.finished
    }

    #[getter]
    fn path(&self) -> Bytes {
        bytes(self.path.clone())
    }

    #[getter]
    fn staging(&self, py: Python<'_>) -> PyResult<Bytes> {
        Ok(bytes(self.open(py)?.staging().to_path_buf()))
    }

    fn scratch(&self, py: Python<'_>) -> PyResult<Bytes> {
        self.open(py)?.scratch().map(bytes).map_err(|error| raise_shards(py, error))
    }

    /// The committed units as a JSON object of part records.
    fn committed(&self, py: Python<'_>) -> PyResult<String> {
        let parts = self.open(py)?.committed();
        serde_json::to_string(&parts).map_err(|error| raise(py, &Error::Bug(error.to_string())))
    }

    /// The units that are left to do, as JSON.
    fn left(&self, py: Python<'_>) -> PyResult<String> {
        serde_json::to_string(self.run(py)?.left()).map_err(|error| raise(py, &Error::Bug(error.to_string())))
    }

    fn temporary(&self, py: Python<'_>, name: &str) -> PyResult<Bytes> {
        self.open(py)?.temporary(name).map(bytes).map_err(|error| raise_shards(py, error))
    }

    fn commit(
        &self,
        py: Python<'_>,
        unit: &str,
        names: Vec<String>,
        rows: u64,
        counts: &str,
        detail: &str,
    ) -> PyResult<()> {
        let counts: BTreeMap<String, u64> = parse(py, "counts", counts)?;
        let detail: Value = parse(py, "detail", detail)?;
        let run = self.run(py)?;
        let files = names.into_iter().map(|name| (name, None)).collect();
        let done = Done { files, rows, counts, detail, noted: None };
        // Only what the file system says of inputs brings a unit that is compared, and here nothing was noted of them.
        enter(py, None, |_| run.commit(unit, done)).map(drop)
    }

    /// Publishes the folder and returns its manifest as JSON.
    fn finish(&mut self, py: Python<'_>, counts: &str, roots: &str, provenance: &str, run: &str) -> PyResult<String> {
        let summary = Summary {
            counts: parse(py, "counts", counts)?,
            roots: parse(py, "roots", roots)?,
            provenance: parse(py, "provenance", provenance)?,
            run: parse(py, "run", run)?,
            losses: None,
        };
        let Some(run) = self.inner.take() else {
            return Err(raise(py, &Error::usage("this output is closed")));
        };
        let manifest = enter(py, None, |_| run.finish(summary))?;
        let text = serde_json::to_string(&manifest).map_err(|error| raise(py, &Error::Bug(error.to_string())))?;
        self.finished = true;
        self.manifest = Some(text.clone());
        Ok(text)
    }

    /// The manifest of a finished output as JSON.
    fn manifest(&self) -> Option<&str> {
        self.manifest.as_deref()
    }

    fn close(&mut self) {
        self.inner = None;
    }
}

/// Fingerprint of a file (or of a finished vlmsel folder) as `(name, bytes, fingerprint)`.
#[pyfunction]
fn fingerprint(py: Python<'_>, path: PathBuf, name: &str) -> PyResult<(String, u64, String)> {
    let record =
        vlmsel_shards::workspace::fingerprint::fingerprint(&path, name).map_err(|error| raise_shards(py, error))?;
    Ok((record.name, record.bytes, record.fingerprint))
}

/// Where a path leads, whether or not it exists.
#[pyfunction]
fn real_place(path: PathBuf) -> Bytes {
    bytes(vlmsel_shards::storage::paths::real_place(&path))
}

/// The path below a root that stands in a manifest or an index as text.
#[pyfunction]
fn path_below(root: PathBuf, text: &str) -> Bytes {
    bytes(vlmsel_shards::storage::paths::below(&root, text))
}

/// Refuses a folder whose run lost more than this puts up with; nothing happens where it is no folder of ours.
#[pyfunction]
fn accept_losses(
    py: Python<'_>,
    folder: PathBuf,
    max_bad_fraction: f64,
    allow_bad_files: u64,
    strict: bool,
) -> PyResult<()> {
    let manifest = Manifest::read(&folder).map_err(|error| raise_shards(py, error))?;
    let tolerance = Tolerance { tolerated: Tolerated { max_bad_fraction, allow_bad_files }, strict };
    let losses = manifest.as_ref().and_then(|manifest| manifest.losses.as_ref());
    tolerance.accept(&folder, losses).map_err(|error| raise(py, &error))
}

/// Whether `bad` of `count` records and so many files are more than is put up with: `"any"` (under `strict`), `"files"`, `"records"`.
#[pyfunction]
fn exceeds(
    count: u64,
    bad: u64,
    files: u64,
    max_bad_fraction: f64,
    allow_bad_files: u64,
    strict: bool,
) -> Option<&'static str> {
    let tolerated = Tolerated { max_bad_fraction, allow_bad_files };
    Tolerance { tolerated, strict }.exceeded(count, bad, files).map(|excess| match excess {
        Excess::Any => "any",
        Excess::Files => "files",
        Excess::Records => "records",
    })
}

/// Re-reads an output folder; returns `(command, files, bytes, problems)`.
#[pyfunction]
#[pyo3(signature = (path, watch=None))]
fn verify(py: Python<'_>, path: PathBuf, watch: Option<Py<PyAny>>) -> PyResult<(String, u64, u64, Vec<String>)> {
    let found = enter(py, watch, |progress| {
        let mut last = 0;
        Ok(vlmsel_shards::workspace::verify::verify(&path, |bytes| {
            let more = bytes - last;
            last = bytes;
            progress.add(0, more).is_ok()
        })?)
    })?;
    Ok((found.command, found.files, found.bytes, found.problems))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Output>()?;
    module.add_function(wrap_pyfunction!(fingerprint, module)?)?;
    module.add_function(wrap_pyfunction!(real_place, module)?)?;
    module.add_function(wrap_pyfunction!(path_below, module)?)?;
    module.add_function(wrap_pyfunction!(accept_losses, module)?)?;
    module.add_function(wrap_pyfunction!(exceeds, module)?)?;
    module.add_function(wrap_pyfunction!(verify, module)?)
}
