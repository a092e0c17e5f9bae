//! Values straight out of a snappy page that is hardly compressed.
//!
//! Ids and scores are random bytes: snappy stores them as they are, in literals of up to 64 KiB. Of 65,536 ids on a page a
//! selection wants some hundred, so finding them in the literals saves copying the page; scores are looked at where they are. The format: a length, then elements whose
//! lowest two bits say literal (0) or copy (1 to 3) (google/snappy, `format_description.txt`).

use super::page_header::{Coding, PageHeader, PageKind};
use super::pages::{Body, PageError, damaged, level_bytes};
use super::rle::Runs;

/// A page with more elements than one in so many bytes is cheaper to decompress.
const BYTES_AN_ELEMENT: usize = 512;

/// Copies of copies that are followed before the page is decompressed after all.
const MAX_COPIES: usize = 32;

/// A stretch of the page.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// First byte in the page.
    start: u32,
    length: u32,
    /// First byte in the stored bytes, or how far back the bytes were seen before.
    from: Origin,
}

#[derive(Debug, Clone, Copy)]
enum Origin {
    Stored(u32),
    Back(u32),
}

/// The elements of a page.
#[derive(Debug, Default)]
pub struct Literals {
    parts: Vec<Part>,
    /// The part that was found last: wanted values come in order.
    last: usize,
    /// A value that was put together.
    value: Vec<u8>,
}

