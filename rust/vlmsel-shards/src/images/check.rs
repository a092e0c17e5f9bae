//! Whether an image can be decoded to its last pixel, as far as its bytes tell; pixels are made for WebP alone.
//!
//! Decoders are kind: they fill what is missing with grey and go on, so "it opened" says little. Here every code of the
//! compressed data is read and has to come out even: Huffman codes of JPEG, the zlib stream and checksums of PNG, LZW codes of
//! GIF, the runs of BMP; WebP goes through a decoder. What has no redundancy (the middle of lossy WebP, arithmetic JPEG, the pixels
//! of most BMP) can hide damage.
//!
//! Time and memory are bounded by the image's bytes and by [`MAX_PIXELS`]; WebP of more than 2^24 pixels is not decoded.

mod bmp;
mod gif;
mod jpeg;
mod png;
mod webp;

use crate::images::header::{Fault, Format, ImageHeader, read_header};

/// An image of more pixels is not decoded: what Pillow refuses as a decompression bomb unless told otherwise.
pub const MAX_PIXELS: u64 = 178_956_970;

/// What is wrong with an image's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// The bytes end before the picture does.
    Truncated,
    /// The bytes are not what an encoder writes.
    Corrupt(&'static str),
    /// A kind that common decoders do not read.
    Unsupported(&'static str),
    /// More beside the pixels than decoders put up with.
    Bomb(&'static str),
}

/// Reads all of an image.
///
/// # Errors
/// The first fault found.
pub fn check_image(bytes: &[u8]) -> Result<ImageHeader, Fault> {
    let header = read_header(bytes)?;
    if u64::from(header.width) * u64::from(header.height) > MAX_PIXELS {
        return Err(Fault::Huge(header.format, header.width, header.height));
    }
    let checked = match header.format {
        Format::Jpeg => jpeg::check(bytes),
        Format::Png => png::check(bytes),
        Format::Gif => gif::check(bytes),
        Format::Webp => webp::check(bytes),
        Format::Bmp => bmp::check(bytes),
    };
    checked.map(|()| header).map_err(|damage| match damage {
        Damage::Truncated => Fault::Truncated(header.format),
        Damage::Corrupt(what) => Fault::Corrupt(header.format, what),
        Damage::Unsupported(what) => Fault::Unsupported(header.format, what),
        Damage::Bomb(what) => Fault::Bomb(header.format, what),
    })
}

#[cfg(test)]
pub(crate) mod tests;
