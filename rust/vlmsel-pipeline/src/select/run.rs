//! A selection from request to committed folder, with its controls.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vlmsel_core::quantity::Decimal;
use vlmsel_shards::fingerprint::fingerprint;
use vlmsel_shards::manifest::{InputRecord, Manifest};
use vlmsel_shards::output::{Opening, Output, OutputSpec, Summary, hash_file};
use vlmsel_shards::quarantine::to_json_lines;
use vlmsel_shards::tables::score::scores_from_keys;

use super::gather::Decoder;
use super::plan::{Control, Order, Request, Resolved, Size, check_bad_files, resolve_request};
use super::ranks::{guess_cut, key_at_rank};
use super::rows::{Chosen, Collector, choose};
use super::scan::{Keying, REASONS, Scan, Sink, Tally};
use super::walk::{Limit, Rule};
use super::write::{SelectionWriter, write_quarantine};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// The unit that a selection is committed as.
const UNIT: &str = "selection";

/// What a run would do, for `--dry-run`.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Tables.
    pub files: u64,
    /// Rows, as far as they are known before reading.
    pub rows: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Estimated memory.
    pub memory_bytes: u64,
    /// Estimated scratch disk.
    pub scratch_bytes: u64,
    /// The resolved options.
    pub config: Value,
    /// Folders that would be written.
    pub outputs: Vec<PathBuf>,
}

/// One selection or control, as committed.
#[derive(Debug, Clone)]
pub struct SelectionReport {
    /// The folder.
    pub output: PathBuf,
    /// The control, or `None` for the selection itself.
    pub control: Option<Control>,
    /// Whether it was there already, with the same fingerprint.
    pub already_done: bool,
    /// Rows by class: `input`, `selected`, `quarantined`, and the reasons of rejection.
    pub counts: BTreeMap<String, u64>,
    /// Score of the last selected row.
    pub threshold: Value,
    /// Files that were left out.
    pub bad_files: Vec<String>,
    /// Some of the eligible scores, ascending, for the histogram; empty for controls.
    pub sample: Vec<f64>,
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The selection.
    pub selection: SelectionReport,
    /// Its controls, in the order asked for.
    pub controls: Vec<SelectionReport>,
}

fn control_path(request: &Request, control: Option<Control>) -> PathBuf {
    match control {
        None => request.output.clone(),
        Some(control) => {
            let name = request.output.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            request.output.with_file_name(format!("{name}-{}", control.suffix()))
        }
    }
}

/// Checks the request and says what it would cost.
///
/// # Errors
/// As [`select`], before any work; [`vlmsel_shards::Error::Resource`] for a scratch disk that is too small.
pub fn plan(request: &Request) -> Result<Plan> {
    check_sizes(request)?;
    let resolved = resolve_request(request)?;
    let (mut rows, mut bytes) = (0_u64, 0_u64);
    for table in &resolved.tables {
        let (more_rows, more_bytes) = table.extent();
        rows += more_rows;
        bytes += more_bytes;
    }
    let wanted = match &request.size {
        Size::Count(k) => (*k).min(if rows == 0 { *k } else { rows }),
        Size::Fraction(fraction) => fraction.of(rows, 1),
        Size::Band(low, high) => high.of(rows, 100).saturating_sub(low.of(rows, 100)),
        Size::Threshold(_) | Size::TokenBudget(_) => rows,
    };
    let needed = wanted.saturating_mul(2 * 60);
    let budget = request.memory_limit / 2;
    let (memory_bytes, scratch_bytes) =
        if needed <= budget { (needed, 0) } else { (budget, wanted.saturating_mul(3 * 60)) };
    let parent = request.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(free) = fs_free(parent)
        && free < scratch_bytes
    {
        return Err(vlmsel_shards::Error::Resource(format!(
                "about {scratch_bytes} bytes of scratch disk are needed beside {}, {free} are free; raise --memory-limit or free some space",
                request.output.display()
            ))
            .into());
    }
    let outputs = std::iter::once(None).chain(request.controls.iter().copied().map(Some));
    Ok(Plan {
        files: resolved.tables.len() as u64,
        rows,
        bytes,
        memory_bytes: memory_bytes + (128 << 20),
        scratch_bytes,
        config: request.config(None),
        outputs: outputs.map(|control| control_path(request, control)).collect(),
    })
}

fn fs_free(path: &Path) -> std::io::Result<u64> {
    vlmsel_shards::disk::free_bytes(path)
}

