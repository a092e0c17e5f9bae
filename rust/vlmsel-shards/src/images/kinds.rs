//! What kind of picture bytes are, by their signature: a file's name has no say.

use std::fmt;

use crate::images::bitmap;

/// An image's format: those that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// JPEG (ITU T.81).
    Jpeg,
    /// PNG (W3C, third edition).
    Png,
    /// WebP (RFC 9649).
    Webp,
    /// GIF, 87a or 89a.
    Gif,
    /// Windows and OS/2 bitmaps (BMP).
    Bmp,
}

/// Formats that are known by their first bytes and not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unread {
    /// TIFF and `BigTIFF`, of either byte order; so are most cameras' raw files.
    Tiff,
    /// AV1 in the ISO base media file format.
    Avif,
    /// HEVC in the ISO base media file format, and what else calls itself HEIF.
    Heic,
    /// JPEG XL, naked or in its container.
    JpegXl,
}

impl Unread {
    /// What stands before its name.
    pub fn article(self) -> &'static str {
        if self == Self::Avif { "an" } else { "a" }
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tiff => "TIFF",
            Self::Avif => "AVIF",
            Self::Heic => "HEIC",
            Self::JpegXl => "JPEG XL",
        })
    }
}

/// What bytes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A picture that is read.
    Read(Format),
    /// A picture that is not.
    Unread(Unread),
}

/// How many first bytes [`kind_of`] looks at, at most.
pub const SIGNATURE_BYTES: usize = 256;

/// What kind of picture the first bytes of a file belong to; `None` if they are no picture's, or too few to tell.
///
/// Nothing behind the signature is looked at: what has one may still be damaged.
pub fn kind_of(bytes: &[u8]) -> Option<Kind> {
    Some(match bytes {
        [0xff, 0xd8, 0xff, ..] => Kind::Read(Format::Jpeg),
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Kind::Read(Format::Png),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Kind::Read(Format::Gif),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Kind::Read(Format::Webp),
        // Two letters would also begin many a text.
        [b'B', b'M', ..] if bitmap::is_header(bytes) => Kind::Read(Format::Bmp),
        [b'I', b'I', b'*' | b'+', 0, ..] | [b'M', b'M', 0, b'*' | b'+', ..] => Kind::Unread(Unread::Tiff),
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', 0x0d, 0x0a, 0x87, 0x0a, ..] => {
            Kind::Unread(Unread::JpegXl)
        }
        [a, b, c, d, b'f', b't', b'y', b'p', brands @ ..] => {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            Kind::Unread(heif(&brands[..brands.len().min(length.saturating_sub(8)).min(SIGNATURE_BYTES - 8)])?)
        }
        _ => return None,
    })
}

/// Which still pictures a file's brands promise: the first, a version, and those that it is compatible with. Films share the
/// container and have other brands.
fn heif(brands: &[u8]) -> Option<Unread> {
    let all = || brands.chunks_exact(4).enumerate().filter(|&(place, _)| place != 1).map(|(_, brand)| brand);
    if all().any(|brand| matches!(brand, b"avif" | b"avis")) {
        return Some(Unread::Avif);
    }
    let is_heif = |brand: &[u8]| {
        matches!(
            brand,
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm" | b"hevs" | b"mif1" | b"msf1"
        )
    };
    all().any(is_heif).then_some(Unread::Heic)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::header::{Fault, read_header};

    /// The first bytes of files that Pillow, libheif and cjxl wrote.
    const UNREAD: [(&[u8], Unread, &str); 9] = [
        (b"II*\0\x08\0\0\0\x0a\0\0\x01", Unread::Tiff, "a TIFF"),
        (b"MM\0*\0\0\0\x08\0\x0a", Unread::Tiff, "a TIFF"),
        (b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0", Unread::Tiff, "a TIFF"),
        (b"MM\0+\0\x08\0\0", Unread::Tiff, "a TIFF"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1miafMA1A", Unread::Avif, "an AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", Unread::Avif, "an AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\0\0\0\x01meta", Unread::Heic, "a HEIC"),
        (b"\xff\x0a\xfa\x1f\x01\x91", Unread::JpegXl, "a JPEG XL"),
        (b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a\0\0\0\x14ftypjxl ", Unread::JpegXl, "a JPEG XL"),
    ];

    #[test]
    fn pictures_that_are_not_read_are_called_by_their_name() {
        for (bytes, kind, name) in UNREAD {
            assert_eq!(kind_of(bytes), Some(Kind::Unread(kind)));
            let fault = read_header(bytes).unwrap_err();
            assert_eq!((fault, fault.reason()), (Fault::UnsupportedFormat(kind), "unsupported_image_format"));
            let expected = format!("{name}, which is not read: JPEG, PNG, WebP, GIF and BMP are");
            assert_eq!(fault.to_string(), expected);
        }
    }

    #[test]
    fn what_is_no_picture_has_no_kind() {
        let others: [&[u8]; 9] = [
            b"",
            b"BM",
            b"BMW sells cars, and this is a caption about one.",
            b"{\"caption\": \"x\"}",
            b"II was the second of that name",
            b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
            // Behind the box of brands.
            b"\0\0\0\x10ftypisom\0\0\0\0avif",
            b"RIFF\x24\0\0\0WAVEfmt ",
            b"%PDF-1.7",
        ];
        for bytes in others {
            assert_eq!(kind_of(bytes), None, "{}", bytes.escape_ascii());
        }
    }
}
