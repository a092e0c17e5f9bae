//! Arrow streams of other libraries, of which the columns of known types alone are taken over: one that nobody asked for may be
//! of a type that only its library knows (Polars' `Int128`).

use std::collections::BTreeMap;
use std::ffi::{CStr, c_void};
use std::sync::Arc;

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi_and_data_type};
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatch, RecordBatchOptions, make_array};
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};

/// The front of a C `ArrowArray`, whose layout the Arrow C data interface fixes.
#[repr(C)]
struct ArrayFront {
    length: i64,
    null_count: i64,
    offset: i64,
    n_buffers: i64,
    n_children: i64,
    buffers: *mut *const c_void,
    children: *mut *mut FFI_ArrowArray,
}

/// Batches of the columns whose types are known.
pub struct Stream {
    producer: FFI_ArrowArrayStream,
    schema: SchemaRef,
    /// Places of these columns among all.
    places: Vec<usize>,
    columns: usize,
    /// The other columns, with what their types are called.
    pub unknown: BTreeMap<String, String>,
}

impl Stream {
    /// Takes a stream over and asks for its schema.
    ///
    /// # Errors
    /// A stream that is released, fails, or is none of tables.
    pub fn new(mut stream: FFI_ArrowArrayStream) -> Result<Self, ArrowError> {
        let get_schema = stream.get_schema().filter(|_| stream.release().is_some());
        let get_schema = get_schema.ok_or_else(|| wrong("the stream is released already"))?;
        let mut schema = FFI_ArrowSchema::empty();
        // SAFETY: the stream is not released, and `schema` is a place for what the call moves out.
        let code = unsafe { get_schema(&raw mut stream, &raw mut schema) };
        check(&mut stream, code)?;
        if schema.format() != "+s" {
            return Err(wrong("a stream of something else than tables"));
        }
        let (mut fields, mut places, mut columns, mut unknown) = (Vec::new(), Vec::new(), 0, BTreeMap::new());
        for (place, child) in schema.children().enumerate() {
            columns += 1;
            if let Ok(field) = Field::try_from(child) {
                fields.push(field);
                places.push(place);
            } else {
                let name = child.name().unwrap_or_default().to_owned();
                unknown.insert(name, format!("of Arrow's format {:?}", child.format()));
            }
        }
        let schema = Arc::new(Schema::new(fields));
        Ok(Self { producer: stream, schema, places, columns, unknown })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn import(&self, array: &FFI_ArrowArray) -> Result<RecordBatch, ArrowError> {
        let (rows, offset) = (array.len(), array.offset());
        if array.num_children() != self.columns {
            return Err(wrong("a batch has other columns than its schema"));
        }
        // SAFETY: both types are the C struct `ArrowArray`, of which this is the front.
        let children = unsafe { (*std::ptr::from_ref(array).cast::<ArrayFront>()).children };
        let arrays = self.places.iter().zip(self.schema.fields()).map(|(place, field)| {
            // SAFETY: `num_children` says that there are so many. A consumer may move a child out, which leaves one that is
            // released in its place; the parent's release passes over it.
            let child = unsafe { FFI_ArrowArray::from_raw(*children.add(*place)) };
            // SAFETY: the producer says that the child is of this type.
            let data = unsafe { from_ffi_and_data_type(child, field.data_type().clone()) }?;
            if data.len() < offset.saturating_add(rows) {
                return Err(wrong("a column is shorter than its batch"));
            }
            Ok(make_array(data.slice(offset, rows)))
        });
        let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)
    }
}

impl Iterator for Stream {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(get_next) = self.producer.get_next() else {
            return Some(Err(wrong("the stream is released already")));
        };
        let mut array = FFI_ArrowArray::empty();
        // SAFETY: the stream is not released, and `array` is a place for what the call moves out.
        let code = unsafe { get_next(&raw mut self.producer, &raw mut array) };
        if let Err(error) = check(&mut self.producer, code) {
            return Some(Err(error));
        }
        (!array.is_released()).then(|| self.import(&array))
    }
}

fn wrong(what: &str) -> ArrowError {
    ArrowError::CDataInterface(what.to_owned())
}

/// What the stream says of a call that failed.
fn check(stream: &mut FFI_ArrowArrayStream, code: i32) -> Result<(), ArrowError> {
    if code == 0 {
        return Ok(());
    }
    let said = stream.get_last_error().and_then(|get_last_error| {
        // SAFETY: the last call on the stream has failed.
        let text = unsafe { get_last_error(std::ptr::from_mut(stream)) };
        // SAFETY: it is a string that lives until the next call, or null.
        (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    });
    Err(wrong(&said.unwrap_or_else(|| format!("the stream failed with code {code}"))))
}
