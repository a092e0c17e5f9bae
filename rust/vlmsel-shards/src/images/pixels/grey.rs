//! Colours as grey, to Pillow's last bit.

/// Pillow's `L` of a colour.
#[inline]
pub(super) fn grey(red: u8, green: u8, blue: u8) -> u8 {
    ((u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471 + 0x8000) >> 16) as u8
}

/// A channel over white, as Pillow's `alpha_composite` has it.
#[inline]
fn on_white(channel: u8, alpha: u8) -> u8 {
    let over = u32::from(alpha) * 128;
    let sum = u32::from(channel) * over + 255 * (255 * 128 - over) + (0x80 << 7);
    ((((sum >> 8) + sum) >> 8) >> 7) as u8
}

/// Pixels of so many channels each (grey; grey and alpha; RGB; RGBA) as grey over white.
pub(super) fn of_channels(pixels: Vec<u8>, channels: usize) -> Vec<u8> {
    match channels {
        1 => pixels,
        2 => pixels.as_chunks::<2>().0.iter().map(|&[grey, alpha]| on_white(grey, alpha)).collect(),
        3 => pixels.as_chunks::<3>().0.iter().map(|&[r, g, b]| grey(r, g, b)).collect(),
        _ => pixels.as_chunks::<4>().0.iter().map(|pixel| over_white(*pixel)).collect(),
    }
}

/// Red, green, blue and alpha as grey over white.
#[inline]
pub(super) fn over_white([r, g, b, alpha]: [u8; 4]) -> u8 {
    grey(on_white(r, alpha), on_white(g, alpha), on_white(b, alpha))
}
