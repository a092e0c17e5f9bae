//! Parquet's hybrid of run-length encoding and bit packing: definition levels and dictionary indices.

use std::ops::Range;

/// Runs of values of up to 32 bits.
#[derive(Debug, Clone)]
pub struct Runs<'a> {
    bytes: &'a [u8],
    bit_width: u32,
}

/// Some consecutive values.
#[derive(Debug, Clone, Copy)]
pub enum Run<'a> {
    /// One value, so often.
    Repeated {
        /// The value.
        value: u32,
        /// How often.
        count: usize,
    },
    /// Values side by side.
    Packed {
        /// Their bits.
        bytes: &'a [u8],
        /// How many; the last ones of a page may be cut off.
        count: usize,
    },
}

impl<'a> Runs<'a> {
    /// Reads `bytes` as values of `bit_width` bits; `None` above 32.
    pub fn new(bytes: &'a [u8], bit_width: u32) -> Option<Self> {
        (bit_width <= 32).then_some(Self { bytes, bit_width })
    }

    /// Reads the values of a dictionary-encoded page: their width is in front.
    pub fn of_indices(values: &'a [u8]) -> Option<Self> {
        let (bit_width, bytes) = values.split_first()?;
        Self::new(bytes, u32::from(*bit_width))
    }

    /// Bits of a value.
    pub fn bit_width(&self) -> u32 {
        self.bit_width
    }

    /// The next run; `None` at the end, and for damage.
    pub fn next_run(&mut self) -> Option<Run<'a>> {
        let mut header = 0_u64;
        let mut shift = 0;
        loop {
            let (byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            header |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 35 {
                return None;
            }
        }
        let count = usize::try_from(header >> 1).ok()?;
        if count == 0 {
            return None;
        }
        if header & 1 == 1 {
            // Groups of eight values; the last group of a page may be cut short.
            let length = count.checked_mul(self.bit_width as usize)?;
            let (bytes, rest) = self.bytes.split_at(length.min(self.bytes.len()));
            self.bytes = rest;
            return Some(Run::Packed { bytes, count: count.checked_mul(8)? });
        }
        let width = self.bit_width.div_ceil(8) as usize;
        let raw = self.bytes.get(..width)?;
        self.bytes = &self.bytes[width..];
        let mut value = [0; 4];
        value[..width].copy_from_slice(raw);
        Some(Run::Repeated { value: u32::from_le_bytes(value), count })
    }

    /// Whether the first `count` values are ones: as levels, that no value is null.
    pub fn all_ones(self, count: usize) -> bool {
        self.all_are(1, count)
    }

    /// Whether the first `count` values are `wanted`; `false` if there are fewer.
    pub fn all_are(mut self, wanted: u32, count: usize) -> bool {
        let mut left = count;
        while left > 0 {
            let Some(run) = self.next_run() else { return false };
            let here = run.count().min(left);
            let alike = match run {
                Run::Repeated { value, .. } => value == wanted,
                Run::Packed { .. } => (0..here).all(|at| run.get(at, self.bit_width) == Some(wanted)),
            };
            if !alike {
                return false;
            }
            left -= here;
        }
        true
    }
}

impl Run<'_> {
    /// How many values.
    pub fn count(&self) -> usize {
        match self {
            Self::Repeated { count, .. } | Self::Packed { count, .. } => *count,
        }
    }

    /// The value at a place below [`Run::count`]; `None` behind the end of a run that was cut off.
    #[inline]
    pub fn get(&self, at: usize, bit_width: u32) -> Option<u32> {
        match self {
            Self::Repeated { value, .. } => Some(*value),
            Self::Packed { bytes, .. } => {
                let bit = at.checked_mul(bit_width as usize)?;
                let (first, offset) = (bit / 8, bit % 8);
                let raw = bytes.get(first..(bit + bit_width as usize).div_ceil(8))?;
                let mut word = [0; 8];
                word[..raw.len()].copy_from_slice(raw);
                let word = u64::from_le_bytes(word);
                Some(((word >> offset) & ((1_u64 << bit_width) - 1)) as u32)
            }
        }
    }
}

/// Values taken some at a time: a run of a few bytes may stand for billions.
#[derive(Debug)]
pub struct Stream<'a> {
    runs: Runs<'a>,
    run: Option<Run<'a>>,
    /// Values of `run` that were taken.
    used: usize,
}

impl<'a> Stream<'a> {
    /// The values of `runs` from the first on.
    pub fn new(runs: Runs<'a>) -> Self {
        Self { runs, run: None, used: 0 }
    }

    /// Feeds the next `count` values to `visit`; `None` if there are fewer.
    #[inline]
    pub fn take(&mut self, count: usize, mut visit: impl FnMut(u32)) -> Option<()> {
        let mut left = count;
        while left > 0 {
            let run = if let Some(run) = self.run.filter(|run| self.used < run.count()) {
                run
            } else {
                self.used = 0;
                *self.run.insert(self.runs.next_run()?)
            };
            let here = (run.count() - self.used).min(left);
            match run {
                Run::Repeated { value, .. } => (0..here).for_each(|_| visit(value)),
                Run::Packed { bytes, .. } => {
                    unpack(bytes, self.runs.bit_width, self.used..self.used + here, &mut visit)?;
                }
            }
            self.used += here;
            left -= here;
        }
        Some(())
    }
}

