//! The bits between two markers of a JPEG.

use super::super::Damage;
use super::huffman::Table;

pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// Behind the last byte that is in `held`.
    at: usize,
    /// Bits not used yet, from the top.
    held: u64,
    count: u32,
}

/// Where the next marker stands, or the end.
pub(super) fn find_marker(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while at < bytes.len() {
        if bytes[at] == 0xff && bytes.get(at + 1).is_none_or(|&c| c != 0 && c != 0xff) {
            return at;
        }
        at += 1;
    }
    at
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, held: 0, count: 0 }
    }

    fn refill(&mut self) {
        while self.count <= 56 {
            let Some(&byte) = self.bytes.get(self.at) else { return };
            if byte == 0xff {
                // A zero is stuffed behind data that looks like a marker.
                if self.bytes.get(self.at + 1) != Some(&0) {
                    return;
                }
                self.at += 1;
            }
            self.at += 1;
            self.held |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// Data ended in the middle of a block: at the file's end, or at a marker.
    fn ended(&self) -> Damage {
        if self.at + 1 >= self.bytes.len() {
            Damage::Truncated
        } else {
            Damage::Corrupt("a scan with less data than blocks")
        }
    }

    fn drop(&mut self, count: u32) -> Result<(), Damage> {
        if count > self.count {
            return Err(self.ended());
        }
        self.held <<= count;
        self.count -= count;
        Ok(())
    }

    /// Up to 16 bits as a number.
    pub fn take(&mut self, count: u32) -> Result<u32, Damage> {
        if count == 0 {
            return Ok(0);
        }
        if self.count < count {
            self.refill();
        }
        let value = (self.held >> (64 - count)) as u32;
        self.drop(count)?;
        Ok(value)
    }

    pub fn symbol(&mut self, table: &Table) -> Result<u8, Damage> {
        if self.count < 16 {
            self.refill();
        }
        match table.decode((self.held >> 48) as u32) {
            Some((length, value)) => self.drop(length).map(|()| value),
            None if self.count < 16 => Err(self.ended()),
            None => Err(Damage::Corrupt("a code that is in no table")),
        }
    }

    /// The end of a run of blocks: the rest of the byte is padding, and so is what some encoders leave behind it, zeros or
    /// ones. Returns where the next marker stands.
    pub fn end(&mut self) -> Result<usize, Damage> {
        self.drop(self.count % 8)?;
        let held = self.held.to_be_bytes();
        let marker = find_marker(self.bytes, self.at);
        let left = held[..self.count as usize / 8].iter().chain(&self.bytes[self.at..marker]);
        if left.into_iter().any(|&byte| byte != 0 && byte != 0xff) {
            return Err(Damage::Corrupt("a scan with more data than blocks"));
        }
        Ok(marker)
    }
}
