//! What a PNG has beside its picture: texts and colour profiles, which may be bombs, and the frames of an animation.
//!
//! The bounds are Pillow's, which reads the pictures later; libpng has others of the same kind.

use flate2::{Decompress, FlushDecompress, Status};

use super::super::Damage;

/// A text or profile that inflates to more is refused.
const MOST_INFLATED: u64 = 1 << 20;
/// So are texts that have more bytes together.
const MOST_TEXT: u64 = 64 << 20;

const BOMB: Damage = Damage::Bomb("a text or colour profile of more than 1 MiB when it is inflated");

/// Texts and colour profiles as they come.
#[derive(Default)]
pub(super) struct Side {
    text_bytes: u64,
}

impl Side {
    pub fn chunk(&mut self, kind: [u8; 4], body: &[u8]) -> Result<(), Damage> {
        // A name ends with a zero, and a byte says how the rest is compressed.
        let named = || body.iter().position(|&byte| byte == 0).map(|end| &body[end + 1..]);
        let added = match &kind {
            b"tEXt" => body.len() as u64,
            b"zTXt" => inflated(named().and_then(|rest| rest.get(1..)))?,
            b"iTXt" => match named() {
                Some([0, _, ..]) | None => body.len() as u64,
                // Behind the method: language and translated name, each with a zero.
                Some(rest) => inflated(rest.get(2..).and_then(|rest| rest.splitn(3, |&byte| byte == 0).nth(2)))?,
            },
            b"iCCP" => return inflated(named().and_then(|rest| rest.get(1..))).map(|_| ()),
            _ => return Ok(()),
        };
        self.text_bytes += added;
        if self.text_bytes > MOST_TEXT { Err(Damage::Bomb("more than 64 MiB of text")) } else { Ok(()) }
    }
}

/// Bytes that come out of a zlib stream. Decoders put up with one that is damaged: it is no part of the picture.
fn inflated(stream: Option<&[u8]>) -> Result<u64, Damage> {
    let mut input = stream.unwrap_or_default();
    let (mut zlib, mut piece) = (Decompress::new(true), [0; 8 << 10]);
    loop {
        let (read, made) = (zlib.total_in(), zlib.total_out());
        let status = zlib.decompress(input, &mut piece, FlushDecompress::None);
        if zlib.total_out() > MOST_INFLATED {
            return Err(BOMB);
        }
        input = &input[(zlib.total_in() - read) as usize..];
        let is_stuck = zlib.total_in() == read && zlib.total_out() == made;
        if is_stuck || !matches!(status, Ok(Status::Ok | Status::BufError)) {
            return Ok(zlib.total_out());
        }
    }
}

/// The frames of an animation, whose chunks are numbered. Their pixels are not looked at: the first picture is what is used.
#[derive(Default)]
pub(super) struct Frames {
    /// Number of the next chunk.
    next: u32,
    /// Whether a control chunk came behind the picture, so that data has a frame to belong to.
    has_frame: bool,
}

impl Frames {
    /// A control chunk; the one before the picture speaks of the picture itself.
    pub fn control(&mut self, body: &[u8], is_behind_picture: bool) -> Result<(), Damage> {
        self.has_frame = is_behind_picture;
        if body.len() == 26 { self.count(body) } else { Err(Damage::Corrupt("a frame of an animation cut short")) }
    }

    /// Data of a frame.
    pub fn data(&mut self, body: &[u8]) -> Result<(), Damage> {
        if !self.has_frame {
            return Err(Damage::Corrupt("data of a frame that was not announced"));
        }
        self.count(body)
    }

    fn count(&mut self, body: &[u8]) -> Result<(), Damage> {
        let number = body.first_chunk().map(|number| u32::from_be_bytes(*number));
        if number != Some(self.next) {
            return Err(Damage::Corrupt("frames of an animation out of order"));
        }
        self.next += 1;
        Ok(())
    }
}
