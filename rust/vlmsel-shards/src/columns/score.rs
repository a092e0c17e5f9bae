//! Score columns as blocks of keys.
//!
//! The hot loop of a selection: a block of scores that fits the first-level cache is compared with what is looked for.
//! Where all of it is `Finite`, only what was found is turned into keys; else every score is classed and keyed.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Decimal32Type, Decimal64Type, Decimal128Type, Float16Type, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, Decimal128Array, Decimal256Array, PrimitiveArray};
use arrow_buffer::i256;
use arrow_schema::DataType;
use vlmsel_core::range_filter::keep_between;
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

/// What looks at scores, block by block.
pub trait ScoreVisitor {
    /// The keys that are looked for at the moment, if nothing else is of interest: both bounds are included.
    fn wanted(&self) -> Option<(u64, u64)> {
        None
    }

    /// Called with a block.
    ///
    /// # Errors
    /// Its own; they end the visit.
    fn block(&mut self, block: &Block<'_>) -> Result<()>;

    /// Called in place of [`ScoreVisitor::block`] with the wanted ones of `count` scores, all of which are `Finite`: their
    /// rows within the chunk and their keys.
    ///
    /// # Errors
    /// Its own; they end the visit.
    fn winners(&mut self, count: usize, rows: &[u32], keys: &[u64]) -> Result<()> {
        let _ = (count, rows, keys);
        Err(Error::Usage("no keys were looked for".to_owned()))
    }
}

impl<F: FnMut(&Block<'_>) -> Result<()>> ScoreVisitor for F {
    fn block(&mut self, block: &Block<'_>) -> Result<()> {
        self(block)
    }
}

/// A native score: how to class and key it.
pub trait Native: Copy + PartialOrd {
    /// Its class.
    fn class(self, non_negative: bool) -> ScoreClass;
    /// Its key, if finite.
    fn key(self) -> u64;
    /// Between which values scores are `Finite`.
    fn finite(non_negative: bool) -> (Self, Self);
    /// Two values between which all lie whose keys are between these, and perhaps some others.
    fn around(lower: u64, upper: u64) -> (Self, Self) {
        let _ = (lower, upper);
        Self::finite(false)
    }
}

macro_rules! float_native {
    ($type:ty, $key:path, $value:path) => {
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
            fn finite(non_negative: bool) -> (Self, Self) {
                (if non_negative { 0.0 } else { <$type>::MIN }, <$type>::MAX)
            }
            fn around(lower: u64, upper: u64) -> (Self, Self) {
                let value = |key: u64| $value(key.clamp($key(<$type>::MIN), $key(<$type>::MAX)));
                (value(lower), value(upper))
            }
        }
    };
}
float_native!(f32, score_key::from_f32, score_key::to_f32);
float_native!(f64, score_key::from_f64, score_key::to_f64);

