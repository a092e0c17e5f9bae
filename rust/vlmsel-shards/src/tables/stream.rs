//! A table that arrives as a stream of batches, once.
//!
//! A selection may need several passes. What arrives is held in memory while it fits, which costs nothing where the batches
//! are the caller's own buffers; what is more goes to an unlinked scratch file and is read from there like any other
//! table. Only the wanted columns are kept, and the fingerprint does not depend on how the rows were divided or held.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{Array, RecordBatch};
use arrow_row::{RowConverter, SortField};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};

use super::{MemoryTable, Table};
use crate::columns::narrowed;
use crate::error::{Error, IoContext, Result};
use crate::parquet::table::ParquetTable;
use crate::parquet::writer::TableWriter;
use crate::storage::source::LocalFile;
use crate::workspace::manifest::InputRecord;

/// Rows that are hashed at a time.
const HASHED_ROWS: usize = 8192;

/// Where a stream goes.
#[derive(Debug, Clone)]
pub struct SpoolPlace {
    /// Bytes that may be held in memory.
    pub room: u64,
    /// Folder of the scratch file.
    pub scratch: PathBuf,
}

/// Takes the batches of one stream.
pub struct StreamSpool {
    name: String,
    place: SpoolPlace,
    /// Places of the columns that are kept.
    columns: Vec<usize>,
    schema: SchemaRef,
    rows: RowHasher,
    held: Vec<RecordBatch>,
    held_bytes: u64,
    spool: Option<(File, TableWriter)>,
}

