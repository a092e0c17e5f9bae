//! Headers of Parquet pages, read by ourselves and checked before a byte is allocated for what they claim.
//!
//! The parquet crate keeps its header type to itself and trusts the sizes in it: a header of thirty bytes may ask it for
//! two gigabytes. Headers are structs in Thrift's compact protocol (parquet-format, `parquet.thrift`); fields that are not
//! needed are skipped.

use ::parquet::basic::Compression;

/// A page that claims more than this decompressed is refused; writers aim at one megabyte.
pub const MAX_PAGE_BYTES: usize = 256 << 20;
/// A header longer than this is damage; they hold statistics of at most a few values.
pub const MAX_HEADER_BYTES: usize = 1 << 20;
/// Structs and lists inside each other; a footer has about sixteen.
const MAX_DEPTH: usize = 32;

/// How values or levels are encoded, as far as this module's users tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// One after the other.
    Plain,
    /// Indices into the dictionary page, run-length encoded or bit-packed.
    Dictionary,
    /// Run-length encoded or bit-packed.
    Rle,
    /// Strings behind their delta-encoded lengths.
    DeltaLengths,
    /// The same without the beginnings that they share with the one before.
    DeltaStrings,
    /// Anything else.
    Other,
}

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    /// The values that dictionary-encoded pages point to.
    Dictionary,
    /// Levels and values, compressed together.
    Data {
        /// Encoding of the definition levels.
        levels: Coding,
    },
    /// Levels outside the compressed part.
    DataV2 {
        /// Values that are null.
        nulls: usize,
        /// Bytes of the repetition levels and of the definition levels in front of the values.
        level_bytes: (usize, usize),
        /// Whether the values are compressed.
        compressed: bool,
    },
    /// An index, or a kind that this version does not know; skipped.
    Other,
}

/// A page header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// What follows.
    pub kind: PageKind,
    /// Values in it, nulls included.
    pub values: usize,
    /// Encoding of the values.
    pub coding: Coding,
    /// Bytes of the page in the file, behind the header.
    pub stored_bytes: usize,
    /// Bytes of the page decompressed.
    pub plain_bytes: usize,
    /// CRC-32 of the stored bytes, where the writer gave one.
    pub crc: Option<u32>,
}

/// Why bytes are no page header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// More bytes are needed.
    Short,
    /// They make no sense.
    Damaged(&'static str),
}