impl Native for half::f16 {
    fn class(self, non_negative: bool) -> ScoreClass {
        self.to_f32().class(non_negative)
    }
    fn key(self) -> u64 {
        score_key::from_f32(self.to_f32())
    }
    fn finite(non_negative: bool) -> (Self, Self) {
        (if non_negative { Self::ZERO } else { Self::MIN }, Self::MAX)
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
            fn finite(non_negative: bool) -> (Self, Self) {
                (if non_negative { 0 } else { <$type>::MIN }, <$type>::MAX)
            }
            #[allow(clippy::cast_lossless, clippy::cast_sign_loss, clippy::cast_possible_wrap, reason = "clamped")]
            fn around(lower: u64, upper: u64) -> (Self, Self) {
                let value = |key: u64| {
                    if <$type>::MIN == 0 {
                        key.min(<$type>::MAX as u64) as $type
                    } else {
                        score_key::to_i64(key).clamp(<$type>::MIN as i64, <$type>::MAX as i64) as $type
                    }
                };
                (value(lower), value(upper))
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
        score_key::from_i128(self)
    }
    fn finite(non_negative: bool) -> (Self, Self) {
        (if non_negative { 0 } else { Self::MIN }, Self::MAX)
    }
}

/// Where the keys of a block, or the rows that were found, are put together.
pub struct Scratch {
    keys: [u64; BLOCK_ROWS],
    rows: [u32; BLOCK_ROWS],
}

impl Default for Scratch {
    fn default() -> Self {
        Self { keys: [0; BLOCK_ROWS], rows: [0; BLOCK_ROWS] }
    }
}

/// Feeds `values` (no nulls) to `visitor` in blocks, beginning at `first_row`.
///
/// # Errors
/// Those of `visitor`.
pub fn visit_values<T: Native>(
    values: &[T],
    first_row: usize,
    non_negative: bool,
    visitor: &mut dyn ScoreVisitor,
) -> Result<()> {
    let mut scratch = Scratch::default();
    for (at, block) in values.chunks(BLOCK_ROWS).enumerate() {
        visit_block(block, first_row + at * BLOCK_ROWS, non_negative, &mut scratch, visitor)?;
    }
    Ok(())
}

/// Feeds at most [`BLOCK_ROWS`] values to `visitor`.
///
/// # Errors
/// Those of `visitor`.
pub fn visit_block<T: Native>(
    values: &[T],
    first_row: usize,
    non_negative: bool,
    Scratch { keys, rows }: &mut Scratch,
    visitor: &mut dyn ScoreVisitor,
) -> Result<()> {
    let finite = T::finite(non_negative);
    if let Some((lower, upper)) = visitor.wanted() {
        let mut found = 0;
        let all_finite = keep_between(values, finite, T::around(lower, upper), |at| {
            let key = values[at].key();
            if (lower..=upper).contains(&key) {
                (rows[found], keys[found]) = ((first_row + at) as u32, key);
                found += 1;
            }
        });
        if all_finite {
            return visitor.winners(values.len(), &rows[..found], &keys[..found]);
        }
    }
    let keys = &mut keys[..values.len()];
    if fill_keys(values, finite, keys) {
        return visitor.block(&Block { first_row, keys, classes: None });
    }
    let mut classes = [ScoreClass::Finite; BLOCK_ROWS];
    for (class, value) in classes.iter_mut().zip(values) {
        *class = value.class(non_negative);
    }
    visitor.block(&Block { first_row, keys, classes: Some(&classes[..values.len()]) })
}

/// Keys of a block; whether all of its scores are `Finite`. Compiled twice, because the wheel is for every x86-64 and
/// AVX2 halves the time.
fn fill_keys<T: Native>(values: &[T], finite: (T, T), keys: &mut [u64]) -> bool {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "compiled once for each instruction set")]
    #[allow(clippy::needless_bitwise_bool, reason = "without branches many values are compared at once")]
    fn fill<T: Native>(values: &[T], (low, high): (T, T), keys: &mut [u64]) -> bool {
        let mut all_finite = true;
        for (key, value) in keys.iter_mut().zip(values) {
            all_finite &= (*value >= low) & (*value <= high);
            *key = value.key();
        }
        all_finite
    }
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn fill_avx2<T: Native>(values: &[T], finite: (T, T), keys: &mut [u64]) -> bool {
            fill(values, finite, keys)
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: this machine has the feature.
            return unsafe { fill_avx2(values, finite, keys) };
        }
    }
    fill(values, finite, keys)
}

/// Feeds an Arrow array of any score type to `visitor` in blocks.
///
/// # Errors
/// Those of `visitor`; [`Error::Usage`] for a type that is no score (which [`super::schema::resolve`] refuses before).
pub fn visit_array(
    array: &ArrayRef,
    first_row: usize,
    non_negative: bool,
    visitor: &mut dyn ScoreVisitor,
) -> Result<()> {
    macro_rules! visit_as {
        ($($pattern:pat => $type:ty),* $(,)?) => {
            match array.data_type() {
                $($pattern => visit_primitive(array.as_primitive::<$type>(), first_row, non_negative, visitor),)*
                DataType::Dictionary(_, value) => {
                    let flat = arrow_cast::cast(array, value)
                        .map_err(|error| Error::Usage(format!("score column: {error}")))?;
                    visit_array(&flat, first_row, non_negative, visitor)
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
    visitor: &mut dyn ScoreVisitor,
) -> Result<()>
where
    T::Native: Native,
{
    let Some(nulls) = array.nulls().filter(|nulls| nulls.null_count() > 0) else {
        return visit_values(array.values(), first_row, non_negative, visitor);
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
        visitor.block(&Block {
            first_row: first_row + start,
            keys: &keys[..length],
            classes: Some(&classes[..length]),
        })?;
    }
    Ok(())
}

/// Whether scores of this type may share a key though they differ: where the key is not enough, they are compared in full.
pub fn share_keys(working: &DataType) -> bool {
    matches!(working, DataType::Decimal128(precision, _) if *precision > 18)
}

/// The scores whose keys these are, in the type they came in; of those that share a key, the one nearest zero.
///
/// # Errors
/// [`Error::Usage`] for a type that is no score.
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
            Decimal128Array::from_iter_values(keys.iter().map(|key| score_key::to_i128(*key)))
                .with_data_type(data_type.clone()),
        ),
        DataType::Decimal256(..) => std::sync::Arc::new(
            Decimal256Array::from_iter_values(keys.iter().map(|key| i256::from_i128(score_key::to_i128(*key))))
                .with_data_type(data_type.clone()),
        ),
        other => return Err(Error::Usage(format!("a score cannot be {other}"))),
    })
}
