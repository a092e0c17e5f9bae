//! Sets of items as short ascending lists of numbers, rare items first.
//!
//! An item's **place** is 26 bits of its hash; an item whose place is taken by another of its set gets the next free one
//! (linear probing). What is filled does not depend on the order, and more items fill more, so that two sets share at least as
//! many places as items, whatever the hash is: comparing places never loses a pair. It may find too many; the items decide.
//!
//! A **token** is a place with the rank of its document frequency in front, so that lists in the order of tokens begin with
//! what is rare. Frequencies are counted in a table of 2^20 for all places, shared by those that differ in their last 6 bits.

use crate::word_set::{WordHash, items};

const PLACE_BITS: u32 = 26;
const PLACES: u32 = 1 << PLACE_BITS;
/// Places that share a count.
const SHARED_BITS: u32 = 6;

/// Appends the places of a set's items, ascending.
pub fn push_places<H: WordHash>(hasher: H, set: &[u8], out: &mut Vec<u32>) {
    let begin = out.len();
    // The items come in the order of their hashes.
    let mut next_free = 0;
    let mut beyond = 0_u32;
    for item in items(set) {
        let place = ((hasher.hash(item) >> (64 - PLACE_BITS)) as u32).max(next_free);
        if place < PLACES {
            out.push(place);
            next_free = place + 1;
        } else {
            beyond += 1;
        }
    }
    if beyond > 0 {
        // The probing goes round.
        let taken = out[begin..].to_vec();
        out.extend((0..PLACES).filter(|place| taken.binary_search(place).is_err()).take(beyond as usize));
        out[begin..].sort_unstable();
    }
}

/// In how many sets each place is, about.
#[derive(Clone)]
pub struct Frequencies(Vec<u32>);

impl Default for Frequencies {
    fn default() -> Self {
        Self(vec![0; 1 << (PLACE_BITS - SHARED_BITS)])
    }
}

impl Frequencies {
    /// Counts the places of a set.
    #[inline]
    pub fn count(&mut self, places: &[u32]) {
        for place in places {
            let count = &mut self.0[(place >> SHARED_BITS) as usize];
            *count = count.saturating_add(1);
        }
    }

    /// Adds what another table counted.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(&other.0) {
            *count = count.saturating_add(*more);
        }
    }

    /// Turns the places of a set into its tokens, in their order.
    #[inline]
    pub fn rank(&self, places: &mut [u32]) {
        for place in &mut *places {
            *place |= rank(self.0[(*place >> SHARED_BITS) as usize]) << PLACE_BITS;
        }
        places.sort_unstable();
    }
}

/// Half octaves of a count: 0 to 63, 0 for what is counted once at most.
fn rank(count: u32) -> u32 {
    if count < 2 {
        return 0;
    }
    let octave = count.ilog2();
    2 * octave + ((count >> (octave - 1)) & 1)
}

/// Whether no other set has the item of this token.
#[inline]
pub fn is_alone(token: u32) -> bool {
    token < PLACES
}

/// Lists of tokens, one behind the other.
#[derive(Debug, Default, Clone)]
pub struct TokenLists {
    tokens: Vec<u32>,
    ends: Vec<usize>,
}

impl TokenLists {
    /// Bytes of a list beside those of its tokens.
    pub const LIST_BYTES: u64 = size_of::<usize>() as u64;

    /// Adds a list, which `fill` appends to what it is given.
    pub fn push(&mut self, fill: impl FnOnce(&mut Vec<u32>)) {
        fill(&mut self.tokens);
        self.ends.push(self.tokens.len());
    }

    /// Takes over the lists of another.
    pub fn append(&mut self, other: &mut Self) {
        let base = self.tokens.len();
        self.tokens.append(&mut other.tokens);
        self.ends.extend(other.ends.drain(..).map(|end| end + base));
    }

    /// Forgets all lists.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.ends.clear();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Memory in use.
    pub fn memory_bytes(&self) -> u64 {
        self.tokens.len() as u64 * 4 + self.len() as u64 * Self::LIST_BYTES
    }