impl Literals {
    /// Finds the elements of `stored`, which decompresses to `plain_bytes`. `false` if decompressing it is cheaper.
    ///
    /// # Errors
    /// [`PageError::Damaged`] for elements that do not make up the page.
    pub fn find(&mut self, stored: &[u8], plain_bytes: usize) -> Result<bool, PageError> {
        self.parts.clear();
        self.last = 0;
        let cut = || damaged("a snappy page is cut short");
        let (claimed, mut at) = varint(stored).ok_or_else(cut)?;
        if claimed != plain_bytes as u64 {
            return Err(damaged(format!("a snappy page of {claimed} bytes, its header says {plain_bytes}")));
        }
        let most = stored.len() / BYTES_AN_ELEMENT + 16;
        let (mut plain, mut elements) = (0_usize, 0_usize);
        while let Some(tag) = stored.get(at) {
            elements += 1;
            if elements > most {
                return Ok(false);
            }
            let tag = usize::from(*tag);
            at += 1;
            let start = plain as u32;
            let length = match tag & 3 {
                0 => {
                    let mut length = tag >> 2;
                    if length >= 60 {
                        let width = length - 59;
                        let raw = stored.get(at..at + width).ok_or_else(cut)?;
                        length = raw.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte));
                        at += width;
                    }
                    length += 1;
                    if stored.len() - at < length {
                        return Err(cut());
                    }
                    self.parts.push(Part { start, length: length as u32, from: Origin::Stored(at as u32) });
                    at += length;
                    length
                }
                kind => {
                    let width = [1, 2, 4][kind - 1];
                    let raw = stored.get(at..at + width).ok_or_else(cut)?;
                    at += width;
                    let back = raw.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte));
                    let (length, back) =
                        if kind == 1 { (4 + (tag >> 2 & 7), back | (tag >> 5) << 8) } else { ((tag >> 2) + 1, back) };
                    if back == 0 || back > plain {
                        return Err(damaged("a snappy page copies from outside itself"));
                    }
                    self.parts.push(Part { start, length: length as u32, from: Origin::Back(back as u32) });
                    length
                }
            };
            plain += length;
            if plain > plain_bytes {
                return Err(damaged("a snappy page holds more than its header says"));
            }
        }
        if plain == plain_bytes && at == stored.len() { Ok(true) } else { Err(cut()) }
    }

    /// `length` bytes of the page from `start` on; `None` if they lie outside, or in copies of too many copies.
    #[inline]
    pub fn get<'a>(&'a mut self, stored: &'a [u8], start: usize, length: usize) -> Option<&'a [u8]> {
        let inside = |part: &Part| (part.start..part.start + part.length).contains(&(start as u32));
        if !self.parts.get(self.last).is_some_and(inside) {
            self.last = self.part_of(start)?;
        }
        let part = self.parts.get(self.last)?;
        let offset = start - part.start as usize;
        match part.from {
            Origin::Stored(at) if offset.checked_add(length)? <= part.length as usize => {
                stored.get(at as usize + offset..at as usize + offset + length)
            }
            _ => self.put_together(stored, start, length),
        }
    }

    /// Whole values of `width` bytes from `start` on that lie side by side, at least one; `None` as for [`Literals::get`].
    pub fn stretch<'a>(&'a mut self, stored: &'a [u8], start: usize, width: usize) -> Option<&'a [u8]> {
        let part = self.parts.get(self.part_of(start)?)?;
        let offset = start - part.start as usize;
        let left = (part.length as usize).saturating_sub(offset);
        match part.from {
            Origin::Stored(at) if left >= width => stored.get(at as usize + offset..)?.get(..left / width * width),
            _ => self.put_together(stored, start, width),
        }
    }

    /// Where the values of a data page begin if none of them is null.
    pub fn values_start(&mut self, body: &Body<'_>, header: &PageHeader, nullable: bool) -> Option<usize> {
        match header.kind {
            PageKind::Data { levels: Coding::Rle } if nullable => {
                let length = self.get(body.stored, 0, 4).and_then(level_bytes)?;
                let levels = Runs::new(self.get(body.stored, 4, length)?, 1)?;
                levels.all_ones(header.values).then_some(4 + length)
            }
            PageKind::Data { .. } if !nullable => Some(0),
            PageKind::DataV2 { nulls: 0, .. } => {
                (!nullable || Runs::new(body.levels, 1)?.all_ones(header.values)).then_some(0)
            }
            _ => None,
        }
    }

    /// The same for bytes that lie in several parts, one by one: of random ids hardly any do.
    #[cold]
    fn put_together(&mut self, stored: &[u8], start: usize, length: usize) -> Option<&[u8]> {
        self.value.clear();
        for place in start..start.checked_add(length)? {
            let mut place = place;
            let mut copies = 0;
            let byte = loop {
                let part = self.parts.get(self.part_of(place)?)?;
                let offset = place - part.start as usize;
                match part.from {
                    Origin::Stored(at) if offset < part.length as usize => break *stored.get(at as usize + offset)?,
                    Origin::Back(back) if offset < part.length as usize && copies < MAX_COPIES => {
                        place -= back as usize;
                        copies += 1;
                    }
                    _ => return None,
                }
            };
            self.value.push(byte);
        }
        Some(&self.value)
    }

    fn part_of(&self, place: usize) -> Option<usize> {
        self.parts.partition_point(|part| part.start as usize <= place).checked_sub(1)
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(5) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is found is what decompressing gives.
        #[test]
        fn literals_are_the_page(
            random in prop::collection::vec(any::<u8>(), 0..20_000),
            repeats in prop::collection::vec((0_usize..20_000, 1_usize..200), 0..3),
            wanted in prop::collection::vec((0_usize..25_000, 1_usize..64), 0..60),
        ) {
            let mut page = random.clone();
            for (from, length) in repeats {
                let piece: Vec<u8> = random.iter().skip(from).take(length).copied().collect();
                page.extend(piece);
            }
            let stored = snap::raw::Encoder::new().compress_vec(&page).unwrap();
            let mut literals = Literals::default();
            if literals.find(&stored, page.len()).unwrap() {
                for (start, length) in wanted {
                    if let Some(found) = literals.stretch(&stored, start, length) {
                        prop_assert!(!found.is_empty() && found.len() % length == 0);
                        prop_assert_eq!(found, &page[start..start + found.len()]);
                    }
                    if let Some(found) = literals.get(&stored, start, length) {
                        prop_assert_eq!(found, &page[start..start + length]);
                    }
                }
            }
        }

        #[test]
        fn any_bytes_are_literals_or_an_error(stored in prop::collection::vec(any::<u8>(), 0..300), plain in 0_usize..300) {
            let mut literals = Literals::default();
            if literals.find(&stored, plain).is_ok() {
                for start in 0..plain {
                    let _ = literals.get(&stored, start, 8);
                }
            }
        }
    }

    #[test]
    fn random_bytes_are_found_without_decompressing() {
        let page: Vec<u8> =
            (0..300_000_u64).flat_map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 13).to_le_bytes()).collect();
        let stored = snap::raw::Encoder::new().compress_vec(&page).unwrap();
        let mut literals = Literals::default();
        assert!(literals.find(&stored, page.len()).unwrap());
        for at in 0..page.len() / 16 {
            assert_eq!(literals.get(&stored, at * 16, 16), Some(&page[at * 16..at * 16 + 16]));
        }
    }
}
