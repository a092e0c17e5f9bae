//! All pairs of 64-bit codes within a Hamming distance, exactly, each pair once.
//!
//! A code is cut into `m` blocks of bits. Two codes within radius `r` differ in at most `r` blocks, so they agree in at least
//! `m - r`. The codes are partitioned by one block, each group by a later one, and so on, until `m - r` blocks agree or the group
//! is small; then all its pairs are compared. A pair agrees in several choices of blocks and would come out of each: it is reported
//! by the first alone, that is where the chosen blocks are the first that the pair agrees in. Nothing depends on the codes' order,
//! and no list of pairs needs to be made unique.
//!
//! Time for random codes: about n times the number of choices of blocks, plus n^2 / 2^(bits of the chosen blocks) comparisons.

use std::ops::Range;

/// Radii beyond this find nearly everything, and take nearly forever.
pub const MAX_RADIUS: u32 = 16;

/// Codes of a group that are compared with each other instead of being partitioned further.
const SMALL_GROUP: usize = 96;

/// Fewer blocks would be wider than 11 bits.
const LEAST_BLOCKS: u32 = 6;

/// Two codes, the smaller one first, and in how many bits they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// The smaller code.
    pub a: u64,
    /// The greater one.
    pub b: u64,
    /// Bits that differ.
    pub distance: u32,
}

/// A join of distinct codes within a radius.
#[derive(Debug, Clone)]
pub struct HammingJoin {
    radius: u32,
    /// Bits of each block, as a range of places; block 0 is the lowest.
    blocks: Vec<Range<u32>>,
    /// Where each bit of a code goes, so that neighbouring bits come to lie in different blocks: bits of a perceptual hash that
    /// stand for like frequencies are alike in many pictures, and a block of such bits would divide badly.
    spread: Box<[[u64; 256]; 8]>,
    gather: Box<[[u64; 256]; 8]>,
    small_group: usize,
}

/// A group of codes that agree in the chosen blocks.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// The chosen blocks, a bit for each.
    chosen: u64,
    /// The first block that may be chosen next.
    next: usize,
}

impl HammingJoin {
    /// A join within `radius` of about `codes` codes.
    ///
    /// # Panics
    /// Where the radius is beyond [`MAX_RADIUS`].
    pub fn new(radius: u32, codes: u64) -> Self {
        // How many blocks have to agree: more of them divide further, and take more choices.
        let agreeing = match codes {
            0..5_000_000 => 2,
            5_000_000..200_000_000 => 3,
            _ => 4,
        };
        Self::with_blocks(radius, radius + agreeing, SMALL_GROUP)
    }

    fn with_blocks(radius: u32, blocks: u32, small_group: usize) -> Self {
        assert!(radius <= MAX_RADIUS && radius < blocks && blocks <= 64, "radius {radius}, {blocks} blocks");
        // A wide block has too many values to divide by.
        let blocks = blocks.max(LEAST_BLOCKS);
        let blocks: Vec<Range<u32>> = (0..blocks).map(|b| 64 * b / blocks..64 * (b + 1) / blocks).collect();
        let mut order = Vec::with_capacity(64);
        for step in 0..64 {
            order.extend(blocks.iter().filter(|block| step < block.len() as u32).map(|block| block.start + step));
        }
        let mut back = vec![0; 64];
        for (from, to) in order.iter().enumerate() {
            back[*to as usize] = from as u32;
        }
        Self { radius, blocks, spread: bytewise(&order), gather: bytewise(&back), small_group }
    }

    /// A code as the join wants it.
    #[inline]
    pub fn prepare(&self, code: u64) -> u64 {
        permute(&self.spread, code)
    }

    /// The code that was [`HammingJoin::prepare`]d.
    #[inline]
    pub fn restore(&self, prepared: u64) -> u64 {
        permute(&self.gather, prepared)
    }

    /// The groups to begin with: one for each block that may be the first a pair agrees in. Each is of all codes.
    pub fn first_blocks(&self) -> Range<usize> {
        0..self.radius as usize + 1
    }

    /// How many values the block has.
    pub fn values_of(&self, block: usize) -> usize {
        1 << self.blocks[block].len()
    }

    /// The value of a prepared code's block.
    #[inline]
    pub fn value_of(&self, block: usize, prepared: u64) -> usize {
        let Range { start, end } = self.blocks[block];
        (prepared >> start) as usize & ((1 << (end - start)) - 1)
    }

