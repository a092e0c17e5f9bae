//! Parquet tables: the footer once, then row groups in any order from any thread.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use ::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaDataReader};
use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};

use super::batches::Batches;
use super::file::{Shared, guarded};
use super::footer::read_footer;
use super::page_header::says_encrypted;
use super::pages::{ChunkPages, PageBuffers, PageError};
use super::schema::FileSchema;
use crate::columns::Column;
use crate::columns::partitions::Partition;
use crate::error::{Error, Result};
use crate::storage::source::{ReadAt, open};

/// More rows than this for each byte of a file are damage: run-length coding makes a column of one value small, but a row
/// group of a million such rows still has some hundred bytes of headers and footer.
const MAX_ROWS_A_BYTE: u64 = 1 << 16;

/// An opened Parquet file.
#[derive(Debug, Clone)]
pub struct ParquetTable {
    /// Where it lies.
    pub path: PathBuf,
    /// Its path below the argument that named it.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    file: Arc<dyn ReadAt>,
    pub(super) metadata: ArrowReaderMetadata,
    /// The schema as the file's writer meant it; `metadata` has strings as views.
    original: SchemaRef,
    /// Columns of types that cannot be read, with what these are called.
    unknown: BTreeMap<String, String>,
    /// First row of each row group.
    starts: Vec<u64>,
    /// Columns that stand in its path.
    partitions: Arc<[Partition]>,
}

impl ParquetTable {
    /// Opens the file and reads its footer.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for a file that is damaged, encrypted or no Parquet at all.
    pub fn open(path: &Path, name: &str) -> Result<Self> {
        Self::of(open(path)?, name)
    }

    /// Reads the footer of an open file.
    ///
    /// # Errors
    /// As [`ParquetTable::open`].
    pub fn of(file: Arc<dyn ReadAt>, name: &str) -> Result<Self> {
        let (path, bytes) = (file.path().to_path_buf(), file.size_bytes());
        let path = path.as_path();
        let footer = read_footer(&*file)?;
        let parsed = guarded(path, || ParquetMetaDataReader::decode_metadata(&footer))?;
        let FileSchema { metadata, original, unknown } = FileSchema::of(&Arc::new(parsed), path)?;
        let mut starts = Vec::new();
        let mut next = 0_u64;
        for group in metadata.metadata().row_groups() {
            let rows = u32::try_from(group.num_rows())
                .map_err(|_| Error::unreadable(path, format!("a row group of {} rows", group.num_rows())))?;
            starts.push(next);
            next += u64::from(rows);
        }
        if next / MAX_ROWS_A_BYTE > bytes {
            return Err(Error::unreadable(path, format!("{bytes} bytes that claim to hold {next} rows")));
        }
        let table = Self {
            path: path.to_path_buf(),
            name: name.to_owned(),
            bytes,
            file,
            metadata,
            original,
            unknown,
            starts,
            partitions: Arc::default(),
        };
        table.check_row_groups()?;
        Ok(table)
    }

    /// A footer may claim anything; what it claims about places and sizes must fit the file.
    fn check_row_groups(&self) -> Result<()> {
        let declared = self.metadata.metadata().file_metadata().num_rows();
        let counted = self.rows();
        if u64::try_from(declared).ok() != Some(counted) {
            return Err(Error::unreadable(
                &self.path,
                format!("the footer says {declared} rows, its row groups {counted}"),
            ));
        }
        for (at, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            for column in group.columns() {
                let wrong = |what: String| {
                    Error::unreadable(
                        &self.path,
                        format!("row group {at}, column {:?}: {what}", column.column_path().string()),
                    )
                };
                if let Some(path) = column.file_path() {
                    return Err(wrong(format!("lies in another file ({path:?}), which is not supported")));
                }
                let first = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
                let (start, length) = (u64::try_from(first).ok(), u64::try_from(column.compressed_size()).ok());
                match (start, length) {
                    (Some(start), Some(length)) if start.checked_add(length).is_some_and(|end| end <= self.bytes) => {}
                    _ => return Err(wrong("lies outside the file".to_owned())),
                }
                let values = column.num_values();
                if values < 0 || (column.max_repetition_is_flat() && values != group.num_rows()) {
                    return Err(wrong(format!("{values} values in {} rows", group.num_rows())));
                }
            }
        }
        Ok(())
    }

    /// The file's Arrow schema.
    pub fn schema(&self) -> &SchemaRef {
        &self.original
    }

