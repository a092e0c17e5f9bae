//! `MinHash` signatures in bands: candidates among sets of any size (Broder 1997; banding: Leskovec et al., Mining of Massive
//! Datasets, 3.4). Sets whose Jaccard similarity is s agree on a row with probability s, on a band of r rows with s^r, and on
//! one of b bands with 1 - (1 - s^r)^b. What agrees is a candidate; the caller verifies it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::jaccard::Jaccard;

/// Signatures have at most so many rows.
pub const MAX_ROWS: u32 = 256;
/// Pairs just at the threshold that are to be found. Those above it are found more often.
pub const WANTED_RECALL: f64 = 0.99;
/// Bands of more rows would save next to nothing.
const MAX_ROWS_OF_BAND: u32 = 16;

/// How many bands of how many rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bands {
    /// Bands.
    pub bands: u32,
    /// Rows of each.
    pub rows: u32,
}

impl Bands {
    /// The longest bands, thus the fewest candidates, that find [`WANTED_RECALL`] of the pairs at the threshold within
    /// [`MAX_ROWS`]; below a threshold of about 0.02, where none do, as many bands of one row as there may be.
    pub fn for_threshold(threshold: &Jaccard) -> Self {
        let longest = (1..=MAX_ROWS_OF_BAND).rev().find_map(|rows| {
            (1..=MAX_ROWS / rows)
                .map(|bands| Self { bands, rows })
                .find(|bands| bands.expected_recall(threshold.as_f64()) >= WANTED_RECALL)
        });
        longest.unwrap_or(Self { bands: MAX_ROWS, rows: 1 })
    }

    /// Share of the pairs of this similarity that agree on a band, 0 to 1.
    pub fn expected_recall(self, similarity: f64) -> f64 {
        // By multiplication alone, so that every machine chooses the same bands.
        let power = |base: f64, times: u32| (0..times).fold(1.0, |product, _| product * base);
        1.0 - power(1.0 - power(similarity, self.rows), self.bands)
    }
}

/// Signs sets of tokens.
#[derive(Debug, Clone)]
pub struct Signer {
    bands: Bands,
    /// Each row's permutation of the tokens: a bit pattern and an odd factor.
    patterns: Vec<u32>,
    factors: Vec<u32>,
    least: Vec<u32>,
}

impl Signer {
    /// A signer with so many bands. Its permutations are always the same.
    pub fn new(bands: Bands) -> Self {
        let rows = bands.bands * bands.rows;
        let number = |seed: u64, row: u32| xxh3_64_with_seed(&row.to_le_bytes(), seed) as u32;
        Self {
            bands,
            patterns: (0..rows).map(|row| number(1, row)).collect(),
            factors: (0..rows).map(|row| number(2, row) | 1).collect(),
            least: Vec::new(),
        }
    }

    /// Calls `band` with the number and the key of every band of a set. Sets that agree on a band have its key; keys of 56 bits
    /// may agree by chance.
    pub fn for_each_band(&mut self, tokens: &[u32], mut band: impl FnMut(u32, u64)) {
        self.least.clear();
        self.least.resize(self.factors.len(), u32::MAX);
        for token in tokens {
            // Neighbours in the order of tokens are no neighbours in any row.
            let mut mixed = *token ^ (token >> 16);
            mixed = mixed.wrapping_mul(0x7feb_352d);
            mixed ^= mixed >> 15;
            for ((least, factor), pattern) in self.least.iter_mut().zip(&self.factors).zip(&self.patterns) {
                *least = (*least).min((mixed ^ pattern).wrapping_mul(*factor));
            }
        }
        let mut bytes = [0; 4 * MAX_ROWS_OF_BAND as usize];
        for (number, rows) in self.least.chunks_exact(self.bands.rows as usize).enumerate() {
            for (bytes, least) in bytes.chunks_exact_mut(4).zip(rows) {
                bytes.copy_from_slice(&least.to_le_bytes());
            }
            let number = number as u32;
            band(number, xxh3_64_with_seed(&bytes[..rows.len() * 4], u64::from(number)) >> 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::random_key;

    fn bands(threshold: &str) -> Bands {
        Bands::for_threshold(&Jaccard::parse(threshold).unwrap())
    }

    #[test]
    fn bands_follow_the_threshold() {
        for (threshold, of, rows) in [("0.9", 18, 14), ("0.8", 26, 8), ("0.7", 37, 6), ("0.5", 35, 3), ("1", 1, 16)] {
            assert_eq!(bands(threshold), Bands { bands: of, rows }, "{threshold}");
        }
        for hundredths in 2..=100 {
            let chosen = bands(&format!("{}.{:02}", hundredths / 100, hundredths % 100));
            assert!(chosen.bands * chosen.rows <= MAX_ROWS);
            assert!(chosen.expected_recall(f64::from(hundredths) / 100.0) >= WANTED_RECALL);
        }
        assert_eq!(bands("0.01"), Bands { bands: 256, rows: 1 });
        assert!(bands("0.01").expected_recall(0.01) < WANTED_RECALL);
    }

    /// Pairs of sets of a given similarity, of any tokens: how many agree on a band. The permutations are fixed, and so is this.
    #[test]
    fn recall_is_what_is_expected() {
        for (threshold, shared, own) in [("0.8", 80_u32, 10_u32), ("0.7", 70, 15), ("0.5", 40, 20), ("0.9", 360, 20)] {
            let mut signer = Signer::new(bands(threshold));
            let mut of = |tokens: Vec<u32>| {
                let mut keys = Vec::new();
                signer.for_each_band(&tokens, |band, key| keys.push((band, key)));
                keys
            };
            let mut found = 0;
            for pair in 0..2000_u32 {
                let token = |at: u32| (random_key(u64::from(pair), &at.to_le_bytes()) >> 38) as u32;
                let a = of((0..shared + own).map(token).collect());
                let b = of((0..shared).chain(1000..1000 + own).map(token).collect());
                found += u32::from(a.iter().zip(&b).any(|(a, b)| a == b));
            }
            // 1,980 are expected; four standard deviations are 18.
            assert!((1962..2000).contains(&found), "{found} of 2,000 at {threshold}");
        }
    }

    #[test]
    fn sets_that_differ_much_are_seldom_candidates() {
        let mut signer = Signer::new(bands("0.8"));
        let mut keys: Vec<(u32, u64)> = Vec::new();
        for set in 0..2000_u64 {
            let tokens: Vec<u32> = (0..100_u32).map(|at| (random_key(set, &at.to_le_bytes()) >> 38) as u32).collect();
            signer.for_each_band(&tokens, |band, key| keys.push((band, key)));
        }
        let n = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), n);
    }
}
