//! One 512-byte header block, and what a member is.

/// Tars are made of blocks of this many bytes.
pub const BLOCK_BYTES: u64 = 512;

/// What a member is. Only [`MemberKind::File`] holds data of a sample; [`MemberKind::Folder`] is passed over; all others are bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberKind {
    /// A plain file.
    File,
    /// A folder.
    Folder,
    /// A hard or symbolic link: its bytes are elsewhere, perhaps outside.
    Link,
    /// A character or block device or a pipe.
    Device,
    /// A sparse file: its claimed size is not what the tar holds.
    Sparse,
    /// A type that POSIX and GNU tar do not know.
    UnknownType,
    /// A name with a `..` part.
    ParentPath,
    /// A name that begins at the root.
    AbsolutePath,
    /// A name longer than 4 KiB.
    LongName,
    /// An empty name, or one with NUL bytes.
    BadName,
    /// A name that is not UTF-8.
    NameNotUtf8,
    /// A global PAX header that renames or resizes every member behind it.
    PaxTrick,
}

impl MemberKind {
    /// The reason under which such a member is quarantined; `None` for those that are no fault.
    pub fn reason(self) -> Option<&'static str> {
        Some(match self {
            Self::File | Self::Folder => return None,
            Self::Link => "link",
            Self::Device => "device",
            Self::Sparse => "sparse_member",
            Self::UnknownType => "unknown_member_type",
            Self::ParentPath => "parent_path",
            Self::AbsolutePath => "absolute_path",
            Self::LongName => "long_name",
            Self::BadName => "bad_name",
            Self::NameNotUtf8 => "name_not_utf8",
            Self::PaxTrick => "pax_trick",
        })
    }
}

/// A header block, decoded.
pub(super) struct Header {
    pub name: Vec<u8>,
    pub size: u64,
    pub kind: u8,
    /// For GNU sparse members: more sparse headers follow.
    pub extended: bool,
}

/// Why a block is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotAHeader {
    Zero,
    Checksum,
    Number,
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|&c| c == 0).unwrap_or(field.len())]
}

/// A number in octal digits (spaces around), or in base 256 behind a byte 0x80; `None` if it is neither or negative.
fn number(field: &[u8]) -> Option<u64> {
    match field.first() {
        Some(0x80) => field[1..].iter().try_fold(0_u64, |n, &c| n.checked_mul(256)?.checked_add(u64::from(c))),
        Some(0xff) => None,
        _ => {
            let digits = until_nul(field).trim_ascii();
            digits.iter().try_fold(0_u64, |n, &c| match c {
                b'0'..=b'7' => n.checked_mul(8)?.checked_add(u64::from(c - b'0')),
                _ => None,
            })
        }
    }
}

/// The header checksum: the sum of all bytes, with the checksum field read as spaces; some old tars added signed bytes.
pub(super) fn checksums(block: &[u8; 512]) -> (u64, i64) {
    let field: u64 = block[148..156].iter().map(|&c| u64::from(c)).sum();
    let signed_field: i64 = block[148..156].iter().map(|&c| i64::from(c.cast_signed())).sum();
    let all: u64 = block.iter().map(|&c| u64::from(c)).sum();
    let signed: i64 = block.iter().map(|&c| i64::from(c.cast_signed())).sum();
    (all - field + 256, signed - signed_field + 256)
}

impl Header {
    pub fn parse(block: &[u8; 512]) -> Result<Self, NotAHeader> {
        let (unsigned, signed) = checksums(block);
        // Only a block of zeros adds up to its eight spaces.
        if unsigned == 256 && block.iter().all(|&c| c == 0) {
            return Err(NotAHeader::Zero);
        }
        let stored = number(&block[148..156]).ok_or(NotAHeader::Checksum)?;
        if stored != unsigned && i64::try_from(stored) != Ok(signed) {
            return Err(NotAHeader::Checksum);
        }
        let size = number(&block[124..136]).ok_or(NotAHeader::Number)?;
        // Larger than any file system allows; sums with it must not wrap.
        if size > 1 << 62 {
            return Err(NotAHeader::Number);
        }
        let mut kind = block[156];
        let mut name = until_nul(&block[..100]).to_vec();
        if kind == 0 && name.ends_with(b"/") {
            kind = b'5';
        }
        let prefix = until_nul(&block[345..500]);
        if !prefix.is_empty() && !matches!(kind, b'L' | b'K' | b'S') {
            name = [prefix, b"/", &name].concat();
        }
        Ok(Self { name, size, kind, extended: kind == b'S' && block[482] != 0 })
    }

    pub fn kind(&self) -> MemberKind {
        match self.kind {
            0 | b'0' | b'7' => MemberKind::File,
            b'5' => MemberKind::Folder,
            b'1' | b'2' => MemberKind::Link,
            b'3' | b'4' | b'6' => MemberKind::Device,
            b'S' => MemberKind::Sparse,
            _ => MemberKind::UnknownType,
        }
    }

    /// Whether data blocks follow; links, folders and devices have none whatever their size field says.
    pub fn has_data(&self) -> bool {
        !matches!(self.kind, b'1'..=b'6')
    }
}
