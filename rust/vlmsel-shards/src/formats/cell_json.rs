//! Cells of tables as JSON, within bounds.

use std::fmt::Write;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::DataType;
use serde_json::{Map, Number, Value};

/// Of longer bytes only their number is told.
const MAX_SHOWN_BYTES: usize = 1 << 16;

/// Bytes of JSON that may still be made. Run-length coding lets a small file hold one long value many times.
pub struct Room {
    left: usize,
    most: usize,
    of: &'static str,
}

impl Room {
    /// So many bytes for `of`.
    pub fn new(most: usize, of: &'static str) -> Self {
        Self { left: most, most, of }
    }

    /// Takes some.
    ///
    /// # Errors
    /// Where there are not as many left.
    pub fn take(&mut self, bytes: usize) -> Result<(), String> {
        let left = self.left.checked_sub(bytes);
        self.left = left
            .ok_or_else(|| format!("its rows take more than {} bytes as JSON, which is no {}", self.most, self.of))?;
        Ok(())
    }

    /// Text of anything that can be shown, as long as there is room for it.
    fn text_of(&mut self, shown: impl std::fmt::Display) -> Result<String, String> {
        struct Bounded<'a>(&'a mut Room, String, Option<String>);
        impl Write for Bounded<'_> {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                self.2 = self.0.take(text.len()).err();
                self.1.push_str(text);
                if self.2.is_none() { Ok(()) } else { Err(std::fmt::Error) }
            }
        }
        let mut out = Bounded(self, String::new(), None);
        match write!(out, "{shown}") {
            Ok(()) => Ok(out.1),
            Err(_) => Err(out.2.unwrap_or_else(|| "a value that cannot be shown".to_owned())),
        }
    }
}

/// A cell as JSON: lists and structs as such, short bytes in hexadecimal, anything else as it is shown.
///
/// # Errors
/// Where there is no room.
pub fn json_of(column: &ArrayRef, i: usize, room: &mut Room) -> Result<Value, String> {
    // A number, and what stands around it.
    room.take(8)?;
    if column.is_null(i) {
        return Ok(Value::Null);
    }
    let float = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
    Ok(match column.data_type() {
        DataType::Utf8View => {
            let text = column.as_string_view().value(i);
            room.take(text.len())?;
            Value::from(text)
        }
        DataType::Boolean => Value::from(column.as_boolean().value(i)),
        DataType::Int32 => Value::from(column.as_primitive::<Int32Type>().value(i)),
        DataType::Int64 => Value::from(column.as_primitive::<Int64Type>().value(i)),
        DataType::Float32 => float(f64::from(column.as_primitive::<Float32Type>().value(i))),
        DataType::Float64 => float(column.as_primitive::<Float64Type>().value(i)),
        DataType::List(_) => list_of(&column.as_list::<i32>().value(i), room)?,
        DataType::LargeList(_) => list_of(&column.as_list::<i64>().value(i), room)?,
        DataType::FixedSizeList(..) => list_of(&column.as_fixed_size_list().value(i), room)?,
        DataType::Struct(fields) => {
            let table = column.as_struct();
            let mut object = Map::new();
            for (field, child) in fields.iter().zip(table.columns()) {
                room.take(field.name().len())?;
                object.insert(field.name().clone(), json_of(child, i, room)?);
            }
            Value::Object(object)
        }
        DataType::BinaryView => bytes_as_text(column.as_binary_view().value(i), room)?,
        DataType::FixedSizeBinary(_) => bytes_as_text(column.as_fixed_size_binary().value(i), room)?,
        _ => {
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(column, &options).map_err(|error| error.to_string())?;
            Value::from(room.text_of(formatter.value(i))?)
        }
    })
}

fn list_of(items: &ArrayRef, room: &mut Room) -> Result<Value, String> {
    Ok(Value::Array((0..items.len()).map(|j| json_of(items, j, room)).collect::<Result<_, _>>()?))
}

fn bytes_as_text(bytes: &[u8], room: &mut Room) -> Result<Value, String> {
    if bytes.len() > MAX_SHOWN_BYTES {
        return Ok(Value::from(format!("({} bytes)", bytes.len())));
    }
    room.take(2 * bytes.len())?;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(Value::from(text))
}
