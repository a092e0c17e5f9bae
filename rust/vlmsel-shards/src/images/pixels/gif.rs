//! GIF: the first frame, where it lies on its screen.

use std::io::Cursor;

use gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};

use super::{Decoded, Plane, grey};
use crate::images::check::Damage;
use crate::images::header::ImageHeader;

pub(super) fn decode(bytes: &[u8], header: ImageHeader) -> Decoded {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    // Pixels are of one byte and were counted.
    options.set_memory_limit(MemoryLimit::Unlimited);
    let mut decoder = options.read_info(Cursor::new(bytes)).map_err(|error| damage(&error))?;
    let global = decoder.global_palette().map(<[u8]>::to_vec);
    let frame = decoder.read_next_frame().map_err(|error| damage(&error))?;
    let frame = frame.ok_or(Damage::Corrupt("no picture before the trailer"))?;
    let palette = frame.palette.as_ref().or(global.as_ref());
    let shade = |index: usize| match palette.map(|palette| palette.as_chunks::<3>().0.get(index)) {
        Some(Some(&[r, g, b])) => grey::grey(r, g, b),
        Some(None) => 0,
        // Without any palette, indices are shades.
        None => index as u8,
    };
    let mut shades: [u8; 256] = std::array::from_fn(shade);
    if let Some(transparent) = frame.transparent {
        shades[usize::from(transparent)] = 255;
    }
    let (width, height) = (header.width as usize, header.height as usize);
    // As Pillow has it: the screen around the frame shows what is transparent, else the first colour.
    let around = shades[usize::from(frame.transparent.unwrap_or(0))];
    let mut luma = vec![around; width * height];
    let (left, top, wide) = (usize::from(frame.left), usize::from(frame.top), usize::from(frame.width));
    if left + wide > width || top + usize::from(frame.height) > height || wide == 0 {
        return Err(Damage::Corrupt("a frame beyond its screen"));
    }
    for (row, indices) in luma.chunks_exact_mut(width).skip(top).zip(frame.buffer.chunks_exact(wide)) {
        for (pixel, index) in row[left..].iter_mut().zip(indices) {
            *pixel = shades[usize::from(*index)];
        }
    }
    Ok((Plane { width, height, luma }, None))
}

fn damage(error: &DecodingError) -> Damage {
    match error {
        DecodingError::Io(_) | DecodingError::UnexpectedEof => Damage::Truncated,
        _ => Damage::Corrupt("data that does not decode"),
    }
}
