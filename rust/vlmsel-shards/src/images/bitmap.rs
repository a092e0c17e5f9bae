//! The header of a BMP: a file header of 14 bytes, and one of several of the picture, told apart by their lengths.

/// Lengths of picture headers: OS/2 1; OS/2 2, cut short and whole; Windows 3, with masks for 3 and 4 channels, 4 and 5.
const HEADERS: [u32; 8] = [12, 16, 64, 40, 52, 56, 108, 124];

/// How pixels are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Row by row, as they are.
    None,
    /// Runs of pixels of 8 bits, or of 4.
    Rle { is_of_4_bits: bool },
    /// What decoders do not read: a JPEG or PNG for a printer, Huffman codes of OS/2.
    Other,
}

/// What both headers say.
#[derive(Debug, Clone, Copy)]
pub struct Bitmap {
    /// Pixels per row.
    pub width: u32,
    /// Rows, whether they go up or down.
    pub height: u32,
    /// Bits per pixel.
    pub bits: u32,
    /// How pixels are kept.
    pub compression: Compression,
    /// Where pixels begin.
    pub pixels_at: u32,
    /// Where the picture's header, and the masks that may follow it, end.
    pub header_end: u32,
    /// Whether decoders know a header of this length.
    pub is_known_header: bool,
    /// Whether rows go down.
    pub is_top_down: bool,
    /// Whether masks say which bits are which colour.
    pub has_masks: bool,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 2)?.try_into().ok().map(|pair| u32::from(u16::from_le_bytes(pair)))
}

/// Whether bytes that begin with `BM` are a bitmap's: a picture header of a known length follows.
pub fn is_header(bytes: &[u8]) -> bool {
    word(bytes, 14).is_some_and(|length| HEADERS.contains(&length))
}

impl Bitmap {
    /// `None` where there are too few bytes, or the width is negative.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (pixels_at, length) = (word(bytes, 10)?, word(bytes, 14)?);
        if length == 12 {
            let (width, height, bits) = (half(bytes, 18)?, half(bytes, 20)?, half(bytes, 24)?);
            let compression = Compression::None;
            return Some(Self {
                width,
                height,
                bits,
                compression,
                pixels_at,
                header_end: 26,
                is_known_header: true,
                is_top_down: false,
                has_masks: false,
            });
        }
        let (width, height) = (word(bytes, 18)?.cast_signed(), word(bytes, 22)?.cast_signed());
        let bits = half(bytes, 28)?;
        // The header of 16 bytes ends here.
        let method = if length == 16 { 0 } else { word(bytes, 30)? };
        let compression = match (method, bits) {
            (0, _) => Compression::None,
            (1, 8) => Compression::Rle { is_of_4_bits: false },
            (2, 4) => Compression::Rle { is_of_4_bits: true },
            // Masks; in a header of OS/2 this is a Huffman code.
            (3, 16 | 24 | 32) if length != 64 => Compression::None,
            _ => Compression::Other,
        };
        // Behind the oldest header of Windows, masks are not part of it.
        let masks = if method == 3 && length == 40 { 12 } else { 0 };
        let (is_top_down, has_masks) = (height < 0, method == 3);
        let (width, height) = (u32::try_from(width).ok()?, height.unsigned_abs());
        let (header_end, is_known_header) = (14 + length + masks, length != 16);
        Some(Self { width, height, bits, compression, pixels_at, header_end, is_known_header, is_top_down, has_masks })
    }

    /// Bytes of a row, with what fills it up to a multiple of four.
    pub fn row_bytes(&self) -> u64 {
        (u64::from(self.width) * u64::from(self.bits)).div_ceil(32) * 4
    }
}
