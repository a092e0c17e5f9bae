//! Tables across the door by Arrow's `PyCapsule` interface, without copies, and single rows as Python objects.

use std::ffi::CStr;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::ffi_stream::{FFI_ArrowArrayStream, RecordBatchStreamReader};
use arrow_array::types::{Float16Type, Float32Type, Float64Type, Int64Type, UInt64Type};
use arrow_array::{Array, RecordBatch, RecordBatchIterator};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyDict, PyList};
use vlmsel_pipeline::Error;
use vlmsel_shards::inputs::expand;
use vlmsel_shards::tables::chunk_pages::PageBuffers;
use vlmsel_shards::tables::schema::{Role, Wanted, resolve};
use vlmsel_shards::tables::{KINDS, Table, is_table, open};

use crate::door::{raise, raise_shards};

const STREAM: &CStr = c"arrow_array_stream";

/// The stream of anything with `__arrow_c_stream__`.
pub fn import_stream(object: &Bound<'_, PyAny>, name: &str) -> PyResult<RecordBatchStreamReader> {
    let py = object.py();
    let wrong = |what: String| raise(py, &Error::usage(format!("{name}: {what}")));
    let capsule = object.call_method0("__arrow_c_stream__")?;
    let capsule =
        capsule.cast_into::<PyCapsule>().map_err(|_| wrong("__arrow_c_stream__ gave no capsule".to_owned()))?;
    let pointer = capsule.pointer_checked(Some(STREAM))?;
    // SAFETY: the capsule's name says that it holds an Arrow stream; the stream is moved out and marked as released.
    let stream = unsafe { FFI_ArrowArrayStream::from_raw(pointer.as_ptr().cast()) };
    RecordBatchStreamReader::try_new(stream).map_err(|error| wrong(error.to_string()))
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

fn parquet_batches(
    py: Python<'_>,
    paths: &[String],
    columns: &[String],
    mut visit: impl FnMut(&RecordBatch, &SchemaRef) -> PyResult<()>,
) -> PyResult<SchemaRef> {
    let files = expand(paths, KINDS, &is_table).map_err(|error| raise_shards(py, error))?;
    let mut schema = None;
    let mut buffers = PageBuffers::default();
    for file in files {
        let table = open(&file).map_err(|error| raise_shards(py, error))?;
        let Table::Parquet(parquet) = &table else {
            return Err(raise(
                py,
                &Error::usage(format!("{}: only Parquet tables can be read row by row", file.path.display())),
            ));
        };
        let all: Vec<String> = parquet.schema().fields().iter().map(|field| field.name().clone()).collect();
        let names = if columns.is_empty() { &all } else { columns };
        let wanted: Vec<Wanted> =
            names.iter().map(|name| Wanted { name: name.clone(), role: Role::Any, required: true }).collect();
        let found = resolve(std::slice::from_ref(&table), &wanted).map_err(|error| raise_shards(py, error))?;
        let found: Vec<_> = found.columns.into_iter().flatten().collect();
        let found: Vec<_> = found.iter().collect();
        let outputs = found.iter().map(|column| Field::new(&column.name, column.output.clone(), true));
        let outputs: SchemaRef =
            schema.get_or_insert_with(|| Arc::new(Schema::new(outputs.collect::<Vec<_>>()))).clone();
        for group in 0..parquet.groups() {
            let mut failed = None;
            parquet
                .read(group, None, &found, &mut buffers, &mut |batch| {
                    if failed.is_none() {
                        failed = visit(batch, &outputs).err();
                    }
                    Ok(())
                })
                .map_err(|error| raise_shards(py, error))?;
            if let Some(error) = failed {
                return Err(error);
            }
            py.check_signals()?;
        }
    }
    schema.ok_or_else(|| raise(py, &Error::usage("no table to read")))
}

/// Reads Parquet tables (files, folders, patterns) into memory.
#[pyfunction]
#[pyo3(signature = (paths, columns=Vec::new()))]
fn read_table(py: Python<'_>, paths: Vec<String>, columns: Vec<String>) -> PyResult<ArrowTable> {
    let mut batches = Vec::new();
    let schema = parquet_batches(py, &paths, &columns, |batch, schema| {
        let arrays = batch.columns().iter().zip(schema.fields());
        let arrays =
            arrays.map(|(array, field)| arrow_cast::cast(array, field.data_type())).collect::<Result<Vec<_>, _>>();
        let batch = arrays.and_then(|arrays| RecordBatch::try_new(schema.clone(), arrays));
        batches.push(batch.map_err(|error| raise(py, &Error::usage(error.to_string())))?);
        Ok(())
    })?;
    Ok(ArrowTable { schema, batches })
}

/// Reads rows of Parquet tables as dictionaries: all, or those whose `uid` (16 bytes or a string) is in `uids`.
#[pyfunction]
#[pyo3(signature = (paths, columns=Vec::new(), uids=None))]
fn read_rows(
    py: Python<'_>,
    paths: Vec<String>,
    columns: Vec<String>,
    uids: Option<Vec<Vec<u8>>>,
) -> PyResult<Bound<'_, PyList>> {
    let wanted: Option<std::collections::HashSet<Vec<u8>>> = uids.map(|uids| uids.into_iter().collect());
    let rows = PyList::empty(py);
    parquet_batches(py, &paths, &columns, |batch, _| {
        let ids = batch.column_by_name("uid");
        for row in 0..batch.num_rows() {
            if let (Some(wanted), Some(ids)) = (&wanted, ids) {
                let found = match ids.data_type() {
                    DataType::FixedSizeBinary(_) => wanted.contains(ids.as_fixed_size_binary().value(row)),
                    DataType::Utf8View => wanted.contains(ids.as_string_view().value(row).as_bytes()),
                    DataType::BinaryView => wanted.contains(ids.as_binary_view().value(row)),
                    _ => true,
                };
                if !found {
                    continue;
                }
            }
            let entry = PyDict::new(py);
            for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                entry.set_item(field.name(), value(py, column.as_ref(), row)?)?;
            }
            rows.append(entry)?;
        }
        Ok(())
    })?;
    Ok(rows)
}

