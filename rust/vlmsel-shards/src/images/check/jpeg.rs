//! JPEG (ITU T.81): every Huffman code of every scan is read, no pixel is made.
//!
//! Entropy-coded data has no checksum, but damage rarely keeps the count: a code that is in no table, a coefficient beyond the
//! 63rd, or a scan whose blocks end before or behind its data give it away. Decoders pass over these and show what they can.

mod blocks;
mod entropy;
mod huffman;
mod part;
mod scan;

use super::Damage;
use crate::images::header::{MOST_STRAYS, next_marker};
use huffman::Table;

/// Visits of blocks allowed to one image: progressive files may go over the same blocks with a few bytes, again and again.
/// The largest picture of four components may have twelve scans of each.
const MAX_VISITS: u64 = 1 << 27;
/// Visits allowed for each byte, so that short files cost little. The first scan of a component has a bit for each block at
/// least, so this allows 32 scans of the emptiest picture.
const VISITS_A_BYTE: u64 = 256;
/// Visits allowed to the shortest file.
const LEAST_VISITS: u64 = 1 << 16;
/// Visits allowed to each block: libjpeg-turbo's own fuzzers take more scans for an attack. Encoders make ten or so, and one for
/// each bit of each coefficient would be 800. Without this, scans of a few bytes over a small picture go on for the file's length.
const VISITS_A_BLOCK: u64 = 500;

/// A colour component of the frame.
struct Component {
    id: u8,
    /// Sampling factors.
    across: u32,
    down: u32,
    quantisation: u8,
    /// Blocks in a row and in a column, as scans of this component alone count them.
    blocks_wide: u32,
    blocks_high: u32,
    /// Blocks in a row of whole MCUs.
    stride: u32,
    /// Mean brightness of the block before, as coded.
    level: i32,
    /// Whether a scan brought it.
    is_seen: bool,
    /// Which coefficients of each block are known not to be zero; progressive frames only.
    nonzero: Vec<u64>,
}

struct Frame {
    is_progressive: bool,
    /// MCUs of interleaved scans.
    mcus_wide: u32,
    mcus_high: u32,
    components: Vec<Component>,
    /// How many more blocks may be visited.
    visits_left: u64,
}

/// Tables that segments define as the file goes on.
#[derive(Default)]
struct Tables {
    dc: [Option<Box<Table>>; 4],
    ac: [Option<Box<Table>>; 4],
    /// Of each quantisation table, the step of the first coefficient.
    steps: [Option<i32>; 4],
    restart_interval: u32,
}

/// A segment's content, read front to back.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn byte(&mut self) -> Result<u8, Damage> {
        let (&first, rest) = self.0.split_first().ok_or(Damage::Corrupt("a segment that is too short"))?;
        self.0 = rest;
        Ok(first)
    }

    fn word(&mut self) -> Result<u32, Damage> {
        Ok(u32::from(self.byte()?) << 8 | u32::from(self.byte()?))
    }
}

pub(in crate::images) fn check(bytes: &[u8]) -> Result<(), Damage> {
    let (mut at, mut strays, mut tables) = (2, 0, Tables::default());
    let mut frame: Option<Frame> = None;
    let mut is_arithmetic = false;
    loop {
        let marker = next_marker(bytes, &mut at, &mut strays).ok_or(if strays > MOST_STRAYS {
            Damage::Corrupt("no marker where one should be")
        } else {
            Damage::Truncated
        })?;
        match marker {
            0xd9 => {
                let is_whole = frame.is_some_and(|frame| is_arithmetic || frame.components.iter().all(|c| c.is_seen));
                return if is_whole { Ok(()) } else { Err(Damage::Corrupt("an end marker before all of the picture")) };
            }
            0x01 | 0xd0..=0xd7 => continue,
            0xd8 => return Err(Damage::Corrupt("a marker out of place")),
            _ => {}
        }
        let length = bytes.get(at..at + 2).map(|pair| usize::from(pair[0]) << 8 | usize::from(pair[1]));
        let length = length.ok_or(Damage::Truncated)?;
        if length < 2 {
            return Err(Damage::Corrupt("a segment shorter than its own length"));
        }
        let mut fields = Fields(bytes.get(at + 2..at + length).ok_or(Damage::Truncated)?);
        at += length;
        match marker {
            0xc4 => define_huffman(&mut fields, &mut tables)?,
            0xdb => define_quantisation(&mut fields, &mut tables)?,
            0xdd => tables.restart_interval = fields.word()?,
            0xc0 | 0xc1 | 0xc2 | 0xc9 | 0xca => {
                if frame.is_some() {
                    return Err(Damage::Corrupt("a second frame"));
                }
                is_arithmetic = marker > 0xc2;
                let visits = (bytes.len() as u64 * VISITS_A_BYTE + LEAST_VISITS).min(MAX_VISITS);
                frame = Some(read_frame(&mut fields, marker == 0xc2, visits)?);
            }
            0xc3 | 0xc5..=0xc7 | 0xcb | 0xcd..=0xcf => {
                return Err(Damage::Unsupported("lossless or hierarchical JPEG"));
            }
            0xda => {
                let frame = frame.as_mut().ok_or(Damage::Corrupt("a scan before any frame"))?;
                at = if is_arithmetic {
                    // Rare, and decoders know it; its codes are not followed here, nor the turn of its restart markers.
                    entropy::find_end_of_scan(bytes, at)
                } else {
                    scan::check(bytes, at, &mut fields, frame, &tables)?
                };
            }
            _ => {}
        }
    }
}

