//! Keys at ranks: exact ones by counting digits, and a first guess of the cut from a sample.

use std::collections::BTreeMap;
use std::sync::Mutex;

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use vlmsel_core::histogram::{DigitCounts, KeyRank, Narrowed};
use vlmsel_shards::columns::score::{Block, ScoreClass};
use vlmsel_shards::parquet::pages::PageBuffers;
use vlmsel_shards::tables::Table;

use super::pass::{Goal, Scan};
use super::plan::{Request, Resolved};
use super::row_layout::Layout;
use super::row_layout::SortKey;
use crate::error::Result;
use crate::progress::Progress;
use crate::threads::in_pool;

/// Row groups that the first guess looks into.
const SAMPLED_GROUPS: usize = 16;
/// Scores that it reads of each.
const SAMPLED_ROWS: usize = 32 << 10;
/// Fewer rows are not worth a guess.
const LEAST_ROWS: u64 = 4 << 20;

/// The exact key at `rank` of the eligible rows; one pass per 16 bits of the key.
///
/// # Errors
/// Those of the passes.
pub fn key_at_rank(scan: &Scan<'_>, rank: u64, progress: &Progress) -> Result<Option<KeyRank>> {
    let mut counts = DigitCounts::highest();
    loop {
        let shared = Mutex::new(counts);
        progress.restart();
        scan.run(&Goal::Digits(&shared), progress)?;
        counts = shared.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        match counts.narrow(rank) {
            None => return Ok(None),
            Some(Narrowed::Key(found)) => return Ok(Some(found)),
            Some(Narrowed::Next(next)) => counts = next,
        }
    }
}

/// A key that about `wanted` rows are expected to stay below, with a margin; rows above it are not collected at first.
/// A guess that is too low is noticed by the walk, which is then repeated without one.
pub fn guess_cut(
    request: &Request,
    resolved: &Resolved,
    left_out: &BTreeMap<usize, String>,
    layout: Layout,
    wanted: u64,
) -> Option<u64> {
    let Layout { sort_key: SortKey::Score, reversed, .. } = layout else { return None };
    let by_id = resolved.kept.is_some() && resolved.kept_from.contains(&None);
    let filtered =
        resolved.include.is_some() || resolved.exclude.is_some() || resolved.columns.tokens.is_some() || by_id;
    let mut groups = Vec::new();
    let mut total = 0;
    for (at, table) in resolved.tables.iter().enumerate().filter(|(at, _)| !left_out.contains_key(at)) {
        let Table::Parquet(parquet) = table else { return None };
        total += parquet.rows();
        groups.extend((0..parquet.groups()).map(|group| (at, group)));
    }
    if filtered || total < LEAST_ROWS || wanted.saturating_mul(8) > total {
        return None;
    }
    let step = groups.len().div_ceil(SAMPLED_GROUPS).max(1);
    let sampled: Vec<(usize, usize)> = groups.into_iter().step_by(step).collect();
    let look_into = |buffers: &mut PageBuffers, (at, group): (usize, usize)| {
        let Table::Parquet(parquet) = &resolved.tables[at] else { return Ok((Vec::new(), 0)) };
        let (mut keys, mut seen) = (Vec::new(), 0_u64);
        parquet.visit_scores(
            group,
            &resolved.columns.score,
            SAMPLED_ROWS,
            request.refuses_negative(),
            buffers,
            &mut |block: &Block<'_>| {
                seen += block.keys.len() as u64;
                let finite = |at: usize| block.classes.is_none_or(|classes| classes[at] == ScoreClass::Finite);
                let is_kept = |row: usize| resolved.keeps(at, parquet.group_rows(group).0 + row as u64);
                let finite =
                    block.keys.iter().enumerate().filter(|(at, _)| finite(*at) && is_kept(block.first_row + *at));
                keys.extend(finite.map(|(_, key)| if reversed { !*key } else { *key }));
                Ok(())
            },
        )?;
        Ok((keys, seen))
    };
    // A broken table is reported by the pass itself.
    let looks = in_pool(|parallel| -> vlmsel_shards::error::Result<Vec<(Vec<u64>, u64)>> {
        if parallel {
            return sampled.into_par_iter().map_init(PageBuffers::default, look_into).collect();
        }
        let mut buffers = PageBuffers::default();
        sampled.into_iter().map(|group| look_into(&mut buffers, group)).collect()
    });
    let looks = looks.ok()?;
    let seen: u64 = looks.iter().map(|(_, seen)| seen).sum();
    let mut sample: Vec<u64> = looks.into_iter().flat_map(|(keys, _)| keys).collect();
    let expected = sample.len() as f64
        * (wanted as f64 / total as f64)
        * (sample.len() as f64 / seen.max(1) as f64).recip().max(1.0);
    let rank = (expected * 1.1 + 4.0 * expected.sqrt() + 16.0) as usize;
    if rank + 1 >= sample.len() {
        return None;
    }
    Some(*sample.select_nth_unstable(rank).1)
}
