//! One pass over all tables: every row is classed, and those that may win are handed on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use arrow_array::types::UInt64Type;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::DataType;
use vlmsel_core::histogram::DigitCounts;
use vlmsel_core::random::random_key;
use vlmsel_core::score_key::ScoreKey;
use vlmsel_core::sift::keep_between;
use vlmsel_shards::quarantine::Quarantined;
use vlmsel_shards::tables::chunk_pages::PageBuffers;
use vlmsel_shards::tables::parquet::ParquetTable;
use vlmsel_shards::tables::schema::{Column, Role};
use vlmsel_shards::tables::score::{Block, ScoreClass, visit_array};
use vlmsel_shards::tables::{Table, text::TextTable};

use super::gather::{Encoder, tokens};
use super::ids::{for_each_id, parse_hex};
use super::plan::{Order, Request, Resolved};
use super::rows::Collector;
use super::sorter::Arena;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// Why a row is not eligible, in the order of precedence.
pub const REASONS: [&str; 8] =
    ["missing", "nan", "infinite", "negative", "failed", "excluded", "too_short", "too_long"];

/// Bytes a thread collects before it hands them over.
const HAND_OVER_BYTES: u64 = 1 << 20;

/// What rows are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keying {
    /// The score; turned round for the best-is-high order and for the worst end.
    Score {
        /// Whether high scores come first.
        turned: bool,
    },
    /// The hash of (seed, id).
    Random(u64),
}

/// What a pass is for.
pub enum Sink<'a> {
    /// Counting the keys' digits.
    Count(&'a Mutex<DigitCounts>),
    /// Collecting the rows that may win, from key `lower` on.
    Collect {
        /// Where they go.
        collector: &'a Collector,
        /// Rows below this key cannot be selected; they are only counted.
        lower: u64,
        /// Rows above this key were not asked for (`--threshold`).
        upper: u64,
    },
    /// Classing alone.
    Tally,
}

/// What a pass found.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Records read, quarantined ones included.
    pub input: u64,
    /// Rows by reason, as in [`REASONS`].
    pub rejected: [u64; REASONS.len()],
    /// Rows that rank.
    pub eligible: u64,
    /// Records that could not be read.
    pub quarantined: u64,
    /// The first of them, by table.
    pub listed: BTreeMap<usize, Vec<Quarantined>>,
    /// Tables that broke, with the reason.
    pub broken: BTreeMap<usize, String>,
    /// Some of the eligible rows' score keys.
    pub sample: Vec<u64>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.input += other.input;
        self.eligible += other.eligible;
        self.quarantined += other.quarantined;
        for (mine, theirs) in self.rejected.iter_mut().zip(other.rejected) {
            *mine += theirs;
        }
        for (table, mut records) in other.listed {
            self.listed.entry(table).or_default().append(&mut records);
        }
        self.broken.extend(other.broken);
        self.sample.extend(other.sample);
    }
}

/// A piece of the input that one thread reads at a time.
#[derive(Debug, Clone, Copy)]
enum Chunk {
    Group(usize, usize),
    Batch(usize, usize),
    Text(usize),
}

/// The fixed circumstances of a pass.
pub struct Scan<'a> {
    /// Options.
    pub request: &'a Request,
    /// Tables and columns.
    pub resolved: &'a Resolved,
    /// Tables left out because they broke before.
    pub left_out: &'a BTreeMap<usize, String>,
    /// Order.
    pub keying: Keying,
    /// Whether rows carry their tokens.
    pub with_tokens: bool,
}