fn check_sizes(request: &Request) -> Result<()> {
    match &request.size {
        Size::Fraction(fraction) if !fraction.at_most(1) => {
            Err(Error::usage(format!("--fraction {fraction}: must be between 0 and 1")))
        }
        Size::Band(low, high) if !high.at_most(100) || !low.not_above(*high) => {
            Err(Error::usage(format!("--band {low}:{high}: percentiles, LO not above HI, HI at most 100")))
        }
        Size::Threshold(threshold) if threshold.is_nan() => Err(Error::usage("--threshold: not a number")),
        _ => match (request.min_tokens, request.max_tokens) {
            (Some(least), Some(most)) if least > most => {
                Err(Error::usage(format!("--min-tokens {least} is above --max-tokens {most}")))
            }
            _ => Ok(()),
        },
    }
}

/// Selects, writes and commits.
///
/// # Errors
/// Usage (columns, types, options), unreadable files or records beyond what is allowed, a locked or foreign output,
/// another fingerprint, disk and memory, cancellation.
pub fn select(request: &Request, progress: &Progress) -> Result<Outcome> {
    check_sizes(request)?;
    let mut seen = std::collections::BTreeSet::new();
    if let Some(twice) = request.controls.iter().find(|control| !seen.insert(**control)) {
        return Err(Error::usage(format!("--control {} is asked for twice", twice.suffix())));
    }
    let resolved = resolve_request(request)?;
    let inputs = inputs(request, &resolved, progress)?;
    let mut run = Run { request, resolved: &resolved, progress, left_out: BTreeMap::new(), inputs };
    let selection = run.one(None, None)?;
    let selected = selection.counts.get("selected").copied().unwrap_or(0);
    let controls =
        request.controls.iter().map(|control| run.one(Some(*control), Some(selected))).collect::<Result<Vec<_>>>()?;
    Ok(Outcome { selection, controls })
}

fn inputs(request: &Request, resolved: &Resolved, progress: &Progress) -> Result<Vec<InputRecord>> {
    let mut records = Vec::new();
    for file in &request.files {
        progress.check()?;
        match fingerprint(&file.path, &file.name) {
            Ok(record) => records.push(record),
            // It is one of the files that may be bad.
            Err(_) if resolved.unopened.iter().any(|(bad, _)| bad == file) => {}
            Err(error) => return Err(error.into()),
        }
    }
    records.extend(request.streams.iter().map(|(_, record)| record.clone()));
    for (option, set) in [("include", &resolved.include), ("exclude", &resolved.exclude)] {
        for path in set.iter().flat_map(super::ids::IdSet::files) {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let file = File::open(path).map_err(|source| vlmsel_shards::Error::Io {
                action: "open",
                path: path.clone(),
                source,
            })?;
            let bytes = file.metadata().map_or(0, |meta| meta.len());
            let hash = hash_file(file, path)?;
            records.push(InputRecord {
                name: format!("{option}:{name}"),
                bytes,
                fingerprint: hash.to_hex()[..32].to_owned(),
            });
        }
    }
    // Files are a set: their order on the command line must not change a byte.
    records.sort_by(|a, b| (&a.name, &a.fingerprint).cmp(&(&b.name, &b.fingerprint)));
    Ok(records)
}

struct Run<'a> {
    request: &'a Request,
    resolved: &'a Resolved,
    progress: &'a Progress,
    /// Tables that broke while they were read, and are allowed to.
    left_out: BTreeMap<usize, String>,
    inputs: Vec<InputRecord>,
}

/// What the size comes to for these rows: the walk's rule, and bounds on the keys that can matter.
struct Target {
    rule: Rule,
    first_rank: u64,
    lower: u64,
    upper: u64,
    /// Rows that the walk will need, where that is known.
    wanted: Option<u64>,
}

