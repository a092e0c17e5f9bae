//! Writing tars whose bytes depend on nothing but names and data: no time, owner, or host.

use super::header::BLOCK_BYTES;

/// Eleven octal digits hold less than this.
const LARGE_BYTES: u64 = 1 << 33;

/// Appends the header block(s) of a plain file: ustar, with a PAX header where the name or the size needs one.
pub fn write_header(out: &mut Vec<u8>, name: &str, size: u64) {
    let split = split_name(name);
    let records = pax_records(name, size, split.is_some());
    if !records.is_empty() {
        push_block(out, b"", b"pax_header", records.len() as u64, b'x');
        out.extend_from_slice(&records);
        pad(out, records.len() as u64);
    }
    let cut = || (&b""[..], &name.as_bytes()[..name.len().min(100)]);
    let (prefix, base) = split.unwrap_or_else(cut);
    push_block(out, prefix, base, if size >= LARGE_BYTES { 0 } else { size }, b'0');
}

/// What the ustar header cannot say; mostly nothing.
fn pax_records(name: &str, size: u64, name_fits: bool) -> Vec<u8> {
    let mut records = Vec::new();
    if !name_fits {
        push_record(&mut records, "path", name.as_bytes());
    }
    if size >= LARGE_BYTES {
        push_record(&mut records, "size", size.to_string().as_bytes());
    }
    records
}

/// How many bytes the header block(s) of a member take.
pub fn header_bytes(name: &str, size: u64) -> u64 {
    match pax_records(name, size, split_name(name).is_some()).len() as u64 {
        0 => BLOCK_BYTES,
        records => 2 * BLOCK_BYTES + records.next_multiple_of(BLOCK_BYTES),
    }
}

/// How many bytes a member takes: headers, data and padding.
pub fn written_bytes(name: &str, size: u64) -> u64 {
    header_bytes(name, size) + size.next_multiple_of(BLOCK_BYTES)
}

/// Prefix and name as the ustar fields hold them; `None` if they cannot (too long, or not ASCII, which old readers misread).
fn split_name(name: &str) -> Option<(&[u8], &[u8])> {
    let bytes = name.as_bytes();
    if !name.is_ascii() {
        return None;
    }
    if bytes.len() <= 100 {
        return Some((b"", bytes));
    }
    let slash = bytes.iter().take(156).rposition(|&c| c == b'/')?;
    let (prefix, base) = (&bytes[..slash], &bytes[slash + 1..]);
    (!prefix.is_empty() && !base.is_empty() && base.len() <= 100).then_some((prefix, base))
}

fn push_record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let fixed = key.len() + value.len() + 3;
    let mut length = fixed + fixed.to_string().len();
    if fixed + length.to_string().len() != length {
        length = fixed + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn push_block(out: &mut Vec<u8>, prefix: &[u8], name: &[u8], size: u64, kind: u8) {
    let mut block = [0_u8; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[148..156].fill(b' ');
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[329..337].copy_from_slice(b"0000000\0");
    block[337..345].copy_from_slice(b"0000000\0");
    block[345..345 + prefix.len()].copy_from_slice(prefix);
    let sum: u32 = block.iter().map(|&c| u32::from(c)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&block);
}

fn pad(out: &mut Vec<u8>, size: u64) {
    let missing = size.next_multiple_of(BLOCK_BYTES) - size;
    out.resize(out.len() + missing as usize, 0);
}

/// A tar built in memory, for small ones; [`write_header`] serves those that are streamed.
#[derive(Debug, Default)]
pub struct TarWriter {
    bytes: Vec<u8>,
}

impl TarWriter {
    /// Appends a member.
    pub fn append(&mut self, name: &str, data: &[u8]) {
        write_header(&mut self.bytes, name, data.len() as u64);
        self.bytes.extend_from_slice(data);
        pad(&mut self.bytes, data.len() as u64);
    }

    /// The archive with its end marker, two blocks of zeros.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}
