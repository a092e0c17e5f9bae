//! Score columns straight from their pages.
//!
//! Scores are the one column of which every value is looked at, so they are looked at as they come off the page: no
//! levels, no arrays. Numbers in plain or dictionary encoding are read this way; [`visit`] says where it stopped before anything
//! else, and the general reader, which is the oracle in the tests, goes on from there.

use std::ops::Range;

use ::parquet::basic::{Compression, Type as PhysicalType};
use arrow_schema::DataType;

use super::page_header::{Coding, PageHeader, PageKind};
use super::pages::{ChunkPages, PageBuffers, PageError, damaged};
use super::rle::{Runs, Stream};
use super::snappy_literals::Literals;
use super::table::ParquetTable;
use crate::columns::Column;
use crate::columns::score::{BLOCK_ROWS, Block, Native, ScoreClass, ScoreVisitor, Scratch, visit_block};
use crate::error::{Error, Result};

/// A number as it lies in a plain page.
trait PlainScore: Native + Default {
    /// Its bytes.
    const BYTES: usize;
    /// Reads it.
    fn read(bytes: &[u8]) -> Self;
}

macro_rules! stored {
    ($($type:ty),*) => {$(
        impl PlainScore for $type {
            const BYTES: usize = size_of::<$type>();
            #[inline]
            fn read(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().unwrap_or_default())
            }
        }
    )*};
}
stored!(f32, f64, i32, i64, u32, u64);

