//! Width and height of JPEG, PNG, WebP, GIF and BMP images from their first bytes, without decoding a pixel.
//!
//! Our own rather than the crate `imagesize`, whose errors are "corrupt" and "not supported": why an image is put aside needs more
//! classes, and a PNG header's checksum is looked at.
//!
//! Sizes are as stored (an EXIF orientation is not applied). Everything read here may be hostile: no length is trusted
//! before the bytes it speaks of are there, and nothing is allocated.

use crate::images::bitmap::Bitmap;
pub use crate::images::kinds::Format;
use crate::images::kinds::{Kind, Unread, kind_of};

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageHeader {
    /// The format, by content; the file's name has no say.
    pub format: Format,
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// Why there is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No bytes at all.
    #[error("the image has no bytes")]
    Empty,
    /// No format that is known.
    #[error("neither JPEG, PNG, WebP, GIF nor BMP")]
    UnknownFormat,
    /// A format that is known and not read.
    #[error("{article} {0}, which is not read: JPEG, PNG, WebP, GIF and BMP are", article = .0.article())]
    UnsupportedFormat(Unread),
    /// It ends, or goes astray, before its size is known.
    #[error("the {0:?} header is damaged or cut short")]
    Header(Format),
    /// A width or height of zero, or above 2^24.
    #[error("the {0:?} header claims {1} x {2} pixels")]
    Size(Format, u32, u32),
    /// More pixels than are decoded.
    #[error("a {0:?} of {1} x {2} pixels, which decoders refuse as a bomb")]
    Huge(Format, u32, u32),
    /// More bytes than are read into memory.
    #[error("a {0:?} of {1} bytes, too long to be decoded here")]
    Long(Format, u64),
    /// Something beside the pixels that inflates beyond what decoders put up with.
    #[error("a {0:?} that decoders refuse as a bomb: {1}")]
    Bomb(Format, &'static str),
    /// The header is good, the bytes end before the picture does.
    #[error("the {0:?} data is cut short")]
    Truncated(Format),
    /// The data is not what an encoder writes.
    #[error("the {0:?} data is damaged: {1}")]
    Corrupt(Format, &'static str),
    /// A kind that common decoders do not read.
    #[error("a {0:?} that decoders do not read: {1}")]
    Unsupported(Format, &'static str),
}

impl Fault {
    /// The reason under which such an image is quarantined or reported.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Empty => "empty_image",
            Self::UnknownFormat => "unknown_image_format",
            Self::UnsupportedFormat(_) => "unsupported_image_format",
            Self::Header(_) | Self::Size(..) => "bad_image_header",
            Self::Huge(..) | Self::Long(..) | Self::Bomb(..) => "huge_image",
            Self::Truncated(_) => "truncated_image",
            Self::Corrupt(..) => "corrupt_image",
            Self::Unsupported(..) => "unsupported_image",
        }
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u32> {
    let pair = bytes.get(at..at + 2)?;
    Some(u32::from(pair[0]) << 8 | u32::from(pair[1]))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(be16(bytes, at)? << 16 | be16(bytes, at + 2)?)
}

fn le(bytes: &[u8], at: usize, count: usize) -> Option<u32> {
    Some(bytes.get(at..at + count)?.iter().rev().fold(0, |n, &c| n << 8 | u32::from(c)))
}

/// Reads the header from an image's bytes, or from as many of its first ones as there are.
pub fn read_header(bytes: &[u8]) -> Result<ImageHeader, Fault> {
    if bytes.is_empty() {
        return Err(Fault::Empty);
    }
    let format = match kind_of(bytes) {
        Some(Kind::Read(format)) => format,
        Some(Kind::Unread(kind)) => return Err(Fault::UnsupportedFormat(kind)),
        None => return Err(Fault::UnknownFormat),
    };
    let size = match format {
        Format::Jpeg => jpeg(bytes),
        Format::Png => png(bytes),
        Format::Gif => gif(bytes),
        Format::Webp => webp(bytes),
        Format::Bmp => Bitmap::read(bytes).map(|bitmap| (bitmap.width, bitmap.height)),
    };
    let (width, height) = size.ok_or(Fault::Header(format))?;
    if width == 0 || height == 0 || width > 1 << 24 || height > 1 << 24 {
        return Err(Fault::Size(format, width, height));
    }
    Ok(ImageHeader { format, width, height })
}

fn jpeg(bytes: &[u8]) -> Option<(u32, u32)> {
    let (mut at, mut strays) = (2, 0);
    loop {
        match next_marker(bytes, &mut at, &mut strays)? {
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Some((be16(bytes, at + 5)?, be16(bytes, at + 3)?));
            }
            // Restart markers and TEM stand alone; a second start, an end or the scan before any frame is damage.
            0x01 | 0xd0..=0xd7 => {}
            0xd8..=0xda => return None,
            _ => {
                let length = be16(bytes, at)? as usize;
                if length < 2 {
                    return None;
                }
                at += length;
            }
        }
    }
}

/// Bytes between the segments of a JPEG that are passed over: as many as a segment may have.
pub(super) const MOST_STRAYS: usize = 1 << 16;

/// The code of the next marker, behind which `at` moves; `None` at the end. What decoders pass over (with a warning) is passed
/// over: bytes that are no marker, as cameras leave behind segments whose length they count wrongly. `strays` counts them;
/// `None` too where they are more than [`MOST_STRAYS`].
pub(super) fn next_marker(bytes: &[u8], at: &mut usize, strays: &mut usize) -> Option<u8> {
    loop {
        let (first, begins) = (*bytes.get(*at)?, *at);
        while *bytes.get(*at)? == 0xff {
            *at += 1;
        }
        *at += 1;
        // A stuffed zero makes no marker.
        match (first, bytes[*at - 1]) {
            (0xff, code @ 1..) => return Some(code),
            _ => *strays += *at - begins,
        }
        if *strays > MOST_STRAYS {
            return None;
        }
    }
}

/// The screen, or what the first frame covers where that is more: so decoders show it. Where only the first bytes are there
/// and the frame is not among them, the screen is believed.
fn gif(bytes: &[u8]) -> Option<(u32, u32)> {
    let (width, height) = le(bytes, 6, 2).zip(le(bytes, 8, 2))?;
    let (right, bottom) = gif_frame(bytes).unwrap_or_default();
    Some((width.max(right), height.max(bottom)))
}

/// How far right and down the first frame goes.
fn gif_frame(bytes: &[u8]) -> Option<(u32, u32)> {
    let flags = *bytes.get(10)?;
    let mut at = 13 + if flags & 0x80 > 0 { 3 << ((flags & 7) + 1) } else { 0 };
    loop {
        match *bytes.get(at)? {
            0x21 => {
                at += 2;
                while *bytes.get(at)? > 0 {
                    at += 1 + usize::from(bytes[at]);
                }
                at += 1;
            }
            0x2c => {
                let number = |place: usize| le(bytes, at + place, 2);
                return Some((number(1)? + number(5)?, number(3)? + number(7)?));
            }
            0x00 => at += 1,
            _ => return None,
        }
    }
}

fn png(bytes: &[u8]) -> Option<(u32, u32)> {
    (be32(bytes, 8)? == 13 && bytes.get(12..16)? == b"IHDR").then_some(())?;
    // Where only the first bytes are there, what has come is believed.
    if let (Some(chunk), Some(sum)) = (bytes.get(12..29), be32(bytes, 29)) {
        (crc32fast::hash(chunk) == sum).then_some(())?;
    }
    be32(bytes, 16).zip(be32(bytes, 20))
}

fn webp(bytes: &[u8]) -> Option<(u32, u32)> {
    match bytes.get(12..16)? {
        b"VP8 " => {
            (bytes.get(23..26)? == [0x9d, 0x01, 0x2a]).then_some(())?;
            Some((le(bytes, 26, 2)? & 0x3fff, le(bytes, 28, 2)? & 0x3fff))
        }
        b"VP8L" => {
            (*bytes.get(20)? == 0x2f).then_some(())?;
            let bits = le(bytes, 21, 4)?;
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        b"VP8X" => Some((le(bytes, 24, 3)? + 1, le(bytes, 27, 3)? + 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn jpeg_bytes(width: u16, height: u16, fill: usize) -> Vec<u8> {
        let mut bytes = vec![0xff, 0xd8, 0xff, 0xe1, 0x00, 0x06, 1, 2, 3, 4];
        bytes.extend(std::iter::repeat_n(0xff, fill));
        bytes.extend([0xff, 0xc2, 0x00, 0x11, 8]);
        bytes.extend(height.to_be_bytes());
        bytes.extend(width.to_be_bytes());
        bytes.extend([3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1, 0xff, 0xda, 0, 2, 1, 2, 3, 0xff, 0xd9]);
        bytes
    }

    fn png_bytes(width: u32, height: u32) -> Vec<u8> {
        crate::images::check::tests::png_of(width, height, &[b"xyz"])
    }

    #[test]
    fn damage_has_a_name() {
        assert_eq!(read_header(b""), Err(Fault::Empty));
        assert_eq!(read_header(b"<html>"), Err(Fault::UnknownFormat));
        assert_eq!(read_header(&png_bytes(0, 7)), Err(Fault::Size(Format::Png, 0, 7)));
        let mut flipped = png_bytes(640, 480);
        flipped[18] ^= 1;
        assert_eq!(read_header(&flipped), Err(Fault::Header(Format::Png)), "the checksum is of another width");
        assert_eq!(read_header(&flipped[..32]).map(|header| header.width), Ok(896), "no checksum yet");
        assert_eq!(read_header(&[0xff, 0xd8, 0xff, 0xda, 0, 2]), Err(Fault::Header(Format::Jpeg)));
        assert_eq!(read_header(&[0xff, 0xd8, 0xff, 0xe0, 0, 0]), Err(Fault::Header(Format::Jpeg)));
    }

    #[test]
    fn stray_bytes_between_segments_of_a_jpeg_are_passed_over() {
        let whole = jpeg_bytes(640, 480, 0);
        let with = |stray: &[u8]| [&whole[..10], stray, &whole[10..]].concat();
        let mut most = vec![0; MOST_STRAYS];
        for stray in [b"\0".as_slice(), b"abc", b"a\xff\0b\xff\xff\0", &most] {
            assert_eq!(read_header(&with(stray)).map(|header| (header.width, header.height)), Ok((640, 480)));
        }
        most.push(0);
        assert_eq!(read_header(&with(&most)), Err(Fault::Header(Format::Jpeg)));
    }

    #[test]
    fn a_gif_is_as_large_as_its_first_frame() {
        let gif = |screen: [u8; 2], frame: [u8; 4]| {
            let [width, height] = screen;
            let [left, top, right, bottom] = frame;
            let head = [b"GIF89a".as_slice(), &[width, 0, height, 0, 0x80, 0, 0]].concat();
            // Two colours, a comment, a zero between blocks.
            let blocks = [b"rgbRGB!\xfe\x03abc\0\0,".as_slice(), &[left, 0, top, 0, right, 0, bottom, 0, 0]].concat();
            [head, blocks].concat()
        };
        for (screen, frame, expected) in
            [([4, 3], [0, 0, 4, 3], (4, 3)), ([4, 3], [2, 1, 4, 1], (6, 3)), ([0, 0], [0, 0, 5, 7], (5, 7))]
        {
            let whole = gif(screen, frame);
            assert_eq!(read_header(&whole).map(|header| (header.width, header.height)), Ok(expected));
        }
        let cut = &gif([4, 3], [0, 0, 9, 9])[..20];
        assert_eq!(read_header(cut).map(|header| (header.width, header.height)), Ok((4, 3)), "no frame yet");
    }

    proptest! {
        #[test]
        fn sizes_are_read(width in 1_u16.., height in 1_u16.., fill in 0_usize..9) {
            let (w, h) = (u32::from(width), u32::from(height));
            let read = |bytes: &[u8]| read_header(bytes).map(|i| (i.format, i.width, i.height));
            prop_assert_eq!(read(&jpeg_bytes(width, height, fill)), Ok((Format::Jpeg, w, h)));
            prop_assert_eq!(read(&png_bytes(w, h)), Ok((Format::Png, w, h)));
            let gif = [b"GIF89a".as_slice(), &width.to_le_bytes(), &height.to_le_bytes()].concat();
            prop_assert_eq!(read(&gif), Ok((Format::Gif, w, h)));
            let core = [b"BM\0\0\0\0\0\0\0\0\x1a\0\0\0\x0c\0\0\0".as_slice(), &width.to_le_bytes(), &height.to_le_bytes(), &[1, 0, 24, 0]].concat();
            prop_assert_eq!(read(&core), Ok((Format::Bmp, w, h)));
            // Rows from the top down.
            let rows = -i32::from(height);
            let info = [b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".as_slice(), &w.to_le_bytes(), &rows.to_le_bytes(), &[1, 0, 24, 0, 0, 0, 0, 0]].concat();
            prop_assert_eq!(read(&info), Ok((Format::Bmp, w, h)));
            let (cut_w, cut_h) = (w.min(1 << 14), h.min(1 << 14));
            let bits = (cut_w - 1) | (cut_h - 1) << 14;
            let lossless = [b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f".as_slice(), &bits.to_le_bytes()].concat();
            prop_assert_eq!(read(&lossless), Ok((Format::Webp, cut_w, cut_h)));
        }

        #[test]
        fn no_bytes_make_it_panic(head in 0_usize..8, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let heads: [&[u8]; 8] = [
                b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\xff\xff\xffWEBPVP8 ", b"RIFF    WEBPVP8X", b"GIF89a", b"",
                b"BM\0\0\0\0\0\0\0\0\0\0\0\0\x28\0\0\0", b"\0\0\0\xffftyp",
            ];
            let bytes = [heads[head], &bytes].concat();
            let _ = read_header(&bytes);
        }
    }
}
