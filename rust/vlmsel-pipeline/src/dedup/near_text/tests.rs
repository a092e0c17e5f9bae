use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use vlmsel_core::jaccard::{Jaccard, similarity};
use vlmsel_core::random::random_key;
use vlmsel_core::word_set::SetsOf;
use vlmsel_core::words::Runs;

use super::*;
use crate::error::Error;

/// Every word is alike.
#[derive(Clone, Copy, Default)]
struct Zero;

impl WordHash for Zero {
    fn hash(self, _: &[u8]) -> u64 {
        0
    }
}

/// Words are told apart by 8 bits.
#[derive(Clone, Copy, Default)]
struct EightBits;

impl WordHash for EightBits {
    fn hash(self, item: &[u8]) -> u64 {
        Xxh3.hash(item) >> 56 << 56
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Told {
    same: BTreeMap<u32, u32>,
    near: BTreeMap<(u32, u32), f32>,
}

fn options(threshold: &str, sets: SetsOf) -> NearTextOptions {
    NearTextOptions { threshold: Jaccard::parse(threshold).unwrap(), sets, memory_limit: 0, threads: 2 }
}

fn search_as<H: WordHash>(texts: &[(u32, String)], options: &NearTextOptions) -> (Told, NearTextSummary) {
    let folder = tempfile::tempdir().unwrap();
    let mut search = NearText::<H>::with_hash(options.clone(), folder.path());
    for (number, text) in texts {
        search.push(*number, text).unwrap();
    }
    let mut told = Told::default();
    let summary = search
        .finish(&Progress::default(), &mut |found| {
            // Nothing is told twice, and what is equal before what is near.
            match found {
                TextMatch::Same { text, representative } => {
                    assert!(representative < text && told.near.is_empty());
                    assert_eq!(told.same.insert(text, representative), None);
                }
                TextMatch::Near(TextEdge { a, b, similarity }) => {
                    assert!(a < b && similarity < 1.0 && !told.same.contains_key(&a) && !told.same.contains_key(&b));
                    assert_eq!(told.near.insert((a, b), similarity), None);
                }
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert_eq!((summary.same, summary.near), (told.same.len() as u64, told.near.len() as u64));
    assert_eq!(summary.texts, summary.sets + summary.same + summary.empty + summary.too_long);
    (told, summary)
}

fn search(texts: &[(u32, String)], options: &NearTextOptions) -> (Told, NearTextSummary) {
    search_as::<Xxh3>(texts, options)
}

fn set_of(text: &str, of: SetsOf) -> BTreeSet<String> {
    let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
    runs.read(text);
    let mut add = |start, end| {
        set.insert(runs.text()[start..end].to_owned());
    };
    match of {
        SetsOf::Words => runs.for_each_word(&mut add),
        SetsOf::Chars(length) => runs.for_each_shingle(length, &mut add),
    }
    set
}

/// The oracle: plain sets of strings, and all pairs of them.
fn quadratic(texts: &[(u32, String)], options: &NearTextOptions) -> Told {
    let mut sorted = texts.to_vec();
    sorted.sort_unstable();
    let (mut told, mut first_of) = (Told::default(), BTreeMap::new());
    let mut names: HashMap<String, u32> = HashMap::new();
    let mut representatives: Vec<(u32, BTreeSet<u32>)> = Vec::new();
    for (number, text) in &sorted {
        let set = set_of(text, options.sets);
        if set.is_empty() {
            continue;
        }
        if let Some(representative) = first_of.get(&set) {
            told.same.insert(*number, *representative);
            continue;
        }
        // Numbers in place of strings, one for each, to compare sooner.
        let mut name = |word: &String| {
            let next = names.len() as u32;
            *names.entry(word.clone()).or_insert(next)
        };
        representatives.push((*number, set.iter().map(&mut name).collect()));
        first_of.insert(set, *number);
    }
    let lists: Vec<(u32, Vec<u32>)> =
        representatives.into_iter().map(|(number, set)| (number, set.into_iter().collect())).collect();
    for (at, (b, y)) in lists.iter().enumerate() {
        for (a, x) in &lists[..at] {
            let shared = vlmsel_core::prefix_join::shared_tokens(x, y, 0).unwrap();
            if options.threshold.holds(shared, x.len(), y.len()) {
                told.near.insert((*a, *b), similarity(shared, x.len(), y.len()));
            }
        }
    }
    told
}

/// Numbers that do not depend on the machine.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 += 1;
        (random_key(self.0, b"near") % bound as u64) as usize
    }

    /// Small numbers are frequent, as words are.
    fn word(&mut self, vocabulary: usize) -> String {
        let bound = self.below(vocabulary) + 1;
        let word = self.below(bound);
        // Some of every kind of script.
        match word % 11 {
            0 => format!("über{word}ß"),
            1 => format!("猫{word}"),
            2 => format!("שלום{word}"),
            _ => format!("word{word}"),
        }
    }
}

/// Captions, half of them copies of earlier ones: unchanged in what counts, or with a word swapped, added or taken away.
fn captions(n: u32, vocabulary: usize, words: std::ops::Range<usize>, seed: u64) -> Vec<(u32, String)> {
    let mut numbers = Numbers(seed << 32);
    let mut texts: Vec<(u32, String)> = Vec::new();
    for number in 0..n {
        let mut own: Vec<String> = if number > 0 && numbers.below(2) == 0 {
            let of = if numbers.below(4) == 0 { 0 } else { numbers.below(texts.len()) };
            texts[of].1.split(' ').map(str::to_owned).collect()
        } else {
            let length = words.start + numbers.below(words.len());
            (0..length).map(|_| numbers.word(vocabulary)).collect()
        };
        let at = numbers.below(own.len());
        match numbers.below(8) {
            0 => own[at] = own[at].to_uppercase(),
            1 => own[at] += ", ",
            2 => own[at] = own[at].replace('ü', "u\u{308}"),
            3 | 4 => own[at] = numbers.word(vocabulary),
            5 => own.push(numbers.word(vocabulary)),
            6 if own.len() > 1 => drop(own.remove(at)),
            _ => {}
        }
        texts.push((number * 3 + 1, own.join(" ")));
    }
    texts
}

/// Memory limits: none; lists in memory and words on disk; all on disk.
const LIMITS: [u64; 4] = [0, 1 << 20, 150_000, 40_000];

#[test]
fn what_is_told_is_what_the_quadratic_search_tells() {
    for (at, (vocabulary, words)) in [(15, 1..6), (60, 2..12), (3000, 8..40), (100_000, 8..40)].into_iter().enumerate()
    {
        let texts = captions(1200, vocabulary, words, at as u64);
        for threshold in ["0.5", "0.7", "0.8", "0.95", "1"] {
            let mut options = options(threshold, SetsOf::Words);
            let expected = quadratic(&texts, &options);
            assert!(expected.same.len() > 50 && (threshold > "0.9" || !expected.near.is_empty()));
            let (told, summary) = search(&texts, &options);
            assert!(told == expected, "vocabulary {vocabulary} at {threshold}");
            assert_eq!((summary.bands, summary.expected_recall, summary.banded_sets), (None, 1.0, 0));
            options.memory_limit = LIMITS[1 + at % 3];
            assert!(search(&texts, &options).0 == expected, "vocabulary {vocabulary} at {threshold} on disk");
        }
    }
}

#[test]
fn words_decide_and_not_their_hashes() {
    let texts = captions(2000, 3000, 1..30, 7);
    for limit in [0, 200_000] {
        let options = NearTextOptions { memory_limit: limit, ..options("0.7", SetsOf::Words) };
        let expected = quadratic(&texts, &options);
        assert!(expected.near.len() > 1000);
        assert!(search_as::<Zero>(&texts, &options).0 == expected);
        assert!(search_as::<EightBits>(&texts, &options).0 == expected);
    }
    // Where bands find what there is, hashes that say less find no less.
    let texts = captions(300, 3000, 60..200, 8);
    let options = options("0.7", SetsOf::Words);
    let expected = quadratic(&texts, &options);
    let found = search_as::<Zero>(&texts, &options).0;
    assert!(found.same == expected.same && found.near.iter().all(|pair| told_alike(pair, &expected)));
    assert!(found.near.len() * 100 >= expected.near.len() * 99, "{} of {}", found.near.len(), expected.near.len());
}

#[test]
fn neither_threads_nor_memory_nor_order_change_the_answer() {
    for (texts, sets) in [
        (captions(1500, 400, 1..30, 11), SetsOf::Words),
        (captions(500, 2000, 40..120, 12), SetsOf::Words),
        (captions(400, 2000, 1..20, 13), SetsOf::Chars(4)),
    ] {
        let mut options = options("0.7", sets);
        options.threads = 1;
        let (expected, summary) = search(&texts, &options);
        assert!(expected.near.len() > 100);
        let mut turned = texts.clone();
        turned.reverse();
        turned.rotate_left(177);
        for threads in [1, 2, 8] {
            for memory_limit in LIMITS {
                let options = NearTextOptions { memory_limit, threads, ..options.clone() };
                assert!(
                    search(&texts, &options) == (expected.clone(), summary.clone()),
                    "{threads} threads, {memory_limit} bytes"
                );
                assert!(
                    search(&turned, &options) == (expected.clone(), summary.clone()),
                    "{threads} threads, {memory_limit} bytes"
                );
            }
        }
    }
}

/// Long texts, long beside short ones, and shingles: what is told is right, and of what there is as much as is promised.
#[test]
fn bands_find_what_is_expected_and_nothing_wrong() {
    for (texts, sets) in [
        (captions(900, 4000, 45..200, 21), SetsOf::Words),
        (captions(700, 3000, 60..70, 22), SetsOf::Words),
        (captions(700, 3000, 1..25, 23), SetsOf::Chars(4)),
        (captions(700, 3000, 1..25, 24), SetsOf::Chars(1)),
    ] {
        for threshold in ["0.6", "0.8", "0.9"] {
            let options = options(threshold, sets);
            let expected = quadratic(&texts, &options);
            let (told, summary) = search(&texts, &options);
            assert_eq!(told.same, expected.same);
            assert!(told.near.iter().all(|pair| told_alike(pair, &expected)));
            let (found, all) = (told.near.len(), expected.near.len());
            assert!(all > 30 && found * 1000 >= all * 985, "{found} of {all}, {sets} at {threshold}");
            assert!(summary.expected_recall >= 0.99 && summary.expected_recall < 1.0 && summary.banded_sets > 0);
            let long = |number: &u32| {
                let text = &texts[texts.iter().position(|(own, _)| own == number).unwrap()].1;
                set_of(text, sets).len() > 64
            };
            // Small sets of words have no part in chance.
            if sets == SetsOf::Words {
                assert!(
                    expected.near.keys().all(|pair| told.near.contains_key(pair) || long(&pair.0) || long(&pair.1))
                );
            }
        }
    }
}

/// Whether a pair is one that there is, with the same bits of similarity.
fn told_alike((pair, similarity): (&(u32, u32), &f32), expected: &Told) -> bool {
    expected.near.get(pair).is_some_and(|right| right.to_bits() == similarity.to_bits())
}

fn numbered(texts: &[&str]) -> Vec<(u32, String)> {
    (0..).zip(texts).map(|(number, text)| (number, (*text).to_owned())).collect()
}

#[test]
fn hostile_texts() {
    let long = (0..150_000).map(|at| format!("w{at}")).collect::<Vec<_>>().join(" ");
    let mut texts =
        numbered(&["", "...", "😀😀 👨‍👩‍👧", "\u{301}\u{301}", "cat", "CAT!", "dog", "سلام", "\u{202e}سلام\u{202c}"]);
    texts.push((20, long.clone()));
    texts.push((21, format!("{long} more")));
    texts.push((22, "a".repeat(1 << 20)));
    texts.push((23, "e\u{301}".repeat(1 << 18)));
    texts.push((24, "\u{e9}".repeat(1 << 18)));
    texts.push((25, "\u{0}\n\u{0}\r\n".to_owned()));
    texts.push((u32::MAX, "last last LAST".to_owned()));
    for memory_limit in [0, 1 << 20] {
        for sets in [SetsOf::Words, SetsOf::Chars(5)] {
            let options = NearTextOptions { memory_limit, ..options("0.8", sets) };
            let (told, summary) = search(&texts, &options);
            assert_eq!(told.same, BTreeMap::from([(5, 4), (8, 7), (24, 23)]));
            assert_eq!(told.near.keys().collect::<Vec<_>>(), [&(20, 21)]);
            assert_eq!(summary.empty, 5);
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let mut search = NearText::new(options("0.8", SetsOf::Words), folder.path());
    search.push(0, &"a ".repeat(MAX_TEXT_BYTES / 2 + 1)).unwrap();
    search.push(1, "a").unwrap();
    let summary = search.finish(&Progress::default(), &mut |found| panic!("{found:?}")).unwrap();
    assert_eq!((summary.texts, summary.too_long, summary.sets), (2, 1, 1));
}

/// A pair of each would be 5e9 pairs.
#[test]
fn copies_that_count_as_equal_are_told_once_each() {
    let marks = [",", ".", " - ", "!", "; "];
    let text =
        |number: u32| format!("A dog{} in the snow{}", marks[number as usize % 5], "?".repeat(number as usize % 97));
    let texts: Vec<(u32, String)> = (0..100_000).map(|number| (number, text(number))).collect();
    for memory_limit in [0, 1 << 20] {
        let (told, summary) = search(&texts, &NearTextOptions { memory_limit, ..options("0.8", SetsOf::Words) });
        assert_eq!((told.same.len(), told.near.len(), summary.sets), (99_999, 0, 1));
        assert!(told.same.values().all(|representative| *representative == 0));
    }
}

/// Very many sets that share a frequent word and no other, so that their part is larger than the memory for it.
#[test]
fn a_part_larger_than_memory_is_joined_in_pieces() {
    let texts: Vec<(u32, String)> = (0..3000)
        .map(|at| (at, if at % 3 == 0 { format!("cat a{at}") } else { format!("cat b{} c{}", at % 60, at % 50) }))
        .collect();
    let options = NearTextOptions { memory_limit: 4000, ..options("0.5", SetsOf::Words) };
    let expected = quadratic(&texts, &options);
    assert!(expected.near.len() > 200 && !expected.same.is_empty());
    assert!(search(&texts, &options).0 == expected);
}

#[test]
fn a_run_that_is_stopped_stops_and_errors_of_the_taker_end_it() {
    let texts = captions(3000, 50, 1..12, 31);
    for memory_limit in [0, 100_000] {
        for threads in [1, 2] {
            let options = NearTextOptions { memory_limit, threads, ..options("0.5", SetsOf::Words) };
            for (after, cancel) in [(0, true), (40, true), (40, false), (3000, false)] {
                let folder = tempfile::tempdir().unwrap();
                let mut search = NearText::new(options.clone(), folder.path());
                for (number, text) in &texts {
                    search.push(*number, text).unwrap();
                }
                let (progress, mut told) = (Progress::default(), 0);
                if after == 0 {
                    progress.cancel();
                }
                let result = search.finish(&progress, &mut |_| {
                    told += 1;
                    match (told >= after, cancel) {
                        (true, true) => progress.cancel(),
                        (true, false) => return Err(Error::usage("enough")),
                        _ => {}
                    }
                    Ok(())
                });
                let expected =
                    if cancel { Error::from(vlmsel_shards::Error::Cancelled).to_string() } else { "enough".to_owned() };
                assert_eq!(result.unwrap_err().to_string(), expected);
                assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
            }
        }
    }
}

#[test]
fn scratch_that_is_not_there_is_told() {
    let mut search =
        NearText::new(NearTextOptions { memory_limit: 1, ..options("0.8", SetsOf::Words) }, Path::new("/nowhere"));
    (0..1000).for_each(|number| search.push(number, &format!("a{number} b{number}")).unwrap());
    let error = search.finish(&Progress::default(), &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_texts_are_told_as_the_quadratic_search_tells_them(
        texts in prop::collection::vec("[a-dA-D ,é手機]{0,14}", 0..80), hundredths in 1_u32..=100, limit in prop::sample::select(&[0_u64, 8192, 1][..]), threads in 1_usize..4,
    ) {
        let texts: Vec<(u32, String)> = (0..).zip(texts).collect();
        let threshold = format!("{}.{:02}", hundredths / 100, hundredths % 100);
        let options = NearTextOptions { memory_limit: limit, threads, ..options(&threshold, SetsOf::Words) };
        prop_assert_eq!(search(&texts, &options).0, quadratic(&texts, &options));
    }
}