    /// The same table with columns of one value each; those that the file has itself count.
    #[must_use]
    pub fn with_partitions(mut self, partitions: Vec<Partition>) -> Self {
        self.partitions = partitions.into();
        self
    }

    /// The columns that stand in its path.
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// Whether the statistics of every row group say that a flat column holds nulls alone.
    pub fn holds_only_nulls(&self, name: &str) -> bool {
        let column = Column { name: name.to_owned(), working: DataType::Null, output: DataType::Null };
        let nulls = |group| self.null_count(group, &column);
        (0..self.groups()).all(|group| nulls(group) == Some(self.group_rows(group).1 as u64))
    }

    /// What the type of a column is called, if it is one that cannot be read.
    pub fn unknown_type(&self, name: &str) -> Option<&str> {
        self.unknown.get(name).map(String::as_str)
    }

    /// The names of the columns whose types can be read, in order.
    pub fn readable_columns(&self) -> impl Iterator<Item = &str> {
        let names = self.original.fields().iter().map(|field| field.name().as_str());
        names.filter(|name| !self.unknown.contains_key(*name))
    }

    /// Value of a key in the file's metadata.
    pub fn key_value(&self, key: &str) -> Option<String> {
        let pairs = self.metadata.metadata().file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.clone())
    }

    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.metadata.metadata().row_groups().iter().map(|g| g.num_rows().max(0).cast_unsigned()).sum()
    }

    /// Number of row groups.
    pub fn groups(&self) -> usize {
        self.starts.len()
    }

    /// First row of a row group and its number of rows.
    pub fn group_rows(&self, group: usize) -> (u64, usize) {
        let rows = self.metadata.metadata().row_group(group).num_rows().max(0);
        (self.starts[group], usize::try_from(rows).unwrap_or(0))
    }

    /// Compressed bytes of some columns of a row group.
    pub fn group_bytes(&self, group: usize, columns: &[&Column]) -> u64 {
        let mask = self.mask(columns);
        let chunks = self.metadata.metadata().row_group(group).columns();
        let wanted = chunks.iter().enumerate().filter(|(at, _)| mask.leaf_included(*at));
        wanted.map(|(_, chunk)| chunk.compressed_size().max(0).cast_unsigned()).sum()
    }

    /// Nulls in a flat column of a row group, where the statistics tell.
    pub fn null_count(&self, group: usize, column: &Column) -> Option<u64> {
        let leaf = self.leaf(column)?;
        let chunk = self.metadata.metadata().row_group(group).column(leaf);
        if chunk.column_descr().max_def_level() == 0 {
            return Some(0);
        }
        chunk.statistics()?.null_count_opt()
    }

    pub(super) fn mask(&self, columns: &[&Column]) -> ProjectionMask {
        let roots = columns.iter().filter_map(|column| self.schema().index_of(&column.name).ok());
        ProjectionMask::roots(self.metadata.parquet_schema(), roots)
    }

    /// The leaf of a column that has just one.
    fn leaf(&self, column: &Column) -> Option<usize> {
        let root = self.schema().index_of(&column.name).ok()?;
        let parquet = self.metadata.parquet_schema();
        let mut leaves = (0..parquet.num_columns()).filter(|leaf| parquet.get_column_root_idx(*leaf) == root);
        let leaf = leaves.next()?;
        let descr = parquet.column(leaf);
        (leaves.next().is_none() && descr.max_rep_level() == 0 && descr.max_def_level() <= 1).then_some(leaf)
    }

    pub(super) fn flat_leaf(&self, column: &Column) -> Option<usize> {
        self.leaf(column)
    }

    pub(super) fn chunk_metadata(&self, group: usize, leaf: usize) -> &ColumnChunkMetaData {
        self.metadata.metadata().row_group(group).column(leaf)
    }

    /// The pages of one column chunk, unless its codec is one that only the parquet crate reads.
    pub(super) fn own_pages<'a>(
        &'a self,
        group: usize,
        leaf: usize,
        buffers: &'a mut PageBuffers,
    ) -> Option<ChunkPages<'a>> {
        let chunk = self.chunk_metadata(group, leaf);
        ChunkPages::reads(chunk.compression()).then(|| self.any_pages(chunk, buffers))
    }

    pub(super) fn any_pages<'a>(&'a self, chunk: &ColumnChunkMetaData, buffers: &'a mut PageBuffers) -> ChunkPages<'a> {
        // `check_row_groups` has seen that it lies in the file.
        let (start, length) = chunk.byte_range();
        ChunkPages::new(&*self.file, start..start + length, chunk.compression(), buffers)
    }

    /// Says which column of which row group is damaged.
    pub(super) fn page_error(&self, group: usize, column: &Column, error: PageError) -> Error {
        match error {
            PageError::File(error) => error,
            PageError::Damaged(_) if self.has_encrypted_columns() => Error::unreadable(
                &self.path,
                format!("column {:?} may be encrypted; decrypt the file first", column.name),
            ),
            PageError::Damaged(what) => Error::unreadable(
                &self.path,
                format!("damaged Parquet: row group {group}, column {:?}: {what}", column.name),
            ),
        }
    }

    /// Whether the footer can be read while some columns cannot.
    fn has_encrypted_columns(&self) -> bool {
        let mut length = [0; 4];
        if self.file.read_exact_at(&mut length, self.bytes - 8).is_err() {
            return false;
        }
        let length = u32::from_le_bytes(length);
        let Some(start) = self.bytes.checked_sub(u64::from(length) + 8) else { return false };
        let mut footer = Vec::new();
        self.file.read_onto(&mut footer, start, length as usize).is_ok() && says_encrypted(&footer)
    }

    /// Damage that shows across columns.
    pub fn damaged(&self, group: usize, what: &str) -> Error {
        Error::unreadable(&self.path, format!("damaged Parquet: row group {group}: {what}"))
    }

    /// Reads columns of a row group in batches: all rows, or those of `rows` (ascending, counted within the group).
    /// The batches have the columns in the order asked for, in their working types.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for damage, and those of `visit`.
    pub fn read(
        &self,
        group: usize,
        rows: Option<&[u32]>,
        columns: &[&Column],
        visit: &mut dyn FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        for batch in self.batches(group, rows, columns)? {
            visit(&batch?)?;
        }
        Ok(())
    }

    /// The same as an iterator, for whoever takes the batches at a pace of their own; it keeps the file open.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for damage, here and from the iterator.
    pub fn batches(&self, group: usize, rows: Option<&[u32]>, columns: &[&Column]) -> Result<Batches> {
        self.batches_as(&self.metadata, u64::MAX, group, rows, columns)
    }

    /// The same of a row group that takes `most_bytes` at most, with columns of the types that `metadata` says.
    pub(super) fn batches_as(
        &self,
        metadata: &ArrowReaderMetadata,
        most_bytes: u64,
        group: usize,
        rows: Option<&[u32]>,
        columns: &[&Column],
    ) -> Result<Batches> {
        let total = self.group_rows(group).1;
        let expected = rows.map_or(total, <[u32]>::len);
        if expected == 0 {
            return Ok(Batches::new(&self.path, &self.partitions, group, None, columns, 0));
        }
        let weight = self.check_headers(group, columns)?;
        if weight.bytes > most_bytes {
            return Err(self.damaged(group, &format!("it takes {} bytes, more than {most_bytes}", weight.bytes)));
        }
        let input = Shared(self.file.clone());
        let reader = guarded(&self.path, || {
            let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata.clone())
                .with_row_groups(vec![group])
                .with_projection(self.mask(columns))
                .with_batch_size(weight.batch_rows);
            if let Some(rows) = rows {
                builder = builder.with_row_selection(selection(rows));
            }
            builder.build()
        })?;
        Ok(Batches::new(&self.path, &self.partitions, group, Some(reader), columns, expected))
    }
}

pub(super) trait Flat {
    fn max_repetition_is_flat(&self) -> bool;
}

impl Flat for ColumnChunkMetaData {
    fn max_repetition_is_flat(&self) -> bool {
        self.column_descr().max_rep_level() == 0
    }
}

fn selection(rows: &[u32]) -> RowSelection {
    let mut selectors = Vec::new();
    let mut at = 0;
    let mut index = 0;
    while index < rows.len() {
        let start = rows[index] as usize;
        let mut end = start + 1;
        index += 1;
        while index < rows.len() && rows[index] as usize == end {
            end += 1;
            index += 1;
        }
        if start > at {
            selectors.push(RowSelector::skip(start - at));
        }
        selectors.push(RowSelector::select(end - start));
        at = end;
    }
    RowSelection::from(selectors)
}
