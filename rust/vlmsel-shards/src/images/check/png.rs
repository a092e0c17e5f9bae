//! PNG: the checksums of all chunks, and the zlib stream with as many bytes as the picture needs.

mod side;

use flate2::{Decompress, FlushDecompress, Status};

use super::Damage;
use side::{Frames, Side};

/// Decompressed at one time.
const PIECE_BYTES: usize = 64 << 10;

struct Shape {
    width: u64,
    height: u64,
    bits_per_pixel: u64,
    is_interlaced: bool,
    needs_palette: bool,
}

pub(super) fn check(bytes: &[u8]) -> Result<(), Damage> {
    let (mut at, mut shape) = (8, None);
    let (mut rows, mut has_palette): (Option<Rows>, bool) = (None, false);
    let (mut side, mut frames) = (Side::default(), Frames::default());
    let mut before = *b"    ";
    loop {
        let (kind, body) = chunk(bytes, &mut at)?;
        match &kind {
            b"IHDR" => shape = Some(Shape::read(body)?),
            b"PLTE" => has_palette = true,
            b"IDAT" => {
                let shape = shape.as_ref().ok_or(Damage::Corrupt("image data before the header"))?;
                if shape.needs_palette && !has_palette {
                    return Err(Damage::Corrupt("no palette"));
                }
                // Decoders take the picture for ended there.
                if before != kind && rows.as_ref().is_some_and(|rows| !rows.ended) {
                    return Err(Damage::Corrupt("a chunk between two pieces of the picture"));
                }
                rows.get_or_insert_with(|| Rows::new(shape)).take(body)?;
            }
            b"IEND" => {
                return match rows {
                    Some(rows) if rows.is_whole() => Ok(()),
                    _ => Err(Damage::Corrupt("fewer pixels than the header says")),
                };
            }
            b"fcTL" => frames.control(body, rows.is_some())?,
            b"fdAT" => frames.data(body)?,
            _ => side.chunk(kind, body)?,
        }
        before = kind;
    }
}

/// Type and content of the chunk at `at`, which moves behind it.
fn chunk<'a>(bytes: &'a [u8], at: &mut usize) -> Result<([u8; 4], &'a [u8]), Damage> {
    let number = |at: usize| {
        let word: Option<[u8; 4]> = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map(u32::from_be_bytes).ok_or(Damage::Truncated)
    };
    let end = *at + 8 + number(*at)? as usize;
    let stored = number(end)?;
    let named = bytes.get(*at + 4..end).ok_or(Damage::Truncated)?;
    if crc32fast::hash(named) != stored {
        return Err(Damage::Corrupt("a chunk that does not match its checksum"));
    }
    *at = end + 4;
    named.split_first_chunk().map(|(kind, body)| (*kind, body)).ok_or(Damage::Truncated)
}

impl Shape {
    fn read(body: &[u8]) -> Result<Self, Damage> {
        let &[ref size @ .., depth, colour, 0, 0, interlace @ 0..=1] = body else {
            return Err(Damage::Corrupt("a header that is none"));
        };
        let number = |from: usize| {
            let word: Option<[u8; 4]> = size.get(from..from + 4).and_then(|word| word.try_into().ok());
            word.map(|word| u64::from(u32::from_be_bytes(word))).ok_or(Damage::Corrupt("a header that is none"))
        };
        let channels = match (colour, depth) {
            (0 | 3, 1 | 2 | 4 | 8) | (0, 16) => 1,
            (2, 8 | 16) => 3,
            (4, 8 | 16) => 2,
            (6, 8 | 16) => 4,
            _ => return Err(Damage::Corrupt("a header with an impossible depth or colour type")),
        };
        Ok(Self {
            width: number(0)?,
            height: number(4)?,
            bits_per_pixel: channels * u64::from(depth),
            is_interlaced: interlace == 1,
            needs_palette: colour == 3,
        })
    }

    /// Rows and bytes per row (without the filter's byte) of each pass.
    fn passes(&self) -> Vec<(u64, u64)> {
        // Adam7: first column, first row, and the steps between.
        const PASSES: [(u64, u64, u64, u64); 7] =
            [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)];
        let whole = [(0, 0, 1, 1)];
        let passes: &[_] = if self.is_interlaced { &PASSES } else { &whole };
        let count = |size: u64, first: u64, step: u64| size.saturating_sub(first).div_ceil(step);
        passes
            .iter()
            .map(|&(x, y, across, down)| (count(self.height, y, down), count(self.width, x, across)))
            .filter(|&(rows, columns)| rows > 0 && columns > 0)
            .map(|(rows, columns)| (rows, (columns * self.bits_per_pixel).div_ceil(8)))
            .collect()
    }
}

/// Follows the decompressed bytes row by row.
struct Rows {
    zlib: Decompress,
    piece: Vec<u8>,
    /// Passes to come, the next one last.
    passes: Vec<(u64, u64)>,
    left_of_pass: u64,
    row_bytes: u64,
    /// Bytes to come of this row; the next one begins with its filter.
    left_of_row: u64,
    ended: bool,
}

impl Rows {
    fn new(shape: &Shape) -> Self {
        let mut passes = shape.passes();
        passes.reverse();
        let (left_of_pass, row_bytes) = passes.pop().unwrap_or((0, 0));
        let (zlib, piece) = (Decompress::new(true), vec![0; PIECE_BYTES]);
        Self { zlib, piece, passes, left_of_pass, row_bytes, left_of_row: 0, ended: false }
    }

    fn has_all_pixels(&self) -> bool {
        self.left_of_pass == 0 && self.left_of_row == 0 && self.passes.is_empty()
    }

    /// All pixels, and the stream ended with its own checksum.
    fn is_whole(&self) -> bool {
        self.ended && self.has_all_pixels()
    }

    fn take(&mut self, mut input: &[u8]) -> Result<(), Damage> {
        // An empty output buffer would stall the stream, so the last checksum is read with room to spare.
        while !(self.ended || input.is_empty() && self.has_all_pixels()) {
            let (read, made) = (self.zlib.total_in(), self.zlib.total_out());
            let status = self
                .zlib
                .decompress(input, &mut self.piece, FlushDecompress::None)
                .map_err(|_| Damage::Corrupt("compressed data that does not decompress"))?;
            let (read, made) = ((self.zlib.total_in() - read) as usize, (self.zlib.total_out() - made) as usize);
            input = &input[read..];
            let piece = std::mem::take(&mut self.piece);
            let followed = self.follow(&piece[..made]);
            self.piece = piece;
            followed?;
            self.ended = status == Status::StreamEnd;
            if read == 0 && made == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), Damage> {
        while let Some((&filter, rest)) = bytes.split_first() {
            if self.left_of_row > 0 {
                let step = self.left_of_row.min(bytes.len() as u64);
                self.left_of_row -= step;
                bytes = &bytes[step as usize..];
                continue;
            }
            while self.left_of_pass == 0 {
                let Some((rows, row_bytes)) = self.passes.pop() else {
                    return Err(Damage::Corrupt("more pixels than the header says"));
                };
                (self.left_of_pass, self.row_bytes) = (rows, row_bytes);
            }
            if filter > 4 {
                return Err(Damage::Corrupt("a row with an unknown filter"));
            }
            (self.left_of_pass, self.left_of_row) = (self.left_of_pass - 1, self.row_bytes);
            bytes = rest;
        }
        Ok(())
    }
}
