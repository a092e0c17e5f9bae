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

/// Where the next marker stands that does not restart the scan, or the end.
pub(super) fn find_end_of_scan(bytes: &[u8], from: usize) -> usize {
    let mut at = find_marker(bytes, from);
    while let Some(0xd0..=0xd7) = bytes.get(at + 1) {
        at = find_marker(bytes, at + 2);
    }
    at
}

/// Whether one of the bytes is 0xff.
fn has_ones(word: u64) -> bool {
    let zeros = !word;
    zeros.wrapping_sub(0x0101_0101_0101_0101) & !zeros & 0x8080_8080_8080_8080 != 0
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, held: 0, count: 0 }
    }

    #[inline(never)]
    fn refill(&mut self) {
        // Eight bytes at once where none of them looks like a marker.
        if let Some(word) =
            self.bytes.get(self.at..).and_then(<[u8]>::first_chunk).map(|word| u64::from_be_bytes(*word))
            && !has_ones(word)
            && self.count < 64
        {
            let bytes = (64 - self.count) / 8;
            self.held |= word >> self.count;
            self.count += 8 * bytes;
            self.held &= u64::MAX << (64 - self.count);
            self.at += bytes as usize;
            return;
        }
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
    #[cold]
    fn ended(&self) -> Damage {
        if self.at + 1 >= self.bytes.len() {
            Damage::Truncated
        } else {
            Damage::Corrupt("a scan with less data than blocks")
        }
    }

    #[inline]
    fn drop(&mut self, count: u32) -> Result<(), Damage> {
        if count > self.count {
            return Err(self.ended());
        }
        // A shift by all 64 would be none.
        self.held = self.held.checked_shl(count).unwrap_or(0);
        self.count -= count;
        Ok(())
    }

    /// Passes over up to 64 bits.
    #[inline]
    pub fn pass(&mut self, count: u32) -> Result<(), Damage> {
        if self.count < count { self.pass_refilled(count) } else { self.drop(count) }
    }

    fn pass_refilled(&mut self, count: u32) -> Result<(), Damage> {
        self.refill();
        // A refill brings 57 bits at least where there are so many.
        let first = self.count.min(count);
        if first < count && self.count > 56 {
            self.drop(first)?;
            self.refill();
            return self.drop(count - first);
        }
        self.drop(count)
    }

    /// Up to 16 bits as a number.
    #[inline]
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

    #[inline]
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_come_in_order_with_stuffed_zeros_left_out(
            bytes in proptest::collection::vec(prop_oneof![4 => any::<u8>(), 1 => Just(0xff_u8)], 0..60),
            steps in proptest::collection::vec((any::<bool>(), 0_u32..=64), 0..40),
        ) {
            let stuffed: Vec<u8> =
                bytes.iter().flat_map(|&byte| [byte, 0].into_iter().take(1 + usize::from(byte == 0xff))).collect();
            let stream = [&stuffed[..], &[0xff, 0xd9]].concat();
            let all: Vec<u32> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| u32::from(byte >> bit & 1))).collect();
            let (mut bits, mut at) = (Bits::new(&stream, 0), 0);
            for (takes, count) in steps {
                let count = if takes { count % 17 } else { count };
                let end = at + count as usize;
                let value = takes.then(|| all.get(at..end).map(|bits| bits.iter().fold(0, |n, bit| n << 1 | bit)));
                match value {
                    Some(Some(value)) => prop_assert_eq!(bits.take(count), Ok(value)),
                    Some(None) => prop_assert!(bits.take(count).is_err()),
                    None => prop_assert_eq!(bits.pass(count).is_ok(), end <= all.len()),
                }
                if end > all.len() {
                    return Ok(());
                }
                at = end;
            }
        }
    }
}