impl Scan<'_> {
    fn chunks(&self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for (at, table) in self.resolved.tables.iter().enumerate() {
            if self.left_out.contains_key(&at) {
                continue;
            }
            match table {
                Table::Parquet(parquet) => chunks.extend((0..parquet.groups()).map(|group| Chunk::Group(at, group))),
                Table::Memory(memory) => chunks.extend((0..memory.batches.len()).map(|batch| Chunk::Batch(at, batch))),
                Table::Text(_) => chunks.push(Chunk::Text(at)),
            }
        }
        chunks
    }

    /// Reads everything once.
    ///
    /// # Errors
    /// Those of the options (`--strict`) and of the scratch disk, and cancellation. A broken table is in
    /// [`Tally::broken`].
    pub fn run(&self, sink: &Sink<'_>, progress: &Progress) -> Result<Tally> {
        let chunks = self.chunks();
        let next = AtomicUsize::new(0);
        let total = Mutex::new(Tally::default());
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..self.request.threads.clamp(1, chunks.len().max(1)) {
                scope.spawn(|| {
                    let outcome = Worker::new(self, sink, progress).and_then(|mut worker| {
                        while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                            if failure.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                                break;
                            }
                            worker.read(*chunk)?;
                        }
                        worker.finish()
                    });
                    match outcome {
                        Ok(tally) => total.lock().unwrap_or_else(PoisonError::into_inner).add(tally),
                        Err(error) => {
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        }
                    }
                });
            }
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut tally = total.into_inner().unwrap_or_else(PoisonError::into_inner);
        for records in tally.listed.values_mut() {
            records.sort();
        }
        Ok(tally)
    }
}

/// Rows of a chunk that may win.
#[derive(Debug, Default)]
struct Survivors {
    rows: Vec<u32>,
    keys: Vec<u64>,
    /// Keys of the scores, where the order is another.
    scores: Vec<u64>,
}

impl Survivors {
    fn clear(&mut self) {
        self.rows.clear();
        self.keys.clear();
        self.scores.clear();
    }
}

/// Blocks of each chunk whose keys go into the sample.
const SAMPLED_BLOCKS: usize = 4;
/// Survivors of a row group that are kept before the rest of their columns is read.
const MOST_SURVIVORS: usize = 1 << 17;
/// Keys a thread samples at most.
const SAMPLED_KEYS: usize = 1 << 17;

/// Passes collected rows on when they have piled up.
fn hand_over<'a>(sink: &'a Sink<'a>) -> impl FnMut(&mut Arena) -> Result<()> + 'a {
    move |arena| match sink {
        Sink::Collect { collector, .. } if arena.memory_bytes() > HAND_OVER_BYTES => collector.take(arena),
        _ => Ok(()),
    }
}

struct Worker<'a> {
    scan: &'a Scan<'a>,
    sink: &'a Sink<'a>,
    progress: &'a Progress,
    encoder: Encoder,
    counts: Option<DigitCounts>,
    arena: Arena,
    tally: Tally,
    survivors: Survivors,
    buffers: PageBuffers,
    /// Buffers for the pages of survivors, while those of scores are in use.
    gathering: PageBuffers,
    sample_left: usize,
}

impl<'a> Worker<'a> {
    fn new(scan: &'a Scan<'a>, sink: &'a Sink<'a>, progress: &'a Progress) -> Result<Self> {
        let counts = match sink {
            Sink::Count(counts) => Some(counts.lock().unwrap_or_else(PoisonError::into_inner).emptied()),
            _ => None,
        };
        Ok(Self {
            scan,
            sink,
            progress,
            encoder: Encoder::new(&scan.resolved.columns, scan.with_tokens, matches!(scan.keying, Keying::Random(_)))?,
            counts,
            arena: Arena::default(),
            tally: Tally::default(),
            survivors: Survivors::default(),
            buffers: PageBuffers::default(),
            gathering: PageBuffers::default(),
            sample_left: 0,
        })
    }

    fn finish(mut self) -> Result<Tally> {
        match (self.sink, self.counts) {
            (Sink::Collect { collector, .. }, _) => collector.take(&mut self.arena)?,
            (Sink::Count(total), Some(counts)) => {
                total.lock().unwrap_or_else(PoisonError::into_inner).merge(&counts);
            }
            _ => {}
        }
        Ok(self.tally)
    }

