//! Ids of chosen rows straight from their pages.
//!
//! A selection wants some ids of almost every page. The general reader builds every selected run of rows separately; here a
//! page without a wanted row is skipped unread, and from the others the wanted values alone are copied. Only flat
//! columns without nulls in the plain and dictionary encodings are read this way; [`gather_ids`] says `None` to anything
//! else, and the general reader is the oracle in the tests.

use std::sync::Arc;

use ::parquet::basic::{Encoding, Type as PhysicalType};
use ::parquet::column::page::{Page, PageReader};
use arrow_array::builder::{BinaryViewBuilder, StringViewBuilder};
use arrow_array::types::{Int32Type, Int64Type, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, ArrowPrimitiveType, FixedSizeBinaryArray, PrimitiveArray};
use arrow_buffer::Buffer;
use arrow_schema::DataType;
use bytes::Bytes;

use super::column_bytes::guarded;
use super::parquet::ParquetTable;
use super::schema::{Column, MAX_ID_BYTES};
use crate::error::{Error, Result};

/// How values lie in a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// So many bytes each.
    Fixed(usize),
    /// A length of four bytes in front of each.
    Prefixed,
}

/// The ids of `rows` (ascending, counted within the group) in the column's working type, or `None` if this column chunk
/// needs the general reader.
///
/// # Errors
/// [`Error::Unreadable`] for damaged pages.
pub fn gather_ids(table: &ParquetTable, group: usize, rows: &[u32], column: &Column) -> Result<Option<ArrayRef>> {
    let Some(leaf) = table.flat_leaf(column) else { return Ok(None) };
    let descr = table.chunk_metadata(group, leaf).column_descr();
    let layout = match (descr.physical_type(), &column.working) {
        (PhysicalType::FIXED_LEN_BYTE_ARRAY, DataType::FixedSizeBinary(width))
            if *width > 0 && *width == descr.type_length() =>
        {
            Layout::Fixed(descr.type_length() as usize)
        }
        (PhysicalType::BYTE_ARRAY, DataType::Utf8View | DataType::BinaryView) => Layout::Prefixed,
        (PhysicalType::INT64, DataType::Int64 | DataType::UInt64) => Layout::Fixed(8),
        (PhysicalType::INT32, DataType::Int32 | DataType::UInt32) => Layout::Fixed(4),
        _ => return Ok(None),
    };
    let nullable = descr.max_def_level() == 1;
    let mut wanted = Wanted { sink: Sink::new(&column.working, layout, rows.len()), rows, next: 0, too_long: None };
    let damaged = |what: &str| {
        Error::unreadable(&table.path, format!("damaged Parquet: row group {group}, column {:?}: {what}", column.name))
    };
    let mut pages = guarded(&table.path, || table.pages(group, leaf, false))?;
    let mut dictionary: Option<Dictionary> = None;
    let mut first_row = 0_usize;
    while wanted.next < rows.len() {
        let Some(ahead) = guarded(&table.path, || pages.peek_next_page())? else {
            return Err(damaged("it ends before its rows do"));
        };
        if !ahead.is_dict {
            // In a flat column levels are rows.
            if let Some(count) = ahead.num_rows.or(ahead.num_levels) {
                let end = first_row.checked_add(count).ok_or_else(|| damaged("impossible page"))?;
                if rows[wanted.next] as usize >= end {
                    guarded(&table.path, || pages.skip_next_page())?;
                    first_row = end;
                    continue;
                }
            }
        }
        let Some(page) = guarded(&table.path, || pages.get_next_page())? else {
            return Err(damaged("it ends before its rows do"));
        };
        let (values, count, encoding) = match page {
            Page::DictionaryPage { buf, num_values, .. } => {
                dictionary = Some(
                    split(&buf, num_values as usize, layout).ok_or_else(|| damaged("its dictionary is cut short"))?,
                );
                continue;
            }
            Page::DataPage { buf, num_values, encoding, def_level_encoding, .. } => {
                let levels = if nullable {
                    if def_level_encoding != Encoding::RLE {
                        return Ok(None);
                    }
                    let length = buf.get(..4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
                    let length = length
                        .filter(|length| *length <= buf.len() - 4)
                        .ok_or_else(|| damaged("its levels are cut short"))?;
                    if !all_present(&buf[4..4 + length], num_values as usize) {
                        return Ok(None);
                    }
                    4 + length
                } else {
                    0
                };
                (buf.slice(levels..), num_values as usize, encoding)
            }
            Page::DataPageV2 {
                buf, num_values, encoding, num_nulls, def_levels_byte_len, rep_levels_byte_len, ..
            } => {
                if num_nulls != 0 {
                    return Ok(None);
                }
                let levels = (def_levels_byte_len as usize).checked_add(rep_levels_byte_len as usize);
                let levels =
                    levels.filter(|levels| *levels <= buf.len()).ok_or_else(|| damaged("its levels are cut short"))?;
                (buf.slice(levels..), num_values as usize, encoding)
            }
        };
        let read = match (encoding, &dictionary) {
            (Encoding::PLAIN, _) => wanted.take_plain(&values, first_row, count, layout),
            (Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY, Some(dictionary)) => {
                wanted.take_dictionary(&values, first_row, count, dictionary)
            }
            _ => return Ok(None),
        };
        read.ok_or_else(|| damaged("a page is cut short or points nowhere"))?;
        if let Some(length) = wanted.too_long {
            let message =
                format!("{}: an id of {length} bytes; ids may have up to {MAX_ID_BYTES}", table.path.display());
            return Err(Error::Usage(message));
        }
        first_row += count;
    }
    wanted.sink.finish().map(Some).ok_or_else(|| damaged("a string is not UTF-8"))
}

/// Whether run-length encoded definition levels of one bit say that no value is null.
fn all_present(levels: &[u8], count: usize) -> bool {
    let mut runs = Runs { bytes: levels, bit_width: 1 };
    let mut seen = 0;
    while seen < count {
        match runs.next() {
            Some(Run::Repeated { value: 1, count }) => seen += count,
            _ => return false,
        }
    }
    true
}

/// A dictionary page and where its values lie in it.
struct Dictionary {
    page: Bytes,
    places: Vec<(u32, u32)>,
}

impl Dictionary {
    fn get(&self, index: u32) -> Option<&[u8]> {
        let (start, end) = *self.places.get(index as usize)?;
        self.page.get(start as usize..end as usize)
    }
}

/// Finds the values of a plain page.
fn split(page: &Bytes, count: usize, layout: Layout) -> Option<Dictionary> {
    let mut places = Vec::with_capacity(count.min(page.len()));
    let mut at = 0_usize;
    for _ in 0..count {
        let (start, end) = value_at(page, at, layout)?;
        places.push((u32::try_from(start).ok()?, u32::try_from(end).ok()?));
        at = end;
    }
    Some(Dictionary { page: page.clone(), places })
}

#[inline]
fn value_at(bytes: &[u8], at: usize, layout: Layout) -> Option<(usize, usize)> {
    let (start, length) = match layout {
        Layout::Fixed(width) => (at, width),
        Layout::Prefixed => {
            let prefix = bytes.get(at..at.checked_add(4)?)?;
            (at + 4, u32::from_le_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]) as usize)
        }
    };
    let end = start.checked_add(length)?;
    (end <= bytes.len()).then_some((start, end))
}

