//! Reading lists of ids.

use std::path::{Path, PathBuf};

use arrow_array::ArrayRef;
use arrow_schema::DataType;
use vlmsel_core::hash::{bare_id, parse_uid_bytes};
use vlmsel_shards::columns::Role;
use vlmsel_shards::storage::source;
use vlmsel_shards::storage::text_encoding::foreign_encoding;
use vlmsel_shards::tables::npy::read_uids;
use vlmsel_shards::tables::schema::{Wanted, resolve};
use vlmsel_shards::tables::{Table, is_table, open};
use vlmsel_shards::workspace::inputs::InputFile;

use super::{IdSet, Kind, for_each_id};
use crate::error::{Error, Result};

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
        set.settle();
        if set.len() == 0 {
            return Err(Error::usage(format!("{}: no ids in it", paths[0].display())));
        }
        Ok(set)
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
            let line = bare_id(line);
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
            } else if matches!(id_type, DataType::FixedSizeBinary(16)) && parse_uid_bytes(line).is_none() {
                return Err(wrong("a 128-bit id (32 hexadecimal digits or a UUID)"));
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
}
