//! What was asked for, resolved against the tables that are there.

use std::path::PathBuf;

use serde_json::{Value, json};
use vlmsel_core::decimal::Decimal;
use vlmsel_shards::columns::partitions::Partition;
use vlmsel_shards::columns::{Column, Role};
use vlmsel_shards::tables::schema::{Wanted, resolve};
use vlmsel_shards::tables::{Table, open};
use vlmsel_shards::workspace::inputs::InputFile;
use vlmsel_shards::workspace::manifest::{InputRecord, Tolerated};

use crate::dedup::keep_bits::Kept;
use crate::error::{Error, Result};
use crate::id_set::IdSet;
use crate::tolerance::Tolerance;

/// Which end of the scores is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Low scores first (perplexity).
    Ascending,
    /// High scores first (similarity).
    Descending,
}

/// How many to keep.
#[derive(Debug, Clone, PartialEq)]
pub enum Size {
    /// This many distinct samples.
    Count(u64),
    /// This share of the eligible rows.
    Fraction(Decimal),
    /// Scores up to (or, descending, down to) this one.
    Threshold(f64),
    /// Percentiles from and up to, not including.
    Band(Decimal, Decimal),
    /// Best first, until the next row's tokens do not fit.
    TokenBudget(u64),
}

/// A comparison set, made beside the selection from the same eligible rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Control {
    /// Lowest hash of (seed, id).
    Random(u64),
    /// The other end of the scores.
    Worst,
    /// Around the median.
    Middle,
}

impl Control {
    /// What is appended to the selection's folder name.
    pub fn suffix(self) -> String {
        match self {
            Self::Random(seed) => format!("random-s{seed}"),
            Self::Worst => "worst".to_owned(),
            Self::Middle => "middle".to_owned(),
        }
    }
}

/// Everything a user can say about a selection.
#[derive(Debug, Clone)]
#[allow(clippy::struct_excessive_bools, reason = "one field per switch of the command")]
pub struct Request {
    /// The score tables' files.
    pub files: Vec<InputFile>,
    /// Score tables that were handed over as streams, with their records as inputs.
    pub streams: Vec<(Table, InputRecord)>,
    /// Column with the ids.
    pub id_column: String,
    /// Column with the scores.
    pub score_column: String,
    /// Which end is best.
    pub order: Order,
    /// How many.
    pub size: Size,
    /// Scores below zero are bad even if the column is not `ppl`.
    pub non_negative: bool,
    /// Rows with fewer tokens are rejected.
    pub min_tokens: Option<u64>,
    /// Rows with more tokens are rejected.
    pub max_tokens: Option<u64>,
    /// Only these ids may be selected.
    pub include: Vec<PathBuf>,
    /// These ids may not.
    pub exclude: Vec<PathBuf>,
    /// What `vlmsel dedup` wrote: rows that go are no candidates.
    pub dedup: Option<PathBuf>,
    /// A list may have no id that any table has.
    pub allow_unmatched: bool,
    /// An id may be selected more than once.
    pub keep_repeats: bool,
    /// Columns carried into the selection.
    pub keep_columns: Vec<String>,
    /// Comparison sets.
    pub controls: Vec<Control>,
    /// Where the selection goes.
    pub output: PathBuf,
    /// Threads.
    pub threads: usize,
    /// Bytes that candidates may take.
    pub memory_limit: u64,
    /// The first bad record ends the run.
    pub strict: bool,
    /// Share of records that may be unreadable.
    pub max_bad_fraction: f64,
    /// Files that may be unreadable.
    pub allow_bad_files: u64,
    /// Tables of different provenance may be mixed.
    pub mix_provenance: bool,
    /// Replace a finished output of another fingerprint.
    pub overwrite: bool,
}

/// Where the wanted columns are in [`Resolved::columns`].
#[derive(Debug, Clone)]
pub struct Columns {
    /// Ids.
    pub id: Column,
    /// Scores.
    pub score: Column,
    /// Token counts, where a filter or the size needs them.
    pub tokens: Option<Column>,
    /// Statuses, in tables that vlmsel wrote.
    pub status: Option<Column>,
    /// Sources.
    pub source: Option<Column>,
    /// Carried along.
    pub kept: Vec<Column>,
}

impl Resolved {
    /// Whether the path of a table holds a column of the selection.
    pub(super) fn reads_paths(&self) -> bool {
        let is_read = |part: &Partition| self.columns.of_paths().any(|(column, _)| column.name == part.name);
        self.tables.iter().any(|table| table.partitions().iter().any(is_read))
    }

    /// Whether dedup keeps a row of a table, as far as its place in the index tells.
    pub(super) fn keeps(&self, table: usize, row: u64) -> bool {
        match (&self.kept, self.kept_from[table]) {
            (Some(kept), Some(from)) => kept.contains(from + row),
            _ => true,
        }
    }

