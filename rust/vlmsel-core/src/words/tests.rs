use proptest::prelude::*;

use super::*;

fn words(text: &str) -> Vec<String> {
    let mut runs = Runs::default();
    // Whatever was there before must not show.
    runs.read("before 前に");
    runs.read(text);
    let mut words = Vec::new();
    runs.for_each_word(|start, end| words.push(runs.text()[start..end].to_owned()));
    words
}

fn shingles(text: &str, length: usize) -> Vec<String> {
    let mut runs = Runs::default();
    runs.read(text);
    let mut out = Vec::new();
    runs.for_each_shingle(length, |start, end| out.push(runs.text()[start..end].to_owned()));
    out
}

/// The rule of the module's head, as it is said there: every character by itself, and no path for ASCII.
fn by_the_rule(text: &str) -> Vec<String> {
    let mut runs = Runs::default();
    runs.add_any(text);
    let mut words = Vec::new();
    runs.for_each_word(|start, end| words.push(runs.text()[start..end].to_owned()));
    words
}

/// The vectors of docs and help: whoever computes word sets elsewhere has to get these.
#[test]
fn vectors() {
    let cases: [(&str, &[&str]); 30] = [
        ("", &[]),
        (" \t\n\u{a0}\u{3000}", &[]),
        ("...!?", &[]),
        ("A cat, a CAT; a-cat_a.cat", &["a", "cat", "a", "cat", "a", "cat", "a", "cat"]),
        ("Don't PANIC!", &["don", "t", "panic"]),
        ("Don\u{2019}t panic", &["don", "t", "panic"]),
        ("3.5mm 2\u{b2} \u{bd}", &["3", "5mm", "22", "1", "2"]),
        ("Stra\u{df}e STRASSE", &["strasse", "strasse"]),
        ("\u{fb01}sh \u{ff26}\u{ff29}SH", &["fish", "fish"]),
        ("cafe\u{301} CAF\u{c9}", &["caf\u{e9}", "caf\u{e9}"]),
        ("\u{3a3}\u{3af}\u{3c3}\u{3c5}\u{3c6}\u{3bf}\u{3c2}", &["\u{3c3}\u{3af}\u{3c3}\u{3c5}\u{3c6}\u{3bf}\u{3c3}"]),
        ("\u{130}stanbul", &["i\u{307}stanbul"]),
        // Devanagari: vowel signs and virama are marks within the word.
        ("\u{939}\u{93f}\u{928}\u{94d}\u{926}\u{940}", &["\u{939}\u{93f}\u{928}\u{94d}\u{926}\u{940}"]),
        // Hebrew with and without its direction marks, Arabic with a joiner.
        ("\u{200f}\u{5e9}\u{5dc}\u{5d5}\u{5dd}\u{200f}!", &["\u{5e9}\u{5dc}\u{5d5}\u{5dd}"]),
        ("\u{645}\u{6cc}\u{200c}\u{62e}", &["\u{645}\u{6cc}\u{62e}"]),
        ("co\u{ad}operate \u{feff}bom", &["cooperate", "bom"]),
        // A mark that stands behind no letter is nothing.
        ("\u{301}a \u{2764}\u{fe0f} x", &["a", "x"]),
        ("a\u{200b}b", &["a", "b"]),
        ("\u{1f600}\u{1f468}\u{200d}\u{1f469}", &[]),
        ("dog\u{1f600}cat", &["dog", "cat"]),
        ("\u{4e00}", &["\u{4e00}"]),
        ("\u{624b}\u{673a}\u{58f3}", &["\u{624b}\u{673a}", "\u{673a}\u{58f3}"]),
        ("iPhone\u{624b}\u{673a}\u{58f3}12", &["iphone", "\u{624b}\u{673a}", "\u{673a}\u{58f3}", "12"]),
        ("\u{624b}\u{673a}\u{3002}\u{58f3}", &["\u{624b}\u{673a}", "\u{58f3}"]),
        // Half-width katakana with a voicing mark of its own.
        ("\u{ff76}\u{ff9e}\u{ff97}\u{ff7d}", &["\u{30ac}\u{30e9}", "\u{30e9}\u{30b9}"]),
        ("\u{30b3}\u{30fc}\u{30d2}\u{30fc}", &["\u{30b3}\u{30fc}", "\u{30fc}\u{30d2}", "\u{30d2}\u{30fc}"]),
        // Thai: a letter and its marks are one character.
        ("\u{e01}\u{e49}\u{e32}\u{e19}", &["\u{e01}\u{e49}\u{e32}", "\u{e32}\u{e19}"]),
        // Hangul has spaces; letters that were typed apart are composed.
        ("\u{1112}\u{1161}\u{11ab}\u{ae00} \u{ae00}", &["\u{d55c}\u{ae00}", "\u{ae00}"]),
        ("\u{20bb7}\u{91ce}\u{5bb6}", &["\u{20bb7}\u{91ce}", "\u{91ce}\u{5bb6}"]),
        ("\u{435}\u{308}\u{436} \u{401}\u{416}", &["\u{451}\u{436}", "\u{451}\u{436}"]),
    ];
    for (text, expected) in cases {
        assert_eq!(words(text), expected, "{text:?}");
    }
}

