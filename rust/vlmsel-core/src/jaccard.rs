//! Jaccard similarity of sets against a threshold, in whole numbers: |x ∩ y| / |x ∪ y| ≥ t, with t as the user wrote it.
//!
//! The bounds are those of prefix filtering (Chaudhuri et al., ICDE 2006; Bayardo et al., WWW 2007). No float decides.

use crate::decimal::{Decimal, NotADecimal};

/// A threshold above 0 and at most 1, as an exact fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jaccard {
    decimal: Decimal,
    numerator: u128,
    denominator: u128,
}

/// Why a threshold was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAThreshold {
    /// Not a decimal.
    #[error(transparent)]
    NotADecimal(#[from] NotADecimal),
    /// A decimal that is no similarity.
    #[error("{0} is no Jaccard threshold: above 0 and at most 1, such as 0.8")]
    OutOfRange(Decimal),
}

impl Jaccard {
    /// Reads a decimal such as `0.8`.
    ///
    /// # Errors
    /// [`NotAThreshold`].
    pub fn parse(text: &str) -> Result<Self, NotAThreshold> {
        let decimal = Decimal::parse(text)?;
        let (numerator, denominator) = decimal.as_ratio();
        if numerator == 0 || numerator > denominator {
            return Err(NotAThreshold::OutOfRange(decimal));
        }
        Ok(Self { decimal, numerator, denominator })
    }

    /// Items that sets of `a` and `b` items must share to be similar enough; more than the smaller has where they cannot be.
    pub fn required_overlap(&self, a: usize, b: usize) -> usize {
        let sum = a as u128 + b as u128;
        (self.numerator * sum).div_ceil(self.numerator + self.denominator) as usize
    }

    /// Items that a set of `a` shares at least with any that is similar enough; also the size of the smallest such set.
    pub fn least(&self, a: usize) -> usize {
        (self.numerator * a as u128).div_ceil(self.denominator) as usize
    }

    /// Size of the largest set that may be similar enough to one of `a` items.
    pub fn largest(&self, a: usize) -> usize {
        (a as u128 * self.denominator / self.numerator).min(usize::MAX as u128) as usize
    }

    /// How many of the first items of a set, in one order for all sets, have to be looked at: two sets that are similar enough
    /// share one of these. 0 for the empty set.
    pub fn prefix(&self, a: usize) -> usize {
        if a == 0 { 0 } else { a - self.least(a) + 1 }
    }

    /// Whether sets of `a` and `b` items that share `overlap` are similar enough. Empty sets never are.
    pub fn holds(&self, overlap: usize, a: usize, b: usize) -> bool {
        let union = a as u128 + b as u128 - overlap as u128;
        overlap > 0 && overlap as u128 * self.denominator >= self.numerator * union
    }

    /// The threshold as the nearest float, for what is shown or estimated.
    pub fn as_f64(&self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }
}

impl std::fmt::Display for Jaccard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.decimal.fmt(f)
    }
}

/// The similarity of sets of `a` and `b` items that share `overlap`, for output: decisions are [`Jaccard::holds`]'s.
pub fn similarity(overlap: usize, a: usize, b: usize) -> f32 {
    let union = a + b - overlap;
    if union == 0 { 0.0 } else { (overlap as f64 / union as f64) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn thresholds_are_what_was_written() {
        let t = Jaccard::parse("0.7").unwrap();
        // 0.7 of 10 is 7 exactly; in floats 0.7 * 10 rounds to 7.000000000000001 for some spellings.
        assert_eq!((t.least(10), t.prefix(10), t.largest(7)), (7, 4, 10));
        assert_eq!(t.to_string(), "0.7");
        // One word changed in 8.
        assert!(Jaccard::parse("0.777777777777777777").unwrap().holds(7, 8, 8));
        assert!(!Jaccard::parse("0.777777777777777778").unwrap().holds(7, 8, 8));
        assert!(Jaccard::parse("1").unwrap().holds(3, 3, 3) && !Jaccard::parse("1").unwrap().holds(3, 3, 4));
        for wrong in ["0", "1.0000001", "80", "-1", "", "x"] {
            assert!(Jaccard::parse(wrong).is_err(), "{wrong}");
        }
        assert!(!t.holds(0, 0, 0) && t.prefix(0) == 0);
        assert_eq!((similarity(7, 8, 8), similarity(0, 0, 0)), (7.0 / 9.0, 0.0));
    }

    proptest! {
        /// Every bound, from nothing but `holds`.
        #[test]
        fn bounds_are_tight(thousandths in 1_u32..=1000, a in 1_usize..200, b in 1_usize..200) {
            let t = Jaccard::parse(&format!("{}.{:03}", thousandths / 1000, thousandths % 1000)).unwrap();
            let required = t.required_overlap(a, b);
            for overlap in 1..=a.min(b) {
                prop_assert_eq!(t.holds(overlap, a, b), overlap >= required, "{} of {} and {}", overlap, a, b);
            }
            let possible = t.holds(a.min(b), a, b);
            prop_assert_eq!(possible, b >= t.least(a) && b <= t.largest(a));
            if possible {
                prop_assert!(required >= t.least(a));
                prop_assert_eq!(t.prefix(a), a - t.least(a) + 1);
            }
        }
    }
}
