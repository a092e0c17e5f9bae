//! Against the slow way: values by the `half` crate or by definition, one at a time.

use half::{bf16, f16};
use proptest::prelude::*;

use super::stored::{Bf16, F16, F32, StoredFloat, add_each, round_each};
use super::*;

/// The mean of one column as the contract has it.
fn mean_of_column(dtype: Dtype, column: &[&[u8]], weights: &[f64]) -> (Vec<u8>, bool) {
    let total: f64 = weights.iter().sum();
    if dtype == Dtype::F32 {
        let widened = column.iter().map(|bytes| f64::from(f32::from_le_bytes((*bytes).try_into().unwrap())));
        let mean = widened.zip(weights).map(|(value, weight)| value * weight).reduce(|a, b| a + b).unwrap() / total;
        return ((mean as f32).to_le_bytes().to_vec(), mean.is_finite());
    }
    let widened = column.iter().map(|bytes| {
        let bits = u16::from_le_bytes((*bytes).try_into().unwrap());
        if dtype == Dtype::F16 { f16::from_bits(bits).to_f32_const() } else { bf16::from_bits(bits).to_f32_const() }
    });
    let sum = widened.zip(weights).map(|(value, weight)| value * *weight as f32).reduce(|a, b| a + b).unwrap();
    let mean = sum / total as f32;
    let bits =
        if dtype == Dtype::F16 { f16::from_f32_const(mean).to_bits() } else { bf16::from_f32_const(mean).to_bits() };
    (bits.to_le_bytes().to_vec(), mean.is_finite())
}

/// Values of every magnitude, and often those at the edges of the formats.
fn value(dtype: Dtype) -> BoxedStrategy<Vec<u8>> {
    match dtype {
        Dtype::F32 => prop_oneof![
            any::<u32>(),
            prop::sample::select(vec![
                0,
                0x8000_0000,
                1,
                0x007F_FFFF,
                0x0080_0000,
                0x7F7F_FFFF,
                0x7F80_0000,
                0x7FC0_0000
            ]),
        ]
        .prop_map(|bits| bits.to_le_bytes().to_vec())
        .boxed(),
        _ => prop_oneof![
            any::<u16>(),
            prop::sample::select(vec![
                0_u16, 0x8000, 1, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0x7C00, 0x7F7F, 0x7F80, 0x7FC0
            ]),
        ]
        .prop_map(|bits| bits.to_le_bytes().to_vec())
        .boxed(),
    }
}

fn problem() -> impl Strategy<Value = (Dtype, Vec<Vec<u8>>, Vec<f64>)> {
    (prop::sample::select(vec![Dtype::Bf16, Dtype::F16, Dtype::F32]), 1_usize..7, 0_usize..70, any::<bool>())
        .prop_flat_map(|(dtype, count, length, equal)| {
            let chunk = prop::collection::vec(value(dtype), length).prop_map(|values| values.concat());
            let weight = if equal { Just(1.0).boxed() } else { (1e-3..1e3_f64).boxed() };
            (Just(dtype), prop::collection::vec(chunk, count), prop::collection::vec(weight, count))
        })
}

proptest! {
    #[test]
    fn each_value_is_the_mean_of_its_column((dtype, chunks, weights) in problem()) {
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let size = dtype.size_bytes();
        let mut out = vec![0; chunks[0].len()];
        let finite = mean(dtype, &chunks, &weights, &mut out).unwrap();
        let mut all_finite = true;
        for start in (0..out.len()).step_by(size) {
            let column: Vec<&[u8]> = chunks.iter().map(|chunk| &chunk[start..start + size]).collect();
            let (expected, is_finite) = mean_of_column(dtype, &column, &weights);
            all_finite &= is_finite;
            if is_finite {
                prop_assert_eq!(&out[start..start + size], expected);
            }
        }
        prop_assert_eq!(finite, all_finite);
    }
}

/// Chunks longer than one block, at an odd address, with one NaN in any block or none.
#[test]
fn blocks_and_odd_addresses_change_nothing() {
    for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
        let size = dtype.size_bytes();
        for (values, spoilt) in
            [(BLOCK * 2, None), (BLOCK * 2 + 13, None), (BLOCK * 2 + 13, Some(3)), (BLOCK + 1, Some(BLOCK))]
        {
            let bytes = |seed: usize| -> Vec<u8> {
                let byte = |at: usize| if at % size == size - 1 { 0x3C } else { (at * 31 + seed * 17) as u8 };
                std::iter::once(0).chain((0..values * size).map(byte)).collect()
            };
            let (first, mut second) = (bytes(1), bytes(2));
            if let Some(at) = spoilt {
                second[1 + at * size..=(at + 1) * size].fill(0xFF);
            }
            let (chunks, weights) = ([&first[1..], &second[1..]], [1.0, 1.0]);
            let mut out = vec![0; values * size];
            assert_eq!(mean(dtype, &chunks, &weights, &mut out), Ok(spoilt.is_none()));
            for at in (0..values).filter(|at| Some(*at) != spoilt) {
                let span = at * size..(at + 1) * size;
                let column = chunks.map(|chunk| &chunk[span.clone()]);
                assert_eq!(out[span], mean_of_column(dtype, &column, &weights).0);
            }
        }
    }
}

