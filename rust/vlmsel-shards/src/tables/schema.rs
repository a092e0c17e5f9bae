//! Which columns a command wants of its tables, what types they may have, and whether the tables agree.

use std::sync::Arc;

use arrow_schema::{DataType, Field, SchemaRef};
use vlmsel_core::suggest::near;

use super::Table;
use crate::columns::{Column, Role, unknown_type};
use crate::error::{Error, Result};

/// A wanted column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name in the tables.
    pub name: String,
    /// What for.
    pub role: Role,
    /// Whether a table without it is an error.
    pub required: bool,
}

/// The columns as found, the same in every table.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// In the order they were wanted; `None` where an optional one is absent everywhere.
    pub columns: Vec<Option<Column>>,
}

/// The type of a wanted column in a table, as Arrow sees it; text tables have what is asked of them.
fn found_in(table: &Table, wanted: &Wanted) -> Result<Option<DataType>> {
    let schema: SchemaRef = match table {
        Table::Parquet(table) => table.schema().clone(),
        Table::Memory(table) => table.schema.clone(),
        Table::Text(text) => {
            if text.has_column(&wanted.name) == Some(false) {
                return Ok(partition_type(table, wanted));
            }
            text.check_once(&wanted.name)?;
            return Ok(Some(text_type(wanted.role)));
        }
    };
    let same: Vec<&Arc<Field>> = schema.fields().iter().filter(|f| *f.name() == wanted.name).collect();
    if same.len() > 1 {
        return Err(Error::Usage(format!("{}: column {:?} stands there twice", table.label(), wanted.name)));
    }
    if let Some(what) = table.unknown_type(&wanted.name) {
        return Err(Error::Usage(unknown_type(&table.label(), &wanted.name, what)));
    }
    Ok(same.first().map(|field| field.data_type().clone()).or_else(|| partition_type(table, wanted)))
}

/// The type of a column that stands in the table's path. An id or a score is no property of a folder.
fn partition_type(table: &Table, wanted: &Wanted) -> Option<DataType> {
    let may_be = matches!(wanted.role, Role::Source | Role::Kept | Role::Any);
    (may_be && table.partitions().iter().any(|part| part.name == wanted.name)).then_some(DataType::Utf8)
}

/// The type that a text table's column is read as.
pub fn text_type(role: Role) -> DataType {
    match role {
        Role::Score => DataType::Float64,
        Role::Tokens => DataType::UInt64,
        _ => DataType::Utf8,
    }
}

fn column_names(table: &Table) -> Vec<String> {
    match table {
        Table::Parquet(table) => table.schema().fields().iter().map(|f| f.name().clone()).collect(),
        Table::Memory(table) => table.schema.fields().iter().map(|f| f.name().clone()).collect(),
        Table::Text(table) => table.header().map(<[String]>::to_vec).unwrap_or_default(),
    }
}

/// The type a column is worked on in; `None` if the role does not allow the type.
fn working_type(role: Role, found: &DataType) -> Option<DataType> {
    let value = match found {
        DataType::Dictionary(_, value) => value.as_ref(),
        other => other,
    };
    let viewed = match value {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::BinaryView,
        other => other.clone(),
    };
    let allowed = match role {
        Role::Id => {
            matches!(viewed, DataType::Utf8View | DataType::BinaryView | DataType::FixedSizeBinary(_))
                || viewed.is_integer()
        }
        Role::Score => match &viewed {
            // Parquet has no name for a negative scale.
            DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) => {
                *scale >= 0
            }
            DataType::Decimal256(_, scale) if (0..=38).contains(scale) => {
                return Some(DataType::Decimal128(38, *scale));
            }
            other => other.is_integer() || other.is_floating(),
        },
        Role::Tokens => viewed.is_integer(),
        Role::Status | Role::Source => viewed == DataType::Utf8View,
        Role::Any => true,
        Role::Kept => arrow_row::RowConverter::supports_fields(&[arrow_row::SortField::new(viewed.clone())]),
    };
    allowed.then_some(viewed)
}

fn output_type(found: &DataType) -> DataType {
    match found {
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        other => other.clone(),
    }
}

