//! One scan of a JPEG: its blocks in order, with restart markers between.

use super::super::Damage;
use super::entropy::Bits;
use super::huffman::Table;
use super::{Fields, Frame, MAX_VISITS, Tables};

/// A component in this scan.
struct Part<'a> {
    component: usize,
    dc: Option<&'a Table>,
    ac: Option<&'a Table>,
    /// The furthest from grey that a block's mean may be, as coded.
    limit: i32,
}

/// Eight times 128 is black or white. Twice as much leaves room for odd encoders, and none for a decoder gone astray.
const MOST_LEVEL: i32 = 2 * 1024;

/// Which coefficients a scan brings, and which of their bits.
struct Band {
    first: u32,
    last: u32,
    is_refinement: bool,
}

const NO_TABLE: Damage = Damage::Corrupt("a scan that names a table that is not there");

/// Reads the scan whose header is in `fields` and whose data begins at `at`; returns where the marker behind it stands.
pub(super) fn check(
    bytes: &[u8],
    at: usize,
    fields: &mut Fields<'_>,
    frame: &mut Frame,
    tables: &Tables,
) -> Result<usize, Damage> {
    let (parts, band) = read_header(fields, frame, tables)?;
    for part in &parts {
        let component = &mut frame.components[part.component];
        (component.is_seen, component.level) = (true, 0);
    }
    let (wide, high) = match parts.as_slice() {
        [part] => {
            let component = &frame.components[part.component];
            (component.blocks_wide, component.blocks_high)
        }
        _ => (frame.mcus_wide, frame.mcus_high),
    };
    let units = u64::from(wide) * u64::from(high);
    frame.visits += units * parts.len() as u64;
    if frame.visits > MAX_VISITS {
        return Err(Damage::Unsupported("more scans than any encoder makes"));
    }
    let (mut bits, mut skip) = (Bits::new(bytes, at), 0);
    let (mut restarts, mut left) = (0_u8, tables.restart_interval);
    for unit in 0..units {
        if tables.restart_interval > 0 {
            if left == 0 {
                let marker = bits.end()?;
                match bytes.get(marker + 1) {
                    Some(&code) if code == 0xd0 + restarts => {}
                    Some(_) => return Err(Damage::Corrupt("a restart marker that is missing or out of turn")),
                    None => return Err(Damage::Truncated),
                }
                bits = Bits::new(bytes, marker + 2);
                (restarts, left, skip) = ((restarts + 1) % 8, tables.restart_interval, 0);
                for part in &parts {
                    frame.components[part.component].level = 0;
                }
            }
            left -= 1;
        }
        let (column, row) = ((unit % u64::from(wide)) as u32, (unit / u64::from(wide)) as u32);
        for part in &parts {
            let component = &mut frame.components[part.component];
            let (across, down) = if parts.len() == 1 { (1, 1) } else { (component.across, component.down) };
            for y in 0..down {
                for x in 0..across {
                    if frame.is_progressive {
                        let block =
                            (row * down + y) as usize * component.stride as usize + (column * across + x) as usize;
                        let nonzero =
                            component.nonzero.get_mut(block).ok_or(Damage::Corrupt("a block out of place"))?;
                        progressive_block(&mut bits, part, &band, &mut skip, &mut component.level, nonzero)?;
                    } else {
                        baseline_block(&mut bits, part, &mut component.level)?;
                    }
                }
            }
        }
    }
    bits.end()
}

fn read_header<'a>(
    fields: &mut Fields<'_>,
    frame: &Frame,
    tables: &'a Tables,
) -> Result<(Vec<Part<'a>>, Band), Damage> {
    let count = fields.byte()?;
    if !(1..=4).contains(&count) {
        return Err(Damage::Corrupt("a scan without components"));
    }
    let mut parts: Vec<Part<'a>> = Vec::new();
    for _ in 0..count {
        let (id, chosen) = (fields.byte()?, fields.byte()?);
        let component = frame.components.iter().position(|component| component.id == id);
        let component = component.ok_or(Damage::Corrupt("a scan of a component that the frame does not have"))?;
        if parts.iter().any(|part| part.component == component) {
            return Err(Damage::Corrupt("a scan that names a component twice"));
        }
        let step = tables.steps[usize::from(frame.components[component].quantisation)].ok_or(NO_TABLE)?;
        let table = |of: &'a [Option<Box<Table>>; 4], id: u8| of.get(usize::from(id)).and_then(Option::as_deref);
        let (dc, ac) = (table(&tables.dc, chosen >> 4), table(&tables.ac, chosen & 15));
        parts.push(Part { component, dc, ac, limit: MOST_LEVEL / step.max(1) + 1 });
    }
    let (first, last, bits) = (u32::from(fields.byte()?), u32::from(fields.byte()?), fields.byte()?);
    let band = Band { first, last, is_refinement: bits >> 4 > 0 };
    // The first scan of a progressive picture brings the upper bits alone.
    for part in &mut parts {
        part.limit = (part.limit >> (bits & 15).min(13)) + 1;
    }
    if frame.is_progressive {
        let is_possible = if first == 0 { last == 0 } else { first <= last && last < 64 && parts.len() == 1 };
        if !is_possible {
            return Err(Damage::Corrupt("a scan of an impossible band"));
        }
    }
    // Looked up here, so that blocks need not ask.
    let (needs_mean, needs_rest) = match (frame.is_progressive, first) {
        (false, _) => (true, true),
        (true, 0) => (!band.is_refinement, false),
        (true, _) => (false, true),
    };
    if parts.iter().any(|part| needs_mean && part.dc.is_none() || needs_rest && part.ac.is_none()) {
        return Err(NO_TABLE);
    }
    Ok((parts, band))
}

