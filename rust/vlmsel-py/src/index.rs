//! `_core.index` and `_core.tar_members`: options and summary as JSON.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use vlmsel_pipeline::Error;
use vlmsel_pipeline::index::{IndexOptions, index as run};
use vlmsel_shards::formats::table_images::OpenTables;
use vlmsel_shards::formats::tar::{Item, TarReader};
use vlmsel_shards::storage::source::LocalFile;

use crate::gil::{enter, raise};

/// Indexes shards; returns the summary.
#[pyfunction]
#[pyo3(signature = (options, watch=None))]
fn index(py: Python<'_>, options: &str, watch: Option<Py<PyAny>>) -> PyResult<String> {
    let options: IndexOptions =
        serde_json::from_str(options).map_err(|error| raise(py, &Error::usage(format!("index: {error}"))))?;
    let summary = enter(py, watch, |progress| run(&options, progress))?;
    serde_json::to_string(&summary).map_err(|error| raise(py, &Error::Bug(error.to_string())))
}

/// `(name, header offset, data offset, size, class)` per member; class is `file`, `folder` or a reason for quarantine.
type Members = Vec<(String, u64, u64, u64, String)>;

/// The members of a tar, and how it ended: `(reason, offset)`, reason `end`, `trailing_garbage` or a kind of damage.
#[pyfunction]
fn tar_members(py: Python<'_>, path: PathBuf) -> PyResult<(Members, (String, u64))> {
    enter(py, None, |progress| {
        let file = LocalFile::open(&path)?;
        let mut reader = TarReader::new(&file, 1 << 16);
        let mut members = Vec::new();
        loop {
            progress.check()?;
            match reader.next()? {
                Item::Member(m) => {
                    let plain =
                        if m.kind == vlmsel_shards::formats::tar::MemberKind::Folder { "folder" } else { "file" };
                    let class = m.kind.reason().unwrap_or(plain).to_owned();
                    members.push((m.name, m.header_offset, m.offset, m.size, class));
                }
                Item::End(end) => {
                    let ended = end.trailing.map_or(("end".to_owned(), 0), |at| ("trailing_garbage".to_owned(), at));
                    return Ok((members, ended));
                }
                Item::Damage(damage) => return Ok((members, (damage.reason.to_owned(), damage.offset))),
            }
        }
    })
}

/// The hash by which an index knows an image's stored bytes: xxh3-128, most significant byte first.
#[pyfunction]
fn image_hash<'py>(py: Python<'py>, data: &[u8]) -> Bound<'py, PyBytes> {
    PyBytes::new(py, &vlmsel_core::hash::image_hash(data))
}

/// Tables whose images are read: they stay open, and rows near each other cost one decoding.
#[pyclass(module = "vlmsel._core", frozen)]
struct TableReader {
    tables: OpenTables,
}

#[pymethods]
impl TableReader {
    #[new]
    fn new() -> Self {
        Self { tables: OpenTables::default() }
    }

    /// The bytes of an image in a row of a Parquet table, of an item where rows hold lists.
    #[pyo3(signature = (path, row, item=None))]
    fn read<'py>(&self, py: Python<'py>, path: PathBuf, row: u64, item: Option<u32>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = enter(py, None, |_| Ok(self.tables.get(&path)?.read(row, item)?))?;
        Ok(PyBytes::new(py, &bytes))
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(index, module)?)?;
    module.add_function(wrap_pyfunction!(image_hash, module)?)?;
    module.add_class::<TableReader>()?;
    module.add_function(wrap_pyfunction!(tar_members, module)?)
}