    fn read(&mut self, chunk: Chunk) -> Result<()> {
        let scan = self.scan;
        self.sample_left = SAMPLED_BLOCKS;
        let (at, outcome) = match chunk {
            Chunk::Group(at, group) => match &scan.resolved.tables[at] {
                Table::Parquet(table) => (at, self.read_group(table, group)),
                _ => return Ok(()),
            },
            Chunk::Batch(at, batch) => match &scan.resolved.tables[at] {
                Table::Memory(table) => (at, self.read_memory(&table.batches[batch], &table.name)),
                _ => return Ok(()),
            },
            Chunk::Text(at) => match &scan.resolved.tables[at] {
                Table::Text(table) => (at, self.read_text(at, table)),
                _ => return Ok(()),
            },
        };
        match outcome {
            Err(Error::Shards(error @ vlmsel_shards::Error::Unreadable { .. })) => {
                self.tally.broken.entry(at).or_insert_with(|| error.to_string());
            }
            other => other?,
        }
        Ok(())
    }

    /// Whether the score alone decides: no filter needs another column of every row.
    fn scores_suffice(&self, table: &ParquetTable, group: usize) -> bool {
        let (resolved, request) = (self.scan.resolved, self.scan.request);
        matches!(self.scan.keying, Keying::Score { .. })
            && resolved.include.is_none()
            && resolved.exclude.is_none()
            && resolved.columns.status.as_ref().is_none_or(|status| table.is_constant(group, status, b"ok"))
            && resolved.columns.tokens.is_none()
            && request.min_tokens.is_none()
            && table.null_count(group, &resolved.columns.id) == Some(0)
    }

    fn read_group(&mut self, table: &ParquetTable, group: usize) -> Result<()> {
        let columns = &self.scan.resolved.columns;
        let rows = table.group_rows(group).1;
        let bytes = table.group_bytes(group, &[&columns.id, &columns.score]);
        self.progress.check()?;
        let mut survivors = std::mem::take(&mut self.survivors);
        survivors.clear();
        let mut buffers = std::mem::take(&mut self.buffers);
        let mut failed = None;
        // Every row of a group may survive, and groups may be of any size: survivors are handed on as they pile up.
        let mut hand_on = |worker: &mut Self, survivors: &mut Survivors, least: usize| {
            if failed.is_none() && survivors.rows.len() >= least {
                failed = worker.collect(table, group, survivors).err();
                survivors.clear();
            }
        };
        if self.scores_suffice(table, group) {
            let non_negative = self.scan.request.refuses_negative();
            table.visit_scores(group, &columns.score, usize::MAX, non_negative, &mut buffers, &mut |block| {
                self.sift_block(block, &mut survivors);
                hand_on(self, &mut survivors, MOST_SURVIVORS);
                Ok(())
            })?;
        } else {
            let deciding = self.deciding_columns();
            let wanted: Vec<&Column> = deciding.iter().map(|(column, _)| *column).collect();
            let mut first_row = 0;
            let mut sifted = Ok(());
            table.read(group, None, &wanted, &mut buffers, &mut |batch| {
                if sifted.is_ok() {
                    sifted = self.sift_batch(batch, &deciding, first_row, &mut survivors);
                    hand_on(self, &mut survivors, MOST_SURVIVORS);
                }
                first_row += batch.num_rows();
                Ok(())
            })?;
            sifted?;
        }
        hand_on(self, &mut survivors, 1);
        failed.map_or(Ok(()), Err)?;
        self.survivors = survivors;
        self.buffers = buffers;
        self.tally.input += rows as u64;
        self.progress.add(rows as u64, bytes)?;
        Ok(())
    }

    /// Reads the rest of the rows that may win, and passes them on.
    fn collect(&mut self, table: &ParquetTable, group: usize, survivors: &Survivors) -> Result<()> {
        let Sink::Collect { .. } = self.sink else { return Ok(()) };
        let winning = self.scan.resolved.columns.winning(self.scan.with_tokens);
        let mut hand_over = hand_over(self.sink);
        let (mut done, mut encoded) = (0, Ok(()));
        table.gather(group, &survivors.rows, &winning, &mut self.gathering, &mut |batch| {
            let end = done + batch.num_rows();
            if encoded.is_ok() {
                let scores = survivors.scores.get(done..end).unwrap_or_default();
                let keys = &survivors.keys[done..end];
                encoded = self.encoder.encode(keys, scores, batch, &mut self.arena, &mut hand_over);
            }
            done = end;
            Ok(())
        })?;
        encoded
    }

