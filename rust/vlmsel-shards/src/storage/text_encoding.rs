//! Text that is not UTF-8, known by its first bytes, so that a message can say what it is and how to convert it.

use std::io::{Chain, Cursor, Read};
use std::path::Path;

use crate::error::{Error, Result};

/// Bytes that are looked at: two characters of the widest encoding.
const HEAD_BYTES: usize = 8;

/// What the text is and what to do, if its first bytes are UTF-16 or UTF-32: a byte order mark, or two ASCII characters
/// with the zeros that these encodings put around them.
pub fn foreign_encoding(head: &[u8]) -> Option<&'static str> {
    macro_rules! convert {
        ($name:literal, $order:literal, $from:literal) => {
            concat!($name, " text (", $order, "); convert it to UTF-8: iconv -f ", $from, " -t UTF-8 IN > OUT")
        };
    }
    let is_text = |c: u8| matches!(c, b'\t' | b'\n' | b'\r' | b' '..=b'~');
    Some(match *head {
        // The mark of UTF-32 begins with that of UTF-16.
        [0xff, 0xfe, 0, 0, ..] => convert!("UTF-32", "little-endian", "UTF-32"),
        [0, 0, 0xfe, 0xff, ..] => convert!("UTF-32", "big-endian", "UTF-32"),
        [0xff, 0xfe, ..] => convert!("UTF-16", "little-endian", "UTF-16"),
        [0xfe, 0xff, ..] => convert!("UTF-16", "big-endian", "UTF-16"),
        // Without a mark iconv has to be told the order.
        [a, 0, 0, 0, b, 0, 0, 0, ..] if is_text(a) && is_text(b) => convert!("UTF-32", "little-endian", "UTF-32LE"),
        [0, 0, 0, a, 0, 0, 0, b, ..] if is_text(a) && is_text(b) => convert!("UTF-32", "big-endian", "UTF-32BE"),
        [a, 0, b, 0, ..] if is_text(a) && is_text(b) => convert!("UTF-16", "little-endian", "UTF-16LE"),
        [0, a, 0, b, ..] if is_text(a) && is_text(b) => convert!("UTF-16", "big-endian", "UTF-16BE"),
        _ => return None,
    })
}

/// The stream as it was, once its first bytes are seen not to be UTF-16 or UTF-32.
///
/// # Errors
/// [`Error::Unreadable`] if they are, or cannot be read.
pub fn utf8_stream<R: Read>(mut stream: R, path: &Path, is_compressed: bool) -> Result<Chain<Cursor<Vec<u8>>, R>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    Read::by_ref(&mut stream)
        .take(HEAD_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(|error| Error::unreadable(path, format!("cannot be read to its end: {error}")))?;
    match foreign_encoding(&head) {
        None => Ok(Cursor::new(head).chain(stream)),
        Some(what) if is_compressed => {
            Err(Error::unreadable(path, what.replacen("; convert", "; decompress it, then convert", 1)))
        }
        Some(what) => Err(Error::unreadable(path, what)),
    }
}

/// The bytes as text; the error says what they are instead.
///
/// # Errors
/// UTF-16 and UTF-32, of which ASCII characters would pass with zeros between them, and all else that is not UTF-8.
pub fn utf8_text(bytes: &[u8]) -> std::result::Result<&str, String> {
    match foreign_encoding(bytes) {
        Some(what) => Err(what.to_owned()),
        None => std::str::from_utf8(bytes).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_known_with_and_without_a_mark() {
        let text = "uid,a\n";
        let wide = |bytes_each: usize, big: bool, mark: bool| -> Vec<u8> {
            let characters = mark.then_some('\u{feff}').into_iter().chain(text.chars());
            let bytes = |c: char| if big { (c as u32).to_be_bytes() } else { (c as u32).to_le_bytes() };
            characters
                .flat_map(|c| if big { bytes(c)[4 - bytes_each..].to_vec() } else { bytes(c)[..bytes_each].to_vec() })
                .collect()
        };
        for (bytes_each, name) in [(2, "UTF-16"), (4, "UTF-32")] {
            for (big, order, suffix) in [(false, "little", "LE"), (true, "big", "BE")] {
                for mark in [true, false] {
                    let found = foreign_encoding(&wide(bytes_each, big, mark)).unwrap();
                    let from = if mark { name.to_owned() } else { format!("{name}{suffix}") };
                    assert!(found.starts_with(&format!("{name} text ({order}-endian)")), "{found}");
                    assert!(found.contains(&format!("iconv -f {from} -t")), "{found}");
                }
            }
        }
        for fine in [
            &b""[..],
            b"a",
            b"ab",
            b"uid,a\n",
            b"\xef\xbb\xbfuid",
            b"[\n",
            b"\x00\x00\x00\x00",
            b"a\0",
            "äöü".as_bytes(),
        ] {
            assert_eq!(foreign_encoding(fine), None, "{fine:?}");
        }
    }
}
