//! Walking a tar from member to member through one bounded buffer.

use super::header::{BLOCK_BYTES, Header, MemberKind, NotAHeader};
use crate::error::Result;
use crate::storage::source::ReadAt;

/// Extended headers (PAX, GNU long names) above this size are damage: they are read into memory.
const MAX_EXTENDED_BYTES: u64 = 1 << 20;
/// More extended headers than this before one member are damage.
const MAX_EXTENDED_HEADERS: usize = 8;
/// Longer names get their own kind.
const MAX_NAME_BYTES: usize = 4096;

/// One member of a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, kept exactly; lossy only under [`MemberKind::NameNotUtf8`].
    pub name: String,
    /// Where its first header block begins (a PAX or GNU long-name header counts as part of it).
    pub header_offset: u64,
    /// Where its data begins.
    pub offset: u64,
    /// How many bytes of data the tar holds for it.
    pub size: u64,
    /// What it is.
    pub kind: MemberKind,
}

/// How a tar that was read to its end ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Whether two zero blocks (or one, as some writers do) closed it; a writer that was killed leaves none.
    pub has_marker: bool,
    /// Where bytes other than zero lie behind the end marker.
    pub trailing: Option<u64>,
}

/// Why the rest of a tar cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where in the file.
    pub offset: u64,
    /// One of `truncated`, `bad_checksum`, `bad_number`, `bad_extended_header`, `second_archive`, `not_a_tar`.
    pub reason: &'static str,
    /// What was found.
    pub detail: String,
}

/// What [`TarReader::next`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The next member.
    Member(Member),
    /// The end: everything was seen.
    End(End),
    /// The rest cannot be read.
    Damage(Damage),
}

/// What extended headers say about the member behind them.
#[derive(Default, Clone)]
struct Overrides {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

/// Streams members; memory is bounded by the buffer whatever the file claims.
pub struct TarReader<S: ReadAt> {
    source: S,
    size: u64,
    next_header: u64,
    window: Window,
    tricked: bool,
    finished: bool,
    seen: u64,
}

impl<S: ReadAt> TarReader<S> {
    /// A reader whose buffer holds `buffer_bytes`; a member no longer than that can be had in one piece.
    pub fn new(source: S, buffer_bytes: usize) -> Self {
        let size = source.size_bytes();
        // Of a small tar there are very many.
        let length = usize::try_from(size).unwrap_or(usize::MAX).min(buffer_bytes).max(4096);
        let window = Window { bytes: vec![0; length], start: 0, length: 0 };
        Self { source, size, next_header: 0, window, tricked: false, finished: false, seen: 0 }
    }

    /// Bytes passed so far.
    pub fn position(&self) -> u64 {
        self.next_header.min(self.size)
    }

    /// The next member, the end or the damage behind which nothing can be trusted. After one of the last two: the end.
    ///
    /// # Errors
    /// The file system's; what is wrong with the tar itself is [`Item::Damage`].
    #[allow(clippy::should_implement_trait, reason = "yields data through the reader, which an iterator cannot")]
    pub fn next(&mut self) -> Result<Item> {
        if self.finished {
            return Ok(Item::End(End { has_marker: true, trailing: None }));
        }
        let item = self.read_member()?;
        self.finished = !matches!(item, Item::Member(_));
        self.seen += 1;
        Ok(item)
    }

