//! Score columns as blocks of keys.
//!
//! The hot loop of a selection: every score is looked at once, classed, and turned into its key; nothing is kept but a
//! block that fits the first-level cache.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Decimal32Type, Decimal64Type, Decimal128Type, Float16Type, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, Decimal128Array, PrimitiveArray};
use arrow_schema::DataType;
use vlmsel_core::score_key;

use crate::error::{Error, Result};

/// What a score is before any filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ScoreClass {
    /// Ranks.
    Finite,
    /// Null.
    Missing,
    /// Not a number.
    Nan,
    /// Plus or minus infinity.
    Infinite,
    /// Below zero where that is impossible.
    Negative,
}

/// Consecutive scores of a chunk.
#[derive(Debug)]
pub struct Block<'a> {
    /// Row of the first score, counted within the chunk.
    pub first_row: usize,
    /// Their keys; meaningless where the class is not `Finite`.
    pub keys: &'a [u64],
    /// Their classes; `None` if all are `Finite`.
    pub classes: Option<&'a [ScoreClass]>,
}

/// Rows per block: keys of 8 bytes that stay in the first-level cache.
pub const BLOCK_ROWS: usize = 2048;

/// A native score: how to class and key it.
pub trait Native: Copy {
    /// Its class.
    fn class(self, non_negative: bool) -> ScoreClass;
    /// Its key, if finite.
    fn key(self) -> u64;
    /// Whether its class is not `Finite`; without branches, so that a block of them is looked at many at a time.
    #[inline]
    fn is_odd(self, non_negative: bool) -> bool {
        self.class(non_negative) != ScoreClass::Finite
    }
}

macro_rules! float_native {
    ($type:ty, $key:path) => {
        impl Native for $type {
            #[inline]
            fn class(self, non_negative: bool) -> ScoreClass {
                if self.is_nan() {
                    ScoreClass::Nan
                } else if self.is_infinite() {
                    ScoreClass::Infinite
                } else if non_negative && self < 0.0 {
                    ScoreClass::Negative
                } else {
                    ScoreClass::Finite
                }
            }
            #[inline]
            fn key(self) -> u64 {
                $key(self)
            }
            #[inline]
            fn is_odd(self, non_negative: bool) -> bool {
                !self.is_finite() | (non_negative & (self < 0.0))
            }
        }
    };
}
float_native!(f32, score_key::from_f32);
float_native!(f64, score_key::from_f64);

impl Native for half::f16 {
    fn class(self, non_negative: bool) -> ScoreClass {
        self.to_f32().class(non_negative)
    }
    fn key(self) -> u64 {
        score_key::from_f32(self.to_f32())
    }
}

macro_rules! integer_native {
    ($($type:ty),*) => {$(
        impl Native for $type {
            #[inline]
            #[allow(unused_comparisons, clippy::absurd_extreme_comparisons, reason = "one macro for signed and unsigned")]
            fn class(self, non_negative: bool) -> ScoreClass {
                if non_negative && self < 0 { ScoreClass::Negative } else { ScoreClass::Finite }
            }
            #[inline]
            #[allow(clippy::cast_lossless, clippy::cast_sign_loss, clippy::cast_possible_wrap, reason = "widening")]
            fn key(self) -> u64 {
                if <$type>::MIN == 0 { self as u64 } else { score_key::from_i64(self as i64) }
            }
        }
    )*};
}
integer_native!(i8, i16, i32, i64, u8, u16, u32, u64);

impl Native for i128 {
    fn class(self, non_negative: bool) -> ScoreClass {
        if non_negative && self < 0 { ScoreClass::Negative } else { ScoreClass::Finite }
    }
    fn key(self) -> u64 {
        // Decimals of at most 18 digits fit.
        score_key::from_i64(self as i64)
    }
}

