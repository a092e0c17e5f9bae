//! The footer of a Parquet file, looked at before the parquet crate parses it.
//!
//! The crate builds the schema by recursion, and reserves room for as many children as a group claims to have: one wrong
//! byte may ask for sixteen gigabytes, and groups nested deep enough overflow the stack. Both end the process.

use super::page_header::{Compact, HeaderError, Wire};
use crate::error::{Error, Result};
use crate::storage::source::ReadAt;

/// A footer larger than this is refused before it is read.
const MAX_FOOTER_BYTES: u64 = 512 << 20;
/// Groups inside each other; a list takes two.
const MAX_SCHEMA_DEPTH: usize = 100;

/// Reads the footer of a file, if what the parquet crate would allocate and recurse for is in order.
///
/// # Errors
/// [`Error::Unreadable`] for a file that is cut short, encrypted, damaged there or no Parquet.
pub(super) fn read_footer(file: &dyn ReadAt) -> Result<Vec<u8>> {
    let (path, bytes) = (file.path(), file.size_bytes());
    let length = check_ends(file)?;
    let mut footer = Vec::new();
    file.read_onto(&mut footer, bytes - 8 - length, length as usize)?;
    check_schema(&footer).map_err(|error| {
        let what = match error {
            HeaderError::Short => "it is cut short",
            HeaderError::Damaged(what) => what,
        };
        Error::unreadable(path, format!("damaged Parquet: in its footer, {what}"))
    })?;
    Ok(footer)
}

/// Looks at both ends of a file; returns the length of its footer.
fn check_ends(file: &dyn ReadAt) -> Result<u64> {
    let (path, bytes) = (file.path(), file.size_bytes());
    let mut head = [0; 4];
    let mut tail = [0; 8];
    if bytes < 12 {
        return Err(Error::unreadable(path, format!("{bytes} bytes are no Parquet file")));
    }
    file.read_exact_at(&mut head, 0)?;
    file.read_exact_at(&mut tail, bytes - 8)?;
    if &head == b"PARE" || &tail[4..] == b"PARE" {
        return Err(Error::unreadable(path, "encrypted Parquet; decrypt it first"));
    }
    if &head != b"PAR1" {
        return Err(Error::unreadable(path, "not a Parquet file (it does not begin with PAR1)"));
    }
    if &tail[4..] != b"PAR1" {
        return Err(Error::unreadable(path, "a damaged Parquet file (it does not end with PAR1; was it cut short?)"));
    }
    let footer = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if footer > MAX_FOOTER_BYTES || footer + 12 > bytes {
        return Err(Error::unreadable(path, format!("a damaged Parquet file (a footer of {footer} bytes in {bytes})")));
    }
    Ok(footer)
}

/// Whether the schema is a tree, and not too deep; what follows it is left to the parquet crate.
fn check_schema(footer: &[u8]) -> std::result::Result<(), HeaderError> {
    let mut found = None;
    let read = Compact::new(footer).fields(0, |input, id, _| {
        if id != 2 {
            return Ok(false);
        }
        found = Some(check_elements(input));
        // There is no more to see; an error ends the walk.
        Err(HeaderError::Short)
    });
    found.unwrap_or_else(|| read.and(Err(HeaderError::Damaged("there is no schema"))))
}

fn check_elements(input: &mut Compact<'_>) -> std::result::Result<(), HeaderError> {
    let head = input.byte()?;
    let count = if head >> 4 == 15 { input.varint()? } else { u64::from(head >> 4) };
    if Wire::of(head & 0x0f)? != Wire::Struct {
        return Err(HeaderError::Damaged("the schema is no list of columns"));
    }
    // Children that are still to come, of each open group.
    let mut open: Vec<u64> = Vec::new();
    for at in 0..count {
        if at > 0 {
            let Some(left) = open.last_mut() else { return Err(HeaderError::Damaged("the schema has two roots")) };
            *left -= 1;
        }
        let children = children_of_element(input)?;
        if children > count - at - 1 {
            return Err(HeaderError::Damaged("a group claims more columns than there are"));
        }
        if children > 0 {
            open.push(children);
        }
        while open.last() == Some(&0) {
            open.pop();
        }
        if open.len() > MAX_SCHEMA_DEPTH {
            return Err(HeaderError::Damaged("columns are nested more than 100 deep"));
        }
    }
    if open.is_empty() { Ok(()) } else { Err(HeaderError::Damaged("a group claims more columns than there are")) }
}

