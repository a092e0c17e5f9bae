//! The words of a text, as near-duplicate search sees them. The rule, in its order:
//!
//! 1. **Nothing at all** are characters that nobody sees: soft hyphen, joiners (U+200C, U+200D, U+2060, U+FEFF), marks and
//!    controls of direction, variation selectors. They are taken out first, and end no word.
//! 2. **Normal form.** NFKC, full case folding (`ß` is `ss`), NFKC again. Full-width letters, ligatures and composed accents
//!    are what they stand for; case does not count. Accents do.
//! 3. **Words** are maximal runs of alphanumeric characters (Unicode `Alphabetic`, or a number of any kind), each with the
//!    combining marks behind it. Everything else ends a word: white space, punctuation (apostrophe, hyphen and underscore too),
//!    symbols, emoji.
//! 4. **Scripts without spaces** (Han, Hiragana, Katakana, Thai, Lao, Myanmar, Khmer) are runs of their own, apart from the
//!    letters beside them. Such a run stands for its overlapping pairs of characters, each with its marks; a run of one
//!    character for that one. Lucene's CJK analyser does the same.
//!
//! So `Don't PANIC!` has the words `don`, `t`, `panic`, and `iPhone手机壳` has `iphone`, `手机`, `机壳`. A text of punctuation
//! or emoji alone has none. The tables of Unicode are those of the compiler's standard library (what is alphanumeric),
//! `unicode-normalization` and `unicase`; a character newer than they are ends a word.

use unicase::UniCase;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// The runs of a text, one blank between them: the normalised text.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Runs {
    text: String,
    /// Where each run ends.
    ends: Vec<usize>,
}

/// Which bytes of ASCII are in words.
const IN_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    table
};

impl Runs {
    /// Puts the runs of `text` in place of those that were here.
    pub fn read(&mut self, text: &str) {
        self.text.clear();
        self.ends.clear();
        if text.is_ascii() {
            self.add_ascii(text);
            return;
        }
        // No rule of Unicode reaches across white space of ASCII, so that a quote mark makes one piece slow and not all.
        for piece in text.split(|c: char| c.is_ascii_whitespace()) {
            if piece.is_ascii() { self.add_ascii(piece) } else { self.add_any(piece) }
        }
    }

    fn add_ascii(&mut self, text: &str) {
        let mut rest = text;
        let is_of_word = |byte: &u8| IN_WORD[usize::from(*byte)];
        while let Some(start) = rest.as_bytes().iter().position(is_of_word) {
            rest = &rest[start..];
            let length = rest.as_bytes().iter().position(|byte| !is_of_word(byte)).unwrap_or(rest.len());
            self.begin();
            let at = self.text.len();
            self.text.push_str(&rest[..length]);
            self.text[at..].make_ascii_lowercase();
            self.ends.push(self.text.len());
            rest = &rest[length..];
        }
    }

    fn begin(&mut self) {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
    }

    fn add_any(&mut self, text: &str) {
        let seen = text.chars().filter(|c| !is_invisible(*c));
        let folded = UniCase::unicode(seen.nfkc().collect::<String>()).to_folded_case();
        // Which script the run that goes on has.
        let mut unspaced = None;
        for c in folded.nfkc() {
            let mark = is_combining_mark(c);
            let script = if mark { unspaced } else { c.is_alphanumeric().then(|| is_unspaced(c)) };
            if script != unspaced && unspaced.is_some() {
                self.ends.push(self.text.len());
            }
            if script != unspaced && script.is_some() {
                self.begin();
            }
            if script.is_some() {
                self.text.push(c);
            }
            unspaced = script;
        }
        if unspaced.is_some() {
            self.ends.push(self.text.len());
        }
    }

    /// The runs joined by one blank.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Calls `word` with where each word begins and ends in [`Runs::text`], as often as it is there.
    pub fn for_each_word(&self, mut word: impl FnMut(usize, usize)) {
        let mut start = 0;
        for &end in &self.ends {
            let run = &self.text[start..end];
            // All the scripts without spaces are three bytes a character, or four.
            match run.chars().next() {
                Some(first) if run.as_bytes()[0] >= 0xe0 && is_unspaced(first) => pairs(run, start, &mut word),
                _ => word(start, end),
            }
            start = end + 1;
        }
    }

    /// Calls `shingle` with where every run of `length` characters begins and ends in [`Runs::text`]; once with the whole text
    /// where that is shorter and not empty.
    pub fn for_each_shingle(&self, length: usize, mut shingle: impl FnMut(usize, usize)) {
        let ends = || self.text.char_indices().map(|(at, _)| at).skip(1).chain([self.text.len()]);
        let mut any = false;
        for ((start, _), end) in self.text.char_indices().zip(ends().skip(length.saturating_sub(1))) {
            shingle(start, end);
            any = true;
        }
        if !any && !self.text.is_empty() {
            shingle(0, self.text.len());
        }
    }
}

/// The overlapping pairs of characters of a run, each with its marks.
fn pairs(run: &str, at: usize, word: &mut impl FnMut(usize, usize)) {
    let mut starts = run.char_indices().filter(|(_, c)| !is_combining_mark(*c)).map(|(start, _)| start);
    let (mut first, mut second) = (starts.next().unwrap_or(0), starts.next());
    if second.is_none() {
        word(at, at + run.len());
    }
    while let Some(middle) = second {
        second = starts.next();
        word(at + first, at + second.unwrap_or(run.len()));
        first = middle;
    }
}

/// Characters that are nothing; the rule above names them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0100}'..='\u{e01ef}')
}

/// Letters of the scripts that put no spaces between words, by their blocks.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        // Thai, Lao, Myanmar, Khmer.
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{a9e0}'..='\u{a9ff}' | '\u{aa60}'..='\u{aa7f}'
        // Han (iteration mark, zero, numerals, then the ideographs) and kana.
        | '\u{2e80}'..='\u{2fdf}' | '\u{3005}'..='\u{3007}' | '\u{3021}'..='\u{3029}' | '\u{3038}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{1aff0}'..='\u{1b16f}'
        | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests;
