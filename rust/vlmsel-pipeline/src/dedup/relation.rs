//! A relation on disk: which rows are of one class, and which classes are near each other.
//!
//! `<unit>.classes.parquet` (`class` u32, `row` u32), sorted; a class is named by its smallest row. `<unit>.edges.parquet` (`a` u32, `b` u32,
//! `distance` f32): two classes, a < b, sorted. Classes of one row stand there only where they have an edge. Rows are those of the
//! index, counted through its parts in the order of its manifest. `<unit>.outside.parquet` has the columns of edges, the nearest pair
//! first: a few that are not near enough ([`super::outside`]).

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, UInt32Type};
use arrow_array::{ArrayRef, Float32Array, RecordBatch, UInt32Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use vlmsel_shards::parquet::table::ParquetTable;
use vlmsel_shards::parquet::writer::TableWriter;
use vlmsel_shards::tables::index_reader::MAX_GROUP_BYTES;

use crate::error::{Error, Result};

/// Rows that are written together.
const BATCH_ROWS: usize = 1 << 16;

fn schema(names: &[&str]) -> SchemaRef {
    let field =
        |name: &&str| Field::new(*name, if *name == "distance" { DataType::Float32 } else { DataType::UInt32 }, false);
    Arc::new(Schema::new(names.iter().map(field).collect::<Vec<_>>()))
}

/// The file of a unit's classes.
pub fn classes_file(unit: &str) -> String {
    format!("{unit}.classes.parquet")
}

/// The file of a unit's edges.
pub fn edges_file(unit: &str) -> String {
    format!("{unit}.edges.parquet")
}

/// The file of pairs just beyond a unit's threshold.
pub fn outside_file(unit: &str) -> String {
    format!("{unit}.outside.parquet")
}

/// Columns of numbers on their way to a file.
pub struct ColumnWriter {
    writer: TableWriter,
    schema: SchemaRef,
    first: Vec<u32>,
    second: Vec<u32>,
    distances: Vec<f32>,
    rows: u64,
}

impl ColumnWriter {
    fn new(path: &Path, names: &[&str]) -> Result<Self> {
        let schema = schema(names);
        let writer = TableWriter::create(path, &schema, &[])?;
        Ok(Self { writer, schema, first: Vec::new(), second: Vec::new(), distances: Vec::new(), rows: 0 })
    }

    /// Classes and their rows.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub fn classes(path: &Path) -> Result<Self> {
        Self::new(path, &["class", "row"])
    }

    /// Edges.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub fn edges(path: &Path) -> Result<Self> {
        Self::new(path, &["a", "b", "distance"])
    }

    /// Adds a row of a class.
    ///
    /// # Errors
    /// A full disk.
    pub fn push(&mut self, first: u32, second: u32) -> Result<()> {
        self.first.push(first);
        self.second.push(second);
        if self.first.len() == BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    /// Adds an edge.
    ///
    /// # Errors
    /// A full disk.
    pub fn push_edge(&mut self, a: u32, b: u32, distance: f32) -> Result<()> {
        self.distances.push(distance);
        self.push(a, b)
    }

    fn flush(&mut self) -> Result<()> {
        self.rows += self.first.len() as u64;
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(std::mem::take(&mut self.first))),
            Arc::new(UInt32Array::from(std::mem::take(&mut self.second))),
        ];
        if self.schema.fields().len() == 3 {
            columns.push(Arc::new(Float32Array::from(std::mem::take(&mut self.distances))));
        }
        let batch = RecordBatch::try_new(self.schema.clone(), columns);
        Ok(self.writer.write(&batch.map_err(|error| Error::Bug(format!("a table of numbers: {error}")))?)?)
    }

    /// Ends the file; its rows and its hash.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(mut self) -> Result<(u64, blake3::Hash)> {
        self.flush()?;
        Ok((self.rows, self.writer.finish()?))
    }
}

fn read(path: &Path, names: &[&str], mut each: impl FnMut(&RecordBatch) -> Result<()>) -> Result<()> {
    let table = ParquetTable::open(path, &path.to_string_lossy())?;
    for group in 0..table.groups() {
        for batch in table.rows_of(group, None, names, MAX_GROUP_BYTES)? {
            each(&batch?)?;
        }
    }
    Ok(())
}

fn numbers<'a>(batch: &'a RecordBatch, at: usize, path: &Path) -> Result<&'a [u32]> {
    let column = batch.column(at).as_primitive_opt::<UInt32Type>();
    Ok(column.ok_or_else(|| vlmsel_shards::Error::unreadable(path, "it has other columns than dedup writes"))?.values())
}

/// Calls `each` with every class and its rows.
///
/// # Errors
/// Those of reading, and of `each`.
pub fn read_classes(path: &Path, rows: u32, mut each: impl FnMut(u32, &[u32]) -> Result<()>) -> Result<()> {
    let (mut class, mut members): (u32, Vec<u32>) = (0, Vec::new());
    let broken = || vlmsel_shards::Error::unreadable(path, "its rows are not those of the index; make it anew");
    read(path, &["class", "row"], |batch| {
        for (of, row) in numbers(batch, 0, path)?.iter().zip(numbers(batch, 1, path)?) {
            if *row >= rows || *of > *row || (!members.is_empty() && *of < class) {
                return Err(broken().into());
            }
            if *of != class && !members.is_empty() {
                each(class, &members)?;
                members.clear();
            }
            class = *of;
            members.push(*row);
        }
        Ok(())
    })?;
    if members.is_empty() { Ok(()) } else { each(class, &members) }
}

/// Calls `each` with every edge: two classes, and how far they are.
///
/// # Errors
/// Those of reading, and of `each`.
pub fn read_edges(path: &Path, rows: u32, mut each: impl FnMut(u32, u32, f32) -> Result<()>) -> Result<()> {
    read(path, &["a", "b", "distance"], |batch| {
        let distances = batch.column(2).as_primitive_opt::<Float32Type>();
        let distances = distances.ok_or_else(|| vlmsel_shards::Error::unreadable(path, "it has no distances"))?;
        let edges = numbers(batch, 0, path)?.iter().zip(numbers(batch, 1, path)?).zip(distances.values());
        for ((a, b), distance) in edges {
            if a >= b || *b >= rows {
                return Err(vlmsel_shards::Error::unreadable(path, "its rows are not those of the index").into());
            }
            each(*a, *b, *distance)?;
        }
        Ok(())
    })
}