    /// The columns that decide a row's class and key, with their roles.
    fn deciding_columns(&self) -> Vec<(&'a Column, Role)> {
        let columns = &self.scan.resolved.columns;
        let mut deciding = vec![(&columns.id, Role::Id), (&columns.score, Role::Score)];
        deciding.extend(columns.tokens.iter().map(|column| (column, Role::Tokens)));
        deciding.extend(columns.status.iter().map(|column| (column, Role::Status)));
        deciding
    }

    /// Classes a block of scores and keeps the rows that may win.
    fn sift_block(&mut self, block: &Block<'_>, survivors: &mut Survivors) {
        let turned = if matches!(self.scan.keying, Keying::Score { turned: true }) { u64::MAX } else { 0 };
        self.sample(block.keys.iter().map(|key| *key ^ turned), block.classes);
        if let Some(classes) = block.classes {
            for (at, (key, class)) in block.keys.iter().zip(classes).enumerate() {
                match class {
                    ScoreClass::Finite => self.sift_key(*key ^ turned, None, block.first_row + at, survivors),
                    other => self.tally.rejected[*other as usize - 1] += 1,
                }
            }
            return;
        }
        match self.sink {
            Sink::Collect { collector, lower, upper } => {
                let cut = collector.cut().min(*upper);
                self.tally.eligible += block.keys.len() as u64;
                let Survivors { rows, keys, .. } = survivors;
                let before = rows.len();
                keep_between(block.keys, turned, (*lower, cut), block.first_row as u32, rows, keys);
                if rows.len() - before < block.keys.len() && cut < *upper {
                    collector.note_dropped();
                }
            }
            _ => {
                for (at, key) in block.keys.iter().enumerate() {
                    self.sift_key(*key ^ turned, None, block.first_row + at, survivors);
                }
            }
        }
    }

    /// Remembers some keys of each chunk for the histogram that users see.
    fn sample(&mut self, keys: impl Iterator<Item = u64>, classes: Option<&[ScoreClass]>) {
        if self.sample_left == 0 || self.tally.sample.len() > SAMPLED_KEYS {
            return;
        }
        self.sample_left -= 1;
        match classes {
            None => self.tally.sample.extend(keys),
            Some(classes) => {
                let finite = keys.zip(classes).filter(|(_, class)| **class == ScoreClass::Finite);
                self.tally.sample.extend(finite.map(|(key, _)| key));
            }
        }
    }

    fn sift_key(&mut self, key: u64, score: Option<u64>, row: usize, survivors: &mut Survivors) {
        self.tally.eligible += 1;
        match self.sink {
            Sink::Collect { collector, lower, upper } => {
                if key > collector.cut() {
                    collector.note_dropped();
                } else if key <= *upper && key >= *lower {
                    survivors.rows.push(row as u32);
                    survivors.keys.push(key);
                    survivors.scores.extend(score);
                }
            }
            Sink::Count(_) => {
                if let Some(counts) = &mut self.counts {
                    counts.add(key);
                }
            }
            Sink::Tally => {}
        }
    }

