//! Reading the index table, of this schema and the one before it.

use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch, StructArray};

use crate::error::{Error, Result};
use crate::formats::location::ImageLocation;
use crate::formats::sample::MemberRow;
use crate::parquet::table::ParquetTable;
use vlmsel_core::hash::Hash128;

/// A row group that takes more than this is not one of ours: its last row may be a record of 64 MiB, which stands there
/// up to three times.
pub const MAX_GROUP_BYTES: u64 = 1 << 30;
/// No member begins behind this place of a file or has more bytes (1 EiB): a row that says so is damaged.
const MAX_PLACE: u64 = 1 << 60;

/// Reads columns of those rows of an index part whose ids are wanted, batch by batch; only these rows are decoded.
/// Strings and binaries are views, as in [`ParquetTable::rows_of`].
///
/// # Errors
/// [`Error::Unreadable`] for damage and a column that is not there, and those of `take`.
pub fn filtered_batches(
    path: &Path,
    names: &[&str],
    mut is_wanted: impl FnMut(&[u8]) -> bool,
    mut take: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let table = ParquetTable::open(path, &path.to_string_lossy())?;
    for group in 0..table.groups() {
        let mut rows = Vec::new();
        let mut first = 0_u32;
        for batch in table.rows_of(group, None, &["uid"], MAX_GROUP_BYTES)? {
            let batch = batch?;
            let uids = batch.column(0).as_fixed_size_binary_opt();
            let uids = uids.ok_or_else(|| Error::unreadable(path, "column uid does not hold ids of 16 bytes"))?;
            rows.extend(
                (first..).zip(uids.iter()).filter(|(_, uid)| uid.is_some_and(&mut is_wanted)).map(|(row, _)| row),
            );
            first += batch.num_rows() as u32;
        }
        for batch in table.rows_of(group, Some(&rows), names, MAX_GROUP_BYTES)? {
            take(batch?)?;
        }
    }
    Ok(())
}

/// The same of those rows whose keys are wanted.
///
/// # Errors
/// As of [`filtered_batches`].
pub fn batches_of_keys(
    path: &Path,
    names: &[&str],
    is_wanted: impl Fn(&str) -> bool,
    mut take: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let table = ParquetTable::open(path, &path.to_string_lossy())?;
    for group in 0..table.groups() {
        let (mut rows, mut first) = (Vec::new(), 0_u32);
        for batch in table.rows_of(group, None, &["key"], MAX_GROUP_BYTES)? {
            let batch = batch?;
            let keys = batch.column(0).as_string_view_opt();
            let keys = keys.ok_or_else(|| Error::unreadable(path, "column key does not hold strings"))?;
            rows.extend((first..).zip(keys.iter()).filter(|(_, key)| key.is_some_and(&is_wanted)).map(|(row, _)| row));
            first += batch.num_rows() as u32;
        }
        for batch in table.rows_of(group, Some(&rows), names, MAX_GROUP_BYTES)? {
            take(batch?)?;
        }
    }
    Ok(())
}

/// Why a column is not as an index has it.
type Wrong<T> = std::result::Result<T, String>;

/// The images of one row: where each lies, and the hash of its bytes.
///
/// # Errors
/// What is wrong with the column.
pub fn images_of(list: &ArrayRef) -> Wrong<Vec<(ImageLocation, Hash128)>> {
    let wrong = || "column images is not as an index has it".to_owned();
    let table = list.as_struct_opt().ok_or_else(wrong)?;
    let column = |name: &str| table.column_by_name(name).ok_or_else(wrong);
    let files = column("file")?.as_string_view_opt().ok_or_else(wrong)?;
    let offsets = column("offset")?.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    let sizes = column("size")?.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    let hashes = column("hash")?.as_fixed_size_binary_opt().ok_or_else(wrong)?;
    // The schema before this one knew no rows of tables.
    let rows = table.column_by_name("row").map(|c| c.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)).transpose()?;
    let items =
        table.column_by_name("item").map(|c| c.as_primitive_opt::<UInt32Type>().ok_or_else(wrong)).transpose()?;
    (0..table.len())
        .map(|i| {
            let file = files.is_valid(i).then(|| files.value(i).to_owned());
            let hash = hashes.value(i).try_into().map_err(|_| wrong())?;
            let (offset, size) = possible(offsets.value(i), sizes.value(i))?;
            let row = rows.filter(|rows| rows.is_valid(i)).map(|rows| rows.value(i));
            let item = items.filter(|items| items.is_valid(i)).map(|items| items.value(i));
            let location = match (row, file) {
                (Some(row), file) => ImageLocation::Row { file, row, item, size },
                (None, Some(file)) => ImageLocation::File { file, size },
                (None, None) => ImageLocation::Range { offset, size },
            };
            Ok((location, hash))
        })
        .collect()
}

/// The members of one row.
///
/// # Errors
/// What is wrong with the column.
pub fn members_of(list: &ArrayRef) -> Wrong<Vec<MemberRow>> {
    let wrong = || "column members is not as an index has it".to_owned();
    let table: &StructArray = list.as_struct_opt().ok_or_else(wrong)?;
    let column = |name: &str| table.column_by_name(name).ok_or_else(wrong);
    let extensions = column("extension")?.as_string_view_opt().ok_or_else(wrong)?;
    let offsets = column("offset")?.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    let sizes = column("size")?.as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?;
    (0..table.len())
        .map(|i| {
            let (offset, size) = possible(offsets.value(i), sizes.value(i))?;
            Ok(MemberRow { extension: extensions.value(i).to_owned(), offset, size })
        })
        .collect()
}

/// A byte range, unless no file can have it.
fn possible(offset: u64, size: u64) -> Wrong<(u64, u64)> {
    if offset > MAX_PLACE || size > MAX_PLACE {
        return Err(format!("{size} bytes at {offset} are no place in a file"));
    }
    Ok((offset, size))
}
