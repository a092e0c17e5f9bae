//! Which keys of a block lie between two bounds.
//!
//! Nearly all keys of a selection are above its cut. They are looked at eight at a time, and only eights that hold a
//! winner are looked at singly.

/// Keys that are tested together.
const TOGETHER: usize = 8;

/// Appends to `rows` and `kept` the place (from `first_row` on) and the key of every key between `lower` and `upper`,
/// both included. Each key is first combined with `turned` (0, or all ones to turn the order round).
pub fn keep_between(
    keys: &[u64],
    turned: u64,
    (lower, upper): (u64, u64),
    first_row: u32,
    rows: &mut Vec<u32>,
    kept: &mut Vec<u64>,
) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn keep_avx2(
            keys: &[u64],
            turned: u64,
            bounds: (u64, u64),
            first_row: u32,
            rows: &mut Vec<u32>,
            kept: &mut Vec<u64>,
        ) {
            keep(keys, turned, bounds, first_row, rows, kept);
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: this machine has the feature.
            return unsafe { keep_avx2(keys, turned, (lower, upper), first_row, rows, kept) };
        }
    }
    keep(keys, turned, (lower, upper), first_row, rows, kept);
}

/// The same for any machine; inlined into both.
#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled once for each instruction set")]
#[allow(clippy::needless_bitwise_bool, reason = "without branches eight keys are compared at once")]
fn keep(
    keys: &[u64],
    turned: u64,
    (lower, upper): (u64, u64),
    first_row: u32,
    rows: &mut Vec<u32>,
    kept: &mut Vec<u64>,
) {
    for (at, eight) in keys.chunks(TOGETHER).enumerate() {
        let any = eight.iter().fold(false, |any, key| {
            let key = key ^ turned;
            any | ((key <= upper) & (key >= lower))
        });
        if any {
            for (within, key) in eight.iter().enumerate() {
                let key = key ^ turned;
                if key <= upper && key >= lower {
                    rows.push(first_row + (at * TOGETHER + within) as u32);
                    kept.push(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_a_filter(
            keys in prop::collection::vec(prop_oneof![0_u64..50, any::<u64>()], 0..100),
            turned in prop_oneof![Just(0), Just(u64::MAX)],
            lower in prop_oneof![0_u64..50, any::<u64>()],
            upper in prop_oneof![0_u64..50, any::<u64>()],
            first_row in 0_u32..1000,
        ) {
            let places = (first_row..).zip(&keys).map(|(row, key)| (row, key ^ turned));
            let expected: Vec<(u32, u64)> = places.filter(|(_, key)| (lower..=upper).contains(key)).collect();
            for run in [keep_between, keep] {
                let (mut rows, mut kept) = (Vec::new(), Vec::new());
                run(&keys, turned, (lower, upper), first_row, &mut rows, &mut kept);
                prop_assert_eq!(rows.into_iter().zip(kept).collect::<Vec<_>>(), expected.clone());
            }
        }
    }
}
