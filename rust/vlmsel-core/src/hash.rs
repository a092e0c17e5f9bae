//! What a sample is called and what it holds: `uid`, image hash and text hash.
//!
//! All three are xxh3-128 in its canonical byte order (most significant byte first), as `xxhsum -H128` prints it. They are
//! persisted, so what goes into them is a contract. Equal hashes are candidates; where equality matters, bytes decide.

use unicode_normalization::UnicodeNormalization;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// A 128-bit hash, most significant byte first.
pub type Hash128 = [u8; 16];

/// Hash of an image's stored bytes.
pub fn image_hash(bytes: &[u8]) -> Hash128 {
    xxh3_128(bytes).to_be_bytes()
}

/// [`image_hash`] of bytes that arrive in pieces.
#[derive(Default)]
pub struct ImageHasher(Box<Xxh3>);

impl ImageHasher {
    /// Takes the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The hash of all pieces.
    pub fn finish(&self) -> Hash128 {
        self.0.digest128().to_be_bytes()
    }
}

/// Unicode NFC, trimmed, runs of white space (Unicode `White_Space`) collapsed to one space. Case is kept.
pub fn normalise_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut push = |c: char| {
        if !c.is_whitespace() {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with(' ') {
            out.push(' ');
        }
    };
    if text.is_ascii() {
        text.chars().for_each(&mut push);
    } else {
        text.nfc().for_each(&mut push);
    }
    if out.ends_with(' ') {
        out.pop();
    }
    out
}

/// Hash of [`normalise_text`].
pub fn text_hash(text: &str) -> Hash128 {
    xxh3_128(normalise_text(text).as_bytes()).to_be_bytes()
}

/// The id of a sample that brings none of its own: where it lives, not what it holds.
///
/// The three strings go in as UTF-8, each behind its length (u64, little endian), then `ordinal` (u64, little endian), so
/// that no two places share their bytes. `ordinal` counts the samples of one key within one shard, from 0.
pub fn uid(source: &str, shard: &str, key: &str, ordinal: u64) -> Hash128 {
    let mut bytes = Vec::with_capacity(32 + source.len() + shard.len() + key.len());
    for part in [source, shard, key] {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes.extend_from_slice(&ordinal.to_le_bytes());
    xxh3_128(&bytes).to_be_bytes()
}

/// A 128-bit id in any spelling that people and programs give it: 32 hexadecimal digits of either case, a UUID with dashes, in
/// braces, or behind `urn:uuid:`; white space around it and a pair of quotes do not count. All spellings of an id are one value.
pub fn parse_uid(text: &str) -> Option<Hash128> {
    parse_uid_bytes(text.as_bytes())
}

/// [`parse_uid`] of bytes that need not be UTF-8.
pub fn parse_uid_bytes(text: &[u8]) -> Option<Hash128> {
    // First what a selection looks at millions of times: digits alone, or what is too short to be an id.
    match <&[u8; 32]>::try_from(text) {
        Ok(digits) => of_digits(digits),
        Err(_) if text.len() < 32 => None,
        Err(_) => parse_spelling(text),
    }
}

/// An id without the white space around it and without its quotes, which some writers of lists add.
pub fn bare_id(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii();
    match text {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => inner.trim_ascii(),
        _ => text,
    }
}

fn parse_spelling(text: &[u8]) -> Option<Hash128> {
    const URN: &[u8] = b"urn:uuid:";
    let text = bare_id(text);
    let text = match text.split_at_checked(URN.len()) {
        Some((front, rest)) if front.eq_ignore_ascii_case(URN) => rest,
        _ => text,
    };
    let text = text.strip_prefix(b"{").map_or(Some(text), |inner| inner.strip_suffix(b"}"))?;
    match text.len() {
        32 => of_digits(text.try_into().ok()?),
        36 if [8, 13, 18, 23].iter().all(|at| text[*at] == b'-') => {
            let (mut digits, mut next) = ([0; 32], 0);
            for (at, digit) in text.iter().enumerate() {
                if ![8, 13, 18, 23].contains(&at) {
                    digits[next] = *digit;
                    next += 1;
                }
            }
            of_digits(&digits)
        }
        _ => None,
    }
}

fn of_digits(digits: &[u8; 32]) -> Option<Hash128> {
    // No branch within: this is looked at for every id of a selection.
    if !digits.iter().fold(true, |all, digit| all & digit.is_ascii_hexdigit()) {
        return None;
    }
    // '0' is 0x30, 'A' is 0x41, 'a' is 0x61: bit 6 says letter.
    let value = |digit: u8| (digit & 0xf) + 9 * (digit >> 6);
    let mut out = [0; 16];
    for (byte, pair) in out.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = value(pair[0]) << 4 | value(pair[1]);
    }
    Some(out)
}

