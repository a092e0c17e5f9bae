//! Pairs just beyond a threshold: people look at them, beside those just within it, before they delete.
//!
//! They are found by the joins that find near pairs, with a wider threshold, among a sample: at most 100,000 rows of the index, in
//! stretches of neighbours. Of a larger index, these are examples, and not its nearest pairs.

use serde_json::{Value, json};
use vlmsel_core::decimal::Decimal;
use vlmsel_core::hamming::MAX_RADIUS;

use super::alike::{Edge, Relation};
use super::exact::Bounds;
use super::kinds::Kind;
use super::near_pair;
use super::rows::IndexRows;
use crate::error::{Error, Result};

/// Rows that are compared.
pub const SAMPLED_ROWS: u32 = 100_000;
/// Pairs that are told.
const MOST_PAIRS: usize = 64;
/// Bits beyond the radius.
const MORE_BITS: u32 = 2;

/// What was found beyond the threshold of a kind.
pub struct Outside {
    /// The nearest pairs first, those at the same distance by their rows; each row stands for its class among the sample.
    pub pairs: Vec<Edge>,
    /// Rows that were compared.
    sampled: u64,
    /// Why there are no pairs, where there were too many to look at.
    given_up: Option<String>,
}

impl Outside {
    /// Pairs just beyond the threshold of `kind`, of which `relation` finds those within one: up to two bits more, though no more than [`MAX_RADIUS`], and a similarity down to
    /// 0.1 less, though no less than 0.05. `None` for kinds without a threshold.
    ///
    /// # Errors
    /// Those of reading, and cancellation. Pairs that do not fit into memory are no error: nobody's copies depend on them.
    pub fn find(
        sample: &IndexRows,
        kind: Kind,
        bounds: Bounds<'_>,
        relation: impl Fn(Kind, Bounds<'_>) -> Result<Relation>,
    ) -> Result<Option<Self>> {
        if let Kind::Exact(_) = kind {
            return Ok(None);
        }
        let sampled = sample.count();
        match pairs_beyond(sample.rows, kind, bounds, relation) {
            Ok(mut pairs) => {
                pairs.sort_unstable_by(|x, y| x.distance.total_cmp(&y.distance).then((x.a, x.b).cmp(&(y.a, y.b))));
                pairs.truncate(MOST_PAIRS);
                Ok(Some(Self { pairs, sampled, given_up: None }))
            }
            Err(Error::Shards(vlmsel_shards::Error::Resource(text))) => {
                Ok(Some(Self { pairs: Vec::new(), sampled, given_up: Some(text) }))
            }
            Err(error) => Err(error),
        }
    }

    /// What the manifest says of it.
    pub fn detail(&self) -> Value {
        json!({ "sampled": self.sampled, "pairs": self.pairs.len(), "given_up": self.given_up })
    }
}

/// The threshold that finds more, if there is one.
fn wider(threshold: Decimal) -> Option<Decimal> {
    let (less, least) = (Decimal::parse("0.1").ok()?, Decimal::parse("0.05").ok()?);
    let wide = threshold.minus(less).filter(|wide| least.not_above(*wide)).unwrap_or(least);
    (!threshold.not_above(wide)).then_some(wide)
}

/// The greatest distance within a threshold. Rounding keeps the order of similarities, so that no pair within it is beyond this.
fn farthest(threshold: Decimal) -> f32 {
    let (numerator, denominator) = threshold.as_ratio();
    1.0 - (numerator as f64 / denominator as f64) as f32
}

fn pairs_beyond(
    rows: u32,
    kind: Kind,
    bounds: Bounds<'_>,
    relation: impl Fn(Kind, Bounds<'_>) -> Result<Relation>,
) -> Result<Vec<Edge>> {
    let (threshold, radius) = match kind {
        Kind::Exact(_) => return Ok(Vec::new()),
        Kind::NearText(threshold) => (Some(threshold), None),
        Kind::NearImage(radius) => (None, Some(radius)),
        Kind::NearPair(threshold, radius) => (Some(threshold), Some(radius)),
    };
    let wide_radius = radius.map(|radius| (radius + MORE_BITS).min(MAX_RADIUS));
    let wide_threshold = threshold.map(|threshold| wider(threshold).unwrap_or(threshold));
    if wide_radius == radius && wide_threshold == threshold {
        return Ok(Vec::new());
    }
    let half = Bounds { memory: bounds.memory / 2, ..bounds };
    let texts = wide_threshold.map(|wide| relation(Kind::NearText(wide), half)).transpose()?;
    let images = wide_radius.map(|wide| relation(Kind::NearImage(wide), half)).transpose()?;
    let is_near_text = |edge: &Edge| threshold.is_some_and(|threshold| edge.distance <= farthest(threshold));
    let is_near_image = |edge: &Edge| radius.is_some_and(|radius| edge.distance <= radius as f32);
    let (mut texts, mut images) = match (texts, images) {
        (Some(texts), Some(images)) => (texts, images),
        (texts, images) => {
            let edges = texts.into_iter().chain(images).flat_map(|relation: Relation| relation.edges);
            return Ok(edges.filter(|edge| !is_near_text(edge) && !is_near_image(edge)).collect());
        }
    };
    // A pair is within the threshold only by both, which its distance does not tell.
    let wide = near_pair::relation(rows, &texts, &images, half)?.edges;
    texts.edges.retain(is_near_text);
    images.edges.retain(is_near_image);
    let within = near_pair::relation(rows, &texts, &images, half)?.edges;
    let is_within = |edge: &Edge| within.binary_search_by_key(&(edge.a, edge.b), |edge| (edge.a, edge.b)).is_ok();
    Ok(wide.into_iter().filter(|edge| !is_within(edge)).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use vlmsel_core::word_set::SetsOf;
    use vlmsel_shards::workspace::manifest::Manifest;

    use super::super::exact::Equality;
    use super::super::rows::Batch;
    use super::super::texts;
    use super::*;
    use crate::index::{IndexOptions, index};
    use crate::progress::Progress;
    use crate::sources::SourceOptions;

    /// An index of conversations that say these words.
    fn index_of(folder: &Path, texts: &[String]) -> IndexRows {
        let line = |text: &String| {
            let turn = |from: &str, value: &str| json!({ "from": from, "value": value });
            json!({ "conversations": [turn("human", text), turn("gpt", "yes")] }).to_string()
        };
        let (data, output) = (folder.join("texts.jsonl"), folder.join("index"));
        std::fs::write(&data, texts.iter().map(|text| line(text) + "\n").collect::<String>()).unwrap();
        let data = SourceOptions { sources: vec![data.into()], ..SourceOptions::default() };
        let (read, run) = Default::default();
        let options = IndexOptions { data, read, output: output.clone(), image_codes: false, run };
        index(&options, &Progress::default()).unwrap();
        IndexRows::new(&output, Manifest::read(&output).unwrap().unwrap()).unwrap()
    }

    fn lot(state: &mut u64, of: u64) -> u64 {
        *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (*state >> 33) % of
    }

    fn outside(index: &IndexRows, kind: Kind, memory: u64, folder: &Path) -> Option<Outside> {
        let progress = Progress::default();
        let bounds = Bounds { scratch: folder, memory, threads: 2, progress: &progress };
        let of_texts = |kind, bounds: Bounds<'_>| match kind {
            Kind::NearText(threshold) => texts::relation(index, threshold, SetsOf::Words, Equality::default(), bounds),
            _ => Err(Error::Bug("there are texts alone".to_owned())),
        };
        Outside::find(index, kind, bounds, of_texts).unwrap()
    }

    #[test]
    fn texts_just_outside_are_the_nearest_of_all() {
        let (folder, mut state) = (tempfile::tempdir().unwrap(), 3);
        // One of some texts with words exchanged, so that there are pairs at every distance; some are equal.
        let bases: Vec<Vec<u64>> = (0..20).map(|_| (0..9).map(|_| lot(&mut state, 300)).collect()).collect();
        let texts: Vec<String> = (0..260)
            .map(|_| {
                let mut words = bases[lot(&mut state, 20) as usize].clone();
                for _ in 0..lot(&mut state, 4) {
                    words[lot(&mut state, 9) as usize] = lot(&mut state, 300);
                }
                words.iter().map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ")
            })
            .collect();
        let sets: Vec<BTreeSet<&str>> =
            texts.iter().map(|text| text.split_whitespace().chain(["yes"]).collect()).collect();
        let index = index_of(folder.path(), &texts);
        let mut pairs_of_all = 0;
        for (threshold, wide) in
            [((6, 10), (5, 10)), ((85, 100), (75, 100)), ((12, 100), (5, 100)), ((5, 100), (5, 100))]
        {
            let mut expected = Vec::new();
            let firsts = (0..sets.len()).filter(|at| !sets[..*at].contains(&sets[*at]));
            let firsts: Vec<usize> = firsts.collect();
            for (at, a) in firsts.iter().enumerate() {
                for b in &firsts[at + 1..] {
                    let (both, any) = (sets[*a].intersection(&sets[*b]).count(), sets[*a].union(&sets[*b]).count());
                    let reaches = |(part, whole): (usize, usize)| both * whole >= part * any;
                    if reaches(wide) && !reaches(threshold) {
                        expected.push((1.0 - (both as f64 / any as f64) as f32, *a as u32, *b as u32));
                    }
                }
            }
            expected.sort_by(|x, y| x.partial_cmp(y).unwrap());
            expected.truncate(MOST_PAIRS);
            let decimal = Decimal::parse(&(threshold.0 as f64 / threshold.1 as f64).to_string()).unwrap();
            let found = outside(&index, Kind::NearText(decimal), 1 << 30, folder.path()).unwrap();
            assert_eq!((found.sampled, found.given_up), (260, None));
            let found: Vec<_> = found.pairs.iter().map(|edge| (edge.distance, edge.a, edge.b)).collect();
            assert_eq!(found, expected, "{threshold:?}");
            pairs_of_all += found.len();
        }
        assert!(pairs_of_all > 2 * MOST_PAIRS);
        assert!(outside(&index, Kind::parse("exact", "text").unwrap(), 1 << 30, folder.path()).is_none());
    }

    #[test]
    fn what_does_not_fit_is_given_up_and_said() {
        let folder = tempfile::tempdir().unwrap();
        let texts: Vec<String> = (0..40).map(|at| format!("a b c d e f g w{at} v{at}")).collect();
        let index = index_of(folder.path(), &texts);
        // A few edges, of 780.
        let found = outside(&index, Kind::parse("near-text", "0.7").unwrap(), 4096, folder.path()).unwrap();
        assert!(found.pairs.is_empty());
        assert!(found.detail()["given_up"].as_str().unwrap().contains("--memory-limit"), "{}", found.detail());
    }

    #[test]
    fn a_sample_is_whole_stretches_of_rows_and_the_same_again() {
        let folder = tempfile::tempdir().unwrap();
        let texts: Vec<String> = (0..20_000).map(|at| format!("text {at}")).collect();
        let index = index_of(folder.path(), &texts);
        let read = |index: &IndexRows| {
            let mut rows = Vec::new();
            let take = |batch: &Batch<'_>| {
                rows.extend_from_slice(batch.rows);
                Ok(())
            };
            index.in_order(&["uid"], None, &Progress::default(), take).unwrap();
            rows
        };
        assert_eq!(read(&index.sampled(20_000)).len(), 20_000);
        let sample = index.sampled(9_000);
        let rows = read(&sample);
        assert_eq!(rows, read(&index.sampled(9_000)));
        assert_eq!(rows, (0..20_000).filter(|row| sample.holds(*row)).collect::<Vec<_>>());
        assert_eq!(rows.len() as u64, sample.count());
        assert!(rows.len() <= 9_000 && rows.len() > 4096, "{}", rows.len());
        // Neighbours come together.
        assert!(rows.windows(2).filter(|pair| pair[0] + 1 != pair[1]).count() <= 1);
    }
}
