//! Batches of a row group, one after the other as they are asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use ::parquet::errors::ParquetError;
use arrow_array::{ArrayRef, RecordBatch, StringViewArray};
use arrow_schema::SchemaRef;

use super::file::guarded;
use crate::columns::partitions::Partition;
use crate::columns::{Column, to_working, working_schema};
use crate::error::{Error, Result};

/// The batches of one row group: the columns in the order asked for, in their working types. After the last one it is
/// an error if they did not hold as many rows as the footer says.
pub struct Batches {
    path: PathBuf,
    /// Columns that stand in the path.
    partitions: Arc<[Partition]>,
    group: usize,
    reader: Option<ParquetRecordBatchReader>,
    columns: Vec<Column>,
    schema: SchemaRef,
    found: usize,
    expected: usize,
}

impl Batches {
    pub(super) fn new(
        path: &Path,
        partitions: &Arc<[Partition]>,
        group: usize,
        reader: Option<ParquetRecordBatchReader>,
        columns: &[&Column],
        expected: usize,
    ) -> Self {
        let columns_owned = columns.iter().map(|column| (*column).clone()).collect();
        Self {
            path: path.to_path_buf(),
            partitions: partitions.clone(),
            group,
            reader,
            columns: columns_owned,
            schema: working_schema(columns),
            found: 0,
            expected,
        }
    }

    fn read(&mut self) -> Result<Option<RecordBatch>> {
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let Some(batch) = guarded(&self.path, || reader.next().transpose().map_err(ParquetError::from))? else {
            self.reader = None;
            return if self.found == self.expected {
                Ok(None)
            } else {
                Err(row_mismatch(&self.path, self.group, self.found, self.expected))
            };
        };
        let arrays = self
            .columns
            .iter()
            .map(|column| {
                let Some(array) = batch.column_by_name(&column.name) else {
                    return self.of_path(column, batch.num_rows());
                };
                to_working(array, column, &self.path.display().to_string())
            })
            .collect::<Result<Vec<_>>>()?;
        let batch =
            RecordBatch::try_new(self.schema.clone(), arrays).map_err(|error| Error::unreadable(&self.path, error))?;
        self.found += batch.num_rows();
        Ok(Some(batch))
    }
}

impl Batches {
    /// A column that stands in the path: one value for all rows.
    fn of_path(&self, column: &Column, rows: usize) -> Result<ArrayRef> {
        let Some(part) = self.partitions.iter().find(|part| part.name == column.name) else {
            return Err(Error::unreadable(&self.path, format!("column {:?} vanished", column.name)));
        };
        let values: StringViewArray = std::iter::repeat_n(part.value.as_deref(), rows).collect();
        to_working(&(Arc::new(values) as ArrayRef), column, &self.path.display().to_string())
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            self.reader = None;
        }
        read.transpose()
    }
}

pub(super) fn row_mismatch(path: &Path, group: usize, found: usize, rows: usize) -> Error {
    Error::unreadable(path, format!("row group {group} holds {found} rows, the footer says {rows}"))
}