    /// Classes a batch of the deciding columns and keeps the rows that may win.
    fn sift_batch(
        &mut self,
        batch: &RecordBatch,
        deciding: &[(&Column, Role)],
        first_row: usize,
        survivors: &mut Survivors,
    ) -> Result<()> {
        let column = |role| deciding.iter().position(|(_, r)| *r == role).map(|at| batch.column(at));
        let (Some(ids), Some(scores)) = (column(Role::Id), column(Role::Score)) else { return Ok(()) };
        let classes = self.classify(ids, scores, column(Role::Tokens), column(Role::Status))?;
        let descending = self.scan.request.order == Order::Descending;
        let turned = match self.scan.keying {
            Keying::Score { turned } => turned,
            Keying::Random(_) => descending,
        };
        let mut by_score: Vec<u64> = Vec::with_capacity(batch.num_rows());
        visit_array(scores, 0, false, &mut |block| {
            by_score.extend(block.keys.iter().map(|key| if turned { key.turned() } else { *key }));
            Ok(())
        })?;
        let eligible = classes.iter().zip(&by_score).filter(|(class, _)| class.is_none());
        let sampled: Vec<u64> = if self.sample_left > 0 { eligible.map(|(_, key)| *key).collect() } else { Vec::new() };
        self.sample(sampled.into_iter(), None);
        let mut random: Vec<u64> = Vec::new();
        if let Keying::Random(seed) = self.scan.keying {
            let may_be_hex = ids.data_type() == &DataType::Utf8View;
            for_each_id(ids, |_, id| {
                let id = id.unwrap_or_default();
                let wide = may_be_hex.then(|| parse_hex(id)).flatten().map(u128::to_be_bytes);
                random.push(random_key(seed, wide.as_ref().map_or(id, |bytes| bytes.as_slice())));
            });
        }
        for (at, class) in classes.into_iter().enumerate() {
            match (class, random.get(at)) {
                (None, None) => self.sift_key(by_score[at], None, first_row + at, survivors),
                (None, Some(key)) => self.sift_key(*key, Some(by_score[at]), first_row + at, survivors),
                (Some(reason), _) => self.tally.rejected[reason] += 1,
            }
        }
        Ok(())
    }

    /// For each row the index of its reason in [`REASONS`], or `None` if it is eligible.
    fn classify(
        &self,
        ids: &ArrayRef,
        scores: &ArrayRef,
        token_counts: Option<&ArrayRef>,
        statuses: Option<&ArrayRef>,
    ) -> Result<Vec<Option<usize>>> {
        let (request, resolved) = (self.scan.request, self.scan.resolved);
        let mut classes: Vec<Option<usize>> = Vec::with_capacity(ids.len());
        visit_array(scores, 0, request.refuses_negative(), &mut |block| {
            match block.classes {
                None => classes.extend(std::iter::repeat_n(None, block.keys.len())),
                Some(found) => classes.extend(found.iter().map(|class| (*class as usize).checked_sub(1))),
            }
            Ok(())
        })?;
        let counts = token_counts.map(tokens).transpose()?;
        let counts = counts.as_ref().map(arrow_array::cast::AsArray::as_primitive::<UInt64Type>);
        let statuses = statuses.map(arrow_array::cast::AsArray::as_string_view);
        let (mut included, mut excluded) = (Vec::new(), Vec::new());
        if let Some(include) = &resolved.include {
            include.contains_each(ids, &mut included);
        }
        if let Some(exclude) = &resolved.exclude {
            exclude.contains_each(ids, &mut excluded);
        }
        for (at, class) in classes.iter_mut().enumerate() {
            if ids.is_null(at) || counts.is_some_and(|counts| counts.is_null(at)) {
                *class = Some(0);
            }
            if class.is_some() {
                continue;
            }
            let count = counts.map(|counts| counts.value(at));
            if statuses.is_some_and(|statuses| statuses.is_null(at) || statuses.value(at) != "ok") {
                *class = Some(4);
            } else if (resolved.include.is_some() && !included[at]) || (resolved.exclude.is_some() && excluded[at]) {
                *class = Some(5);
            } else if request.min_tokens.is_some_and(|least| count.is_some_and(|count| count < least)) {
                *class = Some(6);
            } else if request.max_tokens.is_some_and(|most| count.is_some_and(|count| count > most)) {
                *class = Some(7);
            }
        }
        Ok(classes)
    }

