//! Parquet tables: the footer once, then row groups in any order from any thread.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};
use ::parquet::basic::Type as PhysicalType;
use ::parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use ::parquet::data_type::{DataType as ParquetType, DoubleType, FloatType, Int32Type, Int64Type};
use ::parquet::file::metadata::ColumnChunkMetaData;
use ::parquet::file::serialized_reader::SerializedPageReader;
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;

use super::batches::Batches;
use super::column_bytes::{ColumnBytes, ParquetResult, Pread, guarded, read_at};
use super::schema::Column;
use super::score::{Block, Native, ScoreClass, visit_array, visit_values};
use crate::error::{Error, IoContext, Result};

/// A footer larger than this is refused before it is read.
const MAX_FOOTER_BYTES: u64 = 512 << 20;
/// A column chunk up to this size is fetched with one read.
const WHOLE_CHUNK_BYTES: u64 = 64 << 20;
/// Scores decoded at a time.
const SCORE_BATCH: usize = 32 << 10;
/// Rows per batch of other columns.
const BATCH_ROWS: usize = 8192;

/// An opened Parquet file.
#[derive(Debug, Clone)]
pub struct ParquetTable {
    /// Where it lies.
    pub path: PathBuf,
    /// Its path below the argument that named it.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    file: Arc<File>,
    metadata: ArrowReaderMetadata,
    /// The schema as the file's writer meant it; `metadata` has strings as views.
    original: SchemaRef,
    /// First row of each row group.
    starts: Vec<u64>,
}

