//! No bytes make a reader of Parquet panic, and the rows it gives are those that the footer says.

use std::path::Path;

use vlmsel_shards::columns::score::{Block, ScoreVisitor};
use vlmsel_shards::columns::{Column, Role};
use vlmsel_shards::formats::img2dataset::{Sidecar, is_img2dataset};
use vlmsel_shards::parquet::pages::PageBuffers;
use vlmsel_shards::parquet::table::ParquetTable;
use vlmsel_shards::tables::Table;
use vlmsel_shards::tables::index_reader::filtered_batches;
use vlmsel_shards::tables::schema::{Wanted, resolve};
use vlmsel_shards::{Error, Result};

/// More rows than this are honest or not, but not worth the time: a few bytes may stand for a million equal rows.
const MAX_ROWS: u64 = 50_000;

/// Takes scores as a selection does that looks for some of them.
struct Between {
    wanted: Option<(u64, u64)>,
    seen: usize,
}

impl ScoreVisitor for Between {
    fn wanted(&self) -> Option<(u64, u64)> {
        self.wanted
    }

    fn block(&mut self, block: &Block<'_>) -> Result<()> {
        assert_eq!(block.first_row, self.seen);
        self.seen += block.keys.len();
        Ok(())
    }

    fn winners(&mut self, count: usize, rows: &[u32], keys: &[u64]) -> Result<()> {
        assert!(rows.len() == keys.len() && rows.len() <= count);
        assert!(rows.iter().all(|row| (self.seen..self.seen + count).contains(&(*row as usize))));
        self.seen += count;
        Ok(())
    }
}

/// Reads `bytes` as a table of scores, as an index part, as what img2dataset leaves, and as anything.
pub fn check(bytes: &[u8]) {
    let folder = super::scratch();
    let path = folder.path().join("t.parquet");
    std::fs::write(&path, bytes).expect("there is room");
    let is_sidecar = is_img2dataset(&path);
    let opened = ParquetTable::open(&path, "t.parquet");
    let Ok(table) = opened else {
        assert!(!is_sidecar);
        return read_own(&path);
    };
    if table.rows() > MAX_ROWS {
        return;
    }
    read_own(&path);
    let names: Vec<String> = table.schema().fields().iter().map(|field| field.name().clone()).collect();
    for name in &names {
        for role in [Role::Any, Role::Id, Role::Score, Role::Kept] {
            let wanted = Wanted { name: name.clone(), role, required: true };
            let Ok(mut found) = resolve(&[Table::Parquet(table.clone())], &[wanted]) else { continue };
            if let Some(column) = found.columns.remove(0) {
                for group in 0..table.groups() {
                    read_column(&table, group, &column, role);
                }
            }
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for group in 0..table.groups() {
        let rows = table.group_rows(group).1;
        count(table.rows_of(group, None, &names, 64 << 20), rows, table.schema().fields().len());
        let some: Vec<u32> = (0..rows as u32).step_by(3).collect();
        count(table.rows_of(group, Some(&some), &names, 64 << 20), some.len(), names.len());
    }
}

/// The readers of what vlmsel and img2dataset write.
fn read_own(path: &Path) {
    if let Ok(Some(mut sidecar)) = Sidecar::read(path) {
        let _ = sidecar.take("000000000");
        for (_, row) in sidecar.rest() {
            assert!(row.json.starts_with('{'));
        }
    }
    let mut odd = false;
    let names = ["uid", "source", "shard", "images", "members", "text", "conversations", "metadata"];
    let wanted = |_: &[u8]| {
        odd = !odd;
        odd
    };
    let _ = filtered_batches(path, &names, wanted, |batch| {
        assert_eq!(batch.num_columns(), names.len());
        Ok(())
    });
}

fn count(batches: Result<impl Iterator<Item = Result<arrow_array::RecordBatch>>>, rows: usize, columns: usize) {
    let Ok(batches) = batches else { return };
    let mut found = 0;
    for batch in batches {
        let Ok(batch) = batch else { return };
        assert!(batch.num_columns() <= columns);
        found += batch.num_rows();
    }
    assert_eq!(found, rows, "rows were lost without an error");
}

fn read_column(table: &ParquetTable, group: usize, column: &Column, role: Role) {
    let rows = table.group_rows(group).1;
    let mut buffers = PageBuffers::default();
    match role {
        Role::Score => {
            for wanted in [None, Some((0, u64::MAX)), Some((1 << 63, 3 << 62))] {
                for most in [usize::MAX, rows / 2] {
                    let mut visitor = Between { wanted, seen: 0 };
                    if table.visit_scores(group, column, most, wanted.is_some(), &mut buffers, &mut visitor).is_ok() {
                        assert!(visitor.seen >= rows.min(most) && visitor.seen <= rows);
                    }
                }
            }
        }
        Role::Id => {
            let some: Vec<u32> = (0..rows as u32).filter(|row| row % 5 < 2).collect();
            let mut found = 0;
            let read = table.gather(group, &some, &[column], &mut buffers, &mut |batch| {
                found += batch.num_rows();
                Ok(())
            });
            assert!(read.is_err() || found == some.len(), "ids were lost without an error");
        }
        _ => {
            let _ = table.holds_only(group, column, b"ok", &mut buffers);
            let _ = (table.null_count(group, column), table.group_bytes(group, &[column]));
            let mut found = 0;
            let read = table.read(group, None, &[column], &mut |batch| {
                found += batch.num_rows();
                Ok::<(), Error>(())
            });
            assert!(read.is_err() || found == rows, "rows were lost without an error");
        }
    }
}
