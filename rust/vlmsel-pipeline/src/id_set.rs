//! Lists of ids to include or exclude: text, Parquet, CSV, JSON lines, or DataComp's `.npy` subset files.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use vlmsel_shards::columns::Role;
use vlmsel_shards::storage::source;
use vlmsel_shards::storage::text_encoding::foreign_encoding;
use vlmsel_shards::tables::npy::read_uids;
use vlmsel_shards::tables::schema::{Wanted, resolve};
use vlmsel_shards::tables::{Table, is_table, open};
use vlmsel_shards::workspace::inputs::InputFile;

use crate::error::{Error, Result};

/// A set of ids in one canonical form: 16 bytes and their 32 hexadecimal digits are the same id.
#[derive(Debug, Default)]
pub struct IdSet {
    wide: Vec<u128>,
    other: HashSet<Box<[u8]>>,
    files: Vec<PathBuf>,
}

/// An id as the set knows it.
enum Canonical<'a> {
    Wide(u128),
    Other(&'a [u8]),
}

/// How the bytes of an id are to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A string: 32 hexadecimal digits are 16 bytes.
    Text,
    /// Bytes as they are.
    Bytes,
    /// The decimal digits of an integer.
    Digits,
}

impl Kind {
    fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::Utf8View => Self::Text,
            DataType::BinaryView | DataType::FixedSizeBinary(_) => Self::Bytes,
            _ => Self::Digits,
        }
    }
}

fn canonical(id: &[u8], kind: Kind) -> Canonical<'_> {
    let wide = match kind {
        Kind::Text => parse_hex(id),
        Kind::Bytes => <[u8; 16]>::try_from(id).ok().map(u128::from_be_bytes),
        Kind::Digits => None,
    };
    wide.map_or(Canonical::Other(id), Canonical::Wide)
}

/// The value of exactly 32 hexadecimal digits.
pub fn parse_hex(id: &[u8]) -> Option<u128> {
    let digits: &[u8; 32] = id.try_into().ok()?;
    // No branch within: this is looked at for every id of a selection.
    if !digits.iter().fold(true, |all, digit| all & digit.is_ascii_hexdigit()) {
        return None;
    }
    // '0' is 0x30, 'A' is 0x41, 'a' is 0x61: bit 6 says letter.
    let value = |digit: u8| (digit & 0xf) + 9 * (digit >> 6);
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = value(pair[0]) << 4 | value(pair[1]);
    }
    Some(u128::from_be_bytes(bytes))
}

impl IdSet {
    /// Reads the lists; `id_column` names the column of tables, `id_type` is the working type of the ids they are for.
    ///
    /// # Errors
    /// Missing files, files that are no list of ids, ids that cannot be of `id_type`.
    pub fn read(paths: &[PathBuf], id_column: &str, id_type: &DataType) -> Result<Self> {
        let mut set = Self::default();
        for path in paths {
            if !path.exists() {
                return Err(
                    vlmsel_shards::Error::NotFound { path: path.clone(), hint: " (a list of ids)".to_owned() }.into()
                );
            }
            let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
            if extension == "npy" {
                let other_width = matches!(id_type, DataType::FixedSizeBinary(width) if *width != 16);
                if other_width || Kind::of(id_type) == Kind::Digits {
                    return Err(Error::usage(format!(
                        "{}: lists ids of 128 bits, the tables have ids of type {id_type}; give a list of those",
                        path.display()
                    )));
                }
                set.wide.extend(read_uids(path)?);
            } else if is_table(path) {
                set.read_table(path, id_column)?;
            } else if matches!(extension.as_str(), "gz" | "zst" | "zstd") {
                return Err(Error::usage(format!(
                    "{}: a compressed list must be a table (.csv.gz, .jsonl.zst); decompress a list of lines",
                    path.display()
                )));
            } else {
                set.read_text(path, id_type)?;
            }
            set.files.push(path.clone());
        }
        set.wide.sort_unstable();
        set.wide.dedup();
        if set.wide.is_empty() && set.other.is_empty() {
            return Err(Error::usage(format!("{}: no ids in it", paths[0].display())));
        }
        Ok(set)
    }

