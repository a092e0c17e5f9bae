//! The codes table: one row for each image of an index part, in the order of its rows and of the images in each.
//!
//! A sample of n images has n rows here, one without images none. Columns:
//!
//! | column | type | |
//! |---|---|---|
//! | `uid` | fixed-size binary (16) | the sample's id |
//! | `image` | uint32 | the image's place in the sample, from 0 |
//! | `phash`, `dhash`, `mirror` | uint64, null without a code | [`vlmsel_core::image_code`] |
//! | `quality` | uint8, null without a code | how much there is to see, 0 to 100 |
//! | `status` | string (dictionary) | `ok`, or one of [`REASONS`] |

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::{FixedSizeBinaryBuilder, StringDictionaryBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, UInt8Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch, UInt8Array, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use vlmsel_core::hash::Hash128;
use vlmsel_core::image_code::ImageCodes;

use crate::error::{Error, Result};
use crate::formats::sample::Coded;
use crate::parquet::batches::Batches;
use crate::parquet::table::ParquetTable;
use crate::parquet::writer::TableWriter;

/// The bytes are not those that were indexed.
pub const CHANGED: &str = "changed";
/// There is no such file any more.
pub const MISSING: &str = "missing_image";
/// The file, row or range cannot be read.
pub const UNREADABLE: &str = "unreadable_image";
/// Too many bytes or pixels to be decoded.
pub const HUGE: &str = "huge_image";
/// Why an image may have no codes. The first three are of the file system and may be other ones next time; the rest is in the
/// image's bytes.
pub const REASONS: [&str; 11] = [
    CHANGED,
    MISSING,
    UNREADABLE,
    "empty_image",
    "unknown_image_format",
    "unsupported_image_format",
    "bad_image_header",
    HUGE,
    "truncated_image",
    "corrupt_image",
    "unsupported_image",
];
const OK: &str = "ok";
/// Rows that are written together, and decoded together.
const GROUP_ROWS: usize = 1 << 16;
/// No row group of ours takes more.
const MAX_GROUP_BYTES: u64 = 64 << 20;

const NAMES: [&str; 7] = ["uid", "image", "phash", "dhash", "mirror", "quality", "status"];

/// One image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeRow {
    /// The id of its sample.
    pub uid: Hash128,
    /// Its place in the sample, from 0.
    pub image: u32,
    /// Its codes, or why it has none.
    pub coded: Coded,
}

/// The table's schema.
pub fn schema() -> SchemaRef {
    let status = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    let types = [
        (DataType::FixedSizeBinary(16), false),
        (DataType::UInt32, false),
        (DataType::UInt64, true),
        (DataType::UInt64, true),
        (DataType::UInt64, true),
        (DataType::UInt8, true),
        (status, false),
    ];
    let fields = NAMES.into_iter().zip(types).map(|(name, (of, is_nullable))| Field::new(name, of, is_nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Writes the codes of one index part. The same rows give the same bytes.
pub struct CodesWriter {
    table: TableWriter,
    rows: Vec<CodeRow>,
}

impl CodesWriter {
    /// Creates the file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self { table: TableWriter::create(path, &schema(), &[])?, rows: Vec::new() })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Error::Io`], among them a full disk.
    pub fn push(&mut self, row: CodeRow) -> Result<()> {
        self.rows.push(row);
        if self.rows.len() < GROUP_ROWS { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.table.write(&to_batch(&self.rows)?)?;
        self.rows.clear();
        self.table.end_group()
    }

    /// Ends the file; returns its BLAKE3.
    ///
    /// # Errors
    /// [`Error::Io`], among them a full disk.
    pub fn finish(mut self) -> Result<blake3::Hash> {
        self.flush()?;
        self.table.finish()
    }
}

fn to_batch(rows: &[CodeRow]) -> Result<RecordBatch> {
    #[allow(clippy::needless_pass_by_value, reason = "given to map_err")]
    fn failed(error: arrow_schema::ArrowError) -> Error {
        Error::Resource(format!("cannot build the codes: {error}"))
    }
    let mut uids = FixedSizeBinaryBuilder::with_capacity(rows.len(), 16);
    let mut statuses = StringDictionaryBuilder::<Int32Type>::new();
    for row in rows {
        uids.append_value(row.uid).map_err(failed)?;
        statuses.append_value(row.coded.err().unwrap_or(OK));
    }
    let code = |of: fn(&ImageCodes) -> u64| -> ArrayRef {
        Arc::new(rows.iter().map(|row| row.coded.as_ref().ok().map(of)).collect::<UInt64Array>())
    };
    let qualities: UInt8Array = rows.iter().map(|row| row.coded.as_ref().ok().map(|codes| codes.quality)).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(uids.finish()),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.image))),
        code(|codes| codes.phash),
        code(|codes| codes.dhash),
        code(|codes| codes.mirror),
        Arc::new(qualities),
        Arc::new(statuses.finish()),
    ];
    RecordBatch::try_new(schema(), columns).map_err(failed)
}