/// 32 lower-case hexadecimal characters.
pub fn to_hex(hash: &Hash128) -> String {
    use std::fmt::Write;
    hash.iter().fold(String::with_capacity(32), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `tests/python/test_hashes.py` computes the same with Python's `unicodedata` and the `xxhash` package.
    #[test]
    fn golden_vectors() {
        // Published by xxHash for empty input, seed 0.
        assert_eq!(to_hex(&image_hash(b"")), "99aa06d3014798d86001c324468d497f");
        let cases: [(&str, &str); 8] = [
            ("  a \t\n b  ", "a b"),
            ("", ""),
            (" \u{a0}\u{2003} ", ""),
            ("e\u{301}", "\u{e9}"),
            ("\u{212b}", "\u{c5}"),
            ("\u{1100}\u{1161}", "\u{ac00}"),
            ("\u{fb01}", "\u{fb01}"),
            ("A\u{85}a\u{200b}b\u{3000}", "A a\u{200b}b"),
        ];
        for (text, expected) in cases {
            assert_eq!(normalise_text(text), expected, "{text:?}");
        }
    }

    #[test]
    fn places_that_look_alike_stay_apart() {
        let all = [
            uid("a", "b", "c", 0),
            uid("ab", "", "c", 0),
            uid("a", "bc", "", 0),
            uid("a", "b", "c", 1),
            uid("", "ab", "c", 0),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(a, b);
            }
        }
        assert_ne!(uid("s", "t", "e\u{301}", 0), uid("s", "t", "\u{e9}", 0));
    }

    #[test]
    fn an_id_is_one_value_in_every_spelling() {
        let id = Some(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f_u128.to_be_bytes());
        for spelling in [
            "000102030405060708090A0b0c0d0e0F",
            "00010203-0405-0607-0809-0a0b0c0d0e0f",
            "00010203-0405-0607-0809-0A0B0C0D0E0F",
            "{00010203-0405-0607-0809-0a0b0c0d0e0f}",
            "{000102030405060708090a0b0c0d0e0f}",
            "urn:uuid:00010203-0405-0607-0809-0a0b0c0d0e0f",
            "URN:UUID:00010203-0405-0607-0809-0a0b0c0d0e0f",
            " 000102030405060708090a0b0c0d0e0f\t",
            "\"00010203-0405-0607-0809-0a0b0c0d0e0f\"",
            "'000102030405060708090a0b0c0d0e0f'\r",
        ] {
            assert_eq!(parse_uid(spelling), id, "{spelling}");
        }
        for wrong in [
            "",
            "00",
            "g0010203040506070809000b0c0d0e0f",
            "+0010203040506070809000b0c0d0e0f",
            "é00102030405060708090a0b0c0d0e0",
            "0001020304-05-0607-0809-0a0b0c0d0e0f",
            "{00010203-0405-0607-0809-0a0b0c0d0e0f",
            "00010203-0405-0607-0809-0a0b0c0d0e0f}",
            "00010203_0405_0607_0809_0a0b0c0d0e0f",
            "\"00010203-0405-0607-0809-0a0b0c0d0e0f",
            "0x000102030405060708090a0b0c0d0e0f",
            "00010203-0405-0607-0809-0a0b0c0d0e0f0",
        ] {
            assert_eq!(parse_uid(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn pieces_hash_like_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..3000), at in 0_usize..3000) {
            let at = at.min(bytes.len());
            let mut hasher = ImageHasher::default();
            hasher.update(&bytes[..at]);
            hasher.update(&bytes[at..]);
            prop_assert_eq!(hasher.finish(), image_hash(&bytes));
        }

        #[test]
        fn normalising_twice_changes_nothing(text in ".{0,40}") {
            let once = normalise_text(&text);
            prop_assert_eq!(&normalise_text(&once), &once);
            prop_assert_eq!(once.split_whitespace().collect::<Vec<_>>().join(" "), once);
        }

        #[test]
        fn hex_round_trips(id in any::<[u8; 16]>()) {
            prop_assert_eq!(parse_uid(&to_hex(&id)), Some(id));
        }

        #[test]
        fn digits_are_their_value(text in "[0-9a-fA-F]{32}", other in "[0-9a-gA-G@`/:]{31,33}") {
            for text in [text, other] {
                let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                let expected = plain.then(|| u128::from_str_radix(&text, 16).unwrap().to_be_bytes());
                prop_assert_eq!(parse_uid(&text), expected);
            }
        }
    }
}
