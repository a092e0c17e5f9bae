//! Whether a column that a table has itself says what the table's path says.

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;

use super::Table;
use crate::columns::partitions::Partition;
use crate::columns::{Column, Role};
use crate::error::{Error, Result};
use crate::parquet::pages::PageBuffers;

impl Table {
    /// Reads a column that stands both in the table and in its path, and refuses one that disagrees: either may be wrong. Tables
    /// without such a column are not read.
    ///
    /// # Errors
    /// [`Error::Usage`] with both values. Damage is left to whoever reads the rows.
    pub fn check_path_column(&self, column: &Column, role: Role) -> Result<()> {
        let Some(part) = self.partitions().iter().find(|part| part.name == column.name) else { return Ok(()) };
        let mut differs = None;
        let mut look = |batch: &RecordBatch| {
            differs = differs.take().or(first_other(batch, part)?);
            Ok(())
        };
        let read = match self {
            Self::Parquet(table) if table.schema().index_of(&column.name).is_ok() => {
                let mut buffers = PageBuffers::default();
                (0..table.groups()).try_for_each(|group| match &part.value {
                    Some(value) if table.holds_only(group, column, value.as_bytes(), &mut buffers) => Ok(()),
                    _ => table.read(group, None, &[column], &mut look),
                })
            }
            Self::Text(table) if table.has_column(&column.name) == Some(true) => {
                table.read(&[(column, role)], &mut look, &mut |_| Ok(()))
            }
            _ => Ok(()),
        };
        match (read, differs) {
            (_, Some(found)) => {
                let shown = |value: Option<&str>| value.map_or("null".to_owned(), |value| format!("{value:?}"));
                Err(Error::Usage(format!(
                    "{}: column {:?} is {} in its rows and {} in its path; one of them is wrong. Mend it, or rename the folder",
                    self.label(),
                    column.name,
                    shown(found.value.as_deref()),
                    shown(part.value.as_deref())
                )))
            }
            (Err(Error::Unreadable { .. }), None) => Ok(()),
            (read, None) => read,
        }
    }
}

/// The first value that is not that of the path.
fn first_other(batch: &RecordBatch, part: &Partition) -> Result<Option<Partition>> {
    let column = batch.column(0);
    let texts = arrow_cast::cast(column, &DataType::Utf8View)
        .map_err(|error| Error::Usage(format!("column {:?}: {error}", part.name)))?;
    let texts = texts.as_string_view();
    let value = |at: usize| texts.is_valid(at).then(|| texts.value(at));
    let other = (0..texts.len()).map(value).find(|value| *value != part.value.as_deref());
    Ok(other.map(|value| Partition { name: part.name.clone(), value: value.map(ToOwned::to_owned) }))
}