fn define_huffman(fields: &mut Fields<'_>, tables: &mut Tables) -> Result<(), Damage> {
    while !fields.0.is_empty() {
        let kind = fields.byte()?;
        let (class, id) = (kind >> 4, usize::from(kind & 15));
        if class > 1 || id > 3 {
            return Err(Damage::Corrupt("a Huffman table of no known kind"));
        }
        let counts: [u8; 16] =
            fields.0.get(..16).and_then(|c| c.try_into().ok()).ok_or(Damage::Corrupt("a Huffman table cut short"))?;
        let total: usize = counts.iter().map(|&c| usize::from(c)).sum();
        let values = fields.0.get(16..16 + total).ok_or(Damage::Corrupt("a Huffman table cut short"))?;
        let table = Table::new(&counts, values).ok_or(Damage::Corrupt("a Huffman table with too many codes"))?;
        fields.0 = &fields.0[16 + total..];
        let place = if class == 0 { &mut tables.dc[id] } else { &mut tables.ac[id] };
        *place = Some(Box::new(table));
    }
    Ok(())
}

fn define_quantisation(fields: &mut Fields<'_>, tables: &mut Tables) -> Result<(), Damage> {
    while !fields.0.is_empty() {
        let kind = fields.byte()?;
        let (wide, id) = (kind >> 4, usize::from(kind & 15));
        let size = if wide == 0 { 64 } else { 128 };
        if wide > 1 || id > 3 || fields.0.len() < size {
            return Err(Damage::Corrupt("a quantisation table that is none"));
        }
        let (table, rest) = fields.0.split_at(size);
        fields.0 = rest;
        let first = if wide == 0 { i32::from(table[0]) } else { i32::from(table[0]) << 8 | i32::from(table[1]) };
        tables.steps[id] = Some(first);
    }
    Ok(())
}

fn read_frame(fields: &mut Fields<'_>, is_progressive: bool, visits_left: u64) -> Result<Frame, Damage> {
    if fields.byte()? != 8 {
        return Err(Damage::Unsupported("samples of other than 8 bits"));
    }
    let (height, width, count) = (fields.word()?, fields.word()?, fields.byte()?);
    if width == 0 || height == 0 || !(1..=4).contains(&count) {
        return Err(Damage::Corrupt("a frame without size or components"));
    }
    let mut raw = Vec::new();
    for _ in 0..count {
        let (id, factors, quantisation) = (fields.byte()?, fields.byte()?, fields.byte()?);
        let (across, down) = (u32::from(factors >> 4), u32::from(factors & 15));
        if !(1..=4).contains(&across) || !(1..=4).contains(&down) || quantisation > 3 {
            return Err(Damage::Corrupt("a component with impossible sampling"));
        }
        raw.push((id, across, down, quantisation));
    }
    let most_across = raw.iter().map(|c| c.1).max().unwrap_or(1);
    let most_down = raw.iter().map(|c| c.2).max().unwrap_or(1);
    let (mcus_wide, mcus_high) = (width.div_ceil(8 * most_across), height.div_ceil(8 * most_down));
    let components = raw
        .into_iter()
        .map(|(id, across, down, quantisation)| {
            let stride = mcus_wide * across;
            let blocks = if is_progressive { stride as usize * (mcus_high * down) as usize } else { 0 };
            Component {
                id,
                across,
                down,
                quantisation,
                blocks_wide: (width * across).div_ceil(most_across).div_ceil(8),
                blocks_high: (height * down).div_ceil(most_down).div_ceil(8),
                stride,
                level: 0,
                is_seen: false,
                nonzero: vec![0; blocks],
            }
        })
        .collect::<Vec<Component>>();
    let blocks: u64 = components.iter().map(|c| u64::from(c.stride) * u64::from(mcus_high * c.down)).sum();
    let visits_left = visits_left.min(blocks * VISITS_A_BLOCK);
    Ok(Frame { is_progressive, mcus_wide, mcus_high, components, visits_left })
}