impl ParquetTable {
    /// Opens the file and reads its footer.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for a file that is damaged, encrypted or no Parquet at all.
    pub fn open(path: &Path, name: &str) -> Result<Self> {
        let file = File::open(path).at("open", path)?;
        let meta = file.metadata().at("inspect", path)?;
        let bytes = meta.len();
        if !meta.is_file() {
            return Err(Error::unreadable(path, "not a plain file"));
        }
        check_ends(&file, path, bytes)?;
        let input = Pread { file: Arc::new(file), bytes };
        let (metadata, original) = guarded(path, || {
            let plain = ArrowReaderMetadata::load(&input, ArrowReaderOptions::new())?;
            let options = ArrowReaderOptions::new().with_schema(viewed(plain.schema()));
            Ok((ArrowReaderMetadata::try_new(plain.metadata().clone(), options)?, plain.schema().clone()))
        })?;
        let mut starts = Vec::new();
        let mut next = 0_u64;
        for group in metadata.metadata().row_groups() {
            let rows = u64::try_from(group.num_rows())
                .map_err(|_| Error::unreadable(path, format!("a row group of {} rows", group.num_rows())))?;
            starts.push(next);
            next = next
                .checked_add(rows)
                .filter(|n| *n < 1 << 48)
                .ok_or_else(|| Error::unreadable(path, "more rows than a file can hold"))?;
        }
        let table = Self {
            path: path.to_path_buf(),
            name: name.to_owned(),
            bytes,
            file: input.file,
            metadata,
            original,
            starts,
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
                // Every value has at least a bit of a page somewhere; run-length coding reaches some 10^5 values a byte.
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

    fn mask(&self, columns: &[&Column]) -> ProjectionMask {
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

    /// Pages of one column chunk, fetched with one read where the chunk is of a usual size.
    pub(super) fn pages(
        &self,
        group: usize,
        leaf: usize,
        whole: bool,
    ) -> ParquetResult<SerializedPageReader<ColumnBytes>> {
        let chunk = self.chunk_metadata(group, leaf);
        let (start, length) = chunk.byte_range();
        let whole = if whole && length <= WHOLE_CHUNK_BYTES {
            Some((start, Bytes::from(read_at(&self.file, start, usize::try_from(length)?)?)))
        } else {
            None
        };
        let input = ColumnBytes { file: self.input(), whole };
        let rows = usize::try_from(self.metadata.metadata().row_group(group).num_rows())?;
        SerializedPageReader::new(Arc::new(input), chunk, rows, None)
    }

    /// Feeds the score column of a row group to `visit`, block by block.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for damage, and those of `visit`.
    pub fn visit_scores(
        &self,
        group: usize,
        column: &Column,
        non_negative: bool,
        visit: &mut dyn FnMut(&Block<'_>) -> Result<()>,
    ) -> Result<()> {
        self.visit_first_scores(group, column, usize::MAX, non_negative, visit)
    }

    /// The same for the first rows only: at least `most` of them where the group has so many (or all).
    ///
    /// # Errors
    /// [`Error::Unreadable`] for damage, and those of `visit`.
    pub fn visit_first_scores(
        &self,
        group: usize,
        column: &Column,
        most: usize,
        non_negative: bool,
        visit: &mut dyn FnMut(&Block<'_>) -> Result<()>,
    ) -> Result<()> {
        let physical =
            self.leaf(column).map(|leaf| (leaf, self.metadata.parquet_schema().column(leaf).physical_type()));
        match (physical, &column.working) {
            (Some((leaf, PhysicalType::FLOAT)), DataType::Float32) => {
                self.visit_native::<FloatType>(group, leaf, most, non_negative, visit)
            }
            (Some((leaf, PhysicalType::DOUBLE)), DataType::Float64) => {
                self.visit_native::<DoubleType>(group, leaf, most, non_negative, visit)
            }
            (Some((leaf, PhysicalType::INT32)), DataType::Int32) => {
                self.visit_native::<Int32Type>(group, leaf, most, non_negative, visit)
            }
            (Some((leaf, PhysicalType::INT64)), DataType::Int64) => {
                self.visit_native::<Int64Type>(group, leaf, most, non_negative, visit)
            }
            _ => {
                let mut row = 0;
                self.read(group, None, &[column], &mut |batch| {
                    visit_array(batch.column(0), row, non_negative, visit)?;
                    row += batch.num_rows();
                    Ok(())
                })
            }
        }
    }

    fn visit_native<T: ParquetType>(
        &self,
        group: usize,
        leaf: usize,
        most: usize,
        non_negative: bool,
        visit: &mut dyn FnMut(&Block<'_>) -> Result<()>,
    ) -> Result<()>
    where
        T::T: Native,
    {
        let descr = self.metadata.parquet_schema().column(leaf);
        let nullable = descr.max_def_level() == 1;
        let rows = self.group_rows(group).1;
        let mut reader: ColumnReaderImpl<T> = guarded(&self.path, || {
            Ok(get_typed_column_reader(get_column_reader(
                descr.clone(),
                Box::new(self.pages(group, leaf, most >= rows)?),
            )))
        })?;
        let mut values: Vec<T::T> = Vec::with_capacity(SCORE_BATCH.min(rows));
        let mut levels: Vec<i16> = Vec::new();
        let mut row = 0;
        while row < rows.min(most) {
            values.clear();
            levels.clear();
            let (records, found, _) = guarded(&self.path, || {
                reader.read_records(SCORE_BATCH, nullable.then_some(&mut levels), None, &mut values)
            })?;
            if records == 0 || row + records > rows {
                return Err(super::batches::row_mismatch(&self.path, group, row + records, rows));
            }
            if found == records {
                visit_values(&values, row, non_negative, visit)?;
            } else {
                visit_nullable(&values, &levels, row, non_negative, visit)?;
            }
            row += records;
        }
        Ok(())
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
        let total = self.group_rows(group).1;
        let expected = rows.map_or(total, <[u32]>::len);
        let open = || {
            let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.input(), self.metadata.clone())
                .with_row_groups(vec![group])
                .with_projection(self.mask(columns))
                .with_batch_size(BATCH_ROWS);
            if let Some(rows) = rows {
                builder = builder.with_row_selection(selection(rows));
            }
            builder.build()
        };
        let reader = if expected == 0 { None } else { Some(guarded(&self.path, open)?) };
        Ok(Batches::new(&self.path, group, reader, columns, expected))
    }

    fn input(&self) -> Pread {
        Pread { file: self.file.clone(), bytes: self.bytes }
    }
}

impl ParquetTable {
    /// Reads columns of the given rows (ascending, counted within the group): ids from their pages, the rest through
    /// the general reader.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for damage, and those of `visit`.
    pub fn gather(
        &self,
        group: usize,
        rows: &[u32],
        columns: &[&Column],
        visit: &mut dyn FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        if let [id] = columns
            && let Some(ids) = super::pages::gather_ids(self, group, rows, id)?
        {
            let schema = super::schema::working_schema(columns);
            let batch =
                RecordBatch::try_new(schema, vec![ids]).map_err(|error| Error::unreadable(&self.path, error))?;
            return visit(&batch);
        }
        self.read(group, Some(rows), columns, visit)
    }
}

trait Flat {
    fn max_repetition_is_flat(&self) -> bool;
}

impl Flat for ColumnChunkMetaData {
    fn max_repetition_is_flat(&self) -> bool {
        self.column_descr().max_rep_level() == 0
    }
}

/// The same schema with strings and binaries as views, so that a dictionary of long values is never spread out.
fn viewed(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
            DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
            other => other.clone(),
        };
        Arc::new(Field::clone(field).with_data_type(data_type))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()).with_metadata(schema.metadata().clone()))
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

fn visit_nullable<T: Native>(
    values: &[T],
    levels: &[i16],
    first_row: usize,
    non_negative: bool,
    visit: &mut dyn FnMut(&Block<'_>) -> Result<()>,
) -> Result<()> {
    let mut next = values.iter();
    let mut keys = Vec::with_capacity(super::score::BLOCK_ROWS);
    let mut classes = Vec::with_capacity(super::score::BLOCK_ROWS);
    for (at, chunk) in levels.chunks(super::score::BLOCK_ROWS).enumerate() {
        keys.clear();
        classes.clear();
        for level in chunk {
            if let Some(value) = (*level == 1).then(|| next.next()).flatten() {
                keys.push(value.key());
                classes.push(value.class(non_negative));
            } else {
                keys.push(0);
                classes.push(ScoreClass::Missing);
            }
        }
        visit(&Block { first_row: first_row + at * super::score::BLOCK_ROWS, keys: &keys, classes: Some(&classes) })?;
    }
    Ok(())
}

fn check_ends(file: &File, path: &Path, bytes: u64) -> Result<()> {
    let mut head = [0; 4];
    let mut tail = [0; 8];
    if bytes < 12 {
        return Err(Error::unreadable(path, format!("{bytes} bytes are no Parquet file")));
    }
    file.read_exact_at(&mut head, 0).at("read", path)?;
    file.read_exact_at(&mut tail, bytes - 8).at("read", path)?;
    if &head == b"PARE" || &tail[4..] == b"PARE" {
        return Err(Error::unreadable(path, "encrypted Parquet; decrypt it first"));
    }
    if &head != b"PAR1" {
        return Err(Error::unreadable(path, "not a Parquet file (it does not begin with PAR1)"));
    }
    if &tail[4..] != b"PAR1" {
        return Err(Error::unreadable(path, "a damaged Parquet file (it does not end with PAR1; was it cut short?)"));
    }
    let footer = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if footer > MAX_FOOTER_BYTES || footer + 12 > bytes {
        return Err(Error::unreadable(path, format!("a damaged Parquet file (a footer of {footer} bytes in {bytes})")));
    }
    Ok(())
}
