//! Values straight out of a snappy page that is hardly compressed.
//!
//! Ids are random bytes: snappy stores them as they are, in literals of up to 64 KiB. Of 65,536 ids on a page a selection
//! wants some hundred, so finding them in the literals saves copying the page. The format: a length, then elements whose
//! lowest two bits say literal (0) or copy (1 to 3) (google/snappy, `format_description.txt`).

use super::chunk_pages::{PageError, damaged};

/// A page with more elements than one in so many bytes is cheaper to decompress.
const BYTES_AN_ELEMENT: usize = 512;

/// The literals of a page.
#[derive(Debug, Default)]
pub struct Literals {
    /// First byte in the page, first byte in the stored bytes, length.
    parts: Vec<(u32, u32, u32)>,
    /// The literal that was found last: wanted values come in order.
    last: usize,
}

impl Literals {
    /// Finds the literals of `stored`, which decompresses to `plain_bytes`. `false` if decompressing it is cheaper.
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
                    self.parts.push((plain as u32, at as u32, length as u32));
                    at += length;
                    length
                }
                1 => {
                    at += 1;
                    4 + (tag >> 2 & 7)
                }
                kind => {
                    at += if kind == 2 { 2 } else { 4 };
                    (tag >> 2) + 1
                }
            };
            plain += length;
            if plain > plain_bytes {
                return Err(damaged("a snappy page holds more than its header says"));
            }
        }
        if plain == plain_bytes && at == stored.len() { Ok(true) } else { Err(cut()) }
    }

    /// `length` bytes of the page from `start` on, if they lie in one literal.
    #[inline]
    pub fn get<'a>(&mut self, stored: &'a [u8], start: usize, length: usize) -> Option<&'a [u8]> {
        let inside = |part: &(u32, u32, u32)| part.0 as usize <= start && start < (part.0 + part.2) as usize;
        if !self.parts.get(self.last).is_some_and(inside) {
            self.last = self.parts.partition_point(|part| part.0 as usize <= start).checked_sub(1)?;
        }
        let (plain, at, size) = *self.parts.get(self.last)?;
        let offset = start - plain as usize;
        if offset.checked_add(length)? > size as usize {
            return None;
        }
        stored.get(at as usize + offset..at as usize + offset + length)
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
            wanted in prop::collection::vec((0_usize..25_000, 0_usize..64), 0..60),
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
        let found = (0..page.len() / 16).filter(|at| literals.get(&stored, at * 16, 16).is_some()).count();
        assert!(found > page.len() / 16 * 9 / 10, "{found}");
    }
}