    /// The group of codes that agree in `block` and were not divided before.
    pub fn group_of(block: usize) -> Group {
        Group { chosen: 1 << block, next: block + 1 }
    }

    /// Divides codes by the value of a block into `into`; returns the ends of the values' ranges.
    pub fn divide(&self, block: usize, codes: &[u64], into: &mut [u64]) -> Vec<usize> {
        let mut ends = vec![0_usize; self.values_of(block)];
        for code in codes {
            ends[self.value_of(block, *code)] += 1;
        }
        let mut start = 0;
        for end in &mut ends {
            start += std::mem::replace(end, start);
        }
        for code in codes {
            let at = &mut ends[self.value_of(block, *code)];
            into[*at] = *code;
            *at += 1;
        }
        ends
    }

    /// All pairs of a group whose first agreeing blocks are those in which the group agrees. `codes` are distinct, prepared, and
    /// come back in another order; `room` is as long, and its content does not matter. `found` is called with prepared codes.
    ///
    /// # Errors
    /// Those of `found`, which is also called without pairs, so that it can stop a long join.
    pub fn pairs_of<E>(
        &self,
        group: Group,
        codes: &mut [u64],
        room: &mut [u64],
        found: &mut impl FnMut(&[Pair]) -> Result<(), E>,
    ) -> Result<(), E> {
        let agreeing = group.chosen.count_ones() as usize;
        let enough = self.blocks.len() - self.radius as usize;
        if codes.len() <= self.small_group || agreeing == enough {
            return self.compare_all(group.chosen, codes, found);
        }
        // So many blocks must be left behind the one that is chosen.
        let last = self.blocks.len() - (enough - agreeing);
        // Dividing copies all codes to the other side, where they are the next block's to divide.
        let (mut from, mut to) = (&mut *codes, &mut *room);
        for block in group.next..=last {
            let deeper = Group { chosen: group.chosen | 1 << block, next: block + 1 };
            let mut start = 0;
            for end in self.divide(block, from, to) {
                if end - start > 1 {
                    self.pairs_of(deeper, &mut to[start..end], &mut from[start..end], found)?;
                }
                start = end;
            }
            std::mem::swap(&mut from, &mut to);
        }
        if (last + 1 - group.next) % 2 == 1 {
            codes.copy_from_slice(room);
        }
        found(&[])
    }

    fn compare_all<E>(
        &self,
        chosen: u64,
        codes: &[u64],
        found: &mut impl FnMut(&[Pair]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut pairs = Vec::new();
        let most = self.radius;
        for (at, a) in codes.iter().enumerate() {
            each_within(*a, &codes[at + 1..], most, |b| {
                if self.agrees_first_in(chosen, a ^ b) {
                    pairs.push(Pair { a: *a.min(&b), b: b.max(*a), distance: (a ^ b).count_ones() });
                }
            });
            if pairs.len() >= 1 << 12 || at % (1 << 12) == (1 << 12) - 1 {
                found(&pairs)?;
                pairs.clear();
            }
        }
        if pairs.is_empty() { Ok(()) } else { found(&pairs) }
    }

    /// Whether two codes that differ in these bits agree in the chosen blocks, and in none before the last of them but these.
    fn agrees_first_in(&self, chosen: u64, difference: u64) -> bool {
        let agree = self.blocks.iter().enumerate().filter(|(_, block)| {
            let mask = ((1 << block.len()) - 1) << block.start;
            difference & mask == 0
        });
        let first = agree.take(chosen.count_ones() as usize).fold(0, |mask, (at, _)| mask | 1_u64 << at);
        first == chosen
    }
}

/// Calls `found` with every code within `most` bits of `a`.
#[inline]
fn each_within(a: u64, codes: &[u64], most: u32, mut found: impl FnMut(u64)) {
    // Compiled twice: without the instruction, counting bits takes a dozen others.
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "popcnt")]
        fn counted(a: u64, codes: &[u64], most: u32, found: &mut impl FnMut(u64)) {
            compare(a, codes, most, found);
        }
        if std::arch::is_x86_feature_detected!("popcnt") {
            // SAFETY: this machine has the feature.
            return unsafe { counted(a, codes, most, &mut found) };
        }
    }
    compare(a, codes, most, &mut found);
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled once for each instruction set")]
fn compare(a: u64, codes: &[u64], most: u32, found: &mut impl FnMut(u64)) {
    for b in codes {
        if (a ^ b).count_ones() <= most {
            found(*b);
        }
    }
}