/// The rows still to be found, and where their values go.
struct Wanted<'a> {
    rows: &'a [u32],
    next: usize,
    sink: Sink,
    /// Length of a value that is too long to be an id; nothing is copied from then on.
    too_long: Option<usize>,
}

impl Wanted<'_> {
    #[inline]
    fn push(&mut self, value: &[u8]) {
        if value.len() <= MAX_ID_BYTES {
            self.sink.push(value);
        } else {
            self.too_long = Some(value.len());
        }
    }

    fn take_plain(&mut self, values: &[u8], first_row: usize, count: usize, layout: Layout) -> Option<()> {
        let end = first_row + count;
        match layout {
            Layout::Fixed(width) => {
                while let Some(row) = self.rows.get(self.next).map(|row| *row as usize).filter(|row| *row < end) {
                    let start = (row - first_row).checked_mul(width)?;
                    self.push(values.get(start..start.checked_add(width)?)?);
                    self.next += 1;
                }
            }
            Layout::Prefixed => {
                let (mut at, mut row) = (0, first_row);
                while let Some(target) = self.rows.get(self.next).map(|row| *row as usize).filter(|row| *row < end) {
                    while row < target {
                        at = value_at(values, at, layout)?.1;
                        row += 1;
                    }
                    let (start, stop) = value_at(values, at, layout)?;
                    self.push(&values[start..stop]);
                    self.next += 1;
                }
            }
        }
        Some(())
    }

    fn take_dictionary(
        &mut self,
        values: &[u8],
        first_row: usize,
        count: usize,
        dictionary: &Dictionary,
    ) -> Option<()> {
        let (bit_width, bytes) = values.split_first()?;
        if *bit_width > 32 {
            return None;
        }
        let mut runs = Runs { bytes, bit_width: u32::from(*bit_width) };
        let (mut start, end) = (first_row, first_row + count);
        while let Some(row) = self.rows.get(self.next).map(|row| *row as usize).filter(|row| *row < end) {
            let run = runs.next()?;
            let stop = start.checked_add(run.count())?;
            let mut row = row;
            while row < stop.min(end) {
                let index = run.get(row - start, runs.bit_width)?;
                self.push(dictionary.get(index)?);
                self.next += 1;
                match self.rows.get(self.next) {
                    Some(next) => row = *next as usize,
                    None => return Some(()),
                }
            }
            start = stop;
        }
        Some(())
    }
}

