//! Writing a selection: `selection.parquet` in rank order, `uids.npy` sorted.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use vlmsel_core::hash::parse_uid_bytes;
use vlmsel_shards::error::IoContext;
use vlmsel_shards::parquet::writer::TableWriter;
use vlmsel_shards::tables::npy::write_uids;
use vlmsel_shards::workspace::output::Output;

use super::row::Row;
use super::row_codec::Decoder;
use crate::error::{Error, Result};
use crate::external_sort::Sorter;
use crate::threads::{in_pool, start};

/// The table's name in a selection folder.
pub const TABLE: &str = "selection.parquet";
/// The subset file's name.
pub const UIDS: &str = "uids.npy";
/// Where the score stands in the table, behind id and rank.
const SCORE_COLUMN: usize = 2;
/// Batches that wait for the writer.
const QUEUED_BATCHES: usize = 4;

/// Takes the selected rows in order.
pub struct SelectionWriter {
    rows: u64,
    table: TableWriter,
    /// 128-bit ids so far; `None` once an id was seen that is not one.
    uids: Option<Uids>,
    uids_path: PathBuf,
    /// Score of the last row.
    last_score: Option<ArrayRef>,
}

/// 128-bit ids to be sorted: in memory while there is room, then on disk.
struct Uids {
    memory: Vec<u128>,
    room: usize,
    disk: Sorter,
}

impl Uids {
    fn extend(&mut self, ids: &[[u8; 16]]) -> Result<()> {
        if self.memory.len() + ids.len() <= self.room {
            self.memory.extend(ids.iter().map(|id| u128::from_be_bytes(*id)));
            return Ok(());
        }
        self.room = 0;
        for id in std::mem::take(&mut self.memory) {
            self.disk.push(&[&id.to_be_bytes()], 0)?;
        }
        ids.iter().try_for_each(|id| self.disk.push(&[id], 0))
    }

    fn write(mut self, path: &Path, rows: u64) -> Result<blake3::Hash> {
        use rayon::slice::ParallelSliceMut;
        if self.room > 0 || rows == 0 {
            let memory = &mut self.memory;
            in_pool(|parallel| if parallel { memory.par_sort_unstable() } else { memory.sort_unstable() });
            return Ok(write_uids(path, rows, self.memory.into_iter().map(Ok))?);
        }
        let mut merge = self.disk.finish()?;
        let sorted = std::iter::from_fn(|| match merge.next() {
            Ok(Some((bytes, _))) => {
                let mut id = [0; 16];
                id.copy_from_slice(&bytes);
                Some(Ok(u128::from_be_bytes(id)))
            }
            Ok(None) => None,
            Err(error) => Some(Err(vlmsel_shards::Error::Usage(error.to_string()))),
        });
        Ok(write_uids(path, rows, sorted)?)
    }
}

/// What a finished selection consists of.
pub struct Written {
    /// Names to commit, with their hashes.
    pub files: Vec<(&'static str, blake3::Hash)>,
    /// Rows.
    pub rows: u64,
    /// Score of the last row.
    pub last_score: Option<ArrayRef>,
}

impl SelectionWriter {
    /// Writes to the temporary places of `output`; `budget` bounds the memory for sorting the ids.
    pub fn new(output: &Output, schema: &SchemaRef, scratch: &Path, budget: u64) -> Result<Self> {
        let table = TableWriter::create(&output.temporary(TABLE)?, schema, &[])?;
        Ok(Self {
            rows: 0,
            table,
            uids: Some(Uids { memory: Vec::new(), room: (budget / 16) as usize, disk: Sorter::new(scratch, budget) }),
            uids_path: output.temporary(UIDS)?,
            last_score: None,
        })
    }