/// Feeds `values` (no nulls) to `visit` in blocks, beginning at `first_row`.
///
/// # Errors
/// Those of `visit`.
#[inline]
pub fn visit_values<T: Native>(
    values: &[T],
    first_row: usize,
    non_negative: bool,
    visit: &mut dyn FnMut(&Block<'_>) -> Result<()>,
) -> Result<()> {
    let mut keys = [0; BLOCK_ROWS];
    for (at, chunk) in values.chunks(BLOCK_ROWS).enumerate() {
        visit_block(chunk.iter().copied(), first_row + at * BLOCK_ROWS, non_negative, &mut keys, visit)?;
    }
    Ok(())
}

/// Feeds at most [`BLOCK_ROWS`] values to `visit`; `keys` is a place for theirs.
///
/// # Errors
/// Those of `visit`.
#[inline]
pub fn visit_block<T: Native>(
    values: impl ExactSizeIterator<Item = T> + Clone,
    first_row: usize,
    non_negative: bool,
    keys: &mut [u64; BLOCK_ROWS],
    visit: &mut dyn FnMut(&Block<'_>) -> Result<()>,
) -> Result<()> {
    let count = values.len();
    if !fill_keys(values.clone(), non_negative, keys) {
        return visit(&Block { first_row, keys: &keys[..count], classes: None });
    }
    let mut classes = [ScoreClass::Finite; BLOCK_ROWS];
    for (class, value) in classes.iter_mut().zip(values) {
        *class = value.class(non_negative);
    }
    visit(&Block { first_row, keys: &keys[..count], classes: Some(&classes[..count]) })
}

/// Keys of a block; whether any of its scores is not `Finite`. Compiled twice, because the wheel is for every x86-64 and
/// AVX2 halves the time.
fn fill_keys<T: Native>(values: impl Iterator<Item = T>, non_negative: bool, keys: &mut [u64]) -> bool {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled once for each instruction set")]
    fn fill<T: Native>(values: impl Iterator<Item = T>, non_negative: bool, keys: &mut [u64]) -> bool {
        let mut odd = false;
        for (key, value) in keys.iter_mut().zip(values) {
            odd |= value.is_odd(non_negative);
            *key = value.key();
        }
        odd
    }
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn fill_avx2<T: Native>(values: impl Iterator<Item = T>, non_negative: bool, keys: &mut [u64]) -> bool {
            fill(values, non_negative, keys)
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: this machine has the feature.
            return unsafe { fill_avx2(values, non_negative, keys) };
        }
    }
    fill(values, non_negative, keys)
}

/// Feeds an Arrow array of any score type to `visit` in blocks.
///
/// # Errors
/// Those of `visit`; [`Error::Usage`] for a type that is no score (which [`super::schema::resolve`] refuses before).
pub fn visit_array(
    array: &ArrayRef,
    first_row: usize,
    non_negative: bool,
    visit: &mut dyn FnMut(&Block<'_>) -> Result<()>,
) -> Result<()> {
    macro_rules! visit_as {
        ($($pattern:pat => $type:ty),* $(,)?) => {
            match array.data_type() {
                $($pattern => visit_primitive(array.as_primitive::<$type>(), first_row, non_negative, visit),)*
                DataType::Dictionary(_, value) => {
                    let flat = arrow_cast::cast(array, value)
                        .map_err(|error| Error::Usage(format!("score column: {error}")))?;
                    visit_array(&flat, first_row, non_negative, visit)
                }
                other => Err(Error::Usage(format!("a score cannot be {other}"))),
            }
        };
    }
    visit_as! {
        DataType::Float16 => Float16Type,
        DataType::Float32 => Float32Type,
        DataType::Float64 => Float64Type,
        DataType::Int8 => Int8Type,
        DataType::Int16 => Int16Type,
        DataType::Int32 => Int32Type,
        DataType::Int64 => Int64Type,
        DataType::UInt8 => UInt8Type,
        DataType::UInt16 => UInt16Type,
        DataType::UInt32 => UInt32Type,
        DataType::UInt64 => UInt64Type,
        DataType::Decimal32(..) => Decimal32Type,
        DataType::Decimal64(..) => Decimal64Type,
        DataType::Decimal128(..) => Decimal128Type,
    }
}

fn visit_primitive<T: ArrowPrimitiveType>(
    array: &PrimitiveArray<T>,
    first_row: usize,
    non_negative: bool,
    visit: &mut dyn FnMut(&Block<'_>) -> Result<()>,
) -> Result<()>
where
    T::Native: Native,
{
    let Some(nulls) = array.nulls().filter(|nulls| nulls.null_count() > 0) else {
        return visit_values(array.values(), first_row, non_negative, visit);
    };
    let mut keys = [0_u64; BLOCK_ROWS];
    let mut classes = [ScoreClass::Finite; BLOCK_ROWS];
    for start in (0..array.len()).step_by(BLOCK_ROWS) {
        let length = BLOCK_ROWS.min(array.len() - start);
        for at in 0..length {
            if nulls.is_null(start + at) {
                classes[at] = ScoreClass::Missing;
            } else {
                let value = array.value(start + at);
                classes[at] = value.class(non_negative);
                keys[at] = value.key();
            }
        }
        visit(&Block { first_row: first_row + start, keys: &keys[..length], classes: Some(&classes[..length]) })?;
    }
    Ok(())
}

/// The scores whose keys these are, in the type they came in.
pub fn scores_from_keys(keys: &[u64], data_type: &DataType) -> Result<ArrayRef> {
    macro_rules! from_keys {
        ($type:ty, $map:expr) => {
            std::sync::Arc::new(PrimitiveArray::<$type>::from_iter_values(keys.iter().map($map))) as ArrayRef
        };
    }
    let signed = |key: &u64| score_key::to_i64(*key);
    Ok(match data_type {
        DataType::Float16 => from_keys!(Float16Type, |key| half::f16::from_f32(score_key::to_f32(*key))),
        DataType::Float32 => from_keys!(Float32Type, |key| score_key::to_f32(*key)),
        DataType::Float64 => from_keys!(Float64Type, |key| score_key::to_f64(*key)),
        DataType::Int8 => from_keys!(Int8Type, |key| signed(key) as i8),
        DataType::Int16 => from_keys!(Int16Type, |key| signed(key) as i16),
        DataType::Int32 => from_keys!(Int32Type, |key| signed(key) as i32),
        DataType::Int64 => from_keys!(Int64Type, signed),
        DataType::UInt8 => from_keys!(UInt8Type, |key| *key as u8),
        DataType::UInt16 => from_keys!(UInt16Type, |key| *key as u16),
        DataType::UInt32 => from_keys!(UInt32Type, |key| *key as u32),
        DataType::UInt64 => from_keys!(UInt64Type, |key| *key),
        DataType::Decimal32(..) => std::sync::Arc::new(
            PrimitiveArray::<Decimal32Type>::from_iter_values(keys.iter().map(|key| signed(key) as i32))
                .with_data_type(data_type.clone()),
        ),
        DataType::Decimal64(..) => std::sync::Arc::new(
            PrimitiveArray::<Decimal64Type>::from_iter_values(keys.iter().map(signed))
                .with_data_type(data_type.clone()),
        ),
        DataType::Decimal128(..) => std::sync::Arc::new(
            Decimal128Array::from_iter_values(keys.iter().map(|key| i128::from(signed(key))))
                .with_data_type(data_type.clone()),
        ),
        other => return Err(Error::Usage(format!("a score cannot be {other}"))),
    })
}
