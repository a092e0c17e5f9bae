//! Which scores of a block lie between two bounds.
//!
//! Nearly all scores of a selection are beyond its cut. They are looked at sixteen at a time, and only sixteens that hold
//! a winner are looked at singly.

/// Values that are looked at together.
const TOGETHER: usize = 16;

/// Calls `keep` with the place of every value between the bounds of `wanted`, both included. Returns whether all values
/// lie between those of `fine`; NaN lies between nothing.
pub fn keep_between<T: Copy + PartialOrd>(
    values: &[T],
    fine: (T, T),
    wanted: (T, T),
    mut keep: impl FnMut(usize),
) -> bool {
    // Compiled twice, because the wheel is for every x86-64 and AVX2 halves the time.
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn sift_avx2<T: Copy + PartialOrd>(
            values: &[T],
            fine: (T, T),
            wanted: (T, T),
            keep: &mut impl FnMut(usize),
        ) -> bool {
            sift(values, fine, wanted, keep)
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: this machine has the feature.
            return unsafe { sift_avx2(values, fine, wanted, &mut keep) };
        }
    }
    sift(values, fine, wanted, &mut keep)
}

/// The same for any machine; inlined into both.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled once for each instruction set")]
#[allow(clippy::needless_bitwise_bool, reason = "without branches many values are compared at once")]
fn sift<T: Copy + PartialOrd>(values: &[T], fine: (T, T), wanted: (T, T), keep: &mut impl FnMut(usize)) -> bool {
    let inside = |value: T, (low, high): (T, T)| (value >= low) & (value <= high);
    let mut all_fine = true;
    let (sixteens, rest) = values.as_chunks::<TOGETHER>();
    for (at, sixteen) in sixteens.iter().enumerate() {
        let mut any = false;
        for value in sixteen {
            all_fine &= inside(*value, fine);
            any |= inside(*value, wanted);
        }
        if any {
            let first = at * TOGETHER;
            (0..TOGETHER).filter(|within| inside(sixteen[*within], wanted)).for_each(|within| keep(first + within));
        }
    }
    for (value, at) in rest.iter().zip(sixteens.len() * TOGETHER..) {
        all_fine &= inside(*value, fine);
        if inside(*value, wanted) {
            keep(at);
        }
    }
    all_fine
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_a_filter(
            values in prop::collection::vec(prop_oneof![-2_f32..2.0, any::<f32>()], 0..100),
            fine in prop_oneof![Just((0.0, f32::MAX)), Just((f32::MIN, f32::MAX))],
            low in prop_oneof![-2_f32..2.0, any::<f32>()],
            high in prop_oneof![-2_f32..2.0, any::<f32>()],
        ) {
            let is_wanted = |value: &f32| *value >= low && *value <= high;
            let expected: Vec<usize> = (0..values.len()).filter(|at| is_wanted(&values[*at])).collect();
            let all_fine = values.iter().all(|value| *value >= fine.0 && *value <= fine.1);
            let mut kept = Vec::new();
            prop_assert_eq!(keep_between(&values, fine, (low, high), |at| kept.push(at)), all_fine);
            prop_assert_eq!(&kept, &expected);
            kept.clear();
            prop_assert_eq!(sift(&values, fine, (low, high), &mut |at| kept.push(at)), all_fine);
            prop_assert_eq!(kept, expected);
        }
    }
}
