//! JPEG, through zune-jpeg: of YCbCr only the plane Y is made, at full size.

use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::{Decoded, Plane, grey};
use crate::images::check::{Damage, jpeg};

pub(super) fn decode(bytes: &[u8]) -> Decoded {
    let decoded = pixels(bytes);
    // The decoder fills what is missing with grey, as most do. A file that ends with its marker is whole, but for damage that
    // keeps the count; of any other, every code is read.
    if decoded.is_err() || !is_ended(bytes) {
        jpeg::check(bytes)?;
    }
    decoded
}

/// Whether the last marker is that of the end. Some writers fill files up with zeros.
fn is_ended(bytes: &[u8]) -> bool {
    let filled = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    bytes[..bytes.len() - filled].ends_with(&[0xff, 0xd9])
}

fn pixels(bytes: &[u8]) -> Decoded {
    // Sides are known to be of 16 bits.
    let options = DecoderOptions::default().set_max_width(1 << 16).set_max_height(1 << 16);
    let as_colours = |colours| options.jpeg_set_out_colorspace(colours);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), as_colours(ColorSpace::Luma));
    decoder.decode_headers().map_err(|error| damage(&error))?;
    let channels = match decoder.input_colorspace() {
        Some(ColorSpace::YCbCr | ColorSpace::Luma) => 1,
        Some(ColorSpace::RGB | ColorSpace::CMYK | ColorSpace::YCCK) => 3,
        _ => return Err(Damage::Unsupported("colours that are not read")),
    };
    if channels == 3 {
        decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), as_colours(ColorSpace::RGB));
        decoder.decode_headers().map_err(|error| damage(&error))?;
    }
    let (width, height) = decoder.dimensions().ok_or(Damage::Corrupt("no size"))?;
    let exif = decoder.exif().cloned();
    let pixels = decoder.decode().map_err(|error| damage(&error))?;
    Ok((Plane { width, height, luma: grey::of_channels(pixels, channels) }, exif))
}

fn damage(error: &DecodeErrors) -> Damage {
    match error {
        DecodeErrors::Unsupported(_) => Damage::Unsupported("a kind of JPEG that is not read"),
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => Damage::Truncated,
        _ => Damage::Corrupt("data that does not decode"),
    }
}