impl StreamSpool {
    /// For a stream of this schema; `name` is how messages call it. Columns that are not in `wanted` are dropped, unless
    /// `required` ones are missing: then nothing of the stream is of use, and all are kept for the message about it.
    ///
    /// # Errors
    /// [`Error::Usage`] for types that have no order.
    pub fn new(name: &str, schema: &SchemaRef, wanted: &[&str], required: &[&str], place: SpoolPlace) -> Result<Self> {
        let whole = required.iter().any(|name| schema.index_of(name).is_err());
        let fields = schema.fields().iter().enumerate();
        let columns: Vec<usize> =
            fields.filter(|(_, f)| whole || wanted.contains(&f.name().as_str())).map(|(at, _)| at).collect();
        let schema = schema.project(&columns).map_err(|error| usage(name, &error))?;
        let fields = schema.fields().iter().map(|field| match field.data_type() {
            // A scratch file has dictionaries of strings alone.
            DataType::Dictionary(_, value) if value.is_primitive() => {
                Field::new(field.name(), value.as_ref().clone(), field.is_nullable())
            }
            _ => field.as_ref().clone(),
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(Self {
            name: name.to_owned(),
            place,
            columns,
            rows: RowHasher::new(name, &schema)?,
            schema,
            held: Vec::new(),
            held_bytes: 0,
            spool: None,
        })
    }

    /// Takes the next batch.
    ///
    /// # Errors
    /// [`Error::Io`] of the scratch disk.
    pub fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = batch.project(&self.columns).and_then(|batch| {
            let fields = self.schema.fields().iter().zip(batch.columns());
            let arrays = fields.map(|(field, array)| arrow_cast::cast(array, field.data_type()));
            RecordBatch::try_new(self.schema.clone(), arrays.collect::<std::result::Result<_, _>>()?)
        });
        let batch = batch.map_err(|error| usage(&self.name, &error))?;
        self.rows.add(&batch).map_err(|error| usage(&self.name, &error))?;
        if let Some((_, writer)) = &mut self.spool {
            return writer.write(&batch);
        }
        self.held_bytes += batch.columns().iter().map(|column| bytes_of(column.as_ref())).sum::<u64>();
        self.held.push(batch);
        if self.held_bytes > self.place.room { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<()> {
        let folder = &self.place.scratch;
        // Unlinked at once: whatever kills the run, the scratch disk is given back.
        let file = tempfile::tempfile_in(folder).at("create a scratch file in", folder)?;
        let writing = file.try_clone().at("open a scratch file in", folder)?;
        let mut writer = TableWriter::new(writing, folder, &self.schema, &[])?;
        for batch in self.held.drain(..) {
            writer.write(&batch)?;
        }
        self.spool = Some((file, writer));
        Ok(())
    }

    /// The table, and the record of it as an input.
    ///
    /// # Errors
    /// [`Error::Io`] of the scratch disk.
    pub fn finish(self) -> Result<(Table, InputRecord)> {
        let record = self.rows.finish(&self.name);
        let table = match self.spool {
            None => Table::Memory(MemoryTable { name: self.name, schema: self.schema, batches: self.held }),
            Some((file, writer)) => {
                writer.finish()?;
                let file = LocalFile::of(file, Path::new(&self.name))?;
                Table::Parquet(ParquetTable::of(Arc::new(file), &self.name)?)
            }
        };
        Ok((table, record))
    }
}

fn usage(name: &str, error: &ArrowError) -> Error {
    Error::Usage(format!("{name}: {error}"))
}

/// Bytes of the rows alone: batches of a table in memory are slices that share their buffers.
fn bytes_of(array: &dyn Array) -> u64 {
    array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()) as u64
}

/// Hash of rows, independent of how they are divided into batches.
struct RowHasher {
    /// Columns that have an order, and so an encoding.
    columns: Vec<usize>,
    converter: RowConverter,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl RowHasher {
    fn new(name: &str, schema: &SchemaRef) -> Result<Self> {
        let field = |at: usize| SortField::new(schema.field(at).data_type().clone());
        let columns: Vec<usize> =
            (0..schema.fields().len()).filter(|at| RowConverter::supports_fields(&[field(*at)])).collect();
        let converter =
            RowConverter::new(columns.iter().map(|at| field(*at)).collect()).map_err(|error| usage(name, &error))?;
        Ok(Self { columns, converter, hasher: blake3::Hasher::new(), bytes: 0 })
    }

    fn add(&mut self, batch: &RecordBatch) -> std::result::Result<(), ArrowError> {
        let batch = batch.project(&self.columns)?;
        for start in (0..batch.num_rows()).step_by(HASHED_ROWS) {
            let slice = batch.slice(start, (batch.num_rows() - start).min(HASHED_ROWS));
            let columns = slice.columns().iter().map(narrowed).collect::<std::result::Result<Vec<_>, _>>()?;
            for row in &self.converter.convert_columns(&columns)? {
                self.hasher.update(row.as_ref());
                self.bytes += row.as_ref().len() as u64;
            }
        }
        Ok(())
    }

    fn finish(&self, name: &str) -> InputRecord {
        let fingerprint = self.hasher.finalize().to_hex()[..32].to_owned();
        InputRecord { name: name.to_owned(), bytes: self.bytes, fingerprint }
    }
}

#[cfg(test)]
mod tests {

    use arrow_array::{Float32Array, RecordBatch, StringArray, UInt64Array};

    use super::*;

    fn batch(from: u64, rows: u64) -> RecordBatch {
        let range = from..from + rows;
        RecordBatch::try_from_iter([
            ("uid", Arc::new(range.clone().map(|n| Some(format!("id {n}"))).collect::<StringArray>()) as _),
            ("text", Arc::new(range.clone().map(|_| Some("x".repeat(500))).collect::<StringArray>()) as _),
            ("ppl", Arc::new(Float32Array::from_iter_values(range.clone().map(|n| n as f32))) as _),
            ("n", Arc::new(UInt64Array::from_iter_values(range)) as _),
        ])
        .unwrap()
    }

    fn taken(pieces: &[u64], room: u64) -> (Table, InputRecord) {
        let place = SpoolPlace { room, scratch: std::env::temp_dir() };
        let mut spool =
            StreamSpool::new("a stream", &batch(0, 1).schema(), &["uid", "ppl"], &["uid", "ppl"], place).unwrap();
        let mut from = 0;
        for rows in pieces {
            spool.push(&batch(from, *rows)).unwrap();
            from += rows;
        }
        spool.finish().unwrap()
    }

    #[test]
    fn neither_batches_nor_room_change_the_record() {
        let (held, record) = taken(&[1000, 1, 999], u64::MAX);
        assert!(matches!(&held, Table::Memory(table) if table.batches.len() == 3 && table.schema.fields().len() == 2));
        for (pieces, room) in [(vec![2000], 0), (vec![500; 4], 20_000), (vec![1, 1999], u64::MAX)] {
            let (table, other) = taken(&pieces, room);
            assert_eq!(other, record);
            assert_eq!(table.extent().0, 2000);
            assert_eq!(table.name(), "a stream");
            assert_eq!(matches!(table, Table::Parquet(_)), room < u64::MAX);
        }
        assert_ne!(taken(&[1999], u64::MAX).1, record);
    }

    #[test]
    fn without_a_required_column_all_are_kept_for_the_message() {
        let place = SpoolPlace { room: 0, scratch: std::env::temp_dir() };
        let spool =
            StreamSpool::new("a stream", &batch(0, 1).schema(), &["uid", "clip"], &["uid", "clip"], place).unwrap();
        let (table, _) = spool.finish().unwrap();
        assert!(matches!(table, Table::Memory(table) if table.schema.fields().len() == 4));
    }
}
