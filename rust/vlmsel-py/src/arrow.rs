//! Tables across the door by Arrow's `PyCapsule` interface, without copies.

use std::ffi::{CStr, OsString};
use std::sync::Arc;

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatch, RecordBatchIterator};
use arrow_schema::{Field, Schema, SchemaRef};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use vlmsel_pipeline::Error;
use vlmsel_pipeline::pick_rows::open_parquet;
use vlmsel_shards::columns::Column;

use crate::gil::{raise, raise_shards};
use crate::rows::{columns_of, tables};
use crate::stream::Stream;

const STREAM: &CStr = c"arrow_array_stream";

/// The stream of anything with `__arrow_c_stream__`.
pub fn import_stream(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Stream> {
    let py = object.py();
    let wrong = |what: String| raise(py, &Error::usage(format!("{name}: {what}")));
    let capsule = object.call_method0("__arrow_c_stream__")?;
    let capsule =
        capsule.cast_into::<PyCapsule>().map_err(|_| wrong("__arrow_c_stream__ gave no capsule".to_owned()))?;
    let pointer = capsule.pointer_checked(Some(STREAM))?;
    // SAFETY: the capsule's name says that it holds an Arrow stream; the stream is moved out and marked as released.
    let stream = unsafe { FFI_ArrowArrayStream::from_raw(pointer.as_ptr().cast()) };
    Stream::new(stream).map_err(|error| wrong(error.to_string()))
}

/// A table in memory that other Arrow libraries take without copies.
#[pyclass(module = "vlmsel._core", frozen)]
pub struct ArrowTable {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

#[pymethods]
impl ArrowTable {
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // The interface allows to ignore the request: the consumer casts.
        let _ = requested_schema;
        let batches = self.batches.clone().into_iter().map(Ok);
        let reader = RecordBatchIterator::new(batches, self.schema.clone());
        PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(Box::new(reader)), STREAM)
    }

    #[getter]
    fn num_rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    #[getter]
    fn column_names(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }
}

/// Reads Parquet tables (files, folders, patterns) into memory.
#[pyfunction]
#[pyo3(signature = (paths, columns=Vec::new()))]
fn read_table(py: Python<'_>, paths: Vec<OsString>, columns: Vec<String>) -> PyResult<ArrowTable> {
    let files = tables(py, &paths)?;
    let mut schema: Option<SchemaRef> = None;
    let mut batches = Vec::new();
    for file in files {
        let table = open_parquet(&file).map_err(|error| raise(py, &error))?;
        let found = columns_of(&table, &columns).map_err(|error| raise(py, &error))?;
        let found: Vec<&Column> = found.iter().collect();
        let fields = || found.iter().map(|column| Field::new(&column.name, column.output.clone(), true));
        let schema = schema.get_or_insert_with(|| Arc::new(Schema::new(fields().collect::<Vec<_>>())));
        for group in 0..table.groups() {
            for batch in table.batches(group, None, &found).map_err(|error| raise_shards(py, error))? {
                let batch = batch.map_err(|error| raise_shards(py, error))?;
                let arrays = batch.columns().iter().zip(schema.fields());
                let arrays = arrays
                    .map(|(array, field)| arrow_cast::cast(array, field.data_type()))
                    .collect::<Result<Vec<_>, _>>();
                let batch = arrays.and_then(|arrays| RecordBatch::try_new(schema.clone(), arrays));
                batches.push(batch.map_err(|error| raise(py, &Error::usage(error.to_string())))?);
            }
            py.check_signals()?;
        }
    }
    let schema = schema.ok_or_else(|| raise(py, &Error::usage("no table to read")))?;
    Ok(ArrowTable { schema, batches })
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ArrowTable>()?;
    module.add_function(wrap_pyfunction!(read_table, module)?)
}
