//! What a selection reads of a Parquet table: scores and ids from their pages where these are of a usual kind, all else through
//! the general reader.

use arrow_array::RecordBatch;

use super::id_pages::gather_ids;
use super::pages::PageBuffers;
use super::score_pages;
use super::table::ParquetTable;
use crate::columns::score::{ScoreVisitor, visit_array};
use crate::columns::{Column, working_schema};
use crate::error::{Error, Result};

impl ParquetTable {
    /// Feeds the score column of a row group to `visitor`, block by block: at least the first `most` rows of it.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for damage, and those of `visitor`.
    pub fn visit_scores(
        &self,
        group: usize,
        column: &Column,
        most: usize,
        non_negative: bool,
        buffers: &mut PageBuffers,
        visitor: &mut dyn ScoreVisitor,
    ) -> Result<()> {
        let rows = self.group_rows(group).1;
        let done = score_pages::visit(self, group, column, most, non_negative, buffers, visitor)?;
        if done >= rows.min(most) {
            return Ok(());
        }
        let mut row = 0;
        self.read(group, None, &[column], &mut |batch| {
            let end = row + batch.num_rows();
            if end > done {
                let from = done.saturating_sub(row);
                let scores = batch.column(0).slice(from, batch.num_rows() - from);
                visit_array(&scores, row + from, non_negative, visitor)?;
            }
            row = end;
            Ok(())
        })
    }

    /// Reads columns of the given rows (ascending, counted within the group): the first, the ids, from their pages, the
    /// rest through the general reader.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for damage, and those of `visit`.
    pub fn gather(
        &self,
        group: usize,
        rows: &[u32],
        columns: &[&Column],
        buffers: &mut PageBuffers,
        visit: &mut dyn FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let Some((id, rest)) = columns.split_first() else { return Ok(()) };
        let Some(ids) = gather_ids(self, group, rows, id, buffers)? else {
            return self.read(group, Some(rows), columns, visit);
        };
        let schema = working_schema(columns);
        let batch_of =
            |arrays| RecordBatch::try_new(schema.clone(), arrays).map_err(|error| Error::unreadable(&self.path, error));
        if rest.is_empty() {
            return visit(&batch_of(vec![ids])?);
        }
        let mut done = 0;
        self.read(group, Some(rows), rest, &mut |batch| {
            let mut arrays = vec![ids.slice(done, batch.num_rows())];
            arrays.extend_from_slice(batch.columns());
            done += batch.num_rows();
            visit(&batch_of(arrays)?)
        })
    }
}
