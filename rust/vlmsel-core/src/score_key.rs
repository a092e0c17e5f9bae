//! The order of scores as unsigned integers.
//!
//! Every numeric type is mapped to an integer whose order is the order of the values: `f32` and `f64` as stored,
//! integers without rounding, -0.0 equal to +0.0. NaN and the infinities have no key: they never rank.

/// A key whose unsigned order is the order of the scores it was made from.
pub trait ScoreKey: Copy + Ord + Send + Sync + std::fmt::Debug + 'static {
    /// The key that no score exceeds.
    const MAX: Self;
    /// Turns the order round (`--order desc`).
    #[must_use]
    fn turned(self) -> Self;
}

impl ScoreKey for u64 {
    const MAX: Self = u64::MAX;
    fn turned(self) -> Self {
        !self
    }
}

/// Key of a finite `f64`.
#[inline]
pub fn from_f64(value: f64) -> u64 {
    // Adding zero turns -0.0 into +0.0 and changes nothing else.
    let bits = (value + 0.0).to_bits();
    if bits >> 63 == 0 { bits | (1 << 63) } else { !bits }
}

/// The `f64` whose key this is.
#[inline]
pub fn to_f64(key: u64) -> f64 {
    f64::from_bits(if key >> 63 == 1 { key & !(1 << 63) } else { !key })
}

/// Key of a finite `f32`, in the low 32 bits.
#[inline]
pub fn from_f32(value: f32) -> u64 {
    let bits = (value + 0.0).to_bits();
    u64::from(if bits >> 31 == 0 { bits | (1 << 31) } else { !bits })
}

/// The `f32` whose key this is.
#[inline]
pub fn to_f32(key: u64) -> f32 {
    let key = key as u32;
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

/// Key of a signed integer.
#[inline]
pub fn from_i64(value: i64) -> u64 {
    value.cast_unsigned() ^ (1 << 63)
}

/// The signed integer whose key this is.
#[inline]
pub fn to_i64(key: u64) -> i64 {
    (key ^ (1 << 63)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn f64_keys_order_as_values(a in any::<f64>(), b in any::<f64>()) {
            prop_assume!(a.is_finite() && b.is_finite());
            prop_assert_eq!(a.partial_cmp(&b), Some(from_f64(a).cmp(&from_f64(b))));
            prop_assert!(to_f64(from_f64(a)).to_bits() == (a + 0.0).to_bits());
        }

        #[test]
        fn f32_keys_order_as_values(a in any::<f32>(), b in any::<f32>()) {
            prop_assume!(a.is_finite() && b.is_finite());
            prop_assert_eq!(a.partial_cmp(&b), Some(from_f32(a).cmp(&from_f32(b))));
            prop_assert!(to_f32(from_f32(a)).to_bits() == (a + 0.0).to_bits());
        }

        #[test]
        fn i64_keys_order_as_values(a in any::<i64>(), b in any::<i64>()) {
            prop_assert_eq!(a.cmp(&b), from_i64(a).cmp(&from_i64(b)));
            prop_assert_eq!(to_i64(from_i64(a)), a);
        }
    }

    #[test]
    fn zeros_are_one_value() {
        assert_eq!(from_f64(-0.0), from_f64(0.0));
        assert_eq!(from_f32(-0.0), from_f32(0.0));
        assert!(to_f32(from_f32(-0.0)).is_sign_positive());
    }
}