    fn read_member(&mut self) -> Result<Item> {
        let first = self.next_header;
        let mut at = first;
        let mut pending: Vec<Overrides> = Vec::new();
        loop {
            if at >= self.size {
                return Ok(if at == self.size && pending.is_empty() && self.size > 0 {
                    Item::End(End { has_marker: false, trailing: None })
                } else {
                    damage(first, "truncated", "the file ends where a header should be")
                });
            }
            if self.size - at < BLOCK_BYTES {
                return Ok(damage(at, "truncated", "the file ends inside a header"));
            }
            let block = self.window.array(&self.source, at)?;
            let header = match Header::parse(&block) {
                Ok(header) => header,
                Err(NotAHeader::Zero) if pending.is_empty() => return self.read_end(at),
                Err(NotAHeader::Zero) => {
                    return Ok(damage(at, "bad_extended_header", "an extended header without a member"));
                }
                Err(_) if at == 0 => return Ok(damage(at, "not_a_tar", "the first block is no tar header")),
                Err(NotAHeader::Checksum) => {
                    return Ok(damage(at, "bad_checksum", "no tar header where one should be"));
                }
                Err(NotAHeader::Number) => return Ok(damage(at, "bad_number", "a size that is no number")),
            };
            let data = at + BLOCK_BYTES;
            if !matches!(header.kind, b'x' | b'X' | b'g' | b'L' | b'K') {
                return self.finish_member(first, data, &header, pending);
            }
            if header.size > MAX_EXTENDED_BYTES || pending.len() >= MAX_EXTENDED_HEADERS {
                return Ok(damage(
                    at,
                    "bad_extended_header",
                    "extended headers larger than 1 MiB or more than 8 in a row",
                ));
            }
            if self.size - data < padded(header.size) {
                return Ok(damage(at, "truncated", "the file ends inside an extended header"));
            }
            // A long name ends at its NUL, as in `tarfile`, not at its size: so the whole blocks are read.
            let length = if header.kind == b'L' { padded(header.size) } else { header.size };
            let body = self.window.copy(&self.source, data, length as usize)?;
            let said = match header.kind {
                b'K' => Overrides::default(),
                b'L' => {
                    let end = body.iter().position(|&c| c == 0).unwrap_or(body.len());
                    Overrides { name: Some(body[..end].to_vec()), ..Overrides::default() }
                }
                _ => match parse_pax(&body) {
                    Some(said) => said,
                    None => return Ok(damage(at, "bad_extended_header", "PAX records that do not add up")),
                },
            };
            if header.kind == b'g' {
                self.tricked |= said.name.is_some() || said.size.is_some() || said.sparse;
                pending.push(Overrides::default());
            } else {
                pending.push(said);
            }
            at = data + padded(header.size);
        }
    }