/// Runs of Parquet's hybrid of run-length encoding and bit packing.
struct Runs<'a> {
    bytes: &'a [u8],
    bit_width: u32,
}

enum Run<'a> {
    Repeated { value: u32, count: usize },
    Packed { bytes: &'a [u8], count: usize },
}

impl<'a> Runs<'a> {
    fn next(&mut self) -> Option<Run<'a>> {
        let mut header = 0_u64;
        let mut shift = 0;
        loop {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            header |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 35 {
                return None;
            }
        }
        let count = usize::try_from(header >> 1).ok()?;
        if count == 0 {
            return None;
        }
        if header & 1 == 1 {
            // Groups of eight values; the last group of a page may be cut short.
            let length = count.checked_mul(self.bit_width as usize)?;
            let (bytes, rest) = self.bytes.split_at(length.min(self.bytes.len()));
            self.bytes = rest;
            return Some(Run::Packed { bytes, count: count.checked_mul(8)? });
        }
        let width = self.bit_width.div_ceil(8) as usize;
        let raw = self.bytes.get(..width)?;
        self.bytes = &self.bytes[width..];
        let mut value = [0; 4];
        value[..width].copy_from_slice(raw);
        Some(Run::Repeated { value: u32::from_le_bytes(value), count })
    }
}

impl Run<'_> {
    fn count(&self) -> usize {
        match self {
            Self::Repeated { count, .. } | Self::Packed { count, .. } => *count,
        }
    }

    fn get(&self, at: usize, bit_width: u32) -> Option<u32> {
        match self {
            Self::Repeated { value, .. } => Some(*value),
            Self::Packed { bytes, .. } => {
                let bit = at.checked_mul(bit_width as usize)?;
                let (first, offset) = (bit / 8, bit % 8);
                let last = (bit + bit_width as usize).div_ceil(8);
                let raw = bytes.get(first..last)?;
                let mut word = [0; 8];
                word[..raw.len()].copy_from_slice(raw);
                let mask = (1_u64 << bit_width) - 1;
                Some(((u64::from_le_bytes(word) >> offset) & mask) as u32)
            }
        }
    }
}

/// Values on their way into an array.
enum Sink {
    Fixed { bytes: Vec<u8>, data_type: DataType },
    Text(StringViewBuilder, bool),
    Binary(BinaryViewBuilder),
}

impl Sink {
    fn new(data_type: &DataType, layout: Layout, rows: usize) -> Self {
        match (data_type, layout) {
            (DataType::Utf8View, _) => Self::Text(StringViewBuilder::with_capacity(rows), true),
            (DataType::BinaryView, _) => Self::Binary(BinaryViewBuilder::with_capacity(rows)),
            (other, Layout::Fixed(width)) => {
                Self::Fixed { bytes: Vec::with_capacity(rows * width), data_type: other.clone() }
            }
            (other, Layout::Prefixed) => Self::Fixed { bytes: Vec::new(), data_type: other.clone() },
        }
    }

    #[inline]
    fn push(&mut self, value: &[u8]) {
        match self {
            Self::Fixed { bytes, .. } => bytes.extend_from_slice(value),
            Self::Text(builder, valid) => match std::str::from_utf8(value) {
                Ok(text) => builder.append_value(text),
                Err(_) => *valid = false,
            },
            Self::Binary(builder) => builder.append_value(value),
        }
    }

    fn finish(self) -> Option<ArrayRef> {
        macro_rules! primitive {
            ($type:ty, $bytes:expr) => {{
                let parts = $bytes.chunks_exact(size_of::<<$type as ArrowPrimitiveType>::Native>());
                let values = parts.map(|part| {
                    <$type as ArrowPrimitiveType>::Native::from_le_bytes(part.try_into().unwrap_or_default())
                });
                Arc::new(PrimitiveArray::<$type>::from_iter_values(values)) as ArrayRef
            }};
        }
        Some(match self {
            Self::Text(mut builder, valid) => {
                if !valid {
                    return None;
                }
                Arc::new(builder.finish())
            }
            Self::Binary(mut builder) => Arc::new(builder.finish()),
            Self::Fixed { bytes, data_type } => match data_type {
                DataType::FixedSizeBinary(width) => {
                    Arc::new(FixedSizeBinaryArray::try_new(width, Buffer::from_vec(bytes), None).ok()?)
                }
                DataType::Int64 => primitive!(Int64Type, bytes),
                DataType::UInt64 => primitive!(UInt64Type, bytes),
                DataType::Int32 => primitive!(Int32Type, bytes),
                DataType::UInt32 => primitive!(UInt32Type, bytes),
                _ => return None,
            },
        })
    }
}
