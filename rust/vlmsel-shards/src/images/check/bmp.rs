//! BMP: as many bytes as the header's pixels take, or runs of pixels up to the code that ends them.
//!
//! Pixels as they are have no redundancy: only a cut shows.

use super::Damage;
use crate::images::bitmap::{Bitmap, Compression};

pub(in crate::images) fn check(bytes: &[u8]) -> Result<(), Damage> {
    let bitmap = Bitmap::read(bytes).ok_or(Damage::Truncated)?;
    if !bitmap.is_known_header {
        return Err(Damage::Unsupported("a bitmap of OS/2 with half a header"));
    }
    if !matches!(bitmap.bits, 1 | 4 | 8 | 16 | 24 | 32) {
        return Err(Damage::Unsupported("pixels of an odd number of bits"));
    }
    // Some writers leave the place of the pixels out.
    let at = if bitmap.pixels_at == 0 { bitmap.header_end } else { bitmap.pixels_at };
    if at < bitmap.header_end {
        return Err(Damage::Corrupt("pixels inside the header"));
    }
    let pixels = bytes.get(at as usize..).ok_or(Damage::Truncated)?;
    match bitmap.compression {
        Compression::Other => Err(Damage::Unsupported("a compression of bitmaps that is not read")),
        Compression::Rle { is_of_4_bits } => runs(pixels, &bitmap, is_of_4_bits),
        Compression::None => {
            // What fills the last row up says nothing, and some writers leave it out.
            let last = (u64::from(bitmap.width) * u64::from(bitmap.bits)).div_ceil(8);
            let needed = (u64::from(bitmap.height) - 1) * bitmap.row_bytes() + last;
            if (pixels.len() as u64) < needed { Err(Damage::Truncated) } else { Ok(()) }
        }
    }
}

/// Pairs of bytes: so many pixels of this; or, behind a zero, the end of a row or of all, a jump, or pixels as they are.
fn runs(bytes: &[u8], bitmap: &Bitmap, is_of_4_bits: bool) -> Result<(), Damage> {
    let (width, height) = (u64::from(bitmap.width), u64::from(bitmap.height));
    // A run of two pixels a byte may end one behind a row of an odd width.
    let widest = width + u64::from(is_of_4_bits);
    let (mut column, mut row, mut at) = (0_u64, 0_u64, 0);
    loop {
        let &[count, value] = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(Damage::Truncated)?;
        at += 2;
        match (count, value) {
            (0, 0) => (column, row) = (0, row + 1),
            (0, 1) => {
                let has_all = row >= height || row + 1 == height && column >= width;
                return if has_all { Ok(()) } else { Err(Damage::Unsupported("runs that leave pixels out")) };
            }
            (0, 2) => {
                let &[right, up] = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(Damage::Truncated)?;
                (column, row, at) = (column + u64::from(right), row + u64::from(up), at + 2);
            }
            (0, count) => {
                let length = if is_of_4_bits { usize::from(count).div_ceil(2) } else { usize::from(count) };
                (column, at) = (column + u64::from(count), at + length.next_multiple_of(2));
            }
            (count, _) => column += u64::from(count),
        }
        if column > widest || row > height || row == height && column > 0 {
            return Err(Damage::Corrupt("a run of pixels beyond the picture"));
        }
    }
}
