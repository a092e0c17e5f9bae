//! A walk over the headers of a row group's pages, before the parquet crate is asked to believe them.

use ::parquet::basic::Type as PhysicalType;
use ::parquet::file::metadata::ColumnChunkMetaData;

use super::page_header::{Coding, PageHeader, PageKind};
use super::pages::{ChunkPages, PageBuffers, PageError, damaged};
use super::rle::delta_claims_more;
use super::table::{Flat, ParquetTable};
use crate::columns::Column;
use crate::error::Result;

/// Rows per batch of columns.
const BATCH_ROWS: usize = 8192;
/// A batch of values of a fixed width takes no more than this: nulls take as much room as values.
const MAX_FIXED_BYTES: usize = 256 << 20;
/// What a value in a list takes beside its own bytes: two levels, and its place.
const NESTED_VALUE_BYTES: u64 = 16;

/// What reading some columns of a row group takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weight {
    /// Bytes of the pages, decompressed, and room for values in lists. Run-length coding can spread flat columns to more:
    /// batches bound that.
    pub bytes: u64,
    /// Rows that a batch may have.
    pub batch_rows: usize,
}

impl ParquetTable {
    /// Walks over the pages of some columns, so that the parquet crate is not asked to believe an impossible header: its
    /// own, that of a delta encoding, or that of a dictionary, whose counts the crate allocates for.
    pub(super) fn check_headers(&self, group: usize, columns: &[&Column]) -> Result<Weight> {
        let mut buffers = PageBuffers::default();
        let mut weight = Weight { bytes: 0, batch_rows: BATCH_ROWS };
        for column in columns {
            let mask = self.mask(&[column]);
            let chunks = self.metadata.metadata().row_group(group).columns().iter().enumerate();
            for (_, chunk) in chunks.filter(|(leaf, _)| mask.leaf_included(*leaf)) {
                self.check_chunk(chunk, &mut buffers, &mut weight)
                    .map_err(|error| self.page_error(group, column, error))?;
            }
        }
        Ok(weight)
    }

    fn check_chunk(
        &self,
        chunk: &ColumnChunkMetaData,
        buffers: &mut PageBuffers,
        weight: &mut Weight,
    ) -> std::result::Result<(), PageError> {
        let width = width_of(chunk);
        if width > MAX_FIXED_BYTES {
            return Err(damaged(format!("values of {width} bytes each")));
        }
        weight.batch_rows = weight.batch_rows.min(MAX_FIXED_BYTES / width.max(1));
        let nullable = chunk.column_descr().max_def_level() == 1;
        let flat = chunk.max_repetition_is_flat() && chunk.column_descr().max_def_level() <= 1;
        let mut left = usize::try_from(chunk.num_values()).unwrap_or(0);
        if !chunk.max_repetition_is_flat() {
            weight.bytes = weight.bytes.saturating_add((left as u64).saturating_mul(NESTED_VALUE_BYTES + width as u64));
        }
        let mut pages = self.any_pages(chunk, buffers);
        while let Some(header) = pages.next_header()? {
            weight.bytes = weight.bytes.saturating_add(header.plain_bytes as u64);
            if header.is_data() {
                left = left
                    .checked_sub(header.values)
                    .ok_or_else(|| damaged("its pages hold more values than its footer says"))?;
            } else if header.kind == PageKind::Dictionary {
                check_dictionary(&header, width)?;
            }
            if header.is_data() && matches!(header.coding, Coding::DeltaLengths | Coding::DeltaStrings) {
                if !flat || !ChunkPages::reads(chunk.compression()) {
                    return Err(damaged(
                        "delta-encoded strings in a nested column or under Hadoop's LZ4 are not read; write the file anew",
                    ));
                }
                let body = pages.body(&header)?;
                let (_, values) = body.levels_and_values(&header, nullable)?;
                if delta_claims_more(values, header.values, header.coding == Coding::DeltaStrings) {
                    return Err(damaged("a page claims more strings than it has rows"));
                }
            } else {
                pages.skip(&header);
            }
        }
        Ok(())
    }
}

