//! Score columns straight from their pages.
//!
//! Scores are the one column of which every value is looked at, so they go from the page to keys in one step: no levels,
//! no arrays. Numbers in plain or dictionary encoding are read this way; [`visit`] says where it stopped before anything
//! else, and the general reader, which is the oracle in the tests, goes on from there.

use ::parquet::basic::Type as PhysicalType;
use arrow_schema::DataType;

use super::chunk_pages::{ChunkPages, PageBuffers, PageError, damaged};
use super::hybrid::{Run, Runs, unpack};
use super::page_header::{Coding, PageHeader, PageKind};
use super::parquet::ParquetTable;
use super::schema::Column;
use super::score::{BLOCK_ROWS, Block, Native, ScoreClass, visit_values};
use crate::error::{Error, Result};

/// A number as it lies in a plain page.
trait Stored: Native {
    /// Its bytes.
    const BYTES: usize;
    /// Reads it.
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! stored {
    ($($type:ty),*) => {$(
        impl Stored for $type {
            const BYTES: usize = size_of::<$type>();
            #[inline]
            fn read(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().unwrap_or_default())
            }
        }
    )*};
}
stored!(f32, f64, i32, i64, u32, u64);

/// What is called with each block.
type Visit<'a> = &'a mut dyn FnMut(&Block<'_>) -> Result<()>;

/// Feeds the scores of a row group to `visit`, at least the first `most` of them (or all). Returns how many rows were
/// visited; if that is less than what was asked for, the rest needs the general reader.
///
/// # Errors
/// [`crate::Error::Unreadable`] for damage, and those of `visit`.
pub fn visit(
    table: &ParquetTable,
    group: usize,
    column: &Column,
    most: usize,
    non_negative: bool,
    buffers: &mut PageBuffers,
    visit: Visit<'_>,
) -> Result<usize> {
    let Some(leaf) = table.flat_leaf(column) else { return Ok(0) };
    let descr = table.chunk_metadata(group, leaf).column_descr();
    macro_rules! as_type {
        ($type:ty) => {
            Pages::<$type>::new(table, group, leaf, column, non_negative).visit(most, buffers, visit)
        };
    }
    match (descr.physical_type(), &column.working) {
        (PhysicalType::FLOAT, DataType::Float32) => as_type!(f32),
        (PhysicalType::DOUBLE, DataType::Float64) => as_type!(f64),
        (PhysicalType::INT32, DataType::Int32) => as_type!(i32),
        (PhysicalType::INT64, DataType::Int64) => as_type!(i64),
        (PhysicalType::INT32, DataType::UInt32) => as_type!(u32),
        (PhysicalType::INT64, DataType::UInt64) => as_type!(u64),
        _ => Ok(0),
    }
}

struct Pages<'a, T> {
    table: &'a ParquetTable,
    group: usize,
    leaf: usize,
    column: &'a Column,
    non_negative: bool,
    dictionary: Option<Vec<T>>,
    /// Values of a page, or of a block of it.
    values: Vec<T>,
}

impl<'a, T: Stored> Pages<'a, T> {
    fn new(table: &'a ParquetTable, group: usize, leaf: usize, column: &'a Column, non_negative: bool) -> Self {
        Self { table, group, leaf, column, non_negative, dictionary: None, values: Vec::new() }
    }

    fn visit(&mut self, most: usize, buffers: &mut PageBuffers, visit: Visit<'_>) -> Result<usize> {
        let (table, group, column) = (self.table, self.group, self.column);
        let rows = table.group_rows(group).1;
        let nullable = table.chunk_metadata(group, self.leaf).column_descr().max_def_level() == 1;
        let Some(mut pages) = table.own_pages(group, self.leaf, buffers) else { return Ok(0) };
        let wrong = |error| table.page_error(group, column, error);
        let mut row = 0;
        while row < rows.min(most) {
            let header = pages.next_header().map_err(wrong)?;
            let header = header.ok_or_else(|| wrong(damaged("it ends before its rows do")))?;
            match header.kind {
                PageKind::Other => {
                    pages.skip(&header);
                    continue;
                }
                PageKind::Dictionary => {
                    self.read_dictionary(&mut pages, &header).map_err(wrong)?;
                    continue;
                }
                PageKind::Data { levels } if nullable && levels != Coding::Rle => return Ok(row),
                PageKind::Data { .. } | PageKind::DataV2 { .. } => {}
            }
            if row + header.values > rows {
                return Err(wrong(damaged(format!("it holds more than the {rows} rows of its group"))));
            }
            if !matches!(header.coding, Coding::Plain | Coding::Dictionary) {
                return Ok(row);
            }
            let body = pages.body(&header).map_err(wrong)?;
            let (levels, values) = body.levels_and_values(&header, nullable).map_err(wrong)?;
            let levels = levels.and_then(|levels| Runs::new(levels, 1));
            let levels = levels.filter(|levels| !levels.clone().all_ones(header.values));
            match (levels, header.coding) {
                (None, Coding::Plain) => {
                    let values = header.values.checked_mul(T::BYTES).and_then(|length| values.get(..length));
                    self.visit_plain(values.ok_or_else(|| wrong(cut()))?, row, visit)?;
                }
                (None, _) => {
                    self.look_up(values, header.values).ok_or_else(|| wrong(cut()))?;
                    visit_values(&self.values, row, self.non_negative, visit)?;
                }
                (Some(levels), coding) => {
                    self.visit_nullable(&levels, values, coding, &header, row, visit, &wrong)?;
                }
            }
            row += header.values;
        }
        Ok(row)
    }

