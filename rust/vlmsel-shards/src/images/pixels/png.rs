//! PNG: of 16 bits the upper 8 count.

use std::io::Cursor;

use png::{Decoder, DecodingError, Limits, Transformations};

use super::{Decoded, Plane, grey};
use crate::images::check::Damage;

/// For rows and chunks, beside the pixels: a profile or a text may be large.
const MAX_BESIDE: usize = 64 << 20;

pub(super) fn decode(bytes: &[u8]) -> Decoded {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MAX_BESIDE });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(|error| damage(&error))?;
    let size = reader.output_buffer_size().ok_or(Damage::Bomb("too many pixels"))?;
    let mut pixels = vec![0; size];
    let frame = reader.next_frame(&mut pixels).map_err(|error| damage(&error))?;
    let (width, height) = (frame.width as usize, frame.height as usize);
    // An orientation may stand behind the pixels; what else is wrong there is no fault of theirs.
    if reader.info().exif_metadata.is_none() {
        let _ = reader.finish();
    }
    let exif = reader.info().exif_metadata.as_ref().map(|exif| exif.to_vec());
    Ok((Plane { width, height, luma: grey::of_channels(pixels, frame.color_type.samples()) }, exif))
}

fn damage(error: &DecodingError) -> Damage {
    match error {
        DecodingError::IoError(_) => Damage::Truncated,
        DecodingError::LimitsExceeded => Damage::Bomb("more beside its pixels than is read"),
        _ => Damage::Corrupt("data that does not decode"),
    }
}
