//! A threshold as the last key that it lets through, exactly, whatever the scores' type.

use arrow_schema::DataType;
use vlmsel_core::score_key;

/// Key (in the order of selection) of the worst possible score that is still within `threshold`; `None` if none is.
///
/// The threshold is compared with each score by value: an `f32` score of 0.1 is not within a threshold of 0.1, because
/// its value is 0.10000000149.
pub fn last_key(threshold: f64, data_type: &DataType, descending: bool) -> Option<u64> {
    // Ascending keeps score <= threshold: the largest key whose value is at most it. Descending mirrors that.
    let mirrored = |key: Option<u64>| if descending { key.map(|key| !key) } else { key };
    mirrored(match data_type {
        DataType::Float64 => bounded(threshold, descending, f64::MIN, f64::MAX).map(score_key::from_f64),
        DataType::Float32 => {
            let exact = bounded(threshold, descending, f64::from(f32::MIN), f64::from(f32::MAX))?;
            Some(score_key::from_f32(nearest_f32(exact, descending)))
        }
        DataType::Float16 => {
            // Keys of half floats are those of their values as `f32`.
            let exact = bounded(threshold, descending, -65504.0, 65504.0)?;
            Some(score_key::from_f32(nearest_f32(exact, descending)))
        }
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            let whole = if descending { threshold.ceil().max(0.0) } else { threshold.floor() };
            if whole < 0.0 || whole >= 18_446_744_073_709_551_616.0 && descending { None } else { Some(whole as u64) }
        }
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) => {
            Some(score_key::from_i128(last_decimal(threshold, *scale, descending)))
        }
        _ => {
            let whole = if descending { threshold.ceil() } else { threshold.floor() };
            let outside =
                if descending { whole >= 9_223_372_036_854_775_808.0 } else { whole < -9_223_372_036_854_775_808.0 };
            (!outside).then(|| score_key::from_i64(whole as i64))
        }
    })
}

/// The worst decimal of this scale, as its unscaled integer, that is still within `threshold`. A decimal is compared with
/// the threshold as it is written: 0.3 is within 0.3, though the nearest `f64` is a little less.
pub fn last_decimal(threshold: f64, scale: i8, descending: bool) -> i128 {
    let limit = if threshold < 0.0 { i128::MIN } else { i128::MAX };
    if threshold.is_infinite() {
        return limit;
    }
    // The shortest digits that mean this number: `-2.5e-1` is -25 times 10 to the power of -2.
    let written = format!("{threshold:e}");
    let (mantissa, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let (whole, rest) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: i128 = format!("{whole}{rest}").parse().unwrap_or(0);
    let power = exponent.parse::<i32>().unwrap_or(0) - i32::try_from(rest.len()).unwrap_or(0) + i32::from(scale);
    if let Ok(power) = u32::try_from(power) {
        let scaled = 10_i128.checked_pow(power).and_then(|ten| digits.checked_mul(ten));
        return scaled.unwrap_or(if digits == 0 { 0 } else { limit });
    }
    // There are 17 digits at most: a divisor of more is as good as any other.
    let divisor = 10_i128.pow(power.unsigned_abs().min(38));
    let floor = digits.div_euclid(divisor);
    if descending && digits.rem_euclid(divisor) > 0 { floor + 1 } else { floor }
}

/// The threshold brought into the type's range; `None` if every score is on its far side.
fn bounded(threshold: f64, descending: bool, least: f64, most: f64) -> Option<f64> {
    let beyond = if descending { threshold > most } else { threshold < least };
    (!beyond).then(|| threshold.clamp(least, most))
}

/// The `f32` next to `exact` on the side that is within the threshold.
fn nearest_f32(exact: f64, descending: bool) -> f32 {
    let rounded = exact as f32;
    let wide = f64::from(rounded);
    if descending && wide < exact {
        rounded.next_up()
    } else if !descending && wide > exact {
        rounded.next_down()
    } else {
        rounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn decimals_have_room_for_any_threshold() {
        assert_eq!(last_decimal(f64::INFINITY, 18, false), i128::MAX);
        assert_eq!(last_decimal(f64::NEG_INFINITY, 18, true), i128::MIN);
        assert_eq!(last_decimal(1e300, 18, true), i128::MAX);
        assert_eq!(last_decimal(-1e300, 0, false), i128::MIN);
        assert_eq!((last_decimal(1e-300, 37, false), last_decimal(1e-300, 37, true)), (0, 1));
        assert_eq!((last_decimal(-1e-300, 37, false), last_decimal(-1e-300, 37, true)), (-1, 0));
        assert_eq!(last_decimal(0.0, 38, false), 0);
        assert_eq!(last_decimal(0.3, 1, false), 3);
        assert_eq!(last_decimal(12.345, 18, false), 12_345_000_000_000_000_000);
    }

    proptest! {
        #[test]
        fn floats_are_within_exactly_if_their_value_is(threshold in any::<f64>(), score in any::<f32>(), descending in any::<bool>()) {
            prop_assume!(!threshold.is_nan() && score.is_finite());
            let key = score_key::from_f32(score) ^ if descending { u64::MAX } else { 0 };
            let within = last_key(threshold, &DataType::Float32, descending).is_some_and(|last| key <= last);
            let expected = if descending { f64::from(score) >= threshold } else { f64::from(score) <= threshold };
            prop_assert_eq!(within, expected);
        }

        #[test]
        fn decimals_are_compared_as_they_are_written(
            whole in -999_999_i64..1_000_000, behind in 0_usize..6, score in -999_999_i128..1_000_000, scale in 0_i8..6, descending in any::<bool>(),
        ) {
            // Both in millionths.
            let threshold = i128::from(whole) * 10_i128.pow(6 - behind as u32);
            let value = score * 10_i128.pow(6 - scale as u32);
            let sign = if whole < 0 { "-" } else { "" };
            let digits = format!("{:07}", whole.abs());
            let (front, back) = digits.split_at(7 - behind);
            let last = last_decimal(format!("{sign}{front}.{back}0").parse().unwrap(), scale, descending);
            let (within, expected) = if descending { (score >= last, value >= threshold) } else { (score <= last, value <= threshold) };
            prop_assert_eq!(within, expected);
        }

        #[test]
        fn integers_too(threshold in prop_oneof![any::<f64>(), -300.0..300.0_f64], score in any::<i8>(), small in any::<u8>(), descending in any::<bool>()) {
            prop_assume!(!threshold.is_nan());
            let turn = if descending { u64::MAX } else { 0 };
            let expected = |value: f64| if descending { value >= threshold } else { value <= threshold };
            let signed = last_key(threshold, &DataType::Int8, descending).is_some_and(|last| (score_key::from_i64(i64::from(score)) ^ turn) <= last);
            prop_assert_eq!(signed, expected(f64::from(score)));
            let unsigned = last_key(threshold, &DataType::UInt8, descending).is_some_and(|last| (u64::from(small) ^ turn) <= last);
            prop_assert_eq!(unsigned, expected(f64::from(small)));
        }
    }
}
