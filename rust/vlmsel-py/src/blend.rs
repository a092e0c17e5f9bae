//! `_core.mean_into`: chunks and output as buffers, nothing copied.

use std::ffi::c_void;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use vlmsel_core::mean::{BlendError, Dtype, mean};
use vlmsel_pipeline::Error;

use crate::gil::raise;

/// Writes the weighted mean of `chunks` to `out`; whether all of it was finite.
#[pyfunction]
fn mean_into(
    py: Python<'_>,
    out: &Bound<'_, PyAny>,
    dtype: &str,
    chunks: Vec<Bound<'_, PyAny>>,
    weights: Vec<f64>,
) -> PyResult<bool> {
    let usage = |message: String| raise(py, &Error::usage(format!("mean: {message}")));
    let wrong = |error: BlendError| usage(error.to_string());
    let dtype = Dtype::parse(dtype).map_err(wrong)?;
    let out = PyUntypedBuffer::get(out)?;
    if out.readonly() || !out.is_c_contiguous() {
        return Err(usage("the output must be writable and contiguous".to_owned()));
    }
    let target = span(&out);
    let chunks: Vec<PyUntypedBuffer> = chunks.iter().map(PyUntypedBuffer::get).collect::<PyResult<_>>()?;
    for (index, chunk) in chunks.iter().enumerate() {
        if !chunk.is_c_contiguous() {
            return Err(usage(format!("chunk {index} is not contiguous; copy it first")));
        }
        let source = span(chunk);
        if source.start < target.end && target.start < source.end {
            return Err(usage(format!("the output overlaps chunk {index}; give it memory of its own")));
        }
    }
    // SAFETY: the buffers are contiguous, stay exported until the end of this function, and the output overlaps no chunk.
    // That no other thread writes to any of them meanwhile is the caller's part, as with every call that releases the GIL.
    let sources: Vec<&[u8]> = chunks.iter().map(|chunk| unsafe { &*bytes(chunk) }).collect();
    let target = unsafe { &mut *bytes(&out) };
    py.detach(|| mean(dtype, &sources, &weights, target)).map_err(wrong)
}

fn span(buffer: &PyUntypedBuffer) -> std::ops::Range<usize> {
    let start = buffer.buf_ptr() as usize;
    start..start + buffer.len_bytes()
}

/// The memory of a contiguous buffer. Python may give an empty one no address.
fn bytes(buffer: &PyUntypedBuffer) -> *mut [u8] {
    let start: *mut c_void = buffer.buf_ptr();
    let start = if buffer.len_bytes() == 0 { std::ptr::NonNull::dangling().as_ptr() } else { start.cast() };
    std::ptr::slice_from_raw_parts_mut(start, buffer.len_bytes())
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(mean_into, module)?)
}
