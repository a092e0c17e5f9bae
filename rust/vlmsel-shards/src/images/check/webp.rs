//! WebP, through a decoder; what it makes of the first frame is thrown away.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::Damage;

/// Larger ones are only looked at for their length: the pixels of this many take 64 MiB.
const MAX_DECODED_PIXELS: u64 = 1 << 24;

/// The decoder takes what is cut off the end for a chunk that it need not read.
pub(in crate::images) fn refuse_cut(bytes: &[u8]) -> Result<(), Damage> {
    let claimed = bytes.get(4..8).and_then(|size| size.try_into().ok()).map_or(0, u32::from_le_bytes) as usize;
    if claimed + 8 > bytes.len() { Err(Damage::Truncated) } else { Ok(()) }
}

pub(super) fn check(bytes: &[u8]) -> Result<(), Damage> {
    refuse_cut(bytes)?;
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(damage)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_DECODED_PIXELS {
        return Ok(());
    }
    decoder.set_memory_limit(MAX_DECODED_PIXELS as usize * 4);
    let size = decoder.output_buffer_size().ok_or(Damage::Unsupported("too many pixels"))?;
    let mut pixels = vec![0; size];
    decoder.read_image(&mut pixels).map_err(damage)
}

#[allow(clippy::needless_pass_by_value, reason = "given to map_err")]
pub(in crate::images) fn damage(error: DecodingError) -> Damage {
    match error {
        DecodingError::IoError(_) => Damage::Truncated,
        DecodingError::UnsupportedFeature(_) | DecodingError::VersionNumberInvalid(_) => {
            Damage::Unsupported("a kind of WebP that is not read")
        }
        DecodingError::MemoryLimitExceeded => Damage::Unsupported("too much memory"),
        _ => Damage::Corrupt("data that does not decode"),
    }
}