    /// Takes the rows that `produce` hands to the function it is given, in order, as `decoder` makes them out. They are
    /// encoded and written in another thread while `produce` finds the next ones.
    ///
    /// # Errors
    /// Those of `produce` and of the disk.
    pub fn take<'a, T>(
        self,
        decoder: &Decoder,
        produce: impl FnOnce(&mut dyn FnMut(Vec<Row<'a>>) -> Result<()>) -> Result<T>,
    ) -> Result<(T, Self)> {
        std::thread::scope(|scope| {
            let (batches, received) = std::sync::mpsc::sync_channel::<RecordBatch>(QUEUED_BATCHES);
            let writing = start(scope, move || {
                let mut writer = self;
                for batch in received {
                    writer.write(&batch)?;
                }
                Ok::<_, Error>(writer)
            })?;
            let mut rank = 0;
            let produced = produce(&mut |rows| {
                let batch = decoder.decode(&rows, rank)?;
                rank += rows.len() as u64;
                // Without a receiver the writer has failed; its own error says why.
                batches.send(batch).map_err(|_| vlmsel_shards::Error::Cancelled.into())
            });
            drop(batches);
            let writer = writing
                .join()
                .unwrap_or_else(|_| Err(Error::Bug("the writer of the selection panicked".to_owned())))?;
            Ok((produced?, writer))
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let Some(last) = batch.num_rows().checked_sub(1) else { return Ok(()) };
        self.rows += batch.num_rows() as u64;
        self.last_score = Some(batch.column(SCORE_COLUMN).slice(last, 1));
        self.collect_uids(batch)?;
        self.table.write(batch)?;
        Ok(())
    }

    fn collect_uids(&mut self, batch: &RecordBatch) -> Result<()> {
        let Some(uids) = &mut self.uids else { return Ok(()) };
        let ids = batch.column(0);
        // `None` for an id that is not 128 bits wide; a string of 16 bytes is a string.
        let wide: Option<Vec<[u8; 16]>> = match ids.data_type() {
            DataType::FixedSizeBinary(16) => {
                let ids = ids.as_fixed_size_binary();
                (0..ids.len()).map(|at| <[u8; 16]>::try_from(ids.value(at)).ok()).collect()
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                let views =
                    arrow_cast::cast(ids, &DataType::Utf8View).map_err(|error| Error::Bug(error.to_string()))?;
                let views = views.as_string_view();
                (0..views.len()).map(|at| parse_uid_bytes(views.value(at).as_bytes())).collect()
            }
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                let views =
                    arrow_cast::cast(ids, &DataType::BinaryView).map_err(|error| Error::Bug(error.to_string()))?;
                let views = views.as_binary_view();
                let wide = |id: &[u8]| <[u8; 16]>::try_from(id).ok().or_else(|| parse_uid_bytes(id));
                (0..views.len()).map(|at| wide(views.value(at))).collect()
            }
            _ => None,
        };
        match wide {
            Some(wide) => uids.extend(&wide)?,
            None => self.uids = None,
        }
        Ok(())
    }

    /// Ends the files.
    pub fn finish(self, has_wide_ids: bool) -> Result<Written> {
        let Self { table, uids, uids_path, rows, last_score } = self;
        let uids = uids.filter(|_| rows > 0 || has_wide_ids);
        // Both hash and write megabytes, and neither waits for the other.
        let (table, uids) = in_pool(|parallel| {
            let table = || table.finish();
            let uids = || uids.map(|uids| uids.write(&uids_path, rows)).transpose();
            if parallel { rayon::join(table, uids) } else { (table(), uids()) }
        });
        let mut names = vec![(TABLE, table?)];
        names.extend(uids?.map(|hash| (UIDS, hash)));
        Ok(Written { files: names, rows, last_score })
    }
}

/// Writes the list of quarantined records as one more file of the selection.
pub fn write_quarantine(output: &Output, lines: &[u8]) -> Result<(&'static str, blake3::Hash)> {
    const NAME: &str = "quarantine.jsonl";
    let path = output.temporary(NAME)?;
    let mut file = File::create(&path).at("create", &path)?;
    file.write_all(lines).at("write", &path)?;
    Ok((NAME, blake3::hash(lines)))
}
