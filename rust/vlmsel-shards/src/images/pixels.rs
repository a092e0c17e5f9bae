//! From a picture's stored bytes to its pixels in grey, as a person sees it: EXIF orientation applied, alpha over white, the first
//! frame of an animation.
//!
//! Grey is that of Pillow's mode `L` (ITU-R 601: 0.299 R + 0.587 G + 0.114 B); of a JPEG in YCbCr it is the plane Y, which is the same
//! but for rounding and for colours that no RGB has.
//!
//! Everything read here may be hostile. The header is looked at first, and no picture of more than [`MAX_PIXELS`] pixels or of a side
//! beyond [`MAX_SIDE`] is decoded; a decoder that panics has found damage.

mod bmp;
mod gif;
mod grey;
mod jpeg;
mod orientation;
mod png;
mod webp;

use crate::images::check::{Damage, MAX_PIXELS};
use crate::images::header::{Fault, Format, ImageHeader, read_header};
use crate::storage::caught::caught;

/// Pixels along a side: more than JPEG, WebP and GIF can say. A picture of one row of millions would cost whoever scales it far
/// more than its bytes.
pub const MAX_SIDE: u32 = 1 << 16;
/// No decoder here holds more bytes for each pixel of a picture, whatever its format: the planes of a progressive JPEG, or four
/// channels beside what they are made of.
pub const MOST_BYTES_PER_PIXEL: u64 = 12;

/// A picture in grey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plane {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// One byte for each pixel, row by row without gaps, 0 for black.
    pub luma: Vec<u8>,
}

/// What a picture says of its size, where it may be decoded.
///
/// # Errors
/// What is wrong with the header, and [`Fault::Huge`].
pub fn size_to_decode(bytes: &[u8]) -> Result<ImageHeader, Fault> {
    let header = read_header(bytes)?;
    let ImageHeader { format, width, height } = header;
    if u64::from(width) * u64::from(height) > MAX_PIXELS || width.max(height) > MAX_SIDE {
        return Err(Fault::Huge(format, width, height));
    }
    Ok(header)
}

/// Decodes a picture.
///
/// # Errors
/// The first fault found.
pub fn luma(bytes: &[u8]) -> Result<Plane, Fault> {
    let header = size_to_decode(bytes)?;
    let decode = || match header.format {
        Format::Jpeg => jpeg::decode(bytes),
        Format::Png => png::decode(bytes),
        Format::Webp => webp::decode(bytes),
        Format::Gif => gif::decode(bytes, header),
        Format::Bmp => bmp::decode(bytes),
    };
    let decoded = caught(decode).unwrap_or(Err(Damage::Corrupt("data that a decoder stumbles over")));
    let (plane, exif) = decoded.map_err(|damage| damage.of(header.format))?;
    if (plane.width, plane.height) != (header.width as usize, header.height as usize)
        || plane.luma.len() != plane.width * plane.height
    {
        return Err(Fault::Corrupt(header.format, "a picture of another size than its header says"));
    }
    Ok(orientation::applied(plane, exif.as_deref().and_then(orientation::of_exif)))
}

/// What a decoder makes: the pixels as stored, and the EXIF data beside them.
type Decoded = Result<(Plane, Option<Vec<u8>>), Damage>;

#[cfg(test)]
mod tests;
