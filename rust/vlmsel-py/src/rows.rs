//! Rows of Parquet tables as dictionaries, one at a time: what is held is a batch, never a table.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type, Int64Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::{PyBytes, PyDict, PyList};
use vlmsel_pipeline::Error;
use vlmsel_pipeline::pick_rows::{Cut, Pick, PickRequest, RowPlace, open_parquet, pick_rows as find};
use vlmsel_shards::columns::{Column, Role};
use vlmsel_shards::parquet::Batches;
use vlmsel_shards::parquet::table::ParquetTable;
use vlmsel_shards::tables::schema::{Wanted, resolve};
use vlmsel_shards::tables::{KINDS, Table, is_table};
use vlmsel_shards::workspace::inputs::{InputFile, expand};

use crate::gil::{enter, raise, raise_shards};

/// The named columns of a table, or all.
pub fn columns_of(table: &ParquetTable, names: &[String]) -> Result<Vec<Column>, Error> {
    let all: Vec<String> = table.schema().fields().iter().map(|field| field.name().clone()).collect();
    let names = if names.is_empty() { &all } else { names };
    let wanted: Vec<Wanted> =
        names.iter().map(|name| Wanted { name: name.clone(), role: Role::Any, required: true }).collect();
    let found = resolve(&[Table::Parquet(table.clone())], &wanted)?;
    Ok(found.columns.into_iter().flatten().collect())
}

/// A walk over files, row groups and batches.
struct RowWalk {
    files: VecDeque<InputFile>,
    names: Vec<String>,
    /// Only rows whose `uid` is one of these.
    uids: Option<HashSet<Vec<u8>>>,
    /// Only these rows, counted over all files.
    range: Range<u64>,
    /// Rows of the files before this one.
    before: u64,
    /// This file, and the columns asked for.
    table: Option<(ParquetTable, Vec<String>)>,
    group: usize,
    batches: Option<Batches>,
}

/// What one step of a walk came to.
enum Step {
    Batch(RecordBatch),
    /// On to the next row group or file; a moment to look at signals.
    Moved,
    End,
}

impl RowWalk {
    fn step(&mut self) -> Result<Step, Error> {
        if let Some(batch) = self.batches.as_mut().and_then(Iterator::next) {
            return Ok(Step::Batch(batch?));
        }
        self.batches = None;
        match &self.table {
            Some((table, names)) if self.group < table.groups() => {
                let (first, count) = table.group_rows(self.group);
                let first = self.before + first;
                if first >= self.range.end {
                    return Ok(Step::End);
                }
                let end = first + count as u64;
                let inside = self.range.start.clamp(first, end) - first..self.range.end.min(end) - first;
                let inside = inside.start as u32..inside.end as u32;
                let rows = match &self.uids {
                    _ if inside.is_empty() => Some(Vec::new()),
                    Some(uids) => {
                        let found = rows_of(table, self.group, uids)?;
                        Some(found.into_iter().filter(|row| inside.contains(row)).collect())
                    }
                    None if inside.len() == count => None,
                    None => Some(inside.collect()),
                };
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                self.batches = Some(table.rows_of(self.group, rows.as_deref(), &names, u64::MAX)?);
                self.group += 1;
            }
            _ => {
                self.before += self.table.as_ref().map_or(0, |(table, _)| table.rows());
                let Some(file) = self.files.pop_front() else { return Ok(Step::End) };
                let table = open_parquet(&file)?;
                let names = columns_of(&table, &self.names)?.into_iter().map(|column| column.name).collect();
                self.table = Some((table, names));
                self.group = 0;
            }
        }
        Ok(Step::Moved)
    }
}

/// The rows of a group whose uid is wanted: found by the ids alone, so that no other column of other rows is decoded.
fn rows_of(table: &ParquetTable, group: usize, uids: &HashSet<Vec<u8>>) -> Result<Vec<u32>, Error> {
    let columns = columns_of(table, &["uid".to_owned()])?;
    let (mut rows, mut first) = (Vec::new(), 0_u32);
    for batch in table.batches(group, None, &[&columns[0]])? {
        let batch = batch?;
        let ids = batch.column(0);
        let mut keep = |is_wanted: &dyn Fn(usize) -> bool| {
            rows.extend((0..ids.len()).filter(|at| ids.is_valid(*at) && is_wanted(*at)).map(|at| first + at as u32));
        };
        match ids.data_type() {
            DataType::FixedSizeBinary(_) => keep(&|at| uids.contains(ids.as_fixed_size_binary().value(at))),
            DataType::Utf8View => keep(&|at| uids.contains(ids.as_string_view().value(at).as_bytes())),
            DataType::BinaryView => keep(&|at| uids.contains(ids.as_binary_view().value(at))),
            other => {
                return Err(Error::usage(format!(
                    "{}: column \"uid\" is {other}; rows are found by ids of bytes or strings",
                    table.path.display()
                )));
            }
        }
        first += batch.num_rows() as u32;
    }
    Ok(rows)
}

/// Rows of tables as dictionaries, read as they are asked for.
#[pyclass(module = "vlmsel._core", frozen)]
pub struct Rows {
    state: Mutex<(RowWalk, Option<RecordBatch>, usize)>,
}

#[pymethods]
impl Rows {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let mut state = self.state.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        let (walk, batch, row) = &mut *state;
        loop {
            if let Some(batch) = batch.as_ref().filter(|batch| *row < batch.num_rows()) {
                *row += 1;
                return dictionary(py, batch, *row - 1).map(Some);
            }
            py.check_signals()?;
            match py.detach(|| walk.step()).map_err(|error| raise(py, &error))? {
                Step::Batch(next) => (*batch, *row) = (Some(next), 0),
                Step::Moved => *batch = None,
                Step::End => return Ok(None),
            }
        }
    }
}

