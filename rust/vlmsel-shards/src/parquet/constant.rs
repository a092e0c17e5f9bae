//! Whether a column of strings says the same in every row of a row group.
//!
//! A table that `vlmsel score` wrote has a status in each row, nearly always `ok`. Its pages say so in a few bytes, and
//! then scores alone decide. Statistics say it, too, but a footer may claim anything.

use ::parquet::basic::Type as PhysicalType;

use super::page_header::{Coding, PageKind};
use super::pages::{PageBuffers, PageError};
use super::rle::Runs;
use super::table::ParquetTable;
use crate::columns::Column;

impl ParquetTable {
    /// Whether every row of a row group holds `value`, as far as the pages tell in few bytes: a dictionary of that one
    /// value, and no nulls. `false` is no proof of another value; damage is left to whoever reads the column.
    pub fn holds_only(&self, group: usize, column: &Column, value: &[u8], buffers: &mut PageBuffers) -> bool {
        self.pages_hold_only(group, column, value, buffers).unwrap_or(false)
    }

    fn pages_hold_only(
        &self,
        group: usize,
        column: &Column,
        value: &[u8],
        buffers: &mut PageBuffers,
    ) -> Result<bool, PageError> {
        let Some(leaf) = self.flat_leaf(column) else { return Ok(false) };
        let descr = self.chunk_metadata(group, leaf).column_descr();
        let nullable = descr.max_def_level() == 1;
        if descr.physical_type() != PhysicalType::BYTE_ARRAY {
            return Ok(false);
        }
        let rows = self.group_rows(group).1;
        let Some(mut pages) = self.own_pages(group, leaf, buffers) else { return Ok(false) };
        let (mut seen, mut known) = (0, false);
        while seen < rows {
            let Some(header) = pages.next_header()? else { return Ok(false) };
            match header.kind {
                PageKind::Other => {
                    pages.skip(&header);
                    continue;
                }
                PageKind::Dictionary => {
                    let page = pages.body(&header)?.decompress()?;
                    let length = u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes();
                    known = header.values == 1 && page.split_at_checked(4) == Some((&length, value));
                    continue;
                }
                PageKind::Data { levels } if nullable && levels != Coding::Rle => return Ok(false),
                PageKind::Data { .. } | PageKind::DataV2 { .. } => {}
            }
            if !known || header.coding != Coding::Dictionary {
                return Ok(false);
            }
            let (levels, values) = pages.body(&header)?.levels_and_values(&header, nullable)?;
            let no_nulls =
                levels.and_then(|levels| Runs::new(levels, 1)).is_none_or(|runs| runs.all_ones(header.values));
            if !no_nulls || !Runs::of_indices(values).is_some_and(|runs| runs.all_are(0, header.values)) {
                return Ok(false);
            }
            seen += header.values;
        }
        Ok(seen == rows)
    }
}
