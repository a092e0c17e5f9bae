//! The few rows of large tables that a person wants to look at: both ends, a random draw, those beside a cut.
//!
//! One pass over id, score and status, file by file on all threads; what is held are the rows that are shown. Rows rank as in
//! `select`: by score, then id; rows without a score, or with one that is not finite, do not rank.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use arrow_array::cast::AsArray;
use arrow_array::types::Float64Type;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use rayon::prelude::*;
use vlmsel_core::random::random_key;
use vlmsel_core::score_key::from_f64;
use vlmsel_shards::columns::{Column, Role};
use vlmsel_shards::parquet::table::ParquetTable;
use vlmsel_shards::tables::schema::{Wanted, resolve};
use vlmsel_shards::tables::{Table, open};
use vlmsel_shards::workspace::inputs::InputFile;

use crate::error::{Error, Result};
use crate::id_set::for_each_id;
use crate::progress::Progress;
use crate::run_options::RunOptions;

/// The median is that of a random draw of so many rows: its rank is off by 0.4 % of the rows, typically.
const MEDIAN_DRAW: usize = 16_384;

/// A place in the order: a score and the id that settles ties.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// The score.
    pub score: f64,
    /// The id's bytes.
    pub id: Vec<u8>,
}

/// Which rows to show, `n` of them at most.
#[derive(Debug, Clone, PartialEq)]
pub enum Pick {
    /// The first in the order.
    First,
    /// The last.
    Last,
    /// Those of the lowest hash of (seed, id).
    Drawn(u64),
    /// The one in the middle, or near it in tables of more than 16,384 rows; drawn by the seed.
    Median(u64),
    /// The last in front of a cut.
    Before(Cut),
    /// The first from a cut on.
    From(Cut),
    /// The first behind a cut.
    Behind(Cut),
}

/// What to read and which rows to find.
#[derive(Debug, Clone, Default)]
pub struct PickRequest {
    /// Parquet tables.
    pub files: Vec<InputFile>,
    /// The column that orders.
    pub score_column: String,
    /// The highest score first; ties stay in the order of their ids.
    pub descending: bool,
    /// Scores below 0 do not rank, as in tables of perplexities.
    pub perplexities: bool,
    /// Only rows rank that have this value in this column of strings.
    pub only: Option<(String, String)>,
    /// Which rows, and how many of each.
    pub picks: Vec<(Pick, usize)>,
    /// Threads; 0 is one per core.
    pub threads: usize,
    /// Bytes that decoding may take; 0 is no limit. Fewer threads take less.
    pub memory_limit: u64,
}

/// Where a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowPlace {
    /// Its file's number in the request.
    pub file: usize,
    /// Row group of the file.
    pub group: usize,
    /// Row of the group.
    pub row: u32,
}

/// The found rows of each pick, in order, and how many rows rank at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PickedRows {
    /// Places by pick.
    pub found: Vec<Vec<RowPlace>>,
    /// Rows that rank.
    pub ranked: u64,
}

/// The `n` first entries of those offered, by key, id and place; the last ones where `reversed`.
struct Best {
    pick: Pick,
    n: usize,
    cut: Option<(u64, Vec<u8>)>,
    reversed: bool,
    /// The next to go is on top.
    kept: BinaryHeap<Entry>,
}

#[derive(PartialEq, Eq)]
struct Entry {
    reversed: bool,
    key: u64,
    id: Box<[u8]>,
    place: RowPlace,
    /// The score's key, where `key` is a lot.
    score: u64,
}