/// Every f32 that decides a rounding: each 16-bit value, the ties beside it, and their neighbours.
fn deciding(widen: impl Fn(u16) -> f32) -> Vec<f32> {
    let mut found = Vec::new();
    for bits in 0..=u16::MAX {
        let (value, next) = (widen(bits), widen(bits.wrapping_add(1)));
        for exact in [value, f64::midpoint(f64::from(value), f64::from(next)) as f32] {
            found.extend([exact, exact.next_down(), exact.next_up()]);
        }
    }
    found.extend([65_519.996, 65_520.0, 65_536.0, 1e9, -1e9, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -1e-45]);
    // The largest bf16 value's far tie and what lies below it.
    found.extend([f32::from_bits(0x7F7F_8000), f32::from_bits(0x7F7F_7FFF)]);
    found.retain(|value| !value.is_nan());
    found
}

/// Widens and narrows slices with `add` and `round`, as a sum of one summand, beside what `half` does with each value.
fn check_conversions(
    widen: fn(u16) -> f32,
    narrow: fn(f32) -> u16,
    add: fn(&mut [f32], &[[u8; 2]], f32),
    round: fn(&[f32], f32, &mut [[u8; 2]]) -> bool,
) {
    let stored: Vec<[u8; 2]> = (0..=u16::MAX).map(u16::to_le_bytes).collect();
    let mut sums = vec![f32::NOTHING; stored.len()];
    add(&mut sums, &stored, 1.0);
    for (bits, sum) in (0..=u16::MAX).zip(sums) {
        let expected = widen(bits);
        let same = if expected.is_nan() { sum.is_nan() } else { sum.to_bits() == expected.to_bits() };
        assert!(same, "{bits:#06x} is {expected:e}, not {sum:e}");
    }
    let values = deciding(widen);
    let mut out = vec![[0; 2]; values.len()];
    assert!(!round(&values, 1.0, &mut out), "infinities are among the values");
    for (value, bytes) in values.iter().zip(out) {
        let (found, expected) = (u16::from_le_bytes(bytes), narrow(*value));
        assert_eq!(found, expected, "{value:e} is {expected:#06x}, not {found:#06x}");
    }
}

#[test]
fn bf16_conversions_are_those_of_half() {
    let widen = |bits| bf16::from_bits(bits).to_f32_const();
    let narrow = |value| bf16::from_f32_const(value).to_bits();
    check_conversions(widen, narrow, Bf16::add, Bf16::round);
}

#[test]
fn f16_conversions_are_those_of_half_with_and_without_instructions() {
    let widen = |bits| f16::from_bits(bits).to_f32_const();
    let narrow = |value| f16::from_f32_const(value).to_bits();
    check_conversions(widen, narrow, F16::add, F16::round);
    check_conversions(widen, narrow, add_each::<F16, 2>, round_each::<F16, 2>);
}

/// What is compiled for any machine gives the same bits as what this machine runs.
#[test]
fn instruction_sets_agree() {
    fn both<S: StoredFloat<N>, const N: usize>(dtype: Dtype) {
        let bytes: Vec<u8> = (0..4 * (BLOCK + 5)).map(|at| (at * 37 % 113) as u8).collect();
        let chunks = [bytes.as_slice(), &[bytes[8..].to_vec(), vec![0; 8]].concat()];
        let weights = [0.3, 1.9];
        let (mut here, mut anywhere) = (vec![0; bytes.len()], vec![0; bytes.len()]);
        assert_eq!(mean(dtype, &chunks, &weights, &mut here), Ok(true));
        let summands: Vec<_> = (chunks.iter().zip(weights))
            .map(|(chunk, weight)| (chunk.as_chunks().0, S::Wide::from_f64(weight)))
            .collect();
        assert!(blend::<S, N>(&summands, S::Wide::from_f64(0.3 + 1.9), anywhere.as_chunks_mut().0));
        assert_eq!(here, anywhere);
    }
    both::<Bf16, 2>(Dtype::Bf16);
    both::<F16, 2>(Dtype::F16);
    both::<F32, 4>(Dtype::F32);
}

#[test]
fn wrong_calls_are_named() {
    let mut out = [0; 6];
    let mut message =
        |dtype, chunks: &[&[u8]], weights: &[f64]| mean(dtype, chunks, weights, &mut out).unwrap_err().to_string();
    assert_eq!(message(Dtype::F32, &[], &[]), "a mean needs at least one chunk, none was given");
    assert_eq!(message(Dtype::F16, &[&[0; 6]], &[1.0, 2.0]), "2 weights for 1 chunks; give one for each chunk");
    assert_eq!(
        message(Dtype::F16, &[&[0; 6], &[0; 4]], &[1.0, 1.0]),
        "chunk 1 has 4 bytes where the output has 6; all must be equally long"
    );
    assert_eq!(message(Dtype::F32, &[&[0; 6]], &[1.0]), "6 bytes are not a whole number of F32 values");
    assert_eq!(Dtype::parse("F64").unwrap_err().to_string(), r#"dtype "F64" is not averaged; BF16, F16 and F32 are"#);
}