impl PageHeader {
    /// Reads a header at the front of `bytes`; also returns its length.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn read(bytes: &[u8]) -> Result<(Self, usize), HeaderError> {
        let mut input = Compact::new(bytes);
        let (mut kind, mut plain, mut stored, mut crc) = (None, None, None, None);
        let (mut data, mut dictionary, mut data_v2) = (None, None, None);
        input.fields(0, |input, id, wire| {
            match (id, wire) {
                (1, Wire::Integer) => kind = Some(input.integer()?),
                (2, Wire::Integer) => plain = Some(input.integer()?),
                (3, Wire::Integer) => stored = Some(input.integer()?),
                (4, Wire::Integer) => crc = Some(input.integer()? as u32),
                (5, Wire::Struct) => data = Some(input.integers(1)?),
                (7, Wire::Struct) => dictionary = Some(input.integers(1)?),
                (8, Wire::Struct) => data_v2 = Some(input.integers(1)?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let size = |claimed: Option<i64>, what| {
            let claimed = claimed.and_then(|bytes| usize::try_from(bytes).ok());
            claimed.filter(|bytes| *bytes <= MAX_PAGE_BYTES).ok_or(HeaderError::Damaged(what))
        };
        let stored_bytes = size(stored, "a page claims to be more than 256 MiB, or less than nothing")?;
        let plain_bytes = size(plain, "a page claims to hold more than 256 MiB, or less than nothing")?;
        let count = |claimed: i64| {
            usize::try_from(claimed)
                .ok()
                .filter(|count| i32::try_from(*count).is_ok())
                .ok_or(HeaderError::Damaged("a page claims an impossible number of values"))
        };
        let missing = HeaderError::Damaged("a page without the header of its kind");
        let (kind, values, coding) = match kind {
            Some(0) => {
                let [values, coding, levels, ..] = data.ok_or(missing)?;
                (PageKind::Data { levels: Coding::of(levels) }, count(values)?, Coding::of(coding))
            }
            Some(2) => {
                let [values, coding, ..] = dictionary.ok_or(missing)?;
                (PageKind::Dictionary, count(values)?, Coding::of(coding))
            }
            Some(3) => {
                let [values, nulls, _, coding, definition, repetition, compressed, _] = data_v2.ok_or(missing)?;
                let level_bytes = (count(repetition)?, count(definition)?);
                if level_bytes.0.saturating_add(level_bytes.1) > stored_bytes.min(plain_bytes) {
                    return Err(HeaderError::Damaged("a page whose levels are longer than the page"));
                }
                let (values, nulls) = (count(values)?, count(nulls)?);
                if nulls > values {
                    return Err(HeaderError::Damaged("a page with more nulls than values"));
                }
                // Absent means compressed.
                let compressed = compressed != FALSE;
                (PageKind::DataV2 { nulls, level_bytes, compressed }, values, Coding::of(coding))
            }
            Some(_) => (PageKind::Other, 0, Coding::Other),
            None => return Err(HeaderError::Damaged("a page without a kind")),
        };
        Ok((Self { kind, values, coding, stored_bytes, plain_bytes, crc }, input.at))
    }

    /// Whether the page holds rows.
    pub fn is_data(&self) -> bool {
        matches!(self.kind, PageKind::Data { .. } | PageKind::DataV2 { .. })
    }

    /// Whether a codec can make that many bytes out of so few.
    pub fn may_expand(&self, codec: Compression) -> bool {
        let levels = match self.kind {
            PageKind::DataV2 { compressed: false, .. } => return true,
            PageKind::DataV2 { level_bytes: (repetition, definition), .. } => repetition + definition,
            _ => 0,
        };
        let limit = match codec {
            // The longest copies: 64 bytes from 3 (snappy), 255 from 1 (LZ4), 258 from 2 bits (deflate).
            Compression::SNAPPY => 22,
            Compression::LZ4 | Compression::LZ4_RAW => 256,
            Compression::GZIP(_) => 1_040,
            // Stored as it is; and Zstandard and Brotli have no such bound: the cap on pages is theirs.
            _ => return true,
        };
        self.plain_bytes - levels <= (self.stored_bytes - levels).saturating_mul(limit).saturating_add(1 << 10)
    }
}

/// Whether a footer that can be read says that columns are encrypted: its eighth field names the algorithm.
pub fn says_encrypted(footer: &[u8]) -> bool {
    let mut found = false;
    let read = Compact::new(footer).fields(0, |_, id, _| {
        found |= id == 8;
        Ok(false)
    });
    found && read.is_ok()
}

impl Coding {
    fn of(number: i64) -> Self {
        match number {
            0 => Self::Plain,
            2 | 8 => Self::Dictionary,
            3 => Self::Rle,
            6 => Self::DeltaLengths,
            7 => Self::DeltaStrings,
            _ => Self::Other,
        }
    }
}

/// How [`Compact::integers`] tells booleans.
const TRUE: i64 = 1;
const FALSE: i64 = -1;

/// Types of Thrift's compact protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    True,
    False,
    Byte,
    Integer,
    Double,
    Binary,
    List,
    Map,
    Struct,
}

/// A reader of Thrift's compact protocol.
pub(super) struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Compact<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn byte(&mut self) -> Result<u8, HeaderError> {
        let byte = *self.bytes.get(self.at).ok_or(HeaderError::Short)?;
        self.at += 1;
        Ok(byte)
    }

    pub(super) fn varint(&mut self) -> Result<u64, HeaderError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HeaderError::Damaged("a number without an end in a page header"))
    }

    /// A signed integer in zigzag form.
    pub(super) fn integer(&mut self) -> Result<i64, HeaderError> {
        let raw = self.varint()?;
        Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    fn advance(&mut self, bytes: u64) -> Result<(), HeaderError> {
        if bytes > MAX_HEADER_BYTES as u64 {
            return Err(HeaderError::Damaged("a page header without an end"));
        }
        let end = self.at + bytes as usize;
        if end > self.bytes.len() {
            return Err(HeaderError::Short);
        }
        self.at = end;
        Ok(())
    }

    /// Reads a struct: `take` reads the fields that it wants and says so; the others are skipped.
    pub(super) fn fields(
        &mut self,
        depth: usize,
        mut take: impl FnMut(&mut Self, i64, Wire) -> Result<bool, HeaderError>,
    ) -> Result<(), HeaderError> {
        let mut id = 0_i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(());
            }
            let delta = i64::from(head >> 4);
            let next = if delta == 0 { Some(self.integer()?) } else { id.checked_add(delta) };
            // Field numbers are 16 bits wide.
            id = next
                .filter(|id| i16::try_from(*id).is_ok())
                .ok_or(HeaderError::Damaged("an impossible field in a page header"))?;
            let wire = Wire::of(head & 0x0f)?;
            if !take(self, id, wire)? {
                self.skip(wire, depth)?;
            }
        }
    }

    /// The first eight fields of a struct where they are integers or booleans; the others are 0.
    fn integers(&mut self, depth: usize) -> Result<[i64; 8], HeaderError> {
        let mut found = [0; 8];
        self.fields(depth, |input, id, wire| {
            let Some(place) = usize::try_from(id - 1).ok().and_then(|at| found.get_mut(at)) else { return Ok(false) };
            *place = match wire {
                Wire::Integer => input.integer()?,
                Wire::True => TRUE,
                Wire::False => FALSE,
                _ => return Ok(false),
            };
            Ok(true)
        })?;
        Ok(found)
    }

    pub(super) fn skip(&mut self, wire: Wire, depth: usize) -> Result<(), HeaderError> {
        if depth > MAX_DEPTH {
            return Err(HeaderError::Damaged("a page header nested too deep"));
        }
        match wire {
            Wire::True | Wire::False => Ok(()),
            Wire::Byte => self.advance(1),
            Wire::Integer => self.varint().map(drop),
            Wire::Double => self.advance(8),
            Wire::Binary => {
                let length = self.varint()?;
                self.advance(length)
            }
            Wire::List => {
                let head = self.byte()?;
                let length = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                let item = Wire::of(head & 0x0f)?;
                for _ in 0..length {
                    // A boolean in a list has a byte of its own, so that every item ends a hostile length sooner or later.
                    match item {
                        Wire::True | Wire::False => self.advance(1)?,
                        other => self.skip(other, depth + 1)?,
                    }
                }
                Ok(())
            }
            Wire::Map => Err(HeaderError::Damaged("a map in a page header")),
            Wire::Struct => self.fields(depth + 1, |_, _, _| Ok(false)),
        }
    }
}