/// A dictionary's values stand in it one after the other: there are no more than its bytes allow.
fn check_dictionary(header: &PageHeader, width: usize) -> std::result::Result<(), PageError> {
    // A string has its length in front.
    let each = if width == 0 { 4 } else { width };
    if header.values > header.plain_bytes / each {
        return Err(damaged(format!("a dictionary of {} bytes claims {} values", header.plain_bytes, header.values)));
    }
    Ok(())
}

/// Bytes of a value in a file; 0 where they differ in length.
fn width_of(chunk: &ColumnChunkMetaData) -> usize {
    match chunk.column_type() {
        PhysicalType::BOOLEAN => 1,
        PhysicalType::INT32 | PhysicalType::FLOAT => 4,
        PhysicalType::INT64 | PhysicalType::DOUBLE => 8,
        PhysicalType::INT96 => 12,
        PhysicalType::BYTE_ARRAY => 0,
        PhysicalType::FIXED_LEN_BYTE_ARRAY => usize::try_from(chunk.column_descr().type_length()).unwrap_or(0).max(1),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ::parquet::arrow::ArrowWriter;
    use arrow_array::{ArrayRef, FixedSizeBinaryArray, ListArray, RecordBatch, StringArray, UInt64Array};
    use arrow_buffer::OffsetBuffer;
    use arrow_schema::{DataType, Field};

    use super::*;

    fn written(name: &str, columns: &[ArrayRef]) -> Vec<u8> {
        let batch = |array: &ArrayRef| RecordBatch::try_from_iter_with_nullable([(name, array.clone(), true)]).unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch(&columns[0]).schema(), None).unwrap();
        for column in columns {
            writer.write(&batch(column)).unwrap();
        }
        writer.into_inner().unwrap()
    }

    fn opened(bytes: &[u8]) -> ParquetTable {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        ParquetTable::open(file.path(), "t.parquet").unwrap()
    }

    #[test]
    fn a_dictionary_has_no_more_values_than_its_bytes_allow() {
        let mut bytes = written("s", &[Arc::new(StringArray::from(vec!["a", "b", "c", "a"]))]);
        let rows = |bytes: &[u8]| {
            opened(bytes).rows_of(0, None, &["s"], u64::MAX).and_then(Iterator::collect::<Result<Vec<_>>>)
        };
        assert_eq!(rows(&bytes).unwrap()[0].num_rows(), 4);
        // The page's kind (a dictionary) and sizes, and the number of values in the struct of its kind, all in zigzag.
        assert_eq!(bytes[4..12], [0x15, 4, 0x15, 30, 0x15, 30, 0x4c, 0x15]);
        assert_eq!(bytes[12], 3 << 1);
        bytes[12] = 63 << 1;
        assert!(rows(&bytes).unwrap_err().to_string().contains("a dictionary of 15 bytes claims 63 values"));
    }

    #[test]
    fn wide_values_make_small_batches() {
        let nulls: ArrayRef = Arc::new(FixedSizeBinaryArray::new_null(1 << 20, 10));
        let bytes = written("wide", &[nulls.clone(), nulls]);
        assert!(bytes.len() < 2000);
        let table = opened(&bytes);
        let column = Column {
            name: "wide".to_owned(),
            working: DataType::FixedSizeBinary(1 << 20),
            output: DataType::FixedSizeBinary(1 << 20),
        };
        assert_eq!(table.check_headers(0, &[&column]).unwrap().batch_rows, 256);
    }

    #[test]
    fn many_equal_values_in_one_list_are_counted() {
        let item = Arc::new(Field::new_list_field(DataType::UInt64, true));
        let values = Arc::new(UInt64Array::from_value(7, 1 << 20));
        let lists = ListArray::new(item, OffsetBuffer::from_lengths([1 << 20]), values, None);
        let bytes = written("l", &[Arc::new(lists)]);
        assert!(bytes.len() < 4000);
        let table = opened(&bytes);
        assert!(table.rows_of(0, None, &["l"], 32 << 20).is_ok());
        let refused = table.rows_of(0, None, &["l"], 16 << 20).err().unwrap();
        assert!(refused.to_string().contains("more than 16777216"), "{refused}");
    }
}