/// One cell as a Python object.
fn value<'py>(py: Python<'py>, array: &dyn Array, row: usize) -> PyResult<Bound<'py, PyAny>> {
    if array.is_null(row) {
        return Ok(py.None().into_bound(py));
    }
    let wrong = |error: arrow_schema::ArrowError| raise(py, &Error::usage(error.to_string()));
    Ok(match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).into_pyobject(py)?.to_owned().into_any(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).into_pyobject(py)?.into_any(),
        other if other.is_integer() => {
            let wide = arrow_cast::cast(&array.slice(row, 1), &DataType::Int64).map_err(wrong)?;
            wide.as_primitive::<Int64Type>().value(0).into_pyobject(py)?.into_any()
        }
        DataType::Float16 => f64::from(array.as_primitive::<Float16Type>().value(row)).into_pyobject(py)?.into_any(),
        DataType::Float32 => f64::from(array.as_primitive::<Float32Type>().value(row)).into_pyobject(py)?.into_any(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).into_pyobject(py)?.into_any(),
        DataType::Utf8View => array.as_string_view().value(row).into_pyobject(py)?.into_any(),
        DataType::Utf8 => array.as_string::<i32>().value(row).into_pyobject(py)?.into_any(),
        DataType::BinaryView => PyBytes::new(py, array.as_binary_view().value(row)).into_any(),
        DataType::Binary => PyBytes::new(py, array.as_binary::<i32>().value(row)).into_any(),
        DataType::FixedSizeBinary(_) => PyBytes::new(py, array.as_fixed_size_binary().value(row)).into_any(),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            let list = PyList::empty(py);
            for at in 0..items.len() {
                list.append(value(py, items.as_ref(), at)?)?;
            }
            list.into_any()
        }
        DataType::Struct(fields) => {
            let parts = array.as_struct();
            let entry = PyDict::new(py);
            for (field, part) in fields.iter().zip(parts.columns()) {
                entry.set_item(field.name(), value(py, part.as_ref(), row)?)?;
            }
            entry.into_any()
        }
        DataType::Dictionary(_, inner) => {
            let flat = arrow_cast::cast(&array.slice(row, 1), inner).map_err(wrong)?;
            return value(py, flat.as_ref(), 0);
        }
        _ => {
            let text = arrow_cast::cast(&array.slice(row, 1), &DataType::Utf8).map_err(wrong)?;
            text.as_string::<i32>().value(0).into_pyobject(py)?.into_any()
        }
    })
}

/// Ids of a DataComp subset file as 16-byte strings, for tests and small tools.
#[pyfunction]
fn read_subset(py: Python<'_>, path: PathBuf) -> PyResult<Vec<String>> {
    let ids = vlmsel_shards::npy::read_uids(&path).map_err(|error| raise_shards(py, error))?;
    Ok(ids.into_iter().map(|id| format!("{id:032x}")).collect())
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ArrowTable>()?;
    module.add_function(wrap_pyfunction!(read_table, module)?)?;
    module.add_function(wrap_pyfunction!(read_rows, module)?)?;
    module.add_function(wrap_pyfunction!(read_subset, module)?)
}