/// Feeds the scores of a row group to `visitor`, at least the first `most` of them (or all). Returns how many rows were
/// visited; if that is less than what was asked for, the rest needs the general reader.
///
/// # Errors
/// [`crate::Error::Unreadable`] for damage, and those of `visitor`.
pub fn visit(
    table: &ParquetTable,
    group: usize,
    column: &Column,
    most: usize,
    non_negative: bool,
    buffers: &mut PageBuffers,
    visitor: &mut dyn ScoreVisitor,
) -> Result<usize> {
    let Some(leaf) = table.flat_leaf(column) else { return Ok(0) };
    let descr = table.chunk_metadata(group, leaf).column_descr();
    macro_rules! as_type {
        ($type:ty) => {
            Pages::<$type>::new(table, group, leaf, column, non_negative).visit(most, buffers, visitor)
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
    /// Values of a block.
    values: Vec<T>,
    scratch: Scratch,
    literals: Literals,
}

impl<'a, T: PlainScore> Pages<'a, T> {
    fn new(table: &'a ParquetTable, group: usize, leaf: usize, column: &'a Column, non_negative: bool) -> Self {
        Self {
            table,
            group,
            leaf,
            column,
            non_negative,
            dictionary: None,
            values: Vec::new(),
            scratch: Scratch::default(),
            literals: Literals::default(),
        }
    }

    fn visit(&mut self, most: usize, buffers: &mut PageBuffers, visitor: &mut dyn ScoreVisitor) -> Result<usize> {
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
            let damage = || wrong(damaged("a page is cut short or points nowhere"));
            let body = pages.body(&header).map_err(wrong)?;
            // Of the last page no more than was asked for.
            let end = (row + header.values).min(most.max(row));
            if header.coding == Coding::Plain
                && body.codec == Compression::SNAPPY
                && !matches!(header.kind, PageKind::DataV2 { nulls: 1.., .. })
                && !body.stored.is_empty()
                && self.literals.find(body.stored, body.plain_bytes).map_err(wrong)?
                && let Some(start) = self.literals.values_start(&body, &header, nullable)
            {
                let visited = self.visit_literals(body.stored, start, row..end, visitor)?;
                if visited < end {
                    let (_, values) = body.levels_and_values(&header, nullable).map_err(wrong)?;
                    let values = values.get((visited - row) * T::BYTES..).ok_or_else(damage)?;
                    self.visit_page(None, Values::Plain(values), visited..end, &damage, visitor)?;
                }
                row += header.values;
                continue;
            }
            let (levels, values) = body.levels_and_values(&header, nullable).map_err(wrong)?;
            let levels = levels.and_then(|levels| Runs::new(levels, 1));
            let levels = levels.filter(|levels| !levels.clone().all_ones(header.values));
            let values = match header.coding {
                Coding::Plain => Values::Plain(values),
                _ => Values::Indices(Stream::new(Runs::of_indices(values).ok_or_else(damage)?)),
            };
            self.visit_page(levels.map(Stream::new), values, row..end, &damage, visitor)?;
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

    /// Visits values where they lie in the stored page, from its byte `start` on, without decompressing it. Returns the row
    /// that it came to.
    fn visit_literals(
        &mut self,
        stored: &[u8],
        start: usize,
        rows: Range<usize>,
        visitor: &mut dyn ScoreVisitor,
    ) -> Result<usize> {
        let mut row = rows.start;
        while row < rows.end {
            let place = start + (row - rows.start) * T::BYTES;
            let Some(stretch) = self.literals.stretch(stored, place, T::BYTES) else { break };
            let stretch = &stretch[..stretch.len().min((rows.end - row) * T::BYTES)];
            for block in stretch.chunks(BLOCK_ROWS * T::BYTES) {
                self.values.clear();
                self.values.extend(block.chunks_exact(T::BYTES).map(T::read));
                visit_block(&self.values, row, self.non_negative, &mut self.scratch, visitor)?;
                row += self.values.len();
            }
        }
        Ok(row)
    }

    /// Visits a page block by block, so that a page of a few bytes that stands for billions of rows takes time but no
    /// memory. `levels` is `None` where no value is null.
    fn visit_page(
        &mut self,
        mut levels: Option<Stream<'_>>,
        mut values: Values<'_>,
        rows: Range<usize>,
        damage: &dyn Fn() -> Error,
        visitor: &mut dyn ScoreVisitor,
    ) -> Result<()> {
        let mut present = Vec::new();
        let mut keys = [0; BLOCK_ROWS];
        for first_row in rows.clone().step_by(BLOCK_ROWS) {
            let count = BLOCK_ROWS.min(rows.end - first_row);
            let Some(levels) = &mut levels else {
                self.take(&mut values, count).ok_or_else(damage)?;
                visit_block(&self.values, first_row, self.non_negative, &mut self.scratch, visitor)?;
                continue;
            };
            present.clear();
            levels.take(count, |level| present.push(level == 1)).ok_or_else(damage)?;
            self.take(&mut values, present.iter().filter(|is| **is).count()).ok_or_else(damage)?;
            let mut classes = [ScoreClass::Missing; BLOCK_ROWS];
            let there = present.iter().enumerate().filter(|(_, is)| **is).map(|(at, _)| at);
            for (at, value) in there.zip(&self.values) {
                (keys[at], classes[at]) = (value.key(), value.class(self.non_negative));
            }
            visitor.block(&Block { first_row, keys: &keys[..count], classes: Some(&classes[..count]) })?;
        }
        Ok(())
    }

    /// Puts the next values of a page into `self.values`; `None` if there are fewer.
    fn take(&mut self, from: &mut Values<'_>, count: usize) -> Option<()> {
        self.values.clear();
        match from {
            Values::Plain(bytes) => {
                let here = split_off(bytes, count * T::BYTES)?;
                self.values.extend(here.chunks_exact(T::BYTES).map(T::read));
                Some(())
            }
            Values::Indices(stream) => {
                let dictionary = self.dictionary.as_deref()?;
                self.values.resize(count, T::default());
                let mut places = self.values.iter_mut();
                let mut inside = true;
                stream.take(count, |index| {
                    let value = dictionary.get(index as usize).copied();
                    inside &= value.is_some();
                    if let Some(place) = places.next() {
                        *place = value.unwrap_or_default();
                    }
                })?;
                inside.then_some(())
            }
        }
    }
}

fn split_off<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (here, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(here)
}

/// The values of a page that were not taken yet.
enum Values<'a> {
    Plain(&'a [u8]),
    Indices(Stream<'a>),
}
