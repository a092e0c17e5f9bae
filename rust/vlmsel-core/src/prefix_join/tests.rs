use std::collections::BTreeSet;
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::jaccard::Jaccard;
use crate::tokens::Frequencies;

/// Every pair that was told, in order; a pair told twice is there twice.
#[derive(Default)]
struct Told(Vec<(usize, usize)>);

impl Sink for Told {
    type Error = Infallible;

    fn pair(&mut self, a: usize, b: usize) -> Result<(), Infallible> {
        self.0.push((a.min(b), a.max(b)));
        Ok(())
    }

    fn pause(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

fn lists(sets: &[BTreeSet<u32>]) -> TokenLists {
    let (mut lists, mut frequencies) = (TokenLists::default(), Frequencies::default());
    for (at, set) in sets.iter().enumerate() {
        // Every item has a count of its own.
        lists.push(|out| out.extend(set.iter().map(|item| (item << 6) | (item % 64))));
        frequencies.count(lists.get(at));
    }
    lists.rank(&frequencies, 1);
    lists
}

fn joined(sets: &[BTreeSet<u32>], threshold: &Jaccard, parts: u32, apart: Option<usize>) -> Vec<(usize, usize)> {
    let (lists, plan, mut told) = (lists(sets), PrefixJoin::new(threshold), Told::default());
    for number in 0..parts {
        let Ok(()) = plan.run(&lists, Part { number, of: parts }, apart, &mut told);
    }
    told.0.sort_unstable();
    told.0
}

/// The oracle: all pairs, plain sets.
fn quadratic(sets: &[BTreeSet<u32>], threshold: &Jaccard, apart: Option<usize>) -> Vec<(usize, usize)> {
    let small = |set: &BTreeSet<u32>| set.len() <= MAX_ITEMS;
    let mut pairs = Vec::new();
    for (b, y) in sets.iter().enumerate() {
        for (a, x) in sets[..b].iter().enumerate() {
            let wanted = apart.is_none_or(|border| a < border && b >= border);
            if wanted && small(x) && small(y) && threshold.holds(x.intersection(y).count(), x.len(), y.len()) {
                pairs.push((a, b));
            }
        }
    }
    pairs.sort_unstable();
    pairs
}

/// Numbers that do not depend on the machine.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (crate::random::random_key(self.0, b"") % u64::from(bound)) as u32
    }

    /// Small numbers are frequent, as words are.
    fn item(&mut self, vocabulary: u32) -> u32 {
        let bound = self.below(vocabulary) + 1;
        self.below(bound)
    }
}

/// Sets over a vocabulary, some of them copies with edits, some in dense crowds.
fn corpus(n: usize, vocabulary: u32, sizes: std::ops::Range<u32>, seed: u64) -> Vec<BTreeSet<u32>> {
    let mut numbers = Numbers(seed);
    let mut sets: Vec<BTreeSet<u32>> = Vec::new();
    while sets.len() < n {
        let size = (sizes.start + numbers.below(sizes.end - sizes.start)).min(vocabulary * 2 / 3);
        let mut set = BTreeSet::new();
        if !sets.is_empty() && numbers.below(3) == 0 {
            // A third of the copies are of the first set: a crowd.
            let of = if numbers.below(3) == 0 { 0 } else { numbers.below(sets.len() as u32) as usize };
            set.clone_from(&sets[of]);
            for _ in 0..=numbers.below(2) {
                let gone = set.iter().nth(numbers.below(set.len().max(1) as u32) as usize).copied();
                gone.filter(|_| set.len() > 1).map(|gone| set.remove(&gone));
                set.insert(numbers.item(vocabulary));
            }
        }
        while set.is_empty() || (set.len() as u32) < size && numbers.below(40) != 0 {
            set.insert(numbers.item(vocabulary));
        }
        sets.push(set);
    }
    sets
}

#[test]
fn the_join_is_the_quadratic_one() {
    for (at, (vocabulary, sizes)) in
        [(12, 1..6), (40, 1..12), (300, 5..25), (20_000, 8..40), (400, 50..80)].into_iter().enumerate()
    {
        let sets = corpus(900, vocabulary, sizes, at as u64);
        let mut told = 0;
        for t in ["0.05", "0.3", "0.5", "0.7", "0.8", "0.9", "1"] {
            let threshold = Jaccard::parse(t).unwrap();
            let expected = quadratic(&sets, &threshold, None);
            assert!(joined(&sets, &threshold, 1, None) == expected, "vocabulary {vocabulary} at {t}");
            assert!(joined(&sets, &threshold, 5, None) == expected, "vocabulary {vocabulary} at {t} in parts");
            told += expected.len();
        }
        assert!(told > 100);
    }
}

#[test]
fn two_sides_are_joined_across() {
    let sets = corpus(600, 60, 2..12, 9);
    let threshold = Jaccard::parse("0.6").unwrap();
    let expected = quadratic(&sets, &threshold, Some(200));
    assert!(!expected.is_empty());
    assert_eq!(joined(&sets, &threshold, 3, Some(200)), expected);
}

/// A crowd of sets that are nearly alike, all of whose tokens are frequent: splitting it would never end.
#[test]
fn a_crowd_is_compared_and_not_split_for_ever() {
    let sets: Vec<BTreeSet<u32>> =
        (0..400).map(|at| (0..30).filter(|item| *item != at % 30).chain([100 + at]).collect()).collect();
    for t in ["0.5", "0.9"] {
        let threshold = Jaccard::parse(t).unwrap();
        assert_eq!(joined(&sets, &threshold, 1, None), quadratic(&sets, &threshold, None));
    }
}

#[test]
fn parts_of_parts_are_parts() {
    for token in (0..1 << 20).map(|at| at * 4093_u32) {
        for (of, more) in [(1, 7), (3, 4), (16, 5)] {
            assert_eq!(Part::of_token(token, of), Part::of_token(token, of * more) / more);
        }
    }
}

proptest! {
    #[test]
    fn any_sets_join_as_the_quadratic_join_says(
        sets in prop::collection::vec(prop::collection::btree_set(0_u32..30, 0..12), 0..140), thousandths in 1_u32..=1000, parts in 1_u32..4,
    ) {
        let threshold = Jaccard::parse(&format!("{}.{:03}", thousandths / 1000, thousandths % 1000)).unwrap();
        prop_assert_eq!(joined(&sets, &threshold, parts, None), quadratic(&sets, &threshold, None));
    }

    #[test]
    fn shared_tokens_are_counted(a in prop::collection::btree_set(0_u32..60, 0..40), b in prop::collection::btree_set(0_u32..60, 0..40), required in 0_usize..40) {
        let shared = a.intersection(&b).count();
        let (a, b): (Vec<u32>, Vec<u32>) = (a.into_iter().collect(), b.into_iter().collect());
        prop_assert_eq!(shared_tokens(&a, &b, required), (shared >= required).then_some(shared));
    }
}