/// Feeds some of the values that lie side by side in `bytes` to `visit`; `None` if there are fewer.
#[inline]
fn unpack(bytes: &[u8], bit_width: u32, places: Range<usize>, mut visit: impl FnMut(u32)) -> Option<()> {
    let width = bit_width as usize;
    if bytes.len().checked_mul(8)? < places.end.checked_mul(width)? {
        return None;
    }
    let mask = (1_u64 << bit_width) - 1;
    // Values whose first byte has seven more behind it are read with one load.
    let loaded = if width == 0 { places.end } else { (bytes.len().saturating_sub(7) * 8).div_ceil(width) };
    let loaded = loaded.clamp(places.start, places.end);
    for at in places.start..loaded {
        // Checked above, for the last of them.
        let bit = at.wrapping_mul(width);
        let word = bytes.get(bit / 8..bit / 8 + 8).and_then(|raw| raw.try_into().ok()).map_or(0, u64::from_le_bytes);
        visit(((word >> (bit % 8)) & mask) as u32);
    }
    let tail = Run::Packed { bytes, count: places.end };
    for at in loaded..places.end {
        visit(tail.get(at, bit_width)?);
    }
    Some(())
}

/// Whether delta-encoded strings claim more than `most` values. They begin with their lengths; where beginnings are shared
/// (`DELTA_BYTE_ARRAY`), with the lengths of those, and the lengths of the rest follow.
pub fn delta_claims_more(values: &[u8], most: usize, shared_beginnings: bool) -> bool {
    if values.is_empty() {
        return false;
    }
    let Some((count, rest)) = delta_block(values, most) else { return true };
    count > most || (shared_beginnings && delta_block(rest, most).is_none_or(|(count, _)| count > most))
}

/// How many values a block of delta-encoded integers claims, and what follows it (if it claims no more than `most`).
fn delta_block(bytes: &[u8], most: usize) -> Option<(usize, &[u8])> {
    let (block, bytes) = varint(bytes)?;
    let (parts, bytes) = varint(bytes)?;
    let (count, bytes) = varint(bytes)?;
    let (_, mut bytes) = varint(bytes)?;
    let (parts, count) = (usize::try_from(parts).ok()?, usize::try_from(count).ok()?);
    let in_part = usize::try_from(block).ok()?.checked_div(parts).filter(|in_part| *in_part > 0)?;
    if count > most {
        return Some((count, bytes));
    }
    // The first value stands in front.
    let mut left = count.saturating_sub(1);
    while left > 0 {
        let (_, behind) = varint(bytes)?;
        let (widths, mut behind) = behind.split_at_checked(parts)?;
        for width in widths {
            // Parts behind the last value have a width and no bytes.
            if left == 0 {
                break;
            }
            let length = in_part.checked_mul(usize::from(*width))? / 8;
            behind = &behind[length.min(behind.len())..];
            left = left.saturating_sub(in_part);
        }
        bytes = behind;
    }
    Some((count, bytes))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By the definition, bit after bit.
    fn pack(values: &[u32], width: u32) -> Vec<u8> {
        let width = width as usize;
        let mut bytes = vec![0_u8; (values.len() * width).div_ceil(8)];
        for (at, value) in values.iter().enumerate() {
            for bit in (0..width).filter(|bit| value >> bit & 1 == 1) {
                bytes[(at * width + bit) / 8] |= 1 << ((at * width + bit) % 8);
            }
        }
        bytes
    }

    proptest! {
        /// Packed and repeated runs come back, however many are taken at a time.
        #[test]
        fn runs_come_back(
            width in 0_u32..=32,
            runs in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u32>(), 8)), 1..12),
            steps in prop::collection::vec(1_usize..20, 1..40),
        ) {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for (packed, values) in &runs {
                let values: Vec<u32> = values.iter().map(|v| (u64::from(*v) & ((1_u64 << width) - 1)) as u32).collect();
                if *packed {
                    bytes.push(1 << 1 | 1);
                    bytes.extend(pack(&values, width));
                    expected.extend(values);
                } else {
                    bytes.push(5 << 1);
                    bytes.extend(&values[0].to_le_bytes()[..width.div_ceil(8) as usize]);
                    expected.extend([values[0]; 5]);
                }
            }
            let runs = Runs::new(&bytes, width).unwrap();
            for count in 0..=expected.len() + 1 {
                let alike = count <= expected.len() && expected[..count].iter().all(|value| *value == expected[0]);
                prop_assert_eq!(runs.clone().all_are(expected[0], count), alike);
            }
            let mut stream = Stream::new(runs);
            let mut found = Vec::new();
            for step in steps.into_iter().cycle() {
                let step = step.min(expected.len() - found.len());
                stream.take(step, |value| found.push(value)).unwrap();
                if found.len() == expected.len() {
                    break;
                }
            }
            prop_assert_eq!(found, expected);
            prop_assert!(stream.take(1, |_| ()).is_none());
        }

        #[test]
        fn any_bytes_claim_something(bytes in prop::collection::vec(any::<u8>(), 0..60), most in 0_usize..100) {
            for shared in [false, true] {
                let _ = delta_claims_more(&bytes, most, shared);
            }
        }

        #[test]
        fn any_bytes_are_runs_or_an_end(bytes in prop::collection::vec(any::<u8>(), 0..100), width in 0_u32..=32) {
            let runs = Runs::new(&bytes, width).unwrap();
            let mut seen = 0_usize;
            let _ = Stream::new(runs.clone()).take(5_000, |value| {
                assert!(u64::from(value) < 1_u64 << (width.div_ceil(8) * 8));
                seen += 1;
            });
            prop_assert!(seen <= 5_000);
            let _ = runs.all_ones(5_000);
        }
    }
}