impl Entry {
    fn against(&self, key: u64, id: &[u8], place: RowPlace) -> Ordering {
        let order = (self.key, &*self.id, self.place).cmp(&(key, id, place));
        if self.reversed { order.reverse() } else { order }
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.against(other.key, &other.id, other.place)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Best {
    fn new(pick: &Pick, n: usize, descending: bool) -> Self {
        let cut = match pick {
            Pick::Before(cut) | Pick::From(cut) | Pick::Behind(cut) => {
                Some((key_of(cut.score, descending), cut.id.clone()))
            }
            _ => None,
        };
        Self {
            pick: pick.clone(),
            n: if matches!(pick, Pick::Median(_)) { MEDIAN_DRAW } else { n },
            cut,
            reversed: matches!(pick, Pick::Last | Pick::Before(_)),
            kept: BinaryHeap::new(),
        }
    }

    fn offer(&mut self, score: u64, id: &[u8], place: RowPlace) {
        let beside = self.cut.as_ref().map(|(key, cut_id)| (score, id).cmp(&(*key, cut_id.as_slice())));
        let key = match (&self.pick, beside) {
            (Pick::Drawn(seed) | Pick::Median(seed), _) => random_key(*seed, id),
            (Pick::Before(_), Some(Ordering::Less))
            | (Pick::From(_), Some(Ordering::Equal | Ordering::Greater))
            | (Pick::Behind(_), Some(Ordering::Greater))
            | (_, None) => score,
            _ => return,
        };
        if self.is_better(key, id, place) {
            self.keep(Entry { reversed: self.reversed, key, id: id.into(), place, score });
        }
    }

    fn is_better(&self, key: u64, id: &[u8], place: RowPlace) -> bool {
        self.kept.len() < self.n || self.kept.peek().is_some_and(|last| last.against(key, id, place).is_gt())
    }

    fn keep(&mut self, entry: Entry) {
        self.kept.push(entry);
        if self.kept.len() > self.n {
            self.kept.pop();
        }
    }

    fn places(self) -> Vec<RowPlace> {
        let mut kept = self.kept.into_sorted_vec();
        if matches!(self.pick, Pick::Median(_)) {
            kept.sort_by(|a, b| (a.score, &a.id, a.place).cmp(&(b.score, &b.id, b.place)));
            let middle = kept.len() / 2;
            kept = kept.into_iter().skip(middle).take(1).collect();
        }
        if self.reversed {
            kept.reverse();
        }
        kept.into_iter().map(|entry| entry.place).collect()
    }
}

/// What one thread has found so far.
struct Found {
    best: Vec<Best>,
    ranked: u64,
}

impl Found {
    fn new(request: &PickRequest) -> Self {
        let best = request.picks.iter().map(|(pick, n)| Best::new(pick, *n, request.descending)).collect();
        Self { best, ranked: 0 }
    }

    fn merge(mut self, other: Self) -> Self {
        self.ranked += other.ranked;
        for (mine, theirs) in self.best.iter_mut().zip(other.best) {
            for entry in theirs.kept {
                mine.keep(entry);
            }
        }
        self
    }

    fn take(&mut self, request: &PickRequest, batch: &RecordBatch, first: RowPlace) -> Result<()> {
        let scores = arrow_cast::cast(batch.column(1), &DataType::Float64)
            .map_err(|error| Error::usage(format!("column {:?}: {error}", request.score_column)))?;
        let scores = scores.as_primitive::<Float64Type>();
        let values = batch.columns().get(2).map(AsArray::as_string_view);
        let only = request.only.as_ref().map_or("", |(_, value)| value);
        for_each_id(batch.column(0), |at, id| {
            let ranks = scores.is_valid(at) && {
                let score = scores.value(at);
                score.is_finite() && !(request.perplexities && score < 0.0)
            };
            let is_one = values.is_none_or(|values| values.is_valid(at) && values.value(at) == only);
            let (true, true, Some(id)) = (ranks, is_one, id) else { return };
            self.ranked += 1;
            let key = key_of(scores.value(at), request.descending);
            let place = RowPlace { row: first.row + at as u32, ..first };
            self.best.iter_mut().for_each(|best| best.offer(key, id, place));
        });
        Ok(())
    }
}

fn key_of(score: f64, descending: bool) -> u64 {
    let key = from_f64(score);
    if descending { !key } else { key }
}

/// Opens a file that must be a Parquet table.
///
/// # Errors
/// [`Error::Shards`] for a file that is damaged or of another format.
pub fn open_parquet(file: &InputFile) -> Result<ParquetTable> {
    match open(file)? {
        Table::Parquet(table) => Ok(table),
        _ => Err(Error::usage(format!("{}: only Parquet tables can be read row by row", file.path.display()))),
    }
}

fn columns_of(request: &PickRequest, table: &ParquetTable) -> Result<Vec<Column>> {
    let mut wanted = vec![("uid", Role::Id), (request.score_column.as_str(), Role::Score)];
    wanted.extend(request.only.iter().map(|(column, _)| (column.as_str(), Role::Status)));
    let wanted: Vec<Wanted> =
        wanted.into_iter().map(|(name, role)| Wanted { name: name.to_owned(), role, required: true }).collect();
    let found = resolve(&[Table::Parquet(table.clone())], &wanted)?;
    Ok(found.columns.into_iter().flatten().collect())
}

/// Finds the rows.
///
/// # Errors
/// Missing columns, wrong types, damaged files; cancelled runs.
pub fn pick_rows(request: &PickRequest, progress: &Progress) -> Result<PickedRows> {
    let options = RunOptions { threads: request.threads, memory_limit: request.memory_limit, ..RunOptions::default() };
    let new = || Found::new(request);
    let both = |a: Found, b: Found| -> Result<Found> { Ok(a.merge(b)) };
    let found = options.pool()?.install(|| {
        let files = request.files.par_iter().enumerate().map(|(number, file)| {
            let table = open_parquet(file)?;
            let columns = columns_of(request, &table)?;
            let columns: Vec<&Column> = columns.iter().collect();
            let groups = (0..table.groups()).into_par_iter();
            let scan = |mut found: Found, group| {
                let mut first = RowPlace { file: number, group, row: 0 };
                for batch in table.batches(group, None, &columns)? {
                    let batch = batch?;
                    found.take(request, &batch, first)?;
                    first.row += batch.num_rows() as u32;
                    progress.add(batch.num_rows() as u64, 0)?;
                }
                Ok(found)
            };
            groups.try_fold(new, scan).try_reduce(new, both)
        });
        files.try_reduce(new, both)
    })?;
    Ok(PickedRows { ranked: found.ranked, found: found.best.into_iter().map(Best::places).collect() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{FixedSizeBinaryArray, Float32Array, StringViewArray};
    use proptest::prelude::*;

    use super::*;

    type Row = (Option<f32>, u8, bool);

    fn batch(rows: &[Row]) -> RecordBatch {
        let ids =
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(rows.iter().map(|row| Some([row.1; 16])), 16).unwrap();
        let scores: Float32Array = rows.iter().map(|row| row.0).collect();
        let statuses: StringViewArray = rows.iter().map(|row| Some(if row.2 { "ok" } else { "no_text" })).collect();
        let columns: [(&str, Arc<dyn Array>); 3] =
            [("uid", Arc::new(ids)), ("ppl", Arc::new(scores)), ("status", Arc::new(statuses))];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// The obvious way: sort all that rank, then take.
    fn sorted(rows: &[Row], descending: bool) -> Vec<(u64, [u8; 16], u32)> {
        let ranks = |row: &&(usize, &Row)| row.1.2 && row.1.0.is_some_and(|score| score.is_finite() && score >= 0.0);
        let numbered: Vec<(usize, &Row)> = rows.iter().enumerate().collect();
        let mut order: Vec<_> = numbered
            .iter()
            .filter(ranks)
            .map(|(at, row)| (key_of(f64::from(row.0.unwrap()), descending), [row.1; 16], *at as u32))
            .collect();
        order.sort_unstable();
        order
    }

    fn scores() -> impl Strategy<Value = Option<f32>> {
        prop_oneof![
            Just(None),
            Just(Some(f32::NAN)),
            Just(Some(f32::INFINITY)),
            (-2_i8..6).prop_map(|score| Some(f32::from(score)))
        ]
    }

    proptest! {
        #[test]
        fn every_pick_is_that_of_sorting(
            rows in prop::collection::vec((scores(), 0_u8..6, prop::bool::weighted(0.9)), 0..60),
            cut in (0_i8..6, 0_u8..6),
            n in 0_usize..9,
            split in 0_usize..60,
            descending: bool,
        ) {
            let cut = Cut { score: f64::from(cut.0), id: vec![cut.1; 16] };
            let picks = [Pick::First, Pick::Last, Pick::Before(cut.clone()), Pick::From(cut.clone()), Pick::Behind(cut.clone()), Pick::Drawn(3), Pick::Median(3)];
            let picks = picks.into_iter().map(|pick| (pick, n)).collect();
            let only = Some(("status".to_owned(), "ok".to_owned()));
            let request = PickRequest { descending, perplexities: true, only, picks, ..PickRequest::default() };
            // Two threads' worth of rows, joined.
            let (front, back) = rows.split_at(split.min(rows.len()));
            let (mut one, mut two) = (Found::new(&request), Found::new(&request));
            let start = RowPlace { file: 0, group: 0, row: 0 };
            one.take(&request, &batch(front), start).unwrap();
            two.take(&request, &batch(back), RowPlace { row: front.len() as u32, ..start }).unwrap();
            let whole = one.merge(two);

            let order = sorted(&rows, descending);
            prop_assert_eq!(whole.ranked, order.len() as u64);
            let found: Vec<Vec<u32>> =
                whole.best.into_iter().map(|best| best.places().iter().map(|place| place.row).collect()).collect();
            let at = (key_of(cut.score, descending), [cut.id[0]; 16]);
            let rows_of = |part: &[(u64, [u8; 16], u32)]| part.iter().map(|entry| entry.2).collect::<Vec<_>>();
            let last = |part: &[(u64, [u8; 16], u32)]| rows_of(&part[part.len().saturating_sub(n)..]);
            let first = |part: &[(u64, [u8; 16], u32)]| rows_of(&part[..n.min(part.len())]);
            let front = order.partition_point(|entry| (entry.0, entry.1) < at);
            let behind = order.partition_point(|entry| (entry.0, entry.1) <= at);
            prop_assert_eq!(&found[0], &first(&order));
            prop_assert_eq!(&found[1], &last(&order));
            prop_assert_eq!(&found[2], &last(&order[..front]));
            prop_assert_eq!(&found[3], &first(&order[front..]));
            prop_assert_eq!(&found[4], &first(&order[behind..]));
            let mut lots: Vec<_> = order.iter().map(|entry| (random_key(3, &entry.1), entry.1, entry.2)).collect();
            lots.sort_unstable();
            prop_assert_eq!(&found[5], &first(&lots));
            prop_assert_eq!(&found[6], &rows_of(&order.iter().skip(order.len() / 2).take(1).copied().collect::<Vec<_>>()));
        }
    }
}
