//! Pairs just beyond a threshold: people look at them, beside those just within it, before they delete.
//!
//! They are found by the joins that find near pairs, with a wider threshold, among a sample: at most 100,000 rows of the index, in
//! stretches of neighbours. Of a larger index, these are examples, and not its nearest pairs.

use serde_json::{Value, json};
use vlmsel_core::decimal::Decimal;
use vlmsel_core::hamming::MAX_RADIUS;

use super::edges::{Edge, Finding, Relation};
use super::exact::Bounds;
use super::kinds::Kind;
use super::near_pair;
use crate::error::{Error, Result};

/// Rows that are compared.
const SAMPLED_ROWS: u32 = 100_000;
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
    /// Pairs just beyond the threshold of `kind`: up to two bits more, though no more than [`MAX_RADIUS`], and a similarity down to
    /// 0.1 less, though no less than 0.05. `None` for kinds without a threshold.
    ///
    /// # Errors
    /// Those of reading, and cancellation. Pairs that do not fit into memory are no error: nobody's copies depend on them.
    pub fn find(finding: &Finding<'_>, kind: Kind, bounds: Bounds<'_>) -> Result<Option<Self>> {
        if let Kind::Exact(_) = kind {
            return Ok(None);
        }
        let index = finding.index.sampled(SAMPLED_ROWS);
        let sampled = index.count();
        let Finding { kinds, images, equality, sets, .. } = finding;
        let sample =
            Finding { index: &index, kinds, images: images.clone(), equality: *equality, sets: *sets, bounds };
        match pairs_beyond(&sample, kind, bounds) {
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

fn pairs_beyond(sample: &Finding<'_>, kind: Kind, bounds: Bounds<'_>) -> Result<Vec<Edge>> {
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
    let texts = wide_threshold.map(|wide| sample.relation(Kind::NearText(wide), half)).transpose()?;
    let images = wide_radius.map(|wide| sample.relation(Kind::NearImage(wide), half)).transpose()?;
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
    let wide = near_pair::relation(sample.index.rows, &texts, &images, half)?.edges;
    texts.edges.retain(is_near_text);
    images.edges.retain(is_near_image);
    let within = near_pair::relation(sample.index.rows, &texts, &images, half)?.edges;
    let is_within = |edge: &Edge| within.binary_search_by_key(&(edge.a, edge.b), |edge| (edge.a, edge.b)).is_ok();
    Ok(wide.into_iter().filter(|edge| !is_within(edge)).collect())
}