/// The tables that words name; Ctrl-C stops the search.
pub fn tables(py: Python<'_>, words: &[OsString]) -> PyResult<Vec<InputFile>> {
    enter(py, None, |progress| Ok(expand(words, KINDS, &is_table, &|| progress.check())?))
}

/// Rows of Parquet tables (files, folders, patterns) as dictionaries: all, or those whose `uid` is in `uids`; of these
/// the ones from `start` to `stop`, counted over all rows of all tables.
#[pyfunction]
#[pyo3(signature = (paths, columns=Vec::new(), uids=None, start=0, stop=None))]
fn read_rows(
    py: Python<'_>,
    paths: Vec<OsString>,
    columns: Vec<String>,
    uids: Option<Vec<Vec<u8>>>,
    start: u64,
    stop: Option<u64>,
) -> PyResult<Rows> {
    let files = tables(py, &paths)?;
    let uids = uids.map(|uids| uids.into_iter().collect());
    let range = start..stop.unwrap_or(u64::MAX).max(start);
    let walk =
        RowWalk { files: files.into(), names: columns, uids, range, before: 0, table: None, group: 0, batches: None };
    Ok(Rows { state: Mutex::new((walk, None, 0)) })
}

/// A pick as Python says it: its kind, how many rows, its seed, its cut (a score and the bytes of an id).
type PickWords = (String, usize, u64, Option<(f64, Vec<u8>)>);

fn pick(py: Python<'_>, (kind, n, seed, cut): PickWords) -> PyResult<(Pick, usize)> {
    let cut = cut.map(|(score, id)| Cut { score, id });
    let pick = match (kind.as_str(), cut) {
        ("first", None) => Pick::First,
        ("last", None) => Pick::Last,
        ("drawn", None) => Pick::Drawn(seed),
        ("median", None) => Pick::Median(seed),
        ("before", Some(cut)) => Pick::Before(cut),
        ("from", Some(cut)) => Pick::From(cut),
        ("behind", Some(cut)) => Pick::Behind(cut),
        (other, _) => return Err(raise(py, &Error::usage(format!("no pick {other:?} of this form")))),
    };
    Ok((pick, n))
}

/// Finds a few rows of Parquet tables by their place in the order of a column, among all, those of a value in another column
/// (`only`), or those of status `ok` (`perplexities`); returns how many rows rank, and the found rows of each pick as dictionaries.
#[pyfunction]
#[pyo3(signature = (paths, columns, score_column, picks, *, descending=false, perplexities=false, only=None, threads=0, memory_limit=0, watch=None))]
#[allow(clippy::too_many_arguments, reason = "keywords on the Python side")]
fn pick_rows(
    py: Python<'_>,
    paths: Vec<OsString>,
    columns: Vec<String>,
    score_column: String,
    picks: Vec<PickWords>,
    descending: bool,
    perplexities: bool,
    only: Option<(String, String)>,
    threads: usize,
    memory_limit: u64,
    watch: Option<Py<PyAny>>,
) -> PyResult<(u64, Vec<Vec<Bound<'_, PyDict>>>)> {
    let files = tables(py, &paths)?;
    let picks = picks.into_iter().map(|request| pick(py, request)).collect::<PyResult<Vec<_>>>()?;
    let only = only.or_else(|| perplexities.then(|| ("status".to_owned(), "ok".to_owned())));
    let request = PickRequest { files, score_column, descending, perplexities, only, picks, threads, memory_limit };
    let found = enter(py, watch, |progress| find(&request, progress))?;
    let mut wanted: Vec<RowPlace> = found.found.iter().flatten().copied().collect();
    wanted.sort_unstable();
    wanted.dedup();
    let rows = read_places(py, &request.files, &columns, &wanted)?;
    let take = |places: &Vec<RowPlace>| places.iter().filter_map(|place| rows.get(place).cloned()).collect();
    Ok((found.ranked, found.found.iter().map(take).collect()))
}

fn read_places<'py>(
    py: Python<'py>,
    files: &[InputFile],
    names: &[String],
    places: &[RowPlace],
) -> PyResult<HashMap<RowPlace, Bound<'py, PyDict>>> {
    let mut rows = HashMap::new();
    for of_file in places.chunk_by(|a, b| a.file == b.file) {
        let table = open_parquet(&files[of_file[0].file]).map_err(|error| raise(py, &error))?;
        let columns = columns_of(&table, names).map_err(|error| raise(py, &error))?;
        let columns: Vec<&Column> = columns.iter().collect();
        for of_group in of_file.chunk_by(|a, b| a.group == b.group) {
            let numbers: Vec<u32> = of_group.iter().map(|place| place.row).collect();
            let mut left = of_group.iter();
            for batch in table.batches(of_group[0].group, Some(&numbers), &columns).map_err(|e| raise_shards(py, e))? {
                let batch = batch.map_err(|error| raise_shards(py, error))?;
                for (at, place) in (0..batch.num_rows()).zip(&mut left) {
                    rows.insert(*place, dictionary(py, &batch, at)?);
                }
            }
        }
    }
    Ok(rows)
}

fn dictionary<'py>(py: Python<'py>, batch: &RecordBatch, row: usize) -> PyResult<Bound<'py, PyDict>> {
    let entry = PyDict::new(py);
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        entry.set_item(field.name(), value(py, column.as_ref(), row)?)?;
    }
    Ok(entry)
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

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Rows>()?;
    module.add_function(wrap_pyfunction!(read_rows, module)?)?;
    module.add_function(wrap_pyfunction!(pick_rows, module)?)
}