/// A block's mean, told as the difference from the block before.
fn level(bits: &mut Bits<'_>, part: &Part<'_>, level: &mut i32) -> Result<(), Damage> {
    let length = u32::from(bits.symbol(part.dc.ok_or(NO_TABLE)?)?);
    if length > 11 {
        return Err(Damage::Corrupt("a difference of more than 11 bits"));
    }
    let coded = bits.take(length)?.cast_signed();
    let is_negative = length > 0 && coded >> (length - 1) == 0;
    *level += if is_negative { coded - (1 << length) + 1 } else { coded };
    if level.abs() > part.limit {
        Err(Damage::Corrupt("a block blacker than black or whiter than white"))
    } else {
        Ok(())
    }
}

fn baseline_block(bits: &mut Bits<'_>, part: &Part<'_>, before: &mut i32) -> Result<(), Damage> {
    level(bits, part, before)?;
    let table = part.ac.ok_or(NO_TABLE)?;
    let mut at = 1;
    while at < 64 {
        let symbol = bits.symbol(table)?;
        let (zeros, length) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        match (zeros, length) {
            (0, 0) => return Ok(()),
            (15, 0) => at += 16,
            (_, 0 | 11..) => return Err(Damage::Corrupt("a coefficient that no encoder writes")),
            _ => {
                at += zeros + 1;
                bits.take(length)?;
            }
        }
        if at > 64 {
            return Err(TOO_FAR);
        }
    }
    Ok(())
}

const TOO_FAR: Damage = Damage::Corrupt("a block with more than 64 coefficients");

/// `skip` counts the blocks of which this scan has nothing more to say.
fn progressive_block(
    bits: &mut Bits<'_>,
    part: &Part<'_>,
    band: &Band,
    skip: &mut u32,
    before: &mut i32,
    nonzero: &mut u64,
) -> Result<(), Damage> {
    match (band.first, band.is_refinement) {
        (0, false) => level(bits, part, before),
        (0, true) => bits.take(1).map(drop),
        (_, false) => first_coefficients(bits, part.ac.ok_or(NO_TABLE)?, band, skip, nonzero),
        (_, true) => refined_coefficients(bits, part.ac.ok_or(NO_TABLE)?, band, skip, nonzero),
    }
}

fn first_coefficients(
    bits: &mut Bits<'_>,
    table: &Table,
    band: &Band,
    skip: &mut u32,
    nonzero: &mut u64,
) -> Result<(), Damage> {
    if *skip > 0 {
        *skip -= 1;
        return Ok(());
    }
    let mut at = band.first;
    while at <= band.last {
        let symbol = bits.symbol(table)?;
        let (zeros, length) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        match (zeros, length) {
            (15, 0) => at += 16,
            (_, 0) => {
                *skip = (1 << zeros) + bits.take(zeros)? - 1;
                return Ok(());
            }
            _ => {
                at += zeros;
                if at > band.last {
                    return Err(TOO_FAR);
                }
                bits.take(length)?;
                *nonzero |= 1 << at;
                at += 1;
            }
        }
    }
    if at > band.last + 1 { Err(TOO_FAR) } else { Ok(()) }
}

fn refined_coefficients(
    bits: &mut Bits<'_>,
    table: &Table,
    band: &Band,
    skip: &mut u32,
    nonzero: &mut u64,
) -> Result<(), Damage> {
    let mut at = band.first;
    if *skip == 0 {
        while at <= band.last {
            let symbol = bits.symbol(table)?;
            let (mut zeros, length) = (u32::from(symbol >> 4), symbol & 15);
            match length {
                0 if zeros < 15 => {
                    *skip = (1 << zeros) + bits.take(zeros)?;
                    break;
                }
                0 => {}
                1 => drop(bits.take(1)?),
                _ => return Err(Damage::Corrupt("a refinement by more than one bit")),
            }
            // Over as many zeros as told; what is known not to be zero on the way gets its next bit.
            loop {
                if at > band.last {
                    return Err(TOO_FAR);
                }
                if *nonzero >> at & 1 == 1 {
                    bits.take(1)?;
                } else if zeros == 0 {
                    break;
                } else {
                    zeros -= 1;
                }
                at += 1;
            }
            if length == 1 {
                *nonzero |= 1 << at;
            }
            at += 1;
        }
    }
    if *skip > 0 {
        while at <= band.last {
            if *nonzero >> at & 1 == 1 {
                bits.take(1)?;
            }
            at += 1;
        }
        *skip -= 1;
    }
    Ok(())
}
