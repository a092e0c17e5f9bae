//! BMP: pixels as they are, by palette or masks, and runs of them. No crate for it alone is kept; the header is ours already.

use super::{Decoded, Plane, grey};
use crate::images::bitmap::{Bitmap, Compression};
use crate::images::check::{Damage, bmp};

pub(super) fn decode(bytes: &[u8]) -> Decoded {
    // All pixels are there, and no run leads out of the picture.
    bmp::check(bytes)?;
    let bitmap = Bitmap::read(bytes).ok_or(Damage::Truncated)?;
    let at = if bitmap.pixels_at == 0 { bitmap.header_end } else { bitmap.pixels_at };
    let pixels = &bytes[at as usize..];
    let (width, height) = (bitmap.width as usize, bitmap.height as usize);
    let mut luma = vec![0; width * height];
    if bitmap.bits <= 8 {
        let shades = palette(bytes, &bitmap);
        match bitmap.compression {
            Compression::Rle { is_of_4_bits } => runs(pixels, width, is_of_4_bits, &mut luma),
            _ => indices(pixels, &bitmap, &mut luma),
        }
        for pixel in &mut luma {
            *pixel = shades[usize::from(*pixel)];
        }
    } else {
        colours(pixels, &bitmap, &Masks::read(bytes, &bitmap)?, &mut luma);
    }
    if !bitmap.is_top_down {
        let rows: Vec<&[u8]> = luma.chunks_exact(width).rev().collect();
        luma = rows.concat();
    }
    Ok((Plane { width, height, luma }, None))
}

/// The shade of each index.
fn palette(bytes: &[u8], bitmap: &Bitmap) -> [u8; 256] {
    let entry_bytes = if bitmap.header_end == 26 { 3 } else { 4 };
    let (first, most) = (bitmap.header_end as usize, 1 << bitmap.bits);
    let end = if bitmap.pixels_at == 0 { first } else { bitmap.pixels_at as usize };
    let mut shades = [0; 256];
    let entries = bytes[first..end.max(first)].chunks_exact(entry_bytes).take(most);
    for (shade, entry) in shades.iter_mut().zip(entries) {
        *shade = grey::grey(entry[2], entry[1], entry[0]);
    }
    shades
}

/// Rows of a stride; the last may lack what fills it up.
fn rows<'a>(pixels: &'a [u8], bitmap: &Bitmap) -> impl Iterator<Item = &'a [u8]> {
    pixels.chunks(bitmap.row_bytes() as usize).take(bitmap.height as usize)
}

fn indices(pixels: &[u8], bitmap: &Bitmap, luma: &mut [u8]) {
    let bits = bitmap.bits as usize;
    for (row, stored) in luma.chunks_exact_mut(bitmap.width as usize).zip(rows(pixels, bitmap)) {
        for (x, pixel) in row.iter_mut().enumerate() {
            let byte = stored[x * bits / 8];
            *pixel = byte >> (8 - bits - x * bits % 8) & ((1_u16 << bits) - 1) as u8;
        }
    }
}

/// As [`bmp::check`] follows them.
fn runs(bytes: &[u8], width: usize, is_of_4_bits: bool, luma: &mut [u8]) {
    let (mut column, mut row, mut at) = (0, 0, 0);
    let mut put = |column: usize, row: usize, index: u8| {
        if let (true, Some(pixel)) = (column < width, luma.get_mut(row * width + column)) {
            *pixel = index;
        }
    };
    while let Some(&[count, value]) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        at += 2;
        let nibble = |byte: u8, place: usize| match (is_of_4_bits, place % 2) {
            (false, _) => byte,
            (true, 0) => byte >> 4,
            (true, _) => byte & 15,
        };
        match (count, value) {
            (0, 0) => (column, row) = (0, row + 1),
            (0, 1) => return,
            (0, 2) => {
                let Some(&[right, up]) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { return };
                (column, row, at) = (column + usize::from(right), row + usize::from(up), at + 2);
            }
            (0, count) => {
                let count = usize::from(count);
                let length = if is_of_4_bits { count.div_ceil(2) } else { count };
                let Some(stored) = bytes.get(at..at + length) else { return };
                for place in 0..count {
                    let byte = stored[if is_of_4_bits { place / 2 } else { place }];
                    put(column + place, row, nibble(byte, place));
                }
                (column, at) = (column + count, at + length.next_multiple_of(2));
            }
            (count, value) => {
                (0..usize::from(count)).for_each(|place| put(column + place, row, nibble(value, place)));
                column += usize::from(count);
            }
        }
    }
}

/// Which bits of a pixel are red, green, blue and alpha.
struct Masks([u32; 4]);

impl Masks {
    fn read(bytes: &[u8], bitmap: &Bitmap) -> Result<Self, Damage> {
        let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let usual = if bitmap.bits == 16 { [0x7c00, 0x03e0, 0x001f, 0] } else { [0xff_0000, 0xff00, 0xff, 0] };
        if !bitmap.has_masks {
            return Ok(Self(usual));
        }
        let masks = [54, 58, 62].map(|at| word(at).unwrap_or(0));
        // The header of 40 bytes, and that of 52, have none for alpha.
        let alpha = if bitmap.header_end >= 14 + 56 { word(66).unwrap_or(0) } else { 0 };
        if masks.contains(&0) {
            return Err(Damage::Unsupported("masks that leave a colour out"));
        }
        Ok(Self([masks[0], masks[1], masks[2], alpha]))
    }

    fn channel(&self, pixel: u32, channel: usize) -> u8 {
        let mask = self.0[channel];
        let most = u64::from(mask >> mask.trailing_zeros());
        (u64::from((pixel & mask) >> mask.trailing_zeros()) * 255 / most) as u8
    }
}

fn colours(pixels: &[u8], bitmap: &Bitmap, masks: &Masks, luma: &mut [u8]) {
    let bytes = bitmap.bits as usize / 8;
    for (row, stored) in luma.chunks_exact_mut(bitmap.width as usize).zip(rows(pixels, bitmap)) {
        for (pixel, stored) in row.iter_mut().zip(stored.chunks_exact(bytes)) {
            let value = stored.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
            let [r, g, b] = [0, 1, 2].map(|channel| masks.channel(value, channel));
            let over = masks.0[3] != 0;
            *pixel = if over { grey::over_white([r, g, b, masks.channel(value, 3)]) } else { grey::grey(r, g, b) };
        }
    }
}
