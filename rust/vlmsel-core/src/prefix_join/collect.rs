//! Entries: one for each token of a list's prefix. Collected for a part of all tokens, and brought into groups.

use super::plan::{MAX_ITEMS, PrefixJoin};
use crate::tokens::{TokenLists, is_alone};

/// A part of all tokens, so that parts can be joined one after another, or beside each other. Part `n` of `k` consists of
/// the parts `n * m ..  (n + 1) * m` of `k * m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which one, from 0.
    pub number: u32,
    /// Of how many, at least 1.
    pub of: u32,
}

impl Part {
    /// All tokens.
    pub const ALL: Self = Self { number: 0, of: 1 };

    /// Which of `of` parts a token is in.
    #[inline]
    pub fn of_token(token: u32, of: u32) -> u32 {
        // The rank of a token is no part of it that spreads.
        ((u64::from(token.wrapping_mul(0x9e37_79b1)) * u64::from(of)) >> 32) as u32
    }
}

/// A token in the prefix of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub token: u32,
    /// Place of the list.
    pub list: u32,
    /// A bit for each token of the list, by its last 6 bits.
    bitmap: [u32; 2],
    pub position: u8,
    pub length: u8,
}

impl Entry {
    /// The same list by another of its tokens.
    pub fn at(self, token: u32, position: usize) -> Self {
        Self { token, position: position as u8, ..self }
    }

    /// Tokens of one list that the other lacks, counted on both sides: at least so many.
    #[inline]
    pub fn differing_at_least(&self, other: &Self) -> u32 {
        (self.bitmap[0] ^ other.bitmap[0]).count_ones() + (self.bitmap[1] ^ other.bitmap[1]).count_ones()
    }
}

/// About so many entries of a bucket are sorted at once.
const BUCKET_ENTRIES: usize = 256;

impl PrefixJoin {
    /// Memory of an entry.
    pub const ENTRY_BYTES: u64 = size_of::<Entry>() as u64;

    /// Entries that a list of so many tokens has at most.
    pub fn entries(&self, length: usize) -> u64 {
        self.prefix(length) as u64
    }

    /// Entries of a part, sorted by token and length.
    pub(super) fn collect(&self, lists: &TokenLists, part: Part) -> Vec<Entry> {
        let mut entries = Vec::new();
        for at in 0..lists.len() {
            let list = lists.get(at);
            if list.len() > MAX_ITEMS {
                continue;
            }
            let mut bitmap = None;
            for (position, token) in list[..self.prefix(list.len())].iter().enumerate() {
                if is_alone(*token) || (part.of > 1 && Part::of_token(*token, part.of) != part.number) {
                    continue;
                }
                let bitmap = *bitmap.get_or_insert_with(|| bitmap_of(list));
                entries.push(Entry {
                    token: *token,
                    list: at as u32,
                    bitmap,
                    position: position as u8,
                    length: list.len() as u8,
                });
            }
        }
        by_buckets(entries)
    }
}

fn bitmap_of(list: &[u32]) -> [u32; 2] {
    let bits = list.iter().fold(0_u64, |bits, token| bits | 1 << (token & 63));
    [bits as u32, (bits >> 32) as u32]
}

/// Sorts by token and length.
pub(super) fn sort(entries: &mut [Entry]) {
    entries.sort_unstable_by_key(|entry| u64::from(entry.token) << 8 | u64::from(entry.length));
}

/// Brings entries of one token together, each group by length: first into buckets that fit a cache, then by sorting those.
fn by_buckets(entries: Vec<Entry>) -> Vec<Entry> {
    let bits = (entries.len() / BUCKET_ENTRIES).max(1).ilog2().min(14);
    if bits == 0 {
        let mut entries = entries;
        sort(&mut entries);
        return entries;
    }
    let bucket = |entry: &Entry| (entry.token.wrapping_mul(0x85eb_ca6b) >> (32 - bits)) as usize;
    let mut ends = vec![0_usize; 1 << bits];
    for entry in &entries {
        ends[bucket(entry)] += 1;
    }
    let mut total = 0;
    for end in &mut ends {
        let count = *end;
        *end = total;
        total += count;
    }
    // Begins become ends as their buckets fill.
    let mut sorted = vec![entries[0]; entries.len()];
    for entry in &entries {
        let at = &mut ends[bucket(entry)];
        sorted[*at] = *entry;
        *at += 1;
    }
    drop(entries);
    let mut start = 0;
    for end in ends {
        sort(&mut sorted[start..end]);
        start = end;
    }
    sorted
}
