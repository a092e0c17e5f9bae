//! The values of one record, read for their roles, and batches made of them.

use std::sync::Arc;

use arrow_array::builder::{Float64Builder, StringViewBuilder, UInt64Builder};
use arrow_array::{ArrayRef, RecordBatch};

use crate::columns::partitions::Partition;
use crate::columns::{Column, MAX_ID_BYTES, Role, working_schema};
use crate::error::{Error, Result};

/// Why a record cannot be read: the reason, and what was found.
pub type Bad = (&'static str, String);

/// One value of a record, read for its role.
pub enum Cell {
    Null,
    Text(String),
    Float(f64),
    Count(u64),
}

pub(super) fn id_cell(text: String) -> std::result::Result<Cell, Bad> {
    if text.len() > MAX_ID_BYTES {
        return Err(("id_too_long", format!("{} bytes", text.len())));
    }
    Ok(Cell::Text(text))
}

/// The wanted values of a CSV record.
pub fn cells_of_record(
    record: &csv::ByteRecord,
    places: &[Option<usize>],
    columns: &[(&Column, Role)],
) -> std::result::Result<Vec<Cell>, Bad> {
    let mut cells = Vec::with_capacity(columns.len());
    for ((column, role), place) in columns.iter().zip(places) {
        let Some(field) = place.and_then(|at| record.get(at)).filter(|field| !field.is_empty()) else {
            cells.push(Cell::Null);
            continue;
        };
        let text = std::str::from_utf8(field).map_err(|error| ("not_utf8", error.to_string()))?;
        let bad_number = || ("bad_number", format!("{}: {text:?}", column.name));
        cells.push(match role {
            Role::Score => {
                let trimmed = text.trim();
                let number: f64 = trimmed.parse().map_err(|_| bad_number())?;
                let whole: Option<i128> = trimmed.parse().ok();
                if whole.is_some_and(|whole| number as i128 != whole) {
                    return Err(bad_number());
                }
                Cell::Float(number)
            }
            Role::Tokens => Cell::Count(text.trim().parse().map_err(|_| bad_number())?),
            Role::Id => id_cell(text.to_owned())?,
            _ => Cell::Text(text.to_owned()),
        });
    }
    Ok(cells)
}

enum ColumnBuilder {
    Text(StringViewBuilder),
    Float(Float64Builder),
    Count(UInt64Builder),
}

/// Records on their way into a batch.
pub struct BatchBuilder {
    builders: Vec<ColumnBuilder>,
    /// For each column its one value, where that stands in the table's path.
    of_path: Vec<Option<Partition>>,
    schema: arrow_schema::SchemaRef,
    rows: usize,
}

impl BatchBuilder {
    /// For these columns; `of_path` has the one value of those that stand in the table's path.
    pub fn new(columns: &[(&Column, Role)], of_path: Vec<Option<Partition>>) -> Self {
        let builders = columns
            .iter()
            .map(|(_, role)| match role {
                Role::Score => ColumnBuilder::Float(Float64Builder::new()),
                Role::Tokens => ColumnBuilder::Count(UInt64Builder::new()),
                _ => ColumnBuilder::Text(StringViewBuilder::new()),
            })
            .collect();
        let columns: Vec<&Column> = columns.iter().map(|(column, _)| *column).collect();
        Self { builders, of_path, schema: working_schema(&columns), rows: 0 }
    }

    /// Adds a record.
    pub fn push(&mut self, cells: Vec<Cell>) {
        for ((builder, cell), of_path) in self.builders.iter_mut().zip(cells).zip(&self.of_path) {
            let cell = match of_path {
                None => cell,
                Some(part) => part.value.clone().map_or(Cell::Null, Cell::Text),
            };
            match (builder, cell) {
                (ColumnBuilder::Text(builder), Cell::Text(text)) => builder.append_value(text),
                (ColumnBuilder::Float(builder), Cell::Float(number)) => builder.append_value(number),
                (ColumnBuilder::Count(builder), Cell::Count(number)) => builder.append_value(number),
                (ColumnBuilder::Text(builder), _) => builder.append_null(),
                (ColumnBuilder::Float(builder), _) => builder.append_null(),
                (ColumnBuilder::Count(builder), _) => builder.append_null(),
            }
        }
        self.rows += 1;
    }

    /// Gives the batch to `visit` if it has so many rows.
    pub fn flush_if(&mut self, rows: usize, visit: &mut dyn FnMut(&RecordBatch) -> Result<()>) -> Result<()> {
        if self.rows < rows {
            return Ok(());
        }
        self.rows = 0;
        let arrays: Vec<ArrayRef> = self
            .builders
            .iter_mut()
            .map(|builder| match builder {
                ColumnBuilder::Text(builder) => Arc::new(builder.finish()) as ArrayRef,
                ColumnBuilder::Float(builder) => Arc::new(builder.finish()),
                ColumnBuilder::Count(builder) => Arc::new(builder.finish()),
            })
            .collect();
        let batch = RecordBatch::try_new(self.schema.clone(), arrays)
            .map_err(|error| Error::Usage(format!("text columns do not fit their schema: {error}")))?;
        visit(&batch)
    }
}
