//! The lowest frequencies of a small picture.

use std::f64::consts::PI;
use std::sync::LazyLock;

use super::SIDE;

/// Frequencies along each axis.
pub(super) const LOW: usize = 8;

/// `WAVES[k][n]`: what pixel `n` counts for in frequency `k`, as in the type II DCT of `scipy` without a norm.
static WAVES: LazyLock<[[f64; SIDE]; LOW]> = LazyLock::new(|| {
    std::array::from_fn(|k| {
        std::array::from_fn(|n| {
            // Folded into the first quarter of a turn, so that waves are exactly even or odd about the middle, and what cancels in
            // exact arithmetic cancels here.
            let turn = 4 * SIDE;
            let at = (2 * n + 1) * k % turn;
            let at = at.min(turn - at);
            let (sign, at) = if at > SIDE { (-1.0, 2 * SIDE - at) } else { (1.0, at) };
            let value = if at == SIDE { 0.0 } else { (PI * at as f64 / (2 * SIDE) as f64).cos() };
            2.0 * sign * value
        })
    })
});

/// The `LOW` x `LOW` lowest frequencies (rows: down the picture, columns: across) of `SIDE` x `SIDE` pixels.
pub(super) fn low_frequencies(small: &[u8]) -> [f64; LOW * LOW] {
    let mut down = [[0.0; SIDE]; LOW];
    for (y, row) in small.chunks_exact(SIDE).enumerate() {
        for (sums, wave) in down.iter_mut().zip(&*WAVES) {
            for (sum, pixel) in sums.iter_mut().zip(row) {
                *sum += wave[y] * f64::from(*pixel);
            }
        }
    }
    std::array::from_fn(|at| {
        let (sums, wave) = (&down[at / LOW], &WAVES[at % LOW]);
        sums.iter().zip(wave).map(|(sum, weight)| sum * weight).sum()
    })
}
