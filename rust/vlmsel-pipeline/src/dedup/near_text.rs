//! Near texts: pairs whose sets of words (or of character shingles) reach a Jaccard similarity, found within a memory limit.
//!
//! 1. **Sets.** Each text becomes the set of its words ([`vlmsel_core::words`] has the rule). Texts without a word match nothing.
//! 2. **Equal sets** are told first, as [`TextMatch::Same`], and searched for once: a million texts that differ in punctuation
//!    are one set, not 5e11 pairs.
//! 3. **Small sets** (up to 64 words) are joined exactly ([`vlmsel_core::prefix_join`]): every pair is found.
//! 4. **Pairs with a larger set**, and all of shingles, are candidates if their `MinHash` signatures agree on a band
//!    ([`vlmsel_core::minhash`]): [`NearTextSummary::expected_recall`] of the pairs just at the threshold, more of those above.
//! 5. Every pair is verified by the words themselves before it is told, and told once.
//!
//! What does not fit into memory goes to scratch files with checksums. The answer does not depend on the limit, on threads or on
//! the order of the texts; the order in which pairs are told does.

mod banded;
mod exact;
mod intake;
mod run;
mod scratch;
mod sets;
#[cfg(test)]
mod tests;
mod verify;

use std::path::{Path, PathBuf};

use vlmsel_core::minhash::Bands;
use vlmsel_core::prefix_join::PrefixJoin;
use vlmsel_core::word_set::{WordHash, Xxh3};

use crate::error::Result;
use crate::progress::Progress;
use exact::Pairs;
use intake::Intaker;
use run::Run;
use verify::Candidates;

pub use intake::MAX_TEXT_BYTES;
pub use run::{NearTextOptions, TextEdge};

/// What a search tells, a pair at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TextMatch {
    /// A text whose set equals that of another. All of these are told before the first [`TextMatch::Near`], and each text that
    /// is not its own representative once.
    Same {
        /// The text.
        text: u32,
        /// The smallest number of a text with this set.
        representative: u32,
    },
    /// Two representatives whose sets are near and not equal.
    Near(TextEdge),
}

/// What a search did.
#[derive(Debug, Clone, PartialEq)]
pub struct NearTextSummary {
    /// Texts that came in.
    pub texts: u64,
    /// Texts without a word.
    pub empty: u64,
    /// Texts of more than [`MAX_TEXT_BYTES`], which were left out.
    pub too_long: u64,
    /// Texts whose set a text of a smaller number has.
    pub same: u64,
    /// Distinct sets.
    pub sets: u64,
    /// Sets that are found by their bands, because they have more than 64 words or are of shingles.
    pub banded_sets: u64,
    /// Pairs that were told as near.
    pub near: u64,
    /// How sets were banded; `None` where none was.
    pub bands: Option<Bands>,
    /// Share of the pairs just at the threshold that are expected to be found where bands find them; 1 where none was banded.
    pub expected_recall: f64,
}

/// A search for near texts.
pub struct NearText<H = Xxh3> {
    options: NearTextOptions,
    scratch: PathBuf,
    intaker: Intaker<H>,
}

impl NearText {
    /// A search with scratch files in `scratch`, an existing folder.
    pub fn new(options: NearTextOptions, scratch: &Path) -> Self {
        Self::with_hash(options, scratch)
    }
}

impl<H: WordHash> NearText<H> {
    /// A search that hashes words in its own way, which decides how fast it is, and nothing else.
    pub fn with_hash(options: NearTextOptions, scratch: &Path) -> Self {
        let intaker = Intaker::new(&options, scratch);
        Self { options, scratch: scratch.to_path_buf(), intaker }
    }

    /// Adds a text. Its number is the caller's, and no other text has it.
    ///
    /// # Errors
    /// Those of the scratch disk and of starting threads.
    pub fn push(&mut self, number: u32, text: &str) -> Result<()> {
        self.intaker.push(number, text)
    }

    /// Tells all matches to `emit`.
    ///
    /// # Errors
    /// Those of `emit`, of the scratch disk and of starting threads, and cancellation.
    pub fn finish(
        mut self,
        progress: &Progress,
        emit: &mut dyn FnMut(TextMatch) -> Result<()>,
    ) -> Result<NearTextSummary> {
        self.intaker.flush()?;
        let counts = self.intaker.counts;
        let run = Run {
            options: &self.options,
            hasher: H::default(),
            scratch: &self.scratch,
            progress,
            plan: PrefixJoin::new(&self.options.threshold),
        };
        let mut same = 0;
        let mut distinct = sets::distinct(&run, self.intaker, &mut |text, representative| {
            same += 1;
            emit(TextMatch::Same { text, representative })
        })?;
        let mut near = 0;
        let mut tell = |edge| {
            near += 1;
            emit(TextMatch::Near(edge))
        };
        let totals = distinct.totals;
        let mut candidates = Candidates::new(&run, &distinct.words, totals.sets);
        exact::join(&run, &mut distinct, &mut |pairs| match pairs {
            Pairs::Edges(edges) => edges.into_iter().try_for_each(&mut tell),
            Pairs::Candidates(pairs) => pairs.into_iter().try_for_each(|(a, b)| candidates.push(a, b)),
        })?;
        let bands = (totals.long > 0).then(|| Bands::for_threshold(&self.options.threshold));
        if let Some(bands) = bands {
            banded::candidates(&run, &mut distinct, bands, &mut |a, b| candidates.push(a, b))?;
        }
        // Their memory is that of the words now.
        distinct.lists = None;
        candidates.verify(&run, &mut distinct.words, &mut tell)?;
        Ok(NearTextSummary {
            texts: counts.texts,
            empty: counts.empty,
            too_long: counts.too_long,
            same,
            sets: totals.sets,
            banded_sets: totals.long,
            near,
            bands,
            expected_recall: bands.map_or(1.0, |bands| bands.expected_recall(self.options.threshold.as_f64())),
        })
    }
}