/// Reads a codes table, some thousand rows at a time.
pub struct CodesReader {
    table: ParquetTable,
    group: usize,
    batches: Option<Batches>,
}

impl CodesReader {
    /// Opens the file.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for damage.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { table: ParquetTable::open(path, &path.to_string_lossy())?, group: 0, batches: None })
    }

    /// Rows of the table.
    pub fn rows(&self) -> u64 {
        self.table.rows()
    }

    fn read(&mut self) -> Result<Option<Vec<CodeRow>>> {
        loop {
            if let Some(batch) = self.batches.as_mut().and_then(Iterator::next).transpose()? {
                let rows = rows_of(&batch);
                return rows.map(Some).map_err(|what| Error::unreadable(&self.table.path, what));
            }
            if self.group == self.table.groups() {
                return Ok(None);
            }
            self.batches = Some(self.table.rows_of(self.group, None, &NAMES, MAX_GROUP_BYTES)?);
            self.group += 1;
        }
    }
}

impl Iterator for CodesReader {
    type Item = Result<Vec<CodeRow>>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            (self.group, self.batches) = (self.table.groups(), None);
        }
        read.transpose()
    }
}

/// A batch's rows, or what is wrong with it.
fn rows_of(batch: &RecordBatch) -> std::result::Result<Vec<CodeRow>, String> {
    let wrong = || "its columns are not those of a codes table".to_owned();
    let uids = batch.column(0).as_fixed_size_binary_opt().filter(|uids| uids.value_length() == 16).ok_or_else(wrong)?;
    let images = batch.column(1).as_primitive_opt::<UInt32Type>().ok_or_else(wrong)?;
    let code = |at: usize| batch.column(at).as_primitive_opt::<UInt64Type>().ok_or_else(wrong);
    let (phashes, dhashes, mirrors) = (code(2)?, code(3)?, code(4)?);
    let qualities = batch.column(5).as_primitive_opt::<UInt8Type>().ok_or_else(wrong)?;
    let statuses = batch.column(6).as_string_view_opt().ok_or_else(wrong)?;
    let coded = |at: usize| -> std::result::Result<Coded, String> {
        let status = statuses.value(at);
        if status == OK {
            let is_there = [phashes.is_valid(at), dhashes.is_valid(at), mirrors.is_valid(at), qualities.is_valid(at)];
            let codes = ImageCodes {
                phash: phashes.value(at),
                dhash: dhashes.value(at),
                mirror: mirrors.value(at),
                quality: qualities.value(at),
            };
            return if is_there == [true; 4] { Ok(Ok(codes)) } else { Err("a row without its codes".to_owned()) };
        }
        let known = REASONS.into_iter().find(|reason| *reason == status);
        known.map(Err).ok_or_else(|| format!("no status is called {status:?}"))
    };
    let row = |at: usize| {
        let uid = uids.value(at).try_into().map_err(|_| wrong())?;
        Ok(CodeRow { uid, image: images.value(at), coded: coded(at)? })
    };
    (0..batch.num_rows()).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize) -> Vec<CodeRow> {
        let coded = |n: usize| match n % 13 {
            reason if reason < REASONS.len() && n.is_multiple_of(7) => Err(REASONS[reason]),
            _ => {
                let n = n as u64;
                Ok(ImageCodes { phash: n << 40, dhash: !n, mirror: n * n, quality: (n % 101) as u8 })
            }
        };
        let row = |n: usize| CodeRow { uid: (n as u128 / 2).to_be_bytes(), image: n as u32 % 2, coded: coded(n) };
        (0..count).map(row).collect()
    }

    #[test]
    fn rows_come_back_and_bytes_repeat() {
        let folder = tempfile::tempdir().unwrap();
        for count in [0, 1, 100_000] {
            let written = |name: &str| {
                let path = folder.path().join(name);
                let mut writer = CodesWriter::create(&path).unwrap();
                for row in rows(count) {
                    writer.push(row).unwrap();
                }
                (writer.finish().unwrap(), path)
            };
            let (hash, path) = written("a.parquet");
            assert_eq!(written("b.parquet").0, hash);
            let reader = CodesReader::open(&path).unwrap();
            assert_eq!(reader.rows(), count as u64);
            let read: Vec<CodeRow> = reader.flat_map(|batch| batch.unwrap()).collect();
            assert_eq!(read, rows(count));
        }
    }
}
