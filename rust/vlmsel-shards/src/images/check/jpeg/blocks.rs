//! The codes of single blocks of a JPEG.

use super::super::Damage;
use super::entropy::Bits;
use super::huffman::Table;
use super::part::{Band, NO_TABLE, Part};

/// A block's mean, told as the difference from the block before.
fn level(bits: &mut Bits<'_>, part: &Part<'_>, level: &mut i32) -> Result<(), Damage> {
    // At most 15, or the scan's header would not have been accepted; what it adds to is looked at below.
    let length = u32::from(bits.symbol(part.dc.ok_or(NO_TABLE)?)?);
    let coded = bits.take(length)?.cast_signed();
    let is_negative = length > 0 && coded >> (length - 1) == 0;
    *level += if is_negative { coded - (1 << length) + 1 } else { coded };
    if level.abs() > part.limit {
        Err(Damage::Corrupt("a block blacker than black or whiter than white"))
    } else {
        Ok(())
    }
}

pub(super) fn baseline_block(bits: &mut Bits<'_>, part: &Part<'_>, before: &mut i32) -> Result<(), Damage> {
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
                bits.pass(length)?;
            }
        }
        if at > 64 {
            return Err(TOO_FAR);
        }
    }
    Ok(())
}

const TOO_FAR: Damage = Damage::Corrupt("a block with more than 64 coefficients");

/// `skip` counts the blocks of which this scan has nothing more to say; they go to [`pass_over`].
pub(super) fn progressive_block(
    bits: &mut Bits<'_>,
    part: &Part<'_>,
    band: &Band,
    skip: &mut u32,
    before: &mut i32,
    nonzero: &mut u64,
) -> Result<(), Damage> {
    match (band.first, band.is_refinement) {
        (0, false) => level(bits, part, before),
        (0, true) => bits.pass(1),
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
                bits.pass(length)?;
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
    while at <= band.last {
        let symbol = bits.symbol(table)?;
        let (zeros, length) = (u32::from(symbol >> 4), symbol & 15);
        match length {
            0 if zeros < 15 => {
                *skip = (1 << zeros) + bits.take(zeros)? - 1;
                return bits.pass((*nonzero & places(at, band.last)).count_ones());
            }
            0 => {}
            1 => bits.pass(1)?,
            _ => return Err(Damage::Corrupt("a refinement by more than one bit")),
        }
        // Over as many zeros as told; what is known not to be zero on the way gets its next bit.
        let (mut end, mut known) = (at + zeros, 0);
        loop {
            if end > band.last {
                return Err(TOO_FAR);
            }
            known = match (*nonzero & places(at, end)).count_ones() {
                same if same == known => break,
                more => more,
            };
            end = at + zeros + known;
        }
        bits.pass(known)?;
        if length == 1 {
            *nonzero |= 1 << end;
        }
        at = end + 1;
    }
    Ok(())
}

/// The coefficients from `first` to `last`, both below 64.
fn places(first: u32, last: u32) -> u64 {
    u64::MAX << first & u64::MAX >> (63 - last)
}

/// Passes over blocks of which the scan says nothing but the next bit of what is known not to be zero.
pub(super) fn pass_over(bits: &mut Bits<'_>, band: &Band, nonzero: &[u64]) -> Result<(), Damage> {
    if band.is_refinement {
        let places = places(band.first, band.last);
        for block in nonzero {
            if block & places != 0 {
                bits.pass((block & places).count_ones())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// [`refined_coefficients`] and [`pass_over`] coefficient by coefficient, as T.81 G.1.2.3 tells it.
    fn slow(bits: &mut Bits<'_>, table: &Table, band: &Band, skip: &mut u32, nonzero: &mut u64) -> Result<(), Damage> {
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

    proptest! {
        #[test]
        fn refinement_is_what_the_slow_way_makes_of_it(
            // Padded, so that both have data to the end and fail for what the codes say alone.
            data in proptest::collection::vec(0_u8..0xff, 0..200),
            masks in proptest::collection::vec(any::<u64>(), 3),
            mut slow_blocks in proptest::collection::vec(any::<u64>(), 1..40),
            first in 1_u32..64,
            length in 0_u32..64,
        ) {
            let data = [data, vec![0; 4096]].concat();
            // Ends of 1, 2 to 3 and 16 to 31 blocks; sixteen zeros; new coefficients behind 0, 1 and 5 zeros; one too wide.
            let values = [0xf0, 0x01, 0x00, 0x11, 0x10, 0x51, 0x40, 0x02];
            let table = Table::new(&[0, 1, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0], &values).unwrap();
            let band = Band { first, last: (first + length).min(63), is_refinement: true };
            for block in &mut slow_blocks {
                *block &= masks[0] & masks[1] & masks[2] | *block >> 32;
            }
            let mut fast_blocks = slow_blocks.clone();
            let (mut bits, mut skip) = (Bits::new(&data, 0), 0);
            let expected: Result<(), Damage> =
                slow_blocks.iter_mut().try_for_each(|block| slow(&mut bits, &table, &band, &mut skip, block));
            let slow_end = (skip, bits.take(16));
            let (mut bits, mut skip, mut at) = (Bits::new(&data, 0), 0_u32, 0);
            let mut found = Ok(());
            while at < fast_blocks.len() && found.is_ok() {
                if skip > 0 {
                    let run = (skip as usize).min(fast_blocks.len() - at);
                    found = pass_over(&mut bits, &band, &fast_blocks[at..at + run]);
                    (skip, at) = (skip - run as u32, at + run);
                } else {
                    found = refined_coefficients(&mut bits, &table, &band, &mut skip, &mut fast_blocks[at]);
                    at += 1;
                }
            }
            prop_assert_eq!(found, expected);
            if found.is_ok() {
                prop_assert_eq!((skip, bits.take(16)), slow_end);
                prop_assert_eq!(fast_blocks, slow_blocks);
            }
        }
    }
}
