//! GIF: its blocks up to the trailer, and the LZW codes of every frame, of which only the lengths matter.

use super::Damage;

const MAX_CODES: usize = 4096;

pub(super) fn check(bytes: &[u8]) -> Result<(), Damage> {
    let mut at = 13 + colour_table_bytes(*bytes.get(10).ok_or(Damage::Truncated)?);
    let mut frames = 0;
    loop {
        match *bytes.get(at).ok_or(Damage::Truncated)? {
            0x21 => {
                at += 2;
                while block(bytes, &mut at)?.is_some() {}
            }
            0x2c => {
                let size = bytes.get(at + 5..at + 9).ok_or(Damage::Truncated)?;
                let number = |at: usize| u64::from(size[at]) | u64::from(size[at + 1]) << 8;
                let pixels = number(0) * number(2);
                at += 10 + colour_table_bytes(*bytes.get(at + 9).ok_or(Damage::Truncated)?);
                frame(bytes, &mut at, pixels)?;
                frames += 1;
            }
            0x3b if frames > 0 => return Ok(()),
            0x3b => return Err(Damage::Corrupt("no picture before the trailer")),
            // Some writers leave zeros between blocks.
            0x00 => at += 1,
            _ => return Err(Damage::Corrupt("an unknown block")),
        }
    }
}

fn colour_table_bytes(flags: u8) -> usize {
    if flags & 0x80 > 0 { 3 << ((flags & 7) + 1) } else { 0 }
}

/// The next sub-block; `None` at the one of no bytes that ends them.
fn block<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Option<&'a [u8]>, Damage> {
    let length = usize::from(*bytes.get(*at).ok_or(Damage::Truncated)?);
    let body = bytes.get(*at + 1..*at + 1 + length).ok_or(Damage::Truncated)?;
    *at += 1 + length;
    Ok((length > 0).then_some(body))
}

fn frame(bytes: &[u8], at: &mut usize, pixels: u64) -> Result<(), Damage> {
    let least = u32::from(*bytes.get(*at).ok_or(Damage::Truncated)?);
    *at += 1;
    if !(1..=8).contains(&least) {
        return Err(Damage::Corrupt("an impossible code size"));
    }
    let mut codes = Codes::new(least);
    while let Some(body) = block(bytes, at)? {
        codes.take(body)?;
    }
    if codes.pixels < pixels { Err(Damage::Corrupt("a frame with fewer pixels than it says")) } else { Ok(()) }
}

/// An LZW decoder that counts pixels and does not make them.
struct Codes {
    clear: usize,
    /// Pixels that each code stands for.
    lengths: Vec<u32>,
    /// Pixels of the code before, which the next new code extends by one; 0 behind a clear.
    previous: u32,
    width: u32,
    held: u32,
    held_bits: u32,
    pixels: u64,
    ended: bool,
}

impl Codes {
    fn new(least: u32) -> Self {
        let clear = 1 << least;
        // The clear and end codes stand for nothing.
        let mut lengths = Vec::with_capacity(MAX_CODES);
        lengths.resize(clear + 2, 1);
        Self { clear, lengths, previous: 0, width: least + 1, held: 0, held_bits: 0, pixels: 0, ended: false }
    }

    fn reset(&mut self) {
        // What stands for one pixel stays: a frame may be nothing but clear codes.
        self.lengths.truncate(self.clear + 2);
        (self.width, self.previous) = (self.clear.trailing_zeros() + 1, 0);
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Damage> {
        for &byte in bytes {
            if self.ended {
                return Ok(());
            }
            self.held |= u32::from(byte) << self.held_bits;
            self.held_bits += 8;
            while self.held_bits >= self.width && !self.ended {
                let code = (self.held & ((1 << self.width) - 1)) as usize;
                self.held >>= self.width;
                self.held_bits -= self.width;
                self.code(code)?;
            }
        }
        Ok(())
    }

    fn code(&mut self, code: usize) -> Result<(), Damage> {
        if code == self.clear {
            self.reset();
            return Ok(());
        }
        if code == self.clear + 1 {
            self.ended = true;
            return Ok(());
        }
        let length = match self.lengths.get(code) {
            Some(&length) => length,
            // The one case where a code is used before it is known: the string before, and its own first pixel again.
            None if code == self.lengths.len() && self.previous > 0 && code < MAX_CODES => self.previous + 1,
            None => return Err(Damage::Corrupt("a code that stands for nothing yet")),
        };
        if self.previous > 0 && self.lengths.len() < MAX_CODES {
            self.lengths.push(self.previous + 1);
            if self.lengths.len() == 1 << self.width && self.width < 12 {
                self.width += 1;
            }
        }
        (self.pixels, self.previous) = (self.pixels + u64::from(length), length);
        Ok(())
    }
}
