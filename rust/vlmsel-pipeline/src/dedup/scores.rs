//! Scores that `vlmsel score` made of the index: each of their parts is a range of rows of one of its parts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use vlmsel_shards::parquet::table::ParquetTable;
use vlmsel_shards::tables::index_reader::MAX_GROUP_BYTES;
use vlmsel_shards::workspace::manifest::{InputRecord, Manifest};

use super::rows::IndexRows;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// A table of scores whose first row is that of an index.
#[derive(Debug)]
struct Piece {
    path: PathBuf,
    first: u32,
}

/// Scores by row.
#[derive(Debug)]
pub struct Scores {
    pieces: Vec<Piece>,
    folder: PathBuf,
}

/// A part of scores, as its name says: the index part's file, and the first row.
pub fn place_of(unit: &str) -> Option<(String, u64)> {
    let (stem, start) = unit.rsplit_once('-')?;
    Some((format!("{stem}.parquet"), start.parse().ok()?))
}

impl Scores {
    /// Opens the folder.
    ///
    /// # Errors
    /// Exit 2 for what `vlmsel score` did not make, 7 for scores of another index.
    pub fn open(folder: &Path, index: &IndexRows, inputs: &[InputRecord]) -> Result<Self> {
        let manifest = match Manifest::read(folder)? {
            Some(manifest) if manifest.command == "score" => manifest,
            _ => {
                return Err(Error::usage(format!(
                    "{}: --scores is the folder that `vlmsel score` wrote, because its rows are those of the index",
                    folder.display()
                )));
            }
        };
        let parts: HashMap<&str, (u32, u32)> =
            index.parts.iter().map(|part| (part.file.as_str(), (part.first, part.rows))).collect();
        for scored in &manifest.inputs {
            let same = inputs.iter().any(|input| input.name == scored.name && input.fingerprint == scored.fingerprint);
            if !same {
                return Err(vlmsel_shards::Error::Mismatch(format!(
                    "{} was made from another index: its {} is not that of {}; give the index that was scored with --index",
                    folder.display(),
                    scored.name,
                    index.folder.display()
                ))
                .into());
            }
        }
        let mut pieces = Vec::with_capacity(manifest.parts.len());
        for part in &manifest.parts {
            let place = place_of(&part.unit).and_then(|(file, start)| {
                let (first, rows) = parts.get(file.as_str())?;
                (start + part.rows <= u64::from(*rows)).then_some(first + start as u32)
            });
            let (Some(first), Some(file)) = (place, part.files.first()) else {
                let text = format!("its part {} is no range of the index", part.unit);
                return Err(vlmsel_shards::Error::unreadable(folder, text).into());
            };
            pieces.push(Piece { path: folder.join(&file.file), first });
        }
        Ok(Self { pieces, folder: folder.to_path_buf() })
    }

    /// Calls `each` with the row and the value of every row that has one.
    ///
    /// # Errors
    /// Exit 2 for a column that is not there or is no number.
    pub fn each(&self, column: &str, progress: &Progress, mut each: impl FnMut(u32, u64)) -> Result<()> {
        for piece in &self.pieces {
            progress.check()?;
            let table = ParquetTable::open(&piece.path, &piece.path.to_string_lossy())?;
            if table.schema().index_of(column).is_err() {
                let names: Vec<&str> = table.schema().fields().iter().map(|f| f.name().as_str()).collect();
                return Err(Error::usage(format!(
                    "{} has no column {column:?}; it has {}",
                    self.folder.display(),
                    names.join(", ")
                )));
            }
            let mut row = piece.first;
            for group in 0..table.groups() {
                for batch in table.rows_of(group, None, &[column], MAX_GROUP_BYTES)? {
                    let batch = batch?;
                    let values = ordered(batch.column(0)).ok_or_else(|| {
                        let kind = batch.column(0).data_type().clone();
                        Error::usage(format!("column {column:?} is {kind}, and keepers are chosen by a number"))
                    })?;
                    for value in values {
                        if let Some(value) = value {
                            each(row, value);
                        }
                        row += 1;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A number as 64 bits that order as it does; `None` for NaN, which has no place in an order.
fn of_float(value: f64) -> Option<u64> {
    let bits = (value + 0.0).to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    (!value.is_nan()).then_some(ordered)
}

/// Values of a numeric column as integers that order as they do; `None` for a column of another type.
pub fn ordered(column: &ArrayRef) -> Option<Vec<Option<u64>>> {
    fn all<T: arrow_array::types::ArrowPrimitiveType>(
        column: &ArrayRef,
        of: impl Fn(T::Native) -> Option<u64>,
    ) -> Option<Vec<Option<u64>>> {
        Some(column.as_primitive_opt::<T>()?.iter().map(|value| value.and_then(&of)).collect())
    }
    let signed = |value: i64| Some(value.cast_unsigned() ^ 1 << 63);
    match column.data_type() {
        DataType::Float32 => all::<Float32Type>(column, |value| of_float(f64::from(value))),
        DataType::Float64 => all::<Float64Type>(column, of_float),
        DataType::Int32 => all::<Int32Type>(column, |value| signed(i64::from(value))),
        DataType::Int64 => all::<Int64Type>(column, signed),
        DataType::UInt8 => all::<UInt8Type>(column, |value| Some(u64::from(value))),
        DataType::UInt16 => all::<UInt16Type>(column, |value| Some(u64::from(value))),
        DataType::UInt32 => all::<UInt32Type>(column, |value| Some(u64::from(value))),
        DataType::UInt64 => all::<UInt64Type>(column, Some),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_keep_their_order(a: f64, b: f64) {
            if let (Some(x), Some(y)) = (of_float(a), of_float(b)) {
                prop_assert_eq!(x.cmp(&y), a.partial_cmp(&b).unwrap());
            }
        }
    }

    #[test]
    fn zeros_are_one_number_and_nan_is_none() {
        assert_eq!(of_float(0.0), of_float(-0.0));
        assert_eq!(of_float(f64::NAN), None);
    }

    #[test]
    fn a_part_says_where_it_begins() {
        assert_eq!(place_of("pool-0.tar-c5656cbc-000002048"), Some(("pool-0.tar-c5656cbc.parquet".to_owned(), 2048)));
        assert_eq!(place_of("scores"), None);
    }
}