impl Wire {
    pub(super) fn of(number: u8) -> Result<Self, HeaderError> {
        Ok(match number {
            1 => Self::True,
            2 => Self::False,
            3 => Self::Byte,
            4..=6 => Self::Integer,
            7 => Self::Double,
            8 => Self::Binary,
            9 | 10 => Self::List,
            11 => Self::Map,
            12 => Self::Struct,
            _ => return Err(HeaderError::Damaged("an unknown type in a page header")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn zigzag(value: i64) -> Vec<u8> {
        let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
        let mut bytes = Vec::new();
        while raw > 0x7f {
            bytes.push(raw as u8 | 0x80);
            raw >>= 7;
        }
        bytes.push(raw as u8);
        bytes
    }

    fn data_page(plain: i64, stored: i64, values: i64) -> Vec<u8> {
        let mut bytes = vec![0x15, 0x00, 0x15];
        bytes.extend(zigzag(plain));
        bytes.push(0x15);
        bytes.extend(zigzag(stored));
        bytes.extend([0x2c, 0x15]);
        bytes.extend(zigzag(values));
        bytes.extend([0x15, 0x00, 0x15, 0x06, 0x15, 0x06, 0x00, 0x00]);
        bytes
    }

    #[test]
    fn a_data_page() {
        let bytes = data_page(1000, 900, 77);
        let (header, length) = PageHeader::read(&bytes).unwrap();
        assert_eq!(length, bytes.len());
        assert_eq!(header.kind, PageKind::Data { levels: Coding::Rle });
        assert_eq!((header.plain_bytes, header.stored_bytes, header.values), (1000, 900, 77));
        assert_eq!((header.coding, header.crc), (Coding::Plain, None));
    }

    #[test]
    fn every_cut_is_short() {
        let bytes = data_page(1000, 900, 77);
        for cut in 0..bytes.len() {
            assert_eq!(PageHeader::read(&bytes[..cut]), Err(HeaderError::Short), "cut at {cut}");
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for (plain, stored, values) in [(1 << 31, 10, 1), (-1, 10, 1), (10, -1, 1), (10, 10, -1), (10, 10, 1 << 40)] {
            let read = PageHeader::read(&data_page(plain, stored, values));
            assert!(matches!(read, Err(HeaderError::Damaged(_))), "{plain} {stored} {values}: {read:?}");
        }
        let (bomb, _) = PageHeader::read(&data_page(200 << 20, 100, 1)).unwrap();
        assert!(!bomb.may_expand(Compression::SNAPPY));
        assert!(!bomb.may_expand(Compression::LZ4_RAW));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((header, length)) = PageHeader::read(&bytes) {
                prop_assert!(length <= bytes.len());
                prop_assert!(header.plain_bytes <= MAX_PAGE_BYTES && header.stored_bytes <= MAX_PAGE_BYTES);
            }
        }
    }
}
