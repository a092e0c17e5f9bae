//! One scan of a JPEG: its blocks in order, with restart markers between.

use super::super::Damage;
use super::blocks::{baseline_block, pass_over, progressive_block};
use super::entropy::Bits;
use super::huffman::Table;
use super::part::{Band, NO_TABLE, Part};
use super::{Fields, Frame, Tables};

/// Eight times 128 is black or white. Twice as much leaves room for odd encoders, and none for a decoder gone astray.
const MOST_LEVEL: i32 = 2 * 1024;

/// How many low bits the first scan of a coefficient may leave to later ones.
const MOST_SHIFT: u8 = 13;

/// Reads the scan whose header is in `fields` and whose data begins at `at`; returns where the marker behind it stands.
pub(super) fn check(
    bytes: &[u8],
    at: usize,
    fields: &mut Fields<'_>,
    frame: &mut Frame,
    tables: &Tables,
) -> Result<usize, Damage> {
    let (parts, band) = read_header(fields, frame, tables)?;
    let mut unit_blocks = 0;
    for part in &parts {
        let component = &mut frame.components[part.component];
        if component.is_seen && !frame.is_progressive {
            return Err(Damage::Corrupt("a component in two scans"));
        }
        (component.is_seen, component.level) = (true, 0);
        unit_blocks += if parts.len() == 1 { 1 } else { component.across * component.down };
    }
    let (wide, high) = match parts.as_slice() {
        [part] => {
            let component = &frame.components[part.component];
            (component.blocks_wide, component.blocks_high)
        }
        _ => (frame.mcus_wide, frame.mcus_high),
    };
    let visits = u64::from(wide) * u64::from(high) * u64::from(unit_blocks);
    frame.visits_left =
        frame.visits_left.checked_sub(visits).ok_or(Damage::Unsupported("more scans than any encoder makes"))?;
    let (mut bits, mut skip) = (Bits::new(bytes, at), 0);
    let interval = if tables.restart_interval > 0 { tables.restart_interval } else { u32::MAX };
    let (mut restarts, mut left) = (0_u8, interval);
    let (mut column, mut row) = (0, 0);
    while row < high {
        if left == 0 {
            let marker = bits.end()?;
            match bytes.get(marker + 1) {
                Some(&code) if code == 0xd0 + restarts => {}
                Some(_) => return Err(Damage::Corrupt("a restart marker that is missing or out of turn")),
                None => return Err(Damage::Truncated),
            }
            bits = Bits::new(bytes, marker + 2);
            (restarts, left, skip) = ((restarts + 1) % 8, interval, 0);
            for part in &parts {
                frame.components[part.component].level = 0;
            }
        }
        let mut done = 1;
        if let (1.., [part]) = (skip, parts.as_slice()) {
            // A few bits can say this of 32,767 blocks, in each of many scans: they are passed over together.
            done = skip.min(left).min(wide - column);
            let component = &frame.components[part.component];
            let first = row as usize * component.stride as usize + column as usize;
            let blocks = component.nonzero.get(first..first + done as usize).ok_or(OUT_OF_PLACE)?;
            pass_over(&mut bits, &band, blocks)?;
            skip -= done;
        } else if frame.is_progressive && band.first == 0 && band.is_refinement {
            // One bit for each block.
            done = (64 / unit_blocks).min(left).min(wide - column);
            bits.pass(done * unit_blocks)?;
        } else {
            for part in &parts {
                visit_unit(&mut bits, frame, part, parts.len() == 1, &band, &mut skip, (column, row))?;
            }
        }
        left -= done;
        column += done;
        if column == wide {
            (column, row) = (0, row + 1);
        }
    }
    bits.end()
}

const OUT_OF_PLACE: Damage = Damage::Corrupt("a block out of place");

/// Reads the blocks that a component has in one unit of the scan.
fn visit_unit(
    bits: &mut Bits<'_>,
    frame: &mut Frame,
    part: &Part<'_>,
    is_alone: bool,
    band: &Band,
    skip: &mut u32,
    (column, row): (u32, u32),
) -> Result<(), Damage> {
    let component = &mut frame.components[part.component];
    let (across, down) = if is_alone { (1, 1) } else { (component.across, component.down) };
    for y in 0..down {
        for x in 0..across {
            if frame.is_progressive {
                let block = (row * down + y) as usize * component.stride as usize + (column * across + x) as usize;
                let nonzero = component.nonzero.get_mut(block).ok_or(OUT_OF_PLACE)?;
                progressive_block(bits, part, band, skip, &mut component.level, nonzero)?;
            } else {
                baseline_block(bits, part, &mut component.level)?;
            }
        }
    }
    Ok(())
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
        part.limit = (part.limit >> (bits & 15).min(MOST_SHIFT)) + 1;
    }
    if frame.is_progressive {
        let is_possible = if first == 0 { last == 0 } else { first <= last && last < 64 && parts.len() == 1 };
        if !is_possible {
            return Err(Damage::Corrupt("a scan of an impossible band"));
        }
        // One bit more than the scan before, of 13 at most.
        let (high, low) = (bits >> 4, bits & 15);
        if low > MOST_SHIFT || high > 0 && high != low + 1 {
            return Err(Damage::Corrupt("a scan of impossible bits"));
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
    if needs_mean && parts.iter().any(|part| part.dc.is_some_and(|table| !table.is_of_means())) {
        return Err(Damage::Corrupt("a Huffman table of means with symbols above 15"));
    }
    Ok((parts, band))
}