    /// The lists of ids by the name of their option.
    pub(super) fn lists(&self) -> impl Iterator<Item = (&'static str, &IdSet)> {
        let lists = [("include", &self.include), ("exclude", &self.exclude)];
        lists.into_iter().filter_map(|(option, set)| set.as_ref().map(|set| (option, set)))
    }
}

impl Columns {
    /// The columns that may stand in the paths of tables.
    fn of_paths(&self) -> impl Iterator<Item = (&Column, Role)> {
        let kept = self.kept.iter().map(|column| (column, Role::Kept));
        self.source.iter().map(|column| (column, Role::Source)).chain(kept)
    }
}

/// A request that fits its tables.
#[derive(Debug)]
pub struct Resolved {
    /// The tables, in order.
    pub tables: Vec<Table>,
    /// Files that could not be opened, with the reason.
    pub unopened: Vec<(InputFile, String)>,
    /// The columns.
    pub columns: Columns,
    /// Ids to which the selection is restricted.
    pub include: Option<IdSet>,
    /// Ids that are excluded.
    pub exclude: Option<IdSet>,
    /// Rows that dedup keeps.
    pub kept: Option<Kept>,
    /// For each table the row of the deduplicated index that it begins with, where it is a range of it.
    pub kept_from: Vec<Option<u64>>,
    /// Provenances of the tables, distinct ones.
    pub provenances: Vec<Value>,
}

/// Metadata key of the tables that `vlmsel score` writes.
const PROVENANCE_KEY: &str = "vlmsel.provenance";