    fn finish_member(&mut self, first: u64, mut data: u64, header: &Header, pending: Vec<Overrides>) -> Result<Item> {
        let mut kind = header.kind();
        let (mut name, mut size) = (header.name.clone(), if header.has_data() { header.size } else { 0 });
        let mut more = header.extended;
        while more {
            if self.size.saturating_sub(data) < BLOCK_BYTES {
                return Ok(damage(first, "truncated", "the file ends inside a sparse header"));
            }
            more = self.window.array(&self.source, data)?[504] != 0;
            data += BLOCK_BYTES;
        }
        // The outermost extended header has the last word, as in `tarfile`.
        for said in pending.into_iter().rev() {
            name = said.name.unwrap_or(name);
            if let Some(said) = said.size.filter(|_| header.has_data()) {
                size = said;
            }
            if said.sparse && kind == MemberKind::File {
                kind = MemberKind::Sparse;
            }
        }
        if self.size < data || self.size - data < padded(size) {
            let detail = format!("a member of {size} bytes at {data}, the file has {}", self.size);
            return Ok(damage(first, "truncated", &detail));
        }
        if kind == MemberKind::Folder {
            while name.ends_with(b"/") {
                name.pop();
            }
        }
        let name_kind = classify_name(&name);
        if !matches!(kind, MemberKind::Folder) {
            kind = match (kind, name_kind) {
                (_, Some(fault)) => fault,
                (MemberKind::File, None) if self.tricked => MemberKind::PaxTrick,
                (kind, None) => kind,
            };
        }
        self.next_header = data + padded(size);
        let name = match String::from_utf8(name) {
            Ok(name) => name,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        Ok(Item::Member(Member { name, header_offset: first, offset: data, size, kind }))
    }

    /// Behind the first zero block: all zeros is the end, another archive is damage, anything else is trailing garbage.
    fn read_end(&mut self, marker: u64) -> Result<Item> {
        let mut at = marker;
        while at < self.size {
            let length = (self.size - at).min(self.window.bytes.len() as u64) as usize;
            let piece = self.window.piece(&self.source, at, length)?;
            if let Some(index) = piece.iter().position(|&c| c != 0) {
                let garbage = at + index as u64;
                let block_start = garbage / BLOCK_BYTES * BLOCK_BYTES;
                if self.size - block_start >= BLOCK_BYTES
                    && Header::parse(&self.window.array(&self.source, block_start)?).is_ok()
                {
                    return Ok(damage(block_start, "second_archive", "another tar begins behind the end of this one"));
                }
                self.next_header = self.size;
                return Ok(Item::End(End { has_marker: true, trailing: Some(garbage) }));
            }
            at += length as u64;
        }
        self.next_header = self.size;
        Ok(Item::End(End { has_marker: true, trailing: None }))
    }

    /// The data of `member` in one piece if it fits the buffer, else its first bytes as they fit.
    pub fn prefix(&mut self, member: &Member) -> Result<&[u8]> {
        let length = member.size.min(self.window.bytes.len() as u64) as usize;
        self.window.piece(&self.source, member.offset, length)
    }

    /// The data of `member` piece by piece, for members longer than the buffer.
    pub fn pieces(&mut self, member: &Member, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut at = member.offset;
        let end = member.offset + member.size;
        while at < end {
            let length = (end - at).min(self.window.bytes.len() as u64) as usize;
            take(self.window.piece(&self.source, at, length)?)?;
            at += length as u64;
        }
        Ok(())
    }
}

fn damage(offset: u64, reason: &'static str, detail: &str) -> Item {
    Item::Damage(Damage { offset, reason, detail: detail.to_owned() })
}

fn padded(size: u64) -> u64 {
    size.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

fn classify_name(name: &[u8]) -> Option<MemberKind> {
    if name.len() > MAX_NAME_BYTES {
        return Some(MemberKind::LongName);
    }
    if name.is_empty() || name.contains(&0) {
        return Some(MemberKind::BadName);
    }
    if name.starts_with(b"/") {
        return Some(MemberKind::AbsolutePath);
    }
    if name.split(|&c| c == b'/').any(|part| part == b"..") {
        return Some(MemberKind::ParentPath);
    }
    std::str::from_utf8(name).is_err().then_some(MemberKind::NameNotUtf8)
}

/// PAX records, `length key=value\n` each. Where a key comes twice the later one holds, as POSIX says.
fn parse_pax(body: &[u8]) -> Option<Overrides> {
    let mut said = Overrides::default();
    let mut rest = body;
    // Some writers pad the records with NULs.
    while rest.first().is_some_and(|&c| c != 0) {
        let space = rest.iter().take(20).position(|&c| c == b' ')?;
        let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
        if length <= space + 1 || length > rest.len() || rest[length - 1] != b'\n' {
            return None;
        }
        let record = &rest[space + 1..length - 1];
        let equals = record.iter().position(|&c| c == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => {
                let end = value.iter().rposition(|&c| c != b'/').map_or(0, |at| at + 1);
                said.name = Some(value[..end].to_vec());
            }
            b"size" => {
                let digits = std::str::from_utf8(value).ok()?;
                if !digits.bytes().all(|c| c.is_ascii_digit()) {
                    return None;
                }
                said.size = Some(digits.parse().ok().filter(|&size| size <= 1 << 62)?);
            }
            key if key.starts_with(b"GNU.sparse.") => said.sparse = true,
            _ => {}
        }
        rest = &rest[length..];
    }
    Some(said)
}

/// The part of the file that is in memory.
struct Window {
    bytes: Vec<u8>,
    start: u64,
    length: usize,
}

impl Window {
    /// `length` bytes from `offset` on, which the caller knows to lie inside the file; at most the buffer's size.
    fn piece<S: ReadAt + ?Sized>(&mut self, source: &S, offset: u64, length: usize) -> Result<&[u8]> {
        let inside = offset >= self.start && offset + length as u64 <= self.start + self.length as u64;
        if !inside {
            // What is already here of the piece moves to the front; the rest of the buffer is read ahead.
            let kept = match offset.checked_sub(self.start) {
                Some(skip) if skip < self.length as u64 => {
                    self.bytes.copy_within(skip as usize..self.length, 0);
                    self.length - skip as usize
                }
                _ => 0,
            };
            let wanted = (source.size_bytes() - offset).min(self.bytes.len() as u64) as usize;
            self.length = 0;
            source.read_exact_at(&mut self.bytes[kept..wanted], offset + kept as u64)?;
            self.start = offset;
            self.length = wanted;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.bytes[from..from + length])
    }

    fn array<S: ReadAt + ?Sized>(&mut self, source: &S, offset: u64) -> Result<[u8; 512]> {
        let mut block = [0; 512];
        block.copy_from_slice(self.piece(source, offset, 512)?);
        Ok(block)
    }

    fn copy<S: ReadAt + ?Sized>(&mut self, source: &S, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut out = vec![0; length];
        let mut done = 0;
        while done < length {
            let step = (length - done).min(self.bytes.len());
            out[done..done + step].copy_from_slice(self.piece(source, offset + done as u64, step)?);
            done += step;
        }
        Ok(out)
    }
}