    /// The files that were read, for the fingerprint.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    fn insert(&mut self, id: &[u8], kind: Kind) {
        match canonical(id, kind) {
            Canonical::Wide(value) => self.wide.push(value),
            Canonical::Other(bytes) => {
                self.other.insert(bytes.into());
            }
        }
    }

    fn read_text(&mut self, path: &Path, id_type: &DataType) -> Result<()> {
        let mut bytes = Vec::new();
        let file = source::open(path)?;
        file.read_onto(&mut bytes, 0, file.size_bytes() as usize)?;
        if let Some(what) = foreign_encoding(&bytes) {
            return Err(Error::usage(format!("{}: {what}", path.display())));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                continue;
            }
            let wrong = |what: &str| {
                let shown: String = String::from_utf8_lossy(line).chars().take(80).collect();
                Error::usage(format!("{}, line {}: {shown:?} is not {what}", path.display(), at + 1))
            };
            if id_type.is_integer() {
                let number: i128 = std::str::from_utf8(line)
                    .ok()
                    .and_then(|text| text.trim().parse().ok())
                    .ok_or_else(|| wrong("an integer id"))?;
                self.insert(number.to_string().as_bytes(), Kind::Digits);
            } else if matches!(id_type, DataType::FixedSizeBinary(16)) && parse_hex(line).is_none() {
                return Err(wrong("an id of 32 hexadecimal digits"));
            } else {
                self.insert(line, Kind::Text);
            }
        }
        Ok(())
    }

    fn read_table(&mut self, path: &Path, id_column: &str) -> Result<()> {
        let table = open(&InputFile::named(path))?;
        let find = |name: &str, required| {
            resolve(std::slice::from_ref(&table), &[Wanted { name: name.to_owned(), role: Role::Id, required }])
        };
        // A list made by vlmsel has `uid` whatever the scores call it.
        let column = match find(id_column, false)?.columns.pop().flatten() {
            Some(column) => column,
            None => find("uid", true)?.columns.pop().flatten().ok_or_else(|| Error::Bug("no id column".to_owned()))?,
        };
        match &table {
            Table::Parquet(parquet) => {
                for group in 0..parquet.groups() {
                    parquet.read(group, None, &[&column], &mut |batch| {
                        self.insert_array(batch.column(0));
                        Ok(())
                    })?;
                }
            }
            Table::Text(text) => {
                let mut wrong = None;
                text.read(
                    &[(&column, Role::Id)],
                    &mut |batch| {
                        self.insert_array(batch.column(0));
                        Ok(())
                    },
                    &mut |bad| {
                        wrong.get_or_insert(bad);
                        Ok(())
                    },
                )?;
                if let Some(bad) = wrong {
                    let line = bad.position.unwrap_or(0);
                    return Err(Error::usage(format!(
                        "{}, line {line}: {} ({})",
                        path.display(),
                        bad.reason,
                        bad.detail
                    )));
                }
            }
            Table::Memory(_) => {}
        }
        Ok(())
    }

    fn insert_array(&mut self, array: &ArrayRef) {
        let kind = Kind::of(array.data_type());
        for_each_id(array, |_, id| {
            if let Some(id) = id {
                self.insert(id, kind);
            }
        });
    }

    /// Whether each id of `array` is in the set; a null never is.
    pub fn contains_each(&self, array: &ArrayRef, found: &mut Vec<bool>) {
        found.clear();
        let kind = Kind::of(array.data_type());
        for_each_id(array, |_, id| {
            found.push(id.is_some_and(|id| match canonical(id, kind) {
                Canonical::Wide(value) => self.wide.binary_search(&value).is_ok(),
                Canonical::Other(bytes) => self.other.contains(bytes),
            }));
        });
    }
}

/// Calls `visit` with each id's bytes: integers as decimal digits, strings and binaries as they are.
pub fn for_each_id(array: &ArrayRef, mut visit: impl FnMut(usize, Option<&[u8]>)) {
    match array.data_type() {
        DataType::FixedSizeBinary(_) => {
            let ids = array.as_fixed_size_binary();
            (0..ids.len()).for_each(|at| visit(at, (!ids.is_null(at)).then(|| ids.value(at))));
        }
        DataType::Utf8View => {
            let ids = array.as_string_view();
            (0..ids.len()).for_each(|at| visit(at, (!ids.is_null(at)).then(|| ids.value(at).as_bytes())));
        }
        DataType::BinaryView => {
            let ids = array.as_binary_view();
            (0..ids.len()).for_each(|at| visit(at, (!ids.is_null(at)).then(|| ids.value(at))));
        }
        DataType::UInt64 => {
            let ids = array.as_primitive::<arrow_array::types::UInt64Type>();
            (0..ids.len()).for_each(|at| {
                visit(at, (!ids.is_null(at)).then(|| ids.value(at).to_string()).as_deref().map(str::as_bytes));
            });
        }
        _ => {
            if let Ok(wide) = arrow_cast::cast(array, &DataType::Int64) {
                let ids = wide.as_primitive::<Int64Type>();
                (0..ids.len()).for_each(|at| {
                    visit(at, (!ids.is_null(at)).then(|| ids.value(at).to_string()).as_deref().map(str::as_bytes));
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hexadecimal_digits_are_their_value(value in any::<u128>(), text in "[0-9a-fA-F]{32}", other in "[0-9a-gA-G@`/:]{31,33}") {
            prop_assert_eq!(parse_hex(format!("{value:032x}").as_bytes()), Some(value));
            for text in [text, other] {
                let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                let expected = plain.then(|| u128::from_str_radix(&text, 16).unwrap());
                prop_assert_eq!(parse_hex(text.as_bytes()), expected);
            }
        }
    }
}
