//! The set of a text's words, or of its shingles, as bytes that are equal where the sets are.
//!
//! The bytes are the distinct items, each behind the one before it and a line feed (which no item contains), in the order of
//! (hash, bytes). So equal sets are equal bytes, and two sets are compared in one walk over both.

use xxhash_rust::xxh3::xxh3_64;

use crate::words::Runs;

/// What a text is a set of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetsOf {
    /// Its words ([`crate::words`]).
    Words,
    /// Runs of so many characters of the normalised text (words joined by one blank).
    Chars(usize),
}

/// The longest shingle that can be asked for.
pub const MAX_SHINGLE: usize = 64;

impl SetsOf {
    /// Reads `words` or `chars:N`, N from 1 to [`MAX_SHINGLE`].
    pub fn parse(text: &str) -> Option<Self> {
        if text == "words" {
            return Some(Self::Words);
        }
        let length = text.strip_prefix("chars:")?.parse().ok()?;
        (1..=MAX_SHINGLE).contains(&length).then_some(Self::Chars(length))
    }
}

impl std::fmt::Display for SetsOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Words => f.write_str("words"),
            Self::Chars(length) => write!(f, "chars:{length}"),
        }
    }
}

/// How an item is hashed. It orders items and finds candidates; that two items are equal, only their bytes say.
pub trait WordHash: Copy + Default + Send + Sync {
    /// The hash of an item's UTF-8 bytes.
    fn hash(self, item: &[u8]) -> u64;
}

/// XXH3 of 64 bits: what is used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Xxh3;

impl WordHash for Xxh3 {
    #[inline]
    fn hash(self, item: &[u8]) -> u64 {
        xxh3_64(item)
    }
}

/// Makes the sets of texts, one after another.
#[derive(Debug)]
pub struct SetBuilder<H> {
    of: SetsOf,
    hasher: H,
    runs: Runs,
    /// Hash, begin and end of items in the normalised text.
    items: Vec<(u64, u32, u32)>,
    set: Vec<u8>,
}

impl<H: WordHash> SetBuilder<H> {
    /// A builder of sets of one kind.
    pub fn new(of: SetsOf) -> Self {
        Self { of, hasher: H::default(), runs: Runs::default(), items: Vec::new(), set: Vec::new() }
    }

    /// The set of a text of less than 1 GiB, empty where it has no words, and how many items it has.
    pub fn build(&mut self, text: &str) -> (&[u8], usize) {
        self.runs.read(text);
        self.items.clear();
        self.set.clear();
        let bytes = self.runs.text().as_bytes();
        let (items, hasher) = (&mut self.items, self.hasher);
        let mut add =
            |start: usize, end: usize| items.push((hasher.hash(&bytes[start..end]), start as u32, end as u32));
        match self.of {
            SetsOf::Words => self.runs.for_each_word(&mut add),
            SetsOf::Chars(length) => self.runs.for_each_shingle(length, &mut add),
        }
        items.sort_unstable();
        let mut n = 0;
        let item = |at: &(u64, u32, u32)| &bytes[at.1 as usize..at.2 as usize];
        for alike in items.chunk_by_mut(|a, b| a.0 == b.0) {
            if alike.len() > 1 {
                alike.sort_unstable_by(|a, b| item(a).cmp(item(b)));
            }
            let mut before = None;
            for at in alike {
                let item = item(at);
                if before != Some(item) {
                    if !self.set.is_empty() {
                        self.set.push(b'\n');
                    }
                    self.set.extend_from_slice(item);
                    before = Some(item);
                    n += 1;
                }
            }
        }
        (&self.set, n)
    }
}

/// The items of a set in their order.
pub fn items(set: &[u8]) -> impl Iterator<Item = &[u8]> {
    // Splitting nothing gives one piece of nothing.
    set.split(|byte| *byte == b'\n').filter(|item| !item.is_empty())
}

/// What two sets share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    /// Items of both.
    pub shared: usize,
    /// Items of the first.
    pub a: usize,
    /// Items of the second.
    pub b: usize,
}

/// Counts what two sets share, by the bytes of their items.
pub fn overlap<H: WordHash>(hasher: H, a: &[u8], b: &[u8]) -> Overlap {
    let (mut a, mut b) = (hashed(hasher, a), hashed(hasher, b));
    let mut out = Overlap { shared: 0, a: 0, b: 0 };
    let (mut left, mut right) = (a.next(), b.next());
    loop {
        let order = match (&left, &right) {
            (Some(left), Some(right)) => left.cmp(right),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => return out,
        };
        out.shared += usize::from(order.is_eq());
        if order.is_le() {
            out.a += 1;
            left = a.next();
        }
        if order.is_ge() {
            out.b += 1;
            right = b.next();
        }
    }
}

fn hashed<H: WordHash>(hasher: H, set: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    items(set).map(move |item| (hasher.hash(item), item))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Every word is alike.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct Zero;

    impl WordHash for Zero {
        fn hash(self, _: &[u8]) -> u64 {
            0
        }
    }

    /// Words are told apart by 8 bits.
    #[derive(Debug, Clone, Copy, Default)]
    pub struct EightBits;

    impl WordHash for EightBits {
        fn hash(self, item: &[u8]) -> u64 {
            Xxh3.hash(item) >> 56 << 56
        }
    }

    fn check<H: WordHash>(of: SetsOf, a: &str, b: &str) {
        let plain = |text: &str| {
            let mut runs = Runs::default();
            runs.read(text);
            let mut set = BTreeSet::new();
            let mut add = |start, end| {
                set.insert(runs.text().as_bytes()[start..end].to_vec());
            };
            match of {
                SetsOf::Words => runs.for_each_word(&mut add),
                SetsOf::Chars(length) => runs.for_each_shingle(length, &mut add),
            }
            set
        };
        let mut builder = SetBuilder::<H>::new(of);
        let (set_a, set_b) = (builder.build(a).0.to_vec(), builder.build(b).0.to_vec());
        assert_eq!(builder.build(a).1, plain(a).len());
        let (plain_a, plain_b) = (plain(a), plain(b));
        assert_eq!(items(&set_a).map(<[u8]>::to_vec).collect::<BTreeSet<_>>(), plain_a);
        assert_eq!(items(&set_a).count(), plain_a.len());
        assert_eq!(set_a == set_b, plain_a == plain_b);
        let shared = plain_a.intersection(&plain_b).count();
        assert_eq!(overlap(H::default(), &set_a, &set_b), Overlap { shared, a: plain_a.len(), b: plain_b.len() });
    }

    #[test]
    fn kinds_have_names() {
        for name in ["words", "chars:1", "chars:64"] {
            assert_eq!(SetsOf::parse(name).unwrap().to_string(), name);
        }
        for wrong in ["", "chars", "chars:0", "chars:65", "chars:x", "Words"] {
            assert_eq!(SetsOf::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        /// The oracle: plain sets of byte strings.
        #[test]
        fn sets_are_sets_whatever_the_hash(a in "[a-cA-C é手机.]{0,40}", b in "[a-cA-C é手机.]{0,40}", length in 1_usize..6) {
            for of in [SetsOf::Words, SetsOf::Chars(length)] {
                check::<Xxh3>(of, &a, &b);
                check::<Zero>(of, &a, &b);
                check::<EightBits>(of, &a, &b);
            }
        }
    }
}
