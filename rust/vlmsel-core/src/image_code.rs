//! Perceptual codes of a picture: 64 bits that change little when it is saved anew or scaled.
//!
//! Both codes are those of Python's `imagehash` (4.3), bit for bit, so that tables of either may be compared:
//!
//! * `phash` (`imagehash.phash(image)`, 8 x 8 of 32 x 32): the picture in grey at 32 x 32, a type II DCT along both axes, the 64
//!   lowest frequencies; a bit is set where its coefficient is above their median;
//! * `dhash` (`imagehash.dhash(image)`, horizontal): in grey at 9 x 8; a bit is set where a pixel is brighter than its left neighbour.
//!
//! Both are resized as Pillow does it with LANCZOS ([`Scaler`]). Bits stand row by row, the first one highest: the number is
//! what `str(hash)` shows in hexadecimal.
//!
//! Where a coefficient *is* the median in exact arithmetic (pictures of one colour, or whose rows are all alike), the sign of a
//! rounding error decides in `imagehash`. Here such a bit is 0, on every machine: see [`TIE`].

mod dct;
mod scale;

pub use scale::Scaler;

use dct::{LOW, low_frequencies};
use scale::Size;

/// What the codes are called in manifests.
pub const HASH_NAME: &str = "phash+dhash+mirror";
/// Rises whenever the same pixels give another code or quality.
pub const HASH_VERSION: u32 = 1;
/// A picture of a lower quality is blank or nearly so: its codes say next to nothing, and many that have nothing in common
/// share them. It should match exactly, never nearly.
pub const LOW_QUALITY: u8 = 20;
/// A coefficient counts as above the median only by more than this. Coefficients are sums of up to 1,024 grey levels, so rounding
/// moves them by less than 1e-8, and of a picture with any detail none lies as near to the median by chance.
pub const TIE: f64 = 1e-6;

/// Pixels along each side of what `phash` looks at.
const SIDE: usize = 32;
const OF_PHASH: Size = Size { width: SIDE, height: SIDE };
/// What `dhash` looks at.
const OF_DHASH: Size = Size { width: 9, height: 8 };

/// The codes of one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageCodes {
    /// DCT of the picture, against the median.
    pub phash: u64,
    /// Each pixel against its left neighbour.
    pub dhash: u64,
    /// The `phash` of the picture mirrored left to right.
    pub mirror: u64,
    /// How much there is to see, from 0 to 100: see [`quality`].
    pub quality: u8,
}

/// The codes of a picture of `width` x `height` grey pixels, row by row without gaps.
///
/// # Panics
/// Where a side is 0 or `luma` has another length than `width * height`.
pub fn image_codes(luma: &[u8], width: usize, height: usize, scaler: &mut Scaler) -> ImageCodes {
    assert!(width > 0 && height > 0 && luma.len() == width * height, "a plane of {width} x {height} grey pixels");
    let size = Size { width, height };
    let small = scaler.scale(luma, size, OF_PHASH, false);
    let low = low_frequencies(&small);
    let of_mirror = if scaler.is_even_handed(width, SIDE) {
        low
    } else {
        // The filter's rounded coefficients differ between left and right; of no width up to 2,500 they do.
        low_frequencies(&scaler.scale(luma, size, OF_PHASH, true))
    };
    let dhash = dhash(&scaler.scale(luma, size, OF_DHASH, false));
    ImageCodes { phash: phash(&low), dhash, mirror: phash(&mirrored(of_mirror)), quality: quality(&small) }
}

/// The `dhash` of the mirrored picture, as far as the code of the picture itself tells it: the order within each row turned round,
/// and every bit inverted. Where neighbours are equally bright the bit is 0 in the codes of both pictures, and 1 here; so the
/// distance to the real code is the number of such ties, which blank and drawn pictures have and photographs hardly.
pub fn mirrored_dhash(dhash: u64) -> u64 {
    // The order of bits within each byte, which is a row: all bits turned round, and then the bytes turned back.
    !dhash.reverse_bits().swap_bytes()
}

/// How much there is to see in a picture, after the quality measure of PDQ: the sum of gradients.
///
/// In grey at 32 x 32, each pair of neighbours `a`, `b` (across and down, 1,984 of them) counts
/// `floor(|a - b| * 100 / 255)`, so that noise of two grey levels is nothing; the sum is divided by 45 and capped at 100. PDQ
/// divides by 90 at 64 x 64, where the same picture has twice the sum.
fn quality(small: &[u8]) -> u8 {
    let step = |a: u8, b: u8| u32::from(a.abs_diff(b)) * 100 / 255;
    let across = small.chunks_exact(SIDE).flat_map(|row| row.windows(2)).map(|pair| step(pair[0], pair[1]));
    let down = small.iter().zip(&small[SIDE..]).map(|(above, below)| step(*above, *below));
    (across.chain(down).sum::<u32>() / 45).min(100) as u8
}

/// A bit for each of the lowest frequencies that lies above their median.
fn phash(low: &[f64; LOW * LOW]) -> u64 {
    let mut sorted = *low;
    sorted.sort_unstable_by(f64::total_cmp);
    let median = f64::midpoint(sorted[LOW * LOW / 2 - 1], sorted[LOW * LOW / 2]);
    bits(low.iter().map(|coefficient| *coefficient > median + TIE))
}

fn dhash(small: &[u8]) -> u64 {
    bits(small.chunks_exact(OF_DHASH.width).flat_map(|row| row.windows(2)).map(|pair| pair[1] > pair[0]))
}

/// The frequencies of the mirrored picture: waves that are odd around its middle change their sign.
fn mirrored(mut low: [f64; LOW * LOW]) -> [f64; LOW * LOW] {
    for row in low.as_chunks_mut::<LOW>().0 {
        row.iter_mut().skip(1).step_by(2).for_each(|coefficient| *coefficient = -*coefficient);
    }
    low
}

/// 64 bits, the first one highest.
fn bits(of: impl Iterator<Item = bool>) -> u64 {
    of.fold(0, |code, bit| code << 1 | u64::from(bit))
}

#[cfg(test)]
mod tests;