#[test]
fn shingles_are_of_the_normalised_text() {
    assert_eq!(shingles("A  b, C", 3), ["a b", " b ", "b c"]);
    assert_eq!(shingles("\u{c9}t\u{e9}", 2), ["\u{e9}t", "t\u{e9}"]);
    // Shorter than a shingle: itself, so that `cat` and `dog` differ.
    assert_eq!(shingles("cat!", 5), ["cat"]);
    assert_eq!(shingles("cat", 3), ["cat"]);
    assert_eq!(shingles("?!", 5), Vec::<String>::new());
    assert_eq!(shingles("ab", 1), ["a", "b"]);
}

/// Text of what is odd: marks, joiners, scripts of all kinds, and much ASCII.
fn odd_text() -> impl Strategy<Value = String> {
    let odd = prop::sample::select("aZ09 _-'.,\n\u{301}\u{df}\u{130}\u{fb01}\u{200d}\u{fe0f}\u{624b}\u{673a}\u{3042}\u{ff76}\u{ff9e}\u{e01}\u{e49}\u{1100}\u{1161}\u{5e9}\u{939}\u{94d}\u{1f600}\u{345}\u{3b1}\u{338}".chars().collect::<Vec<_>>());
    prop::collection::vec(prop_oneof![3 => odd, 1 => any::<char>()], 0..60).prop_map(|all| all.into_iter().collect())
}

proptest! {
    #[test]
    fn the_fast_paths_are_the_rule(ascii in "[ -~\t\n]{0,80}", odd in odd_text()) {
        prop_assert_eq!(words(&ascii), by_the_rule(&ascii));
        prop_assert_eq!(words(&odd), by_the_rule(&odd));
    }

    #[test]
    fn normalising_twice_changes_nothing(text in odd_text()) {
        let mut once = Runs::default();
        once.read(&text);
        let mut twice = Runs::default();
        twice.read(once.text());
        prop_assert_eq!(&twice, &once);
    }

    #[test]
    fn case_and_normal_form_do_not_count(text in odd_text()) {
        prop_assert_eq!(words(&text.nfd().collect::<String>()), words(&text));
        prop_assert_eq!(words(&text.nfkc().collect::<String>()), words(&text));
        let ascii: String = text.chars().map(|c| c.to_ascii_uppercase()).collect();
        prop_assert_eq!(words(&ascii), words(&text));
    }

    #[test]
    fn words_are_words(text in odd_text()) {
        for word in words(&text) {
            prop_assert!(!word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || is_combining_mark(c)), "{word:?}");
            prop_assert!(!is_combining_mark(word.chars().next().unwrap()));
        }
    }
}