    fn read_dictionary(
        &mut self,
        pages: &mut ChunkPages<'_>,
        header: &PageHeader,
    ) -> std::result::Result<(), PageError> {
        let values = pages.body(header)?.decompress()?;
        let values = header.values.checked_mul(T::BYTES).and_then(|length| values.get(..length));
        let values = values.ok_or_else(|| damaged("its dictionary is cut short"))?;
        self.dictionary = Some(values.chunks_exact(T::BYTES).map(T::read).collect());
        Ok(())
    }

    /// Values of a dictionary-encoded page; `None` if it is cut short or points nowhere.
    fn look_up(&mut self, indices: &[u8], count: usize) -> Option<()> {
        let dictionary = self.dictionary.as_deref()?;
        let mut runs = Runs::of_indices(indices)?;
        let bit_width = runs.bit_width();
        self.values.clear();
        let mut left = count;
        while left > 0 {
            let run = runs.next_run()?;
            let here = run.count().min(left);
            match run {
                Run::Repeated { value, .. } => {
                    self.values.extend(std::iter::repeat_n(*dictionary.get(value as usize)?, here));
                }
                Run::Packed { bytes, .. } => {
                    let mut inside = true;
                    unpack(bytes, bit_width, here, |index| {
                        let value = dictionary.get(index as usize);
                        inside &= value.is_some();
                        self.values.extend(value);
                    })
                    .filter(|()| inside)?;
                }
            }
            left -= here;
        }
        Some(())
    }

    fn visit_plain(&mut self, values: &[u8], first_row: usize, visit: Visit<'_>) -> Result<()> {
        for (at, chunk) in values.chunks(BLOCK_ROWS * T::BYTES).enumerate() {
            self.values.clear();
            self.values.extend(chunk.chunks_exact(T::BYTES).map(T::read));
            visit_values(&self.values, first_row + at * BLOCK_ROWS, self.non_negative, visit)?;
        }
        Ok(())
    }

    /// A page with nulls: the values that are there, spread over the rows.
    #[allow(clippy::too_many_arguments, reason = "one page as it was found")]
    fn visit_nullable(
        &mut self,
        levels: &Runs<'_>,
        values: &[u8],
        coding: Coding,
        header: &PageHeader,
        first_row: usize,
        visit: Visit<'_>,
        wrong: &dyn Fn(PageError) -> Error,
    ) -> Result<()> {
        let mut present = Vec::with_capacity(header.values);
        levels.clone().for_each(header.values, |level| present.push(level == 1)).ok_or_else(|| wrong(cut()))?;
        let there = present.iter().filter(|is| **is).count();
        if coding == Coding::Plain {
            self.values.clear();
            self.values.extend(values.chunks_exact(T::BYTES).take(there).map(T::read));
        } else {
            self.look_up(values, there).ok_or_else(|| wrong(cut()))?;
        }
        if self.values.len() < there {
            return Err(wrong(cut()));
        }
        let mut next = self.values.iter();
        let (mut keys, mut classes) = (Vec::with_capacity(BLOCK_ROWS), Vec::with_capacity(BLOCK_ROWS));
        for (at, chunk) in present.chunks(BLOCK_ROWS).enumerate() {
            keys.clear();
            classes.clear();
            for is in chunk {
                let value = if *is { next.next() } else { None };
                keys.push(value.map_or(0, |value| value.key()));
                classes.push(value.map_or(ScoreClass::Missing, |value| value.class(self.non_negative)));
            }
            visit(&Block { first_row: first_row + at * BLOCK_ROWS, keys: &keys, classes: Some(&classes) })?;
        }
        Ok(())
    }
}

fn cut() -> PageError {
    damaged("a page is cut short or points nowhere")
}
