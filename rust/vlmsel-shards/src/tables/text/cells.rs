//! The values of one record, read for their roles, and batches made of them.

use std::sync::Arc;

use arrow_array::builder::{Float64Builder, StringViewBuilder, UInt64Builder};
use arrow_array::{ArrayRef, RecordBatch};
use serde_json::{Map, Value};

use super::super::schema::{Column, MAX_ID_BYTES, Role, working_schema};
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

/// A line as a JSON object.
pub fn parse_object(line: &[u8]) -> std::result::Result<Map<String, Value>, Bad> {
    let text = std::str::from_utf8(line).map_err(|error| ("not_utf8", error.to_string()))?;
    let parsed = match serde_json::from_str::<Value>(text) {
        Ok(value) => Ok(value),
        Err(error) => match quote_constants(text) {
            Some(quoted) => serde_json::from_str(&quoted).map_err(|_| error),
            None => Err(error),
        },
    };
    match parsed {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(("not_an_object", text.to_owned())),
        Err(error) => Err(("bad_json", format!("{error}: {text}"))),
    }
}

/// Python writes `NaN`, `Infinity` and `-Infinity` into JSON; as strings they can be parsed. `None` if there are none.
fn quote_constants(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 16);
    let (mut rest, mut changed) = (text, false);
    while let Some(first) = rest.chars().next() {
        if first == '"' {
            let mut escaped = false;
            let end = rest.char_indices().skip(1).find_map(|(at, c)| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes.then_some(at + 1)
            })?;
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if let Some(constant) = ["NaN", "-Infinity", "Infinity"].iter().find(|c| rest.starts_with(**c)) {
            out.push('"');
            out.push_str(constant);
            out.push('"');
            rest = &rest[constant.len()..];
            changed = true;
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    changed.then_some(out)
}

/// The wanted values of a JSON object.
pub fn cells_of_object(
    record: &Map<String, Value>,
    columns: &[(&Column, Role)],
) -> std::result::Result<Vec<Cell>, Bad> {
    columns
        .iter()
        .map(|(column, role)| match (record.get(&column.name), role) {
            (None | Some(Value::Null), _) => Ok(Cell::Null),
            (Some(Value::String(text)), Role::Score) => match text.as_str() {
                "NaN" => Ok(Cell::Float(f64::NAN)),
                "Infinity" => Ok(Cell::Float(f64::INFINITY)),
                "-Infinity" => Ok(Cell::Float(f64::NEG_INFINITY)),
                _ => Err(("bad_number", format!("{}: {text:?}", column.name))),
            },
            (Some(value), Role::Score) => value
                .as_f64()
                .filter(|number| exact(value, *number))
                .map(Cell::Float)
                .ok_or_else(|| ("bad_number", format!("{}: {value}", column.name))),
            (Some(value), Role::Tokens) => {
                value.as_u64().map(Cell::Count).ok_or_else(|| ("bad_number", format!("{}: {value}", column.name)))
            }
            (Some(Value::String(text)), Role::Id) => id_cell(text.clone()),
            (Some(Value::Number(number)), Role::Id) if !number.is_f64() => Ok(Cell::Text(number.to_string())),
            (Some(value), Role::Id) => Err(("bad_id", format!("{}: {value}", column.name))),
            (Some(Value::String(text)), _) => Ok(Cell::Text(text.clone())),
            (Some(value), _) => Ok(Cell::Text(value.to_string())),
        })
        .collect()
}

/// An integer beyond 2^53 that a float would round cannot be ranked exactly.
fn exact(value: &Value, number: f64) -> bool {
    match (value.as_u64(), value.as_i64()) {
        (Some(whole), _) => number as u128 == u128::from(whole),
        (None, Some(whole)) => number as i128 == i128::from(whole),
        (None, None) => true,
    }
}

fn id_cell(text: String) -> std::result::Result<Cell, Bad> {
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
    schema: arrow_schema::SchemaRef,
    rows: usize,
}

impl BatchBuilder {
    /// For these columns.
    pub fn new(columns: &[(&Column, Role)]) -> Self {
        let builders = columns
            .iter()
            .map(|(_, role)| match role {
                Role::Score => ColumnBuilder::Float(Float64Builder::new()),
                Role::Tokens => ColumnBuilder::Count(UInt64Builder::new()),
                _ => ColumnBuilder::Text(StringViewBuilder::new()),
            })
            .collect();
        let columns: Vec<&Column> = columns.iter().map(|(column, _)| *column).collect();
        Self { builders, schema: working_schema(&columns), rows: 0 }
    }

    /// Adds a record.
    pub fn push(&mut self, cells: Vec<Cell>) {
        for (builder, cell) in self.builders.iter_mut().zip(cells) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_quoted_outside_strings_only() {
        assert_eq!(
            quote_constants(r#"{"a": NaN, "b": "NaN \" Infinity", "c": -Infinity}"#).unwrap(),
            r#"{"a": "NaN", "b": "NaN \" Infinity", "c": "-Infinity"}"#
        );
        assert_eq!(quote_constants(r#"{"a": 1}"#), None);
    }

    #[test]
    fn integers_that_a_float_would_round_are_refused() {
        let column = Column {
            name: "s".into(),
            working: arrow_schema::DataType::Float64,
            output: arrow_schema::DataType::Float64,
        };
        let cells = |text: &str| cells_of_object(&parse_object(text.as_bytes()).unwrap(), &[(&column, Role::Score)]);
        assert!(cells(r#"{"s": 9007199254740992}"#).is_ok());
        assert!(cells(r#"{"s": 9007199254740993}"#).is_err());
        assert!(cells(r#"{"s": "abc"}"#).is_err());
        assert!(matches!(cells(r#"{"s": NaN}"#).unwrap()[0], Cell::Float(f) if f.is_nan()));
    }
}
