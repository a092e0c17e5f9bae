//! The order of scores as unsigned integers.
//!
//! Every numeric type is mapped to an integer whose order is the order of the values: `f32` and `f64` as stored,
//! integers of 64 bits without rounding, -0.0 equal to +0.0. Keys of wider integers may be shared, and never turn an order
//! round. NaN and the infinities have no key: they never rank. The bits of a key turned over are its key in the reversed order.

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

/// Values below this in size have a key each; it is more than any decimal of 18 digits has.
const EXACT: u128 = 1 << 62;
/// Bits behind the leading one that keys of larger values keep.
const KEPT_BITS: u32 = 54;

/// Key of a signed integer of 128 bits. Up to 18 digits it is [`from_i64`]'s. Beyond, values that agree in their first 55
/// bits share a key: whoever needs their order compares the values as well.
#[inline]
pub fn from_i128(value: i128) -> u64 {
    let size = value.unsigned_abs();
    let steps = if size < EXACT {
        size as u64
    } else {
        let bits = size.ilog2();
        let kept = (size >> (bits - KEPT_BITS)) as u64 & ((1 << KEPT_BITS) - 1);
        (1 << 62) + (u64::from(bits - 62) << KEPT_BITS | kept)
    };
    if value < 0 { (1 << 63) - steps } else { (1 << 63) + steps }
}

/// The value nearest zero that has this key.
#[inline]
pub fn to_i128(key: u64) -> i128 {
    let steps = key.abs_diff(1 << 63);
    let size = match steps.checked_sub(1 << 62) {
        None => u128::from(steps),
        Some(beyond) => {
            let bits = (62 + (beyond >> KEPT_BITS) as u32).min(127);
            u128::from(beyond & ((1 << KEPT_BITS) - 1) | 1 << KEPT_BITS) << (bits - KEPT_BITS)
        }
    };
    let positive = i128::try_from(size).unwrap_or(i128::MAX);
    if key < 1 << 63 { -positive } else { positive }
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

    proptest! {
        #[test]
        fn i128_keys_never_turn_an_order_round(a in any::<i128>(), b in any::<i128>(), by in 0_u32..128, near in -3_i128..4) {
            for (a, b) in [(a, b), (a >> by, b), (a >> by, (a >> by).saturating_add(near)), (a >> by, b >> by)] {
                let (small, large) = (a.min(b), a.max(b));
                prop_assert!(from_i128(small) <= from_i128(large));
                prop_assert_eq!(from_i128(to_i128(from_i128(a))), from_i128(a));
                prop_assert!(to_i128(from_i128(a)).unsigned_abs() <= a.unsigned_abs());
            }
        }

        #[test]
        fn small_i128_keys_are_those_of_i64(value in -(1_i64 << 62) + 1..1 << 62) {
            prop_assert_eq!(from_i128(value.into()), from_i64(value));
            prop_assert_eq!(to_i128(from_i64(value)), i128::from(value));
        }
    }

    #[test]
    fn the_largest_i128_have_keys() {
        let powers = (0..127).flat_map(|bits| [(1_i128 << bits) - 1, 1 << bits]);
        let ordered: Vec<i128> = powers.chain([i128::MAX]).collect();
        assert!(ordered.windows(2).all(|pair| from_i128(pair[0]) <= from_i128(pair[1])));
        assert!(ordered.windows(2).all(|pair| from_i128(-pair[0]) >= from_i128(-pair[1])));
        assert!(from_i128(i128::MIN) <= from_i128(i128::MIN + 1) && to_i128(from_i128(i128::MIN)) < -i128::MAX / 2);
        assert!(from_i128((1 << 62) - 1) < from_i128(1 << 62) && from_i128(1 << 100) < from_i128(3 << 99));
    }

    #[test]
    fn zeros_are_one_value() {
        assert_eq!(from_f64(-0.0), from_f64(0.0));
        assert_eq!(from_f32(-0.0), from_f32(0.0));
        assert!(to_f32(from_f32(-0.0)).is_sign_positive());
    }
}
