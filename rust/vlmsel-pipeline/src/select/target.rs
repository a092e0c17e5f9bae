//! What the size of a selection comes to for the rows that are there.

use arrow_schema::DataType;
use vlmsel_core::decimal::Decimal;
use vlmsel_shards::columns::threshold::{last_decimal, last_key};

use super::pass::{Counts, Goal, Scan};
use super::plan::{Control, Order, Size};
use super::ranks::key_at_rank;
use crate::error::Result;
use crate::progress::Progress;
use vlmsel_core::cutoff::{Limit, Rule};

/// What the size comes to for these rows: the walk's rule, and bounds on the keys that can matter.
pub struct Target {
    pub rule: Rule,
    pub first_rank: u64,
    pub lower: u64,
    pub upper: u64,
    /// The last score within a threshold, where different ones share a key.
    pub last: Option<i128>,
    /// Rows that the walk will need, where that is known.
    pub wanted: Option<u64>,
}

impl Scan<'_> {
    /// Resolves the size; reads the scores once or more where it is a share of what there is. `Err(counts)` if a table
    /// broke on the way.
    pub fn target(
        &self,
        control: Option<Control>,
        selected: Option<u64>,
        progress: &Progress,
    ) -> Result<std::result::Result<Target, Counts>> {
        let distinct = !self.request.keep_repeats;
        let rule = |start_rank, end_rank, limit| Rule { start_rank, end_rank, distinct, limit };
        let everything = |rule, wanted| Target { rule, first_rank: 0, lower: 0, upper: u64::MAX, last: None, wanted };
        match (control, selected) {
            (Some(Control::Middle), Some(k)) => {
                let counts = self.run(&Goal::Counts, progress)?;
                if !counts.broken.is_empty() {
                    return Ok(Err(counts));
                }
                let start = counts.eligible.saturating_sub(k) / 2;
                return self.bounded_by_ranks(progress, rule(start, None, Limit::Rows(k)), None).map(Ok);
            }
            (Some(_), Some(k)) => return Ok(Ok(everything(rule(0, None, Limit::Rows(k)), Some(k)))),
            _ => {}
        }
        Ok(Ok(match &self.request.size {
            Size::Count(k) => everything(rule(0, None, Limit::Rows(*k)), Some(*k)),
            Size::TokenBudget(tokens) => everything(rule(0, None, Limit::Tokens(*tokens)), None),
            Size::Threshold(threshold) => {
                let columns = &self.resolved.columns;
                let (score, descending) = (&columns.score.working, self.request.order == Order::Descending);
                let last = match score {
                    DataType::Decimal128(_, scale) if columns.scores_in_full() => {
                        Some(last_decimal(*threshold, *scale, descending))
                    }
                    _ => None,
                };
                match last_key(*threshold, score, descending) {
                    Some(upper) => Target { upper, last, ..everything(rule(0, None, Limit::All), None) },
                    None => everything(rule(0, None, Limit::Rows(0)), Some(0)),
                }
            }
            Size::Fraction(fraction) => {
                let counts = self.run(&Goal::Counts, progress)?;
                if !counts.broken.is_empty() {
                    return Ok(Err(counts));
                }
                let k = fraction.of(counts.eligible, 1);
                everything(rule(0, None, Limit::Rows(k)), Some(k))
            }
            Size::Band(low, high) => {
                let counts = self.run(&Goal::Counts, progress)?;
                if !counts.broken.is_empty() {
                    return Ok(Err(counts));
                }
                let rank = |percent: &Decimal| percent.of(counts.eligible, 100);
                let (start, end) = (rank(low), rank(high));
                return self.bounded_by_ranks(progress, rule(start, Some(end), Limit::All), Some(end)).map(Ok);
            }
        }))
    }

    /// Bounds the keys of a rule that begins at a rank, so that the rows in front of it need not be collected.
    fn bounded_by_ranks(&self, progress: &Progress, rule: Rule, end: Option<u64>) -> Result<Target> {
        let mut target = Target { rule, first_rank: 0, lower: 0, upper: u64::MAX, last: None, wanted: None };
        if rule.start_rank > 0
            && let Some(found) = key_at_rank(self, rule.start_rank, progress)?
        {
            target.lower = found.key;
            target.first_rank = found.below;
        }
        if let Some(found) =
            end.and_then(|end| end.checked_sub(1)).map(|last| key_at_rank(self, last, progress)).transpose()?.flatten()
        {
            target.upper = found.key;
        }
        Ok(target)
    }
}