impl Run<'_> {
    /// Makes the selection (`control` is `None`), or a control of `selected` rows.
    fn one(&mut self, control: Option<Control>, selected: Option<u64>) -> Result<SelectionReport> {
        let path = control_path(self.request, control);
        let spec = OutputSpec {
            path: path.clone(),
            command: "select".to_owned(),
            config: self.request.config(control),
            inputs: self.inputs.clone(),
            guarded: self.guarded(),
            overwrite: self.request.overwrite,
            extend: false,
            resume: false,
        };
        let output = match Output::begin(spec)? {
            Opening::Open(output) => output,
            Opening::Finished(manifest) => return Ok(already_done(path, control, &manifest)),
        };
        let (tally, chosen, writer) = loop {
            // Without a result a table broke that may be left out: the same again without it, so that nothing of it shows.
            if let Some(done) = self.attempt(control, selected, &output)? {
                break done;
            }
        };
        self.commit(output, control, &tally, chosen, writer)
    }

    fn guarded(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> =
            self.request.files.iter().map(|file| file.folder.clone().unwrap_or_else(|| file.path.clone())).collect();
        paths.extend(self.request.include.iter().chain(&self.request.exclude).cloned());
        paths.sort();
        paths.dedup();
        paths
    }

    /// Notes newly broken tables; true if there are any and they may be left out.
    fn leave_out(&mut self, tally: &Tally) -> Result<bool> {
        if tally.broken.is_empty() {
            return Ok(false);
        }
        self.left_out.extend(tally.broken.clone());
        let mut reasons: Vec<String> = self.resolved.unopened.iter().map(|(_, reason)| reason.clone()).collect();
        reasons.extend(self.left_out.values().cloned());
        check_bad_files(self.request, &reasons)?;
        Ok(true)
    }

    fn attempt(
        &mut self,
        control: Option<Control>,
        selected: Option<u64>,
        output: &Output,
    ) -> Result<Option<(Tally, Chosen, SelectionWriter)>> {
        let turned = (self.request.order == Order::Descending) != (control == Some(Control::Worst));
        let keying = match control {
            Some(Control::Random(seed)) => Keying::Random(seed),
            _ => Keying::Score { turned },
        };
        let with_tokens = matches!(self.request.size, Size::TokenBudget(_)) && control.is_none();
        let left_out = self.left_out.clone();
        let scan = Scan { request: self.request, resolved: self.resolved, left_out: &left_out, keying, with_tokens };
        let rows: u64 = self.resolved.tables.iter().map(|table| table.extent().0).sum();
        let bytes: u64 = self.resolved.tables.iter().map(|table| table.extent().1).sum();
        self.progress.expect(rows, bytes);
        let target = match self.target(&scan, control, selected)? {
            Ok(target) => target,
            Err(tally) => {
                return if self.leave_out(&tally)? {
                    Ok(None)
                } else {
                    Err(Error::Bug("a pass ended without a target".to_owned()))
                };
            }
        };
        let scratch = output.scratch()?;
        let budget = (self.request.memory_limit / 2).max(1 << 20);
        let guess = target.wanted.and_then(|wanted| guess_cut(self.request, self.resolved, &left_out, keying, wanted));
        for (guess, may_cut) in [(guess, true), (None, !with_tokens)] {
            let collector = Collector::new(target.rule, target.first_rank, budget, &scratch, guess, may_cut);
            self.progress.restart();
            let sink = Sink::Collect { collector: &collector, lower: target.lower, upper: target.upper };
            let tally = scan.run(&sink, self.progress)?;
            if self.leave_out(&tally)? {
                return Ok(None);
            }
            self.check_bad_records(&tally)?;
            let (collected, dropped) = collector.finish()?;
            let random = matches!(keying, Keying::Random(_));
            let score_turned = if random { self.request.order == Order::Descending } else { turned };
            let decoder = Decoder::new(&self.resolved.columns, with_tokens, random, score_turned)?;
            let writer = SelectionWriter::new(output, decoder, &scratch, budget / 4)?;
            let (chosen, writer) =
                writer.take(|emit| choose(collected, target.rule, target.first_rank, &scratch, budget, emit))?;
            if chosen.complete || !dropped {
                return Ok(Some((tally, chosen, writer)));
            }
        }
        Err(Error::Bug("rows were dropped that the selection needed".to_owned()))
    }

    fn check_bad_records(&self, tally: &Tally) -> Result<()> {
        let limit = self.request.max_bad_fraction * tally.input as f64;
        if tally.quarantined as f64 <= limit {
            return Ok(());
        }
        let first = tally.listed.values().flatten().next();
        let example = first.map(|record| {
            let line = record.position.map(|line| format!(", line {line}")).unwrap_or_default();
            format!("; the first is {}{line}: {} ({})", record.file, record.reason, record.detail)
        });
        Err(Error::TooMuchUnreadable(format!(
            "{} of {} records cannot be read, more than --max-bad-fraction {} allows; nothing was written{}",
            tally.quarantined,
            tally.input,
            self.request.max_bad_fraction,
            example.unwrap_or_default()
        )))
    }

    /// Resolves the size; reads the scores once or more where it is a share of what there is. `Err(tally)` if a table
    /// broke on the way.
    fn target(
        &self,
        scan: &Scan<'_>,
        control: Option<Control>,
        selected: Option<u64>,
    ) -> Result<std::result::Result<Target, Tally>> {
        let distinct = !self.request.keep_repeats;
        let rule = |start_rank, end_rank, limit| Rule { start_rank, end_rank, distinct, limit };
        let everything = |rule, wanted| Target { rule, first_rank: 0, lower: 0, upper: u64::MAX, wanted };
        match (control, selected) {
            (Some(Control::Middle), Some(k)) => {
                let tally = scan.run(&Sink::Tally, self.progress)?;
                if !tally.broken.is_empty() {
                    return Ok(Err(tally));
                }
                let start = tally.eligible.saturating_sub(k) / 2;
                return self.bounded_by_ranks(scan, rule(start, None, Limit::Rows(k)), None).map(Ok);
            }
            (Some(_), Some(k)) => return Ok(Ok(everything(rule(0, None, Limit::Rows(k)), Some(k)))),
            _ => {}
        }
        Ok(Ok(match &self.request.size {
            Size::Count(k) => everything(rule(0, None, Limit::Rows(*k)), Some(*k)),
            Size::TokenBudget(tokens) => everything(rule(0, None, Limit::Tokens(*tokens)), None),
            Size::Threshold(threshold) => {
                let upper = vlmsel_shards::tables::threshold::last_key(
                    *threshold,
                    &self.resolved.columns.score.working,
                    self.request.order == Order::Descending,
                );
                match upper {
                    Some(upper) => Target { upper, ..everything(rule(0, None, Limit::All), None) },
                    None => everything(rule(0, None, Limit::Rows(0)), Some(0)),
                }
            }
            Size::Fraction(fraction) => {
                let tally = scan.run(&Sink::Tally, self.progress)?;
                if !tally.broken.is_empty() {
                    return Ok(Err(tally));
                }
                let k = fraction.of(tally.eligible, 1);
                everything(rule(0, None, Limit::Rows(k)), Some(k))
            }
            Size::Band(low, high) => {
                let tally = scan.run(&Sink::Tally, self.progress)?;
                if !tally.broken.is_empty() {
                    return Ok(Err(tally));
                }
                let rank = |percent: &Decimal| percent.of(tally.eligible, 100);
                let (start, end) = (rank(low), rank(high));
                return self.bounded_by_ranks(scan, rule(start, Some(end), Limit::All), Some(end)).map(Ok);
            }
        }))
    }

    /// Bounds the keys of a rule that begins at a rank, so that the rows in front of it need not be collected.
    fn bounded_by_ranks(&self, scan: &Scan<'_>, rule: Rule, end: Option<u64>) -> Result<Target> {
        let mut target = Target { rule, first_rank: 0, lower: 0, upper: u64::MAX, wanted: None };
        if rule.start_rank > 0
            && let Some(found) = key_at_rank(scan, rule.start_rank, self.progress)?
        {
            target.lower = found.key;
            target.first_rank = found.below;
        }
        if let Some(found) = end
            .and_then(|end| end.checked_sub(1))
            .map(|last| key_at_rank(scan, last, self.progress))
            .transpose()?
            .flatten()
        {
            target.upper = found.key;
        }
        Ok(target)
    }

    fn commit(
        &self,
        output: Box<Output>,
        control: Option<Control>,
        tally: &Tally,
        chosen: Chosen,
        writer: SelectionWriter,
    ) -> Result<SelectionReport> {
        let wide = self.resolved.columns.id.working == arrow_schema::DataType::FixedSizeBinary(16);
        let (mut names, rows, last_score) = {
            let written = writer.finish(wide)?;
            (written.files, written.rows, written.last_score)
        };
        let mut counts = BTreeMap::from([
            ("input".to_owned(), tally.input),
            ("selected".to_owned(), chosen.selected),
            ("quarantined".to_owned(), tally.quarantined),
        ]);
        let mut rejected: BTreeMap<String, u64> =
            REASONS.iter().zip(tally.rejected).map(|(reason, count)| ((*reason).to_owned(), count)).collect();
        rejected.insert("repeated".to_owned(), chosen.repeated);
        let outranked = tally.eligible.checked_sub(chosen.selected + chosen.repeated);
        let outranked = outranked.ok_or_else(|| Error::Bug("more rows were selected than there are".to_owned()))?;
        rejected.insert("outranked".to_owned(), outranked);
        let sum: u64 = rejected.values().sum();
        if chosen.selected + sum + tally.quarantined != tally.input || rows != chosen.selected {
            return Err(Error::Bug(format!("{counts:?} and {rejected:?} do not add up; nothing was written")));
        }
        counts.extend(
            rejected
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| (format!("rejected.{reason}"), count)),
        );
        let mut quarantined: Vec<_> = tally.listed.values().flatten().cloned().collect();
        quarantined.sort();
        let mut bad_files: Vec<String> = self.resolved.unopened.iter().map(|(file, _)| file.name.clone()).collect();
        bad_files.extend(self.left_out.keys().map(|at| self.resolved.tables[*at].name().to_owned()));
        bad_files.sort();
        for name in &bad_files {
            quarantined.push(vlmsel_shards::quarantine::Quarantined::new(name, "file", None, "unreadable_file", ""));
        }
        if !quarantined.is_empty() {
            names.push(write_quarantine(&output, &to_json_lines(&quarantined))?);
        }
        let threshold = match last_score {
            Some(key) => score_value(key, self.resolved)?,
            None => Value::Null,
        };
        let detail = json!({"threshold": threshold, "bad_files": bad_files});
        output.commit_hashed(UNIT, &names, rows, counts.clone(), detail)?;
        let path = output.path().to_path_buf();
        let provenance = match self.resolved.provenances.as_slice() {
            [] => Value::Null,
            [one] => one.clone(),
            several => json!({ "mixed": several }),
        };
        self.progress.check()?;
        output.finish(Summary { counts: counts.clone(), roots: Value::Null, provenance, run: json!({}) })?;
        let mut sample = Vec::new();
        if control.is_none() {
            let turned = self.request.order == Order::Descending;
            sample = sample_values(&tally.sample, turned, self.resolved)?;
        }
        Ok(SelectionReport { output: path, control, already_done: false, counts, threshold, bad_files, sample })
    }
}

