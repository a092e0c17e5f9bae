//! Ids of chosen rows straight from their pages.
//!
//! A selection wants some ids of almost every page. The general reader builds every selected run of rows separately; here a
//! page without a wanted row is skipped unread, and from the others the wanted values alone are copied. Only flat
//! columns without nulls in the plain and dictionary encodings are read this way; [`gather_ids`] says `None` to anything
//! else, and the general reader is the oracle in the tests.

use std::sync::Arc;

use ::parquet::basic::{Compression, Type as PhysicalType};
use arrow_array::builder::{BinaryViewBuilder, StringViewBuilder};
use arrow_array::types::{Int32Type, Int64Type, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, ArrowPrimitiveType, FixedSizeBinaryArray, PrimitiveArray};
use arrow_buffer::Buffer;
use arrow_schema::DataType;

use super::page_header::{Coding, PageHeader, PageKind};
use super::pages::{Body, PageBuffers, PageError, damaged};
use super::rle::Runs;
use super::snappy_literals::Literals;
use super::table::ParquetTable;
use crate::columns::{Column, MAX_ID_BYTES};
use crate::error::{Error, Result};

type PageResult<T> = std::result::Result<T, PageError>;

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
pub fn gather_ids(
    table: &ParquetTable,
    group: usize,
    rows: &[u32],
    column: &Column,
    buffers: &mut PageBuffers,
) -> Result<Option<ArrayRef>> {
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
    let Some(mut pages) = table.own_pages(group, leaf, buffers) else { return Ok(None) };
    let mut wanted = Wanted {
        layout,
        nullable: descr.max_def_level() == 1,
        sink: IdColumn::new(&column.working, layout, rows.len()),
        rows,
        next: 0,
        dictionary: None,
        literals: Literals::default(),
        too_long: None,
    };
    let wrong = |error| table.page_error(group, column, error);
    let mut first_row = 0_usize;
    while let Some(row) = rows.get(wanted.next) {
        let header = pages.next_header().map_err(wrong)?;
        let header = header.ok_or_else(|| wrong(damaged("it ends before its rows do")))?;
        let end = first_row + if header.is_data() { header.values } else { 0 };
        let needed = header.kind == PageKind::Dictionary || (header.is_data() && (*row as usize) < end);
        if needed {
            let body = pages.body(&header).map_err(wrong)?;
            if !wanted.take(body, &header, first_row).map_err(wrong)? {
                return Ok(None);
            }
            if let Some(length) = wanted.too_long {
                let message =
                    format!("{}: an id of {length} bytes; ids may have up to {MAX_ID_BYTES}", table.path.display());
                return Err(Error::Usage(message));
            }
        } else {
            pages.skip(&header);
        }
        first_row = end;
    }
    wanted.sink.finish().map(Some).ok_or_else(|| wrong(damaged("a string is not UTF-8")))
}

/// A dictionary page and where its values lie in it.
struct Dictionary {
    page: Vec<u8>,
    /// Bytes of a value, or 0 where each has its own length.
    width: usize,
    places: Vec<(u32, u32)>,
}

impl Dictionary {
    fn get(&self, index: u32) -> Option<&[u8]> {
        if self.width > 0 {
            let start = (index as usize).checked_mul(self.width)?;
            return self.page.get(start..start + self.width);
        }
        let (start, end) = *self.places.get(index as usize)?;
        self.page.get(start as usize..end as usize)
    }

    /// Finds the values of a plain page.
    fn split(page: &[u8], count: usize, layout: Layout) -> Option<Self> {
        if let Layout::Fixed(width) = layout {
            return (count.checked_mul(width)? <= page.len()).then(|| Self {
                page: page.to_vec(),
                width,
                places: Vec::new(),
            });
        }
        let mut places = Vec::with_capacity(count.min(page.len()));
        let mut at = 0_usize;
        for _ in 0..count {
            let (start, end) = value_at(page, at, layout)?;
            places.push((u32::try_from(start).ok()?, u32::try_from(end).ok()?));
            at = end;
        }
        Some(Self { page: page.to_vec(), width: 0, places })
    }
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
    layout: Layout,
    nullable: bool,
    rows: &'a [u32],
    next: usize,
    sink: IdColumn,
    dictionary: Option<Dictionary>,
    literals: Literals,
    /// Length of a value that is too long to be an id; nothing is copied from then on.
    too_long: Option<usize>,
}