/// Reads an element of the schema. The parquet crate goes by the fields' numbers and never looks at their types; where
/// these are not what they should be it would read other numbers than we do.
fn children_of_element(input: &mut Compact<'_>) -> std::result::Result<u64, HeaderError> {
    let mut children = 0;
    input.fields(1, |input, id, wire| {
        let right = match id {
            1..=3 | 5..=9 => wire == Wire::Integer,
            4 => wire == Wire::Binary,
            10 => wire == Wire::Struct,
            _ => true,
        };
        if !right {
            return Err(HeaderError::Damaged("a field of a column is of the wrong type"));
        }
        if id == 5 {
            let claimed = u64::try_from(input.integer()?);
            children = claimed.map_err(|_| HeaderError::Damaged("a group with less than no columns"))?;
        }
        Ok(id == 5)
    })?;
    Ok(children)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer with a schema of groups that have so many children each.
    fn footer(children: &[u64]) -> Vec<u8> {
        let varint = |mut number: u64| {
            let mut bytes = Vec::new();
            while number > 127 {
                bytes.push(number as u8 | 128);
                number >>= 7;
            }
            bytes.push(number as u8);
            bytes
        };
        let mut bytes = vec![0x15, 2, 0x19, 0xfc];
        bytes.extend(varint(children.len() as u64));
        for count in children {
            bytes.extend([0x48, 1, b'a', 0x15]);
            bytes.extend(varint(count << 1));
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    }

    #[test]
    fn a_schema_is_one_tree() {
        for good in [&[2, 0, 0][..], &[1, 2, 0, 0], &[2, 1, 0, 0], &[0]] {
            assert_eq!(check_schema(&footer(good)), Ok(()), "{good:?}");
        }
        for bad in [&[2, 0][..], &[1, 0, 0], &[0, 0], &[1, 1 << 31, 0], &[2, 2, 0, 0], &[1]] {
            assert!(matches!(check_schema(&footer(bad)), Err(HeaderError::Damaged(_))), "{bad:?}");
        }
        let deep = |depth| [vec![1; depth], vec![0]].concat();
        assert_eq!(check_schema(&footer(&deep(MAX_SCHEMA_DEPTH))), Ok(()));
        assert!(check_schema(&footer(&deep(MAX_SCHEMA_DEPTH + 1))).is_err());
        assert!(check_schema(&footer(&deep(1 << 20))).is_err());
    }

    /// Without the look at it, the parquet crate overflows the stack over the first and asks for 16 GB over the second.
    #[test]
    fn a_file_with_such_a_footer_is_unreadable() {
        for children in [[vec![1; 1 << 20], vec![0]].concat(), vec![1, i32::MAX as u64, 0]] {
            let footer = footer(&children);
            let mut bytes = b"PAR1".to_vec();
            bytes.extend(&footer);
            bytes.extend((footer.len() as u32).to_le_bytes());
            bytes.extend(b"PAR1");
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            let error = crate::parquet::table::ParquetTable::open(file.path(), "t.parquet").unwrap_err();
            assert!(matches!(&error, Error::Unreadable { reason, .. } if reason.contains("in its footer")), "{error}");
        }
    }

    #[test]
    fn every_cut_is_an_error() {
        let whole = footer(&[2, 0, 0]);
        for cut in 0..whole.len() - 1 {
            assert!(check_schema(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }
}
