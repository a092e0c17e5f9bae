//! How many samples to keep, as exact arithmetic: fractions are decimals, never floats.

/// A decimal in `0 ..= 1` (or percent points), kept exactly as `numerator / 10^scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal {
    numerator: u128,
    scale: u32,
}

/// Why a decimal was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a plain decimal such as 0.2 with at most 18 digits behind the point")]
pub struct NotADecimal {
    /// What was given.
    pub text: String,
}

impl Decimal {
    /// Reads `0.2`, `20`, `.5`, `1e-3`; no sign.
    pub fn parse(text: &str) -> Result<Self, NotADecimal> {
        let wrong = || NotADecimal { text: text.to_owned() };
        let clean = text.trim().replace('_', "");
        let (mantissa, exponent) = match clean.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| wrong())?),
            None => (clean.as_str(), 0),
        };
        let (whole, rest) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() && rest.is_empty() || !(whole.chars().chain(rest.chars())).all(|c| c.is_ascii_digit()) {
            return Err(wrong());
        }
        if whole.len() + rest.len() > 36 || exponent.abs() > 18 {
            return Err(wrong());
        }
        let mut numerator: u128 = format!("{whole}{rest}").parse().map_err(|_| wrong())?;
        let mut scale = i32::try_from(rest.len()).map_err(|_| wrong())? - exponent;
        while scale < 0 {
            numerator = numerator.checked_mul(10).ok_or_else(wrong)?;
            scale += 1;
        }
        while scale > 0 && numerator.is_multiple_of(10) {
            numerator /= 10;
            scale -= 1;
        }
        if scale > 18 || numerator > 10_u128.pow(19) {
            return Err(wrong());
        }
        Ok(Self { numerator, scale: scale.cast_unsigned() })
    }

    /// `floor(self * count / divisor)`, exactly.
    pub fn of(self, count: u64, divisor: u64) -> u64 {
        let product = self.numerator * u128::from(count);
        (product / (10_u128.pow(self.scale) * u128::from(divisor))) as u64
    }

    /// Numerator and denominator, the latter a power of ten up to 10^18.
    pub fn as_ratio(self) -> (u128, u128) {
        (self.numerator, 10_u128.pow(self.scale))
    }

    /// Whether this is at most `bound`.
    pub fn at_most(self, bound: u64) -> bool {
        self.numerator <= u128::from(bound) * 10_u128.pow(self.scale)
    }

    /// `self - other`, exactly; `None` where that is below 0.
    pub fn minus(self, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        let at_scale = |decimal: Self| decimal.numerator * 10_u128.pow(scale - decimal.scale);
        let mut difference = Self { numerator: at_scale(self).checked_sub(at_scale(other))?, scale };
        while difference.scale > 0 && difference.numerator.is_multiple_of(10) {
            difference.numerator /= 10;
            difference.scale -= 1;
        }
        Some(difference)
    }

    /// Whether `self <= other`.
    pub fn not_above(self, other: Self) -> bool {
        self.numerator * 10_u128.pow(other.scale) <= other.numerator * 10_u128.pow(self.scale)
    }
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let power = 10_u128.pow(self.scale);
        if self.scale == 0 {
            return write!(f, "{}", self.numerator);
        }
        let (whole, rest, width) = (self.numerator / power, self.numerator % power, self.scale as usize);
        write!(f, "{whole}.{rest:0width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fractions_are_exact() {
        // 0.29 * 100 is 28.999... in floating point.
        assert_eq!(Decimal::parse("0.29").unwrap().of(100, 1), 29);
        assert_eq!(Decimal::parse("0.2").unwrap().of(5_000_000, 1), 1_000_000);
        assert_eq!(Decimal::parse("33.3").unwrap().of(1000, 100), 333);
        assert_eq!(Decimal::parse("1").unwrap().of(u64::MAX, 1), u64::MAX);
        assert_eq!(Decimal::parse("1e-3").unwrap().of(1999, 1), 1);
        for wrong in ["", ".", "-1", "0x1", "1.2.3", "nan", "1e99", "+1", "0.1234567890123456789"] {
            assert!(Decimal::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Decimal::parse("1.0").unwrap().at_most(1) && !Decimal::parse("1.01").unwrap().at_most(1));
        assert_eq!(Decimal::parse("00.50").unwrap().to_string(), "0.5");
        let minus = |a: &str, b: &str| Decimal::parse(a).unwrap().minus(Decimal::parse(b).unwrap());
        assert_eq!(minus("0.85", "0.1"), Some(Decimal::parse("0.75").unwrap()));
        assert_eq!(minus("0.3", "0.1"), Some(Decimal::parse("0.2").unwrap()));
        assert_eq!(minus("1", "1"), Some(Decimal::parse("0").unwrap()));
        assert_eq!(minus("0.100000000000000001", "0.1"), Some(Decimal::parse("1e-18").unwrap()));
        assert_eq!(minus("0.09", "0.1"), None);
    }

    proptest! {
        #[test]
        fn agrees_with_integer_arithmetic(thousandths in 0_u64..=1000, n in 0_u64..1_000_000_000_000) {
            let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
            let expected = (u128::from(thousandths) * u128::from(n) / 1000) as u64;
            prop_assert_eq!(Decimal::parse(&text).unwrap().of(n, 1), expected);
        }
    }
}