    /// The list at a place.
    #[inline]
    pub fn get(&self, at: usize) -> &[u32] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.tokens[start..self.ends[at]]
    }

    /// Turns places into tokens in all lists, on so many threads.
    pub fn rank(&mut self, frequencies: &Frequencies, threads: usize) {
        let each = self.len().div_ceil(threads.max(1)).max(1);
        std::thread::scope(|scope| {
            let (mut rest, mut before) = (self.tokens.as_mut_slice(), 0);
            for ends in self.ends.chunks(each) {
                let (own, others) = rest.split_at_mut(ends[ends.len() - 1] - before);
                rest = others;
                let start = before;
                before = ends[ends.len() - 1];
                let mut work = move || {
                    let mut at = 0;
                    for end in ends {
                        frequencies.rank(&mut own[at..end - start]);
                        at = end - start;
                    }
                };
                if threads > 1 {
                    scope.spawn(work);
                } else {
                    work();
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::word_set::tests::{EightBits, Zero};
    use crate::word_set::{SetBuilder, SetsOf, Xxh3, overlap};
    use proptest::prelude::*;

    /// The last place of all, so that the probing goes round.
    #[derive(Debug, Clone, Copy, Default)]
    struct Last;

    impl WordHash for Last {
        fn hash(self, item: &[u8]) -> u64 {
            if item[0] < b'm' { u64::MAX } else { 1 << 38 }
        }
    }

    fn check<H: WordHash>(a: &str, b: &str) {
        let mut builder = SetBuilder::<H>::new(SetsOf::Words);
        let (set_a, set_b) = (builder.build(a).0.to_vec(), builder.build(b).0.to_vec());
        let places = |set: &[u8]| {
            let mut out = vec![7];
            push_places(H::default(), set, &mut out);
            out.split_off(1)
        };
        let (places_a, places_b) = (places(&set_a), places(&set_b));
        let words = overlap(H::default(), &set_a, &set_b);
        assert!(places_a.is_sorted_by(|a, b| a < b) && places_a.last().is_none_or(|last| *last < PLACES));
        assert_eq!((places_a.len(), places_b.len()), (words.a, words.b));
        assert!(places_a.iter().filter(|place| places_b.contains(place)).count() >= words.shared);
    }

    #[test]
    fn ranks_are_half_octaves() {
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 7, 8, u32::MAX].map(rank), [0, 0, 2, 3, 4, 4, 5, 5, 6, 63]);
        let mut frequencies = Frequencies::default();
        frequencies.count(&[1 << 6, 2 << 6]);
        frequencies.count(&[1 << 6]);
        let mut twice = frequencies.clone();
        twice.add(&frequencies);
        let mut places = [1 << 6, 2 << 6, 3 << 6];
        frequencies.rank(&mut places);
        assert_eq!(places, [2 << 6, 3 << 6, 2 << 26 | 1 << 6]);
        assert!(is_alone(places[1]) && !is_alone(places[2]));
        let mut places = [1 << 6, 2 << 6];
        twice.rank(&mut places);
        assert_eq!(places, [2 << 26 | 2 << 6, 4 << 26 | 1 << 6]);
    }

    #[test]
    fn lists_rank_alike_on_any_threads() {
        let mut frequencies = Frequencies::default();
        let lists = |frequencies: &mut Frequencies| {
            let mut lists = TokenLists::default();
            for name in 0..50_u32 {
                lists.push(|out| {
                    let places = (0..name % 7).map(|at| (at * name) << 6);
                    out.extend(places.collect::<std::collections::BTreeSet<_>>());
                });
                frequencies.count(lists.get(name as usize));
            }
            lists
        };
        let mut one = lists(&mut frequencies);
        one.rank(&frequencies, 1);
        for threads in [2, 3, 60] {
            let mut many = lists(&mut Frequencies::default());
            many.rank(&frequencies, threads);
            assert!((0..50).all(|at| one.get(at) == many.get(at)));
        }
    }

    proptest! {
        #[test]
        fn sets_share_at_least_as_many_places_as_items(a in "[a-z ]{0,60}", b in "[a-z ]{0,60}") {
            for (a, b) in [(&a, &b), (&a, &format!("{a} {b}"))] {
                check::<Xxh3>(a, b);
                check::<Zero>(a, b);
                check::<EightBits>(a, b);
                check::<Last>(a, b);
            }
        }
    }
}