fn expectation(role: Role) -> &'static str {
    match role {
        Role::Id => "an id must be fixed-size binary, string, binary or integer",
        Role::Score => "a score must be a float, an integer or a decimal (of a scale from 0 to 38); cast it first",
        Role::Tokens => "a token count must be an integer",
        Role::Status | Role::Source => "this column must hold strings",
        Role::Kept | Role::Any => "a kept column's type must have an order",
    }
}

/// Finds the wanted columns and checks that all tables agree on their types. A table without rows agrees with every type, and
/// so does a column of nulls alone: writers that see no value guess its type.
///
/// # Errors
/// [`Error::Usage`] for a missing column (with the near names), a wrong type, or tables that disagree (naming both).
pub fn resolve(tables: &[Table], wanted: &[Wanted]) -> Result<Resolved> {
    let with_rows: Vec<&Table> = tables.iter().filter(|table| !table.is_empty()).collect();
    let tables = if with_rows.is_empty() { tables.iter().collect() } else { with_rows };
    let columns = wanted.iter().map(|want| {
        // Statistics are asked where types alone do not agree, because there may be a million of them.
        resolve_one(&tables, want, false).or_else(|failed| match resolve_one(&tables, want, true) {
            Ok(found) => Ok(found),
            Err(_) => Err(failed),
        })
    });
    Ok(Resolved { columns: columns.collect::<Result<_>>()? })
}

/// Finds one column; where `look_into` is set, a column whose statistics say that it has no value agrees with every type.
fn resolve_one(tables: &[&Table], want: &Wanted, look_into: bool) -> Result<Option<Column>> {
    let mut first: Option<(&Table, Column)> = None;
    let (mut absent, mut empty) = (None, None);
    for table in tables {
        let Some(found) = found_in(table, want)? else {
            absent.get_or_insert(*table);
            continue;
        };
        if found == DataType::Null || (look_into && table.holds_only_nulls(&want.name)) {
            empty.get_or_insert((*table, found));
            continue;
        }
        let (label, name) = (table.label(), &want.name);
        let Some(working) = working_type(want.role, &found) else {
            return Err(Error::Usage(format!("{label}: column {name:?} is {found}; {}", expectation(want.role))));
        };
        match &first {
            None => first = Some((table, Column { name: name.clone(), working, output: output_type(&found) })),
            // Decimals of several widths are worked on as one type, but written as what they are.
            Some((before, column))
                if column.working != working || (want.role == Role::Score && column.output != output_type(&found)) =>
            {
                return Err(Error::Usage(format!(
                    "column {name:?} is {} in {} and {found} in {label}; select needs one type, cast one of them",
                    column.output,
                    before.label(),
                )));
            }
            Some(_) => {}
        }
    }
    if let (None, Some((table, found))) = (&first, empty) {
        // Nulls alone: of a type that the role allows.
        let output = match want.role {
            Role::Kept | Role::Any => output_type(&found),
            role => text_type(role),
        };
        let working = working_type(want.role, &output).unwrap_or_else(|| output.clone());
        first = Some((table, Column { name: want.name.clone(), working, output }));
    }
    match (first, absent) {
        (Some((before, _)), Some(without)) => Err(Error::Usage(format!(
            "column {:?} is in {} but not in {}; all tables must have the same columns",
            want.name,
            before.label(),
            without.label()
        ))),
        (None, Some(without)) if want.required => Err(missing(without, want)),
        (first, _) => Ok(first.map(|(_, column)| column)),
    }
}

fn missing(table: &Table, want: &Wanted) -> Error {
    let names = column_names(table);
    let close = near(&want.name, names.iter().map(String::as_str));
    let hint = if close.is_empty() {
        let shown: Vec<&str> = names.iter().take(12).map(String::as_str).collect();
        format!("it has {}{}", shown.join(", "), if names.len() > 12 { ", ..." } else { "" })
    } else {
        format!("did you mean {}?", close.join(" or "))
    };
    let option = match want.role {
        Role::Id => " (choose it with --id-column)",
        Role::Score => " (choose it with --score-column)",
        _ => "",
    };
    Error::Usage(format!("{}: no column {:?}{option}; {hint}", table.label(), want.name))
}