/// Opens the tables and checks the request against them.
///
/// # Errors
/// Usage errors of columns and types, unreadable files beyond `allow_bad_files`, mixed provenance.
pub fn resolve_request(request: &Request) -> Result<Resolved> {
    let mut tables: Vec<Table> = Vec::new();
    let mut unopened = Vec::new();
    for file in &request.files {
        match open(file) {
            Ok(table) => tables.push(table),
            Err(error @ vlmsel_shards::Error::Unreadable { .. }) => unopened.push((file.clone(), error.to_string())),
            // What is named by itself was refused before; this lies in a folder.
            Err(error @ vlmsel_shards::Error::NotPlain { .. }) if file.folder.is_some() => {
                unopened.push((file.clone(), error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    check_bad_files(request, &unopened.iter().map(|(_, reason)| reason.clone()).collect::<Vec<_>>())?;
    tables.extend(request.streams.iter().map(|(table, _)| table.clone()));
    if tables.is_empty() {
        let reasons: Vec<&str> = unopened.iter().take(5).map(|(_, reason)| reason.as_str()).collect();
        return Err(Error::TooMuchUnreadable(format!("none of the tables can be read:\n  {}", reasons.join("\n  "))));
    }
    let ours = tables.iter().any(|table| matches!(table, Table::Parquet(t) if t.key_value(PROVENANCE_KEY).is_some()));
    let columns = wanted_columns(request, &tables, ours)?;
    for (column, role) in columns.of_paths() {
        tables.iter().try_for_each(|table| table.check_path_column(column, role))?;
    }
    let provenances = provenances(request, &tables)?;
    let read_ids = |paths: &[PathBuf]| -> Result<Option<IdSet>> {
        if paths.is_empty() { Ok(None) } else { IdSet::read(paths, &request.id_column, &columns.id.working).map(Some) }
    };
    let (include, exclude) = (read_ids(&request.include)?, read_ids(&request.exclude)?);
    let kept = request.dedup.as_deref().map(Kept::open).transpose()?;
    let mut kept_from = vec![None; tables.len()];
    if let Some(kept) = &kept {
        for (table, from) in tables.iter().zip(&mut kept_from) {
            if let Table::Parquet(table) = table {
                *from = kept.first_row_of(table)?;
            }
        }
        if kept_from.contains(&None) {
            // Before the pass, so that its threads find it made.
            kept.dropped()?;
        }
    }
    Ok(Resolved { tables, unopened, columns, include, exclude, kept, kept_from, provenances })
}

/// Ends the run if more files are unreadable than allowed.
pub fn check_bad_files(request: &Request, reasons: &[String]) -> Result<()> {
    if let (Some(first), true) = (reasons.first(), request.strict) {
        return Err(Error::Strict(format!("{first} (--strict ends at the first bad file)")));
    }
    if reasons.len() as u64 <= request.allow_bad_files {
        return Ok(());
    }
    let listed = reasons.iter().take(5).cloned().collect::<Vec<_>>().join("\n  ");
    Err(Error::TooMuchUnreadable(format!(
        "{} of {} files cannot be read, nothing was written:\n  {listed}\nRepair or remove them, or leave them out with --allow-bad-files {}",
        reasons.len(),
        request.files.len(),
        reasons.len()
    )))
}

fn wanted_columns(request: &Request, tables: &[Table], ours: bool) -> Result<Columns> {
    let want = |name: &str, role, required| Wanted { name: name.to_owned(), role, required };
    let needs_tokens =
        request.min_tokens.is_some() || request.max_tokens.is_some() || matches!(request.size, Size::TokenBudget(_));
    let mut wanted = vec![want(&request.id_column, Role::Id, true), want(&request.score_column, Role::Score, true)];
    let source_kept = request.keep_columns.iter().any(|name| name == "source");
    for name in &request.keep_columns {
        if [&request.id_column, &request.score_column].contains(&name)
            || ["uid", "rank", "score"].contains(&name.as_str())
        {
            return Err(Error::usage(format!("--keep-columns {name}: the selection has that column already")));
        }
        if request.keep_columns.iter().filter(|other| *other == name).count() > 1 {
            return Err(Error::usage(format!("--keep-columns names {name} twice")));
        }
        if name != "source" {
            wanted.push(want(name, Role::Kept, true));
        }
    }
    let kept_count = request.keep_columns.len() - usize::from(source_kept);
    let source_at = wanted.len();
    // A `source` that is no string is the user's own and not carried unless asked for.
    if source_kept || source_is_text(tables) {
        wanted.push(want("source", Role::Source, source_kept));
    }
    let tokens_at = wanted.len();
    if needs_tokens {
        wanted.push(want("n_tokens", Role::Tokens, true));
    }
    let status_at = wanted.len();
    if ours {
        wanted.push(want("status", Role::Status, false));
    }
    let found = resolve(tables, &wanted)?.columns;
    let take = |at: usize, end: usize| if at < end { found.get(at).cloned().flatten() } else { None };
    let required =
        |at: usize| take(at, found.len()).ok_or_else(|| Error::Bug("a required column was not resolved".to_owned()));
    Ok(Columns {
        id: required(0)?,
        score: required(1)?,
        kept: (2..2 + kept_count).map(required).collect::<Result<_>>()?,
        source: take(source_at, tokens_at),
        tokens: take(tokens_at, status_at),
        status: take(status_at, found.len()),
    })
}

fn source_is_text(tables: &[Table]) -> bool {
    let wanted = [Wanted { name: "source".to_owned(), role: Role::Source, required: false }];
    tables.iter().all(|table| resolve(std::slice::from_ref(table), &wanted).is_ok_and(|r| r.columns[0].is_some()))
}

fn provenances(request: &Request, tables: &[Table]) -> Result<Vec<Value>> {
    let mut found: Vec<(Value, String)> = Vec::new();
    for table in tables {
        let Table::Parquet(parquet) = table else { continue };
        let Some(text) = parquet.key_value(PROVENANCE_KEY) else { continue };
        let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        if !found.iter().any(|(known, _)| *known == value) {
            found.push((value, table.label()));
        }
    }
    if let ([(first, here), (second, there), ..], false) = (found.as_slice(), request.mix_provenance) {
        let lines = vlmsel_shards::workspace::manifest::differences(first, second, 10).join("\n  ");
        return Err(vlmsel_shards::Error::Mismatch(format!(
            "the scores of {here} and {there} were made differently and do not compare:\n  {lines}\nSelect from one of them, or pass --mix-provenance"
        ))
        .into());
    }
    let mut values: Vec<Value> = found.into_iter().map(|(value, _)| value).collect();
    values.sort_by_key(Value::to_string);
    Ok(values)
}

impl Request {
    /// The options that decide the result, as the manifest records them.
    pub fn config(&self, control: Option<Control>) -> Value {
        let size = match &self.size {
            Size::Count(k) => json!({"k": k}),
            Size::Fraction(f) => json!({"fraction": f.to_string()}),
            // JSON has no infinities, and both would be the same null.
            Size::Threshold(t) if t.is_infinite() => json!({"threshold": t.to_string()}),
            Size::Threshold(t) => json!({"threshold": t}),
            Size::Band(low, high) => json!({"band": format!("{low}:{high}")}),
            Size::TokenBudget(tokens) => json!({"token_budget": tokens}),
        };
        json!({
            "id_column": self.id_column,
            "score_column": self.score_column,
            "order": if self.order == Order::Ascending { "asc" } else { "desc" },
            "size": size,
            "non_negative": self.non_negative,
            "min_tokens": self.min_tokens,
            "max_tokens": self.max_tokens,
            "repeats": if self.keep_repeats { "keep" } else { "drop" },
            "keep_columns": self.keep_columns,
            "control": control.map(Control::suffix),
            "mix_provenance": self.mix_provenance,
        })
    }

    /// Which losses the selection puts up with.
    pub fn tolerance(&self) -> Tolerance {
        let tolerated = Tolerated { max_bad_fraction: self.max_bad_fraction, allow_bad_files: self.allow_bad_files };
        Tolerance { tolerated, strict: self.strict }
    }

    /// Whether scores below zero are bad.
    pub fn refuses_negative(&self) -> bool {
        self.non_negative || self.score_column == "ppl"
    }
}
