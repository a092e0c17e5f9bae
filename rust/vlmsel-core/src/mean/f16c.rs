//! IEEE binary16 by the instructions that x86-64 has for it: more than three times as fast as arithmetic on bits.

use std::arch::x86_64::{__m128i, __m256, _MM_FROUND_TO_NEAREST_INT, _mm256_cvtph_ps, _mm256_cvtps_ph};

/// Values that one instruction converts.
const TOGETHER: usize = 8;

/// Whether this machine can run what is in here.
#[inline]
pub fn is_here() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("f16c")
}

/// Adds each value times `weight` to its sum, as long as there are eight of them; how many that were.
#[target_feature(enable = "avx2,f16c")]
pub fn add(sums: &mut [f32], values: &[[u8; 2]], weight: f32) -> usize {
    let (sum_eights, _) = sums.as_chunks_mut::<TOGETHER>();
    let (eights, _) = values.as_chunks::<TOGETHER>();
    for (sums, eight) in sum_eights.iter_mut().zip(eights) {
        for (sum, value) in sums.iter_mut().zip(widen(*eight)) {
            *sum += value * weight;
        }
    }
    eights.len() * TOGETHER
}

/// Rounds each sum over `divisor`, as long as there are eight of them; how many that were, and whether all means are finite.
#[target_feature(enable = "avx2,f16c")]
pub fn round(sums: &[f32], divisor: f32, out: &mut [[u8; 2]]) -> (usize, bool) {
    let (eights, _) = sums.as_chunks::<TOGETHER>();
    let (out_eights, _) = out.as_chunks_mut::<TOGETHER>();
    let mut finite = true;
    for (eight, out) in eights.iter().zip(out_eights) {
        let means = eight.map(|sum| sum / divisor);
        for mean in means {
            finite &= mean.is_finite();
        }
        *out = narrow(means);
    }
    (eights.len() * TOGETHER, finite)
}

#[target_feature(enable = "f16c")]
fn widen(values: [[u8; 2]; TOGETHER]) -> [f32; TOGETHER] {
    // SAFETY: both sides of either conversion are plain numbers of the same size.
    unsafe {
        let values = std::mem::transmute::<[[u8; 2]; TOGETHER], __m128i>(values);
        std::mem::transmute::<__m256, [f32; TOGETHER]>(_mm256_cvtph_ps(values))
    }
}

#[target_feature(enable = "f16c")]
fn narrow(values: [f32; TOGETHER]) -> [[u8; 2]; TOGETHER] {
    // SAFETY: both sides of either conversion are plain numbers of the same size.
    unsafe {
        let values = std::mem::transmute::<[f32; TOGETHER], __m256>(values);
        std::mem::transmute::<__m128i, [[u8; 2]; TOGETHER]>(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(values))
    }
}
