//! Whether an image can be decoded to its last pixel, as far as its bytes tell; pixels are made for WebP alone.
//!
//! Decoders are kind: they fill what is missing with grey and go on, so "it opened" says little. Here every code of the
//! compressed data is read and has to come out even: Huffman codes of JPEG, the zlib stream and checksums of PNG, LZW codes of
//! GIF, the runs of BMP; WebP goes through a decoder. What has no redundancy (the middle of lossy WebP, arithmetic JPEG, the pixels
//! of most BMP) can hide damage.
//!
//! Time and memory are bounded by the image's bytes and by [`MAX_PIXELS`]; WebP of more than 2^24 pixels is not decoded.

pub(super) mod bmp;
mod gif;
pub(super) mod jpeg;
mod png;
pub(super) mod webp;

use crate::images::header::{Fault, Format, ImageHeader, read_header};

/// An image of more pixels is not decoded: what Pillow refuses as a decompression bomb unless told otherwise.
pub const MAX_PIXELS: u64 = 178_956_970;

/// What is wrong with an image's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
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
    checked.map(|()| header).map_err(|damage| damage.of(header.format))
}

impl Damage {
    /// As a fault of an image of this format.
    pub(super) fn of(self, format: Format) -> Fault {
        match self {
            Self::Truncated => Fault::Truncated(format),
            Self::Corrupt(what) => Fault::Corrupt(format, what),
            Self::Unsupported(what) => Fault::Unsupported(format, what),
            Self::Bomb(what) => Fault::Bomb(format, what),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