/// Tables that move bit `i` to `places[i]`, a byte at a time.
fn bytewise(places: &[u32]) -> Box<[[u64; 256]; 8]> {
    let mut tables = Box::new([[0; 256]; 8]);
    for (byte, table) in tables.iter_mut().enumerate() {
        for (value, moved) in table.iter_mut().enumerate() {
            *moved = (0..8).filter(|bit| value >> bit & 1 == 1).fold(0, |m, bit| m | 1_u64 << places[8 * byte + bit]);
        }
    }
    tables
}

#[inline]
fn permute(tables: &[[u64; 256]; 8], code: u64) -> u64 {
    tables.iter().zip(code.to_le_bytes()).fold(0, |moved, (table, byte)| moved | table[usize::from(byte)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn slow(codes: &[u64], radius: u32) -> Vec<Pair> {
        let mut pairs = Vec::new();
        for (at, a) in codes.iter().enumerate() {
            for b in &codes[at + 1..] {
                let distance = (a ^ b).count_ones();
                if distance <= radius {
                    pairs.push(Pair { a: *a.min(b), b: *a.max(b), distance });
                }
            }
        }
        pairs.sort_unstable();
        pairs
    }

    fn joined(join: &HammingJoin, codes: &[u64]) -> Vec<Pair> {
        let prepared: Vec<u64> = codes.iter().map(|code| join.prepare(*code)).collect();
        let mut pairs = Vec::new();
        for block in join.first_blocks() {
            let (mut divided, mut room) = (vec![0; codes.len()], vec![0; codes.len()]);
            let mut start = 0;
            for end in join.divide(block, &prepared, &mut divided) {
                let mut take = |found: &[Pair]| {
                    pairs.extend_from_slice(found);
                    Ok::<_, Infallible>(())
                };
                let (codes, room) = (&mut divided[start..end], &mut room[start..end]);
                join.pairs_of(HammingJoin::group_of(block), codes, room, &mut take).unwrap();
                start = end;
            }
        }
        for pair in &mut pairs {
            let (a, b) = (join.restore(pair.a), join.restore(pair.b));
            (pair.a, pair.b) = (a.min(b), a.max(b));
        }
        pairs.sort_unstable();
        pairs
    }

    /// Codes around a few centres, so that there are near ones, dense balls, and long runs of equal blocks.
    fn codes() -> impl Strategy<Value = Vec<u64>> {
        let near = (0..6_u64, prop::collection::vec(0..64_u32, 0..9)).prop_map(|(centre, flips)| {
            let centre = centre.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            flips.into_iter().fold(centre, |code, bit| code ^ 1 << bit)
        });
        prop::collection::hash_set(prop_oneof![near, any::<u64>()], 0..300)
            .prop_map(|codes| codes.into_iter().collect())
    }

    proptest! {
        #[test]
        fn finds_what_comparing_all_finds_and_each_pair_once(codes in codes(), radius in 0..=MAX_RADIUS, more in 1..4_u32, small in 1..40_usize) {
            let join = HammingJoin::with_blocks(radius, radius + more, small);
            prop_assert_eq!(joined(&join, &codes), slow(&codes, radius));
        }

        #[test]
        fn preparing_loses_nothing_and_keeps_distances(a: u64, b: u64, radius in 0..=MAX_RADIUS) {
            let join = HammingJoin::new(radius, 1 << 30);
            prop_assert_eq!(join.restore(join.prepare(a)), a);
            prop_assert_eq!((join.prepare(a) ^ join.prepare(b)).count_ones(), (a ^ b).count_ones());
        }
    }

    #[test]
    fn finds_all_that_is_planted_among_ten_thousand() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state ^ state >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ state >> 32
        };
        let mut codes: Vec<u64> = (0..10_000).map(|_| random()).collect();
        let planted: Vec<u64> =
            codes.iter().step_by(10).map(|code| (0..6).fold(*code, |c, _| c ^ 1 << (random() % 64))).collect();
        codes.extend(planted);
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(joined(&HammingJoin::new(6, codes.len() as u64), &codes), slow(&codes, 6));
    }
}
