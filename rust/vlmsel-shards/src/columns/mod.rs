//! Columns as vlmsel works on them: what they are wanted for, their types, and scores as keys that order them. No file is read here.

mod dictionaries;
pub mod partitions;
pub mod score;
pub mod threshold;

use std::sync::Arc;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Decimal256Type};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

pub use self::dictionaries::narrowed;
use crate::error::{Error, Result};

/// An id may be this long; longer ones are refused as damage.
pub const MAX_ID_BYTES: usize = 64 << 10;

/// What a column is wanted for; decides which types are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Identity of the sample: fixed-size binary, string, binary or integer.
    Id,
    /// What is ranked: any numeric type.
    Score,
    /// A count of tokens: an integer.
    Tokens,
    /// `ok` or a reason.
    Status,
    /// Name of the sample's source.
    Source,
    /// Carried along: anything that can be ordered.
    Kept,
    /// Read as it is.
    Any,
}

/// A found column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The type it has while vlmsel works on it: views for strings, values for dictionaries.
    pub working: DataType,
    /// The type it has in outputs: that of the first table, dictionaries resolved.
    pub output: DataType,
}

/// What to say about a column of a type that cannot be read; `label` names the table.
pub fn unknown_type(label: &str, column: &str, what: &str) -> String {
    format!("{label}: column {column:?} is {what}, which this version cannot read; cast it, or choose another column")
}

/// A column in its working type; `label` names the table in the error.
///
/// # Errors
/// [`Error::Usage`] if it does not convert.
pub fn to_working(array: &arrow_array::ArrayRef, column: &Column, label: &str) -> Result<arrow_array::ArrayRef> {
    let wrong = |error: arrow_schema::ArrowError| Error::Usage(format!("{label}: column {:?}: {error}", column.name));
    if let DataType::Decimal256(precision, _) = array.data_type() {
        array.as_primitive::<Decimal256Type>().validate_decimal_precision(*precision).map_err(wrong)?;
    }
    let working = if array.data_type() == &column.working {
        array.clone()
    } else if array.logical_null_count() == array.len() {
        // No value, so that any type is as good as the one that its writer guessed.
        arrow_array::new_null_array(&column.working, array.len())
    } else if !converts(array.data_type(), &column.working) {
        let found = array.data_type();
        let what =
            format!("column {:?} holds values of type {found}, its statistics say that it has none", column.name);
        return Err(Error::unreadable(label, what));
    } else {
        let array = narrowed(array).map_err(wrong)?;
        cast_whole(&array, &column.working).map_err(wrong)?
    };
    // Whether keys may be shared depends on how many digits the type says that there are.
    if let DataType::Decimal128(precision, _) = &column.working {
        working.as_primitive::<Decimal128Type>().validate_decimal_precision(*precision).map_err(wrong)?;
    }
    Ok(working)
}

/// Whether a column of one type is worked on as the other: the same values in another layout.
fn converts(found: &DataType, working: &DataType) -> bool {
    match found {
        DataType::Dictionary(_, value) => value.as_ref() == working || converts(value, working),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => working == &DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => working == &DataType::BinaryView,
        DataType::Decimal256(..) => matches!(working, DataType::Decimal128(..)),
        other => other == working,
    }
}

/// Casts an array; what does not fit is an error and never becomes a null.
///
/// # Errors
/// Values that do not fit, and types between which there is no cast.
pub fn cast_whole(
    array: &arrow_array::ArrayRef,
    to: &DataType,
) -> std::result::Result<arrow_array::ArrayRef, arrow_schema::ArrowError> {
    let options = arrow_cast::CastOptions { safe: false, ..Default::default() };
    arrow_cast::cast_with_options(array, to, &options)
}

/// A schema of the columns in their working types.
pub fn working_schema(columns: &[&Column]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|c| Field::new(&c.name, c.working.clone(), true)).collect::<Vec<_>>()))
}