    /// A batch whose columns are all in memory already.
    fn read_memory(&mut self, batch: &RecordBatch, name: &str) -> Result<()> {
        let deciding = self.deciding_columns();
        let winning = self.scan.resolved.columns.winning(self.scan.with_tokens);
        // Slices bound the memory of casts.
        for start in (0..batch.num_rows()).step_by(1 << 16) {
            let slice = batch.slice(start, (batch.num_rows() - start).min(1 << 16));
            let pick = |columns: &[&Column]| -> Result<RecordBatch> {
                let arrays = columns
                    .iter()
                    .map(|column| {
                        let array = slice
                            .column_by_name(&column.name)
                            .ok_or_else(|| Error::usage(format!("{name}: column {:?} vanished", column.name)))?;
                        vlmsel_shards::tables::to_working(array, column, name).map_err(Error::from)
                    })
                    .collect::<Result<Vec<_>>>()?;
                RecordBatch::try_new(vlmsel_shards::tables::schema::working_schema(columns), arrays)
                    .map_err(|error| Error::usage(format!("{name}: {error}")))
            };
            let deciding_batch = pick(&deciding.iter().map(|(column, _)| *column).collect::<Vec<_>>())?;
            let mut survivors = Survivors::default();
            self.sift_batch(&deciding_batch, &deciding, 0, &mut survivors)?;
            if matches!(self.sink, Sink::Collect { .. }) && !survivors.rows.is_empty() {
                self.encode_some(&pick(&winning)?, &survivors)?;
            }
            self.tally.input += slice.num_rows() as u64;
            self.progress.add(slice.num_rows() as u64, 0)?;
        }
        Ok(())
    }

    fn encode_some(&mut self, batch: &RecordBatch, survivors: &Survivors) -> Result<()> {
        let mut mask = vec![false; batch.num_rows()];
        for row in &survivors.rows {
            mask[*row as usize] = true;
        }
        let chosen = arrow_select::filter::filter_record_batch(batch, &BooleanArray::from(mask))
            .map_err(|error| Error::usage(error.to_string()))?;
        self.encoder.encode(&survivors.keys, &survivors.scores, &chosen, &mut self.arena, &mut hand_over(self.sink))
    }

    fn read_text(&mut self, at: usize, table: &TextTable) -> Result<()> {
        let columns = &self.scan.resolved.columns;
        let deciding = self.deciding_columns();
        let mut wanted = deciding.clone();
        wanted.extend(columns.source.iter().map(|column| (column, Role::Source)));
        wanted.extend(columns.kept.iter().map(|column| (column, Role::Kept)));
        let winning = columns.winning(self.scan.with_tokens);
        let places: Vec<usize> = winning
            .iter()
            .filter_map(|column| wanted.iter().position(|(other, _)| std::ptr::eq(*other, *column)))
            .collect();
        let strict = self.scan.request.strict;
        let mut failed: Option<Error> = None;
        let mut bad = Vec::new();
        let stop = || vlmsel_shards::Error::Cancelled;
        let outcome = table.read(
            &wanted,
            &mut |batch| {
                let mut survivors = Survivors::default();
                let done = self.sift_batch(batch, &deciding, 0, &mut survivors).and_then(|()| {
                    if matches!(self.sink, Sink::Collect { .. }) && !survivors.rows.is_empty() {
                        let chosen = batch.project(&places).map_err(|error| Error::usage(error.to_string()))?;
                        self.encode_some(&chosen, &survivors)?;
                    }
                    Ok(())
                });
                self.tally.input += batch.num_rows() as u64;
                if let Err(error) = done {
                    failed = Some(error);
                    return Err(stop());
                }
                self.progress.add(batch.num_rows() as u64, 0)
            },
            &mut |record| {
                bad.push(record);
                if strict { Err(stop()) } else { Ok(()) }
            },
        );
        if let (Some(record), true) = (bad.first(), strict) {
            let place = record.position.map(|line| format!(", line {line}")).unwrap_or_default();
            return Err(Error::Strict(format!(
                "{}{place}: {} ({}); --strict ends at the first bad record",
                table.path.display(),
                record.reason,
                record.detail
            )));
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.tally.input += bad.len() as u64;
        self.tally.quarantined += bad.len() as u64;
        bad.truncate(vlmsel_shards::quarantine::LISTED);
        self.tally.listed.entry(at).or_default().append(&mut bad);
        outcome?;
        self.progress.add(0, table.bytes)?;
        Ok(())
    }
}
