//! WebP: of an animation the first frame, on its canvas.

use std::io::Cursor;

use image_webp::WebPDecoder;

use super::{Decoded, MOST_BYTES_PER_PIXEL, Plane, grey};
use crate::images::check::{Damage, webp};

pub(super) fn decode(bytes: &[u8]) -> Decoded {
    webp::refuse_cut(bytes)?;
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(webp::damage)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    decoder.set_memory_limit((pixels * MOST_BYTES_PER_PIXEL) as usize + (1 << 20));
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut pixels = vec![0; decoder.output_buffer_size().ok_or(Damage::Bomb("too many pixels"))?];
    decoder.read_image(&mut pixels).map_err(webp::damage)?;
    let exif = decoder.exif_metadata().unwrap_or(None);
    let (width, height) = (width as usize, height as usize);
    Ok((Plane { width, height, luma: grey::of_channels(pixels, channels) }, exif))
}