impl Wanted<'_> {
    /// Takes the wanted values of a page that begins with row `first_row`; `false` if it needs the general reader.
    fn take(&mut self, body: Body<'_>, header: &PageHeader, first_row: usize) -> PageResult<bool> {
        let cut = || damaged("a page is cut short or points nowhere");
        match header.kind {
            PageKind::Other => return Ok(true),
            PageKind::Dictionary => {
                let dictionary = Dictionary::split(body.decompress()?, header.values, self.layout);
                self.dictionary = Some(dictionary.ok_or_else(|| damaged("its dictionary is cut short"))?);
                return Ok(true);
            }
            PageKind::Data { levels } if self.nullable && levels != Coding::Rle => return Ok(false),
            PageKind::DataV2 { nulls, .. } if nulls > 0 => return Ok(false),
            PageKind::Data { .. } | PageKind::DataV2 { .. } => {}
        }
        if let (Coding::Plain, Layout::Fixed(width), Compression::SNAPPY) = (header.coding, self.layout, body.codec)
            && self.take_literals(&body, header, first_row, width)?
        {
            return Ok(true);
        }
        let (levels, values) = body.levels_and_values(header, self.nullable)?;
        if levels.and_then(|levels| Runs::new(levels, 1)).is_some_and(|runs| !runs.all_ones(header.values)) {
            return Ok(false);
        }
        match header.coding {
            Coding::Plain => self.take_plain(values, first_row, header.values),
            Coding::Dictionary => self.take_dictionary(values, first_row, header.values),
            _ => return Ok(false),
        }
        .ok_or_else(cut)?;
        Ok(true)
    }

    #[inline]
    fn push(&mut self, value: &[u8]) {
        push(&mut self.sink, &mut self.too_long, value);
    }

    /// Takes values out of the literals of a snappy page. `false`, with nothing taken, if one of them is in no literal.
    fn take_literals(
        &mut self,
        body: &Body<'_>,
        header: &PageHeader,
        first_row: usize,
        width: usize,
    ) -> PageResult<bool> {
        let stored = body.stored;
        if !self.literals.find(stored, body.plain_bytes)? {
            return Ok(false);
        }
        let Some(base) = self.literals.values_start(body, header, self.nullable) else { return Ok(false) };
        let end = first_row + header.values;
        let (next, mark) = (self.next, self.sink.mark());
        while let Some(row) = self.rows.get(self.next).map(|row| *row as usize).filter(|row| *row < end) {
            let Some(value) = self.literals.get(stored, base + (row - first_row) * width, width) else {
                self.next = next;
                self.sink.back_to(mark);
                return Ok(false);
            };
            push(&mut self.sink, &mut self.too_long, value);
            self.next += 1;
        }
        Ok(true)
    }

    fn take_plain(&mut self, values: &[u8], first_row: usize, count: usize) -> Option<()> {
        let (layout, end) = (self.layout, first_row + count);
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

    fn take_dictionary(&mut self, values: &[u8], first_row: usize, count: usize) -> Option<()> {
        let Self { dictionary, rows, next, sink, too_long, .. } = self;
        let dictionary = dictionary.as_ref()?;
        let mut runs = Runs::of_indices(values)?;
        let (mut start, end) = (first_row, first_row + count);
        while let Some(row) = rows.get(*next).map(|row| *row as usize).filter(|row| *row < end) {
            let run = runs.next_run()?;
            let stop = start.checked_add(run.count())?;
            let mut row = row;
            while row < stop.min(end) {
                let index = run.get(row - start, runs.bit_width())?;
                push(sink, too_long, dictionary.get(index)?);
                *next += 1;
                match rows.get(*next) {
                    Some(following) => row = *following as usize,
                    None => return Some(()),
                }
            }
            start = stop;
        }
        Some(())
    }
}

#[inline]
fn push(sink: &mut IdColumn, too_long: &mut Option<usize>, value: &[u8]) {
    if value.len() <= MAX_ID_BYTES {
        sink.push(value);
    } else {
        *too_long = Some(value.len());
    }
}

/// Values on their way into an array.
enum IdColumn {
    Fixed { bytes: Vec<u8>, data_type: DataType },
    Text(StringViewBuilder, bool),
    Binary(BinaryViewBuilder),
}

impl IdColumn {
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

    /// How much it holds; only values of a fixed width can be taken back.
    fn mark(&self) -> usize {
        match self {
            Self::Fixed { bytes, .. } => bytes.len(),
            Self::Text(..) | Self::Binary(..) => 0,
        }
    }

    fn back_to(&mut self, mark: usize) {
        if let Self::Fixed { bytes, .. } = self {
            bytes.truncate(mark);
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