fn already_done(output: PathBuf, control: Option<Control>, manifest: &Manifest) -> SelectionReport {
    let detail = manifest.parts.first().map(|part| part.detail.clone()).unwrap_or_default();
    SelectionReport {
        output,
        control,
        already_done: true,
        counts: manifest.counts.clone(),
        threshold: detail.get("threshold").cloned().unwrap_or(Value::Null),
        bad_files: Vec::new(),
        sample: Vec::new(),
    }
}

/// A score as JSON has it: integers whole, decimals as their digits.
fn score_value(key: u64, resolved: &Resolved) -> Result<Value> {
    use arrow_schema::DataType;
    let score = scores_from_keys(&[key], &resolved.columns.score.output)?;
    let as_type =
        |to: &DataType| arrow_cast::cast(&score, to).map_err(|error| Error::Bug(format!("threshold: {error}")));
    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float64Type, Int64Type, UInt64Type};
    Ok(match score.data_type() {
        DataType::UInt64 => json!(score.as_primitive::<UInt64Type>().value(0)),
        other if other.is_integer() => json!(as_type(&DataType::Int64)?.as_primitive::<Int64Type>().value(0)),
        other if other.is_floating() => json!(as_type(&DataType::Float64)?.as_primitive::<Float64Type>().value(0)),
        _ => json!(as_type(&DataType::Utf8)?.as_string::<i32>().value(0)),
    })
}

/// The sampled scores as numbers, in order; some thousand are enough to draw a histogram of.
fn sample_values(keys: &[u64], turned: bool, resolved: &Resolved) -> Result<Vec<f64>> {
    use arrow_array::cast::AsArray;
    use arrow_array::types::Float64Type;
    const ENOUGH: usize = 8192;
    let thinned = keys.iter().step_by(keys.len().div_ceil(ENOUGH).max(1));
    let keys: Vec<u64> = thinned.map(|key| if turned { !*key } else { *key }).collect();
    let scores = scores_from_keys(&keys, &resolved.columns.score.output)?;
    let scores = arrow_cast::cast(&scores, &arrow_schema::DataType::Float64)
        .map_err(|error| Error::Bug(format!("histogram: {error}")))?;
    let mut values = scores.as_primitive::<Float64Type>().values().to_vec();
    values.sort_unstable_by(f64::total_cmp);
    Ok(values)
}
