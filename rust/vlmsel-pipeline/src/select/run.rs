//! A selection from request to committed folder, with its controls.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vlmsel_shards::columns::partitions::name_with_partitions;
use vlmsel_shards::storage::paths::{beside, place_of_output, text_of};
use vlmsel_shards::storage::source::{Sequential, open};
use vlmsel_shards::workspace::fingerprint::fingerprint;
use vlmsel_shards::workspace::manifest::{InputRecord, Losses};
use vlmsel_shards::workspace::output::{Opening, Output, OutputSpec, Summary, hash_file};
use vlmsel_shards::workspace::quarantine::to_json_lines;

use super::choose::{Chosen, choose};
use super::collector::Collector;
use super::pass::{Counts, Goal, REASONS, Scan};
use super::plan::{Control, Order, Request, Resolved, Size, check_bad_files, resolve_request};
use super::ranks::guess_cut;
use super::report::{Outcome, SelectionReport, already_done, sample_values, score_value};
use super::row_codec::Decoder;
use super::row_layout::{Layout, SortKey};
use super::sameness::{Files, changed};
use super::target::Target;
use super::write::{SelectionWriter, write_quarantine};
use crate::error::{Error, Result};
use crate::id_set::Listed;
use crate::progress::Progress;
use crate::tolerance::Tolerance;

/// The unit that a selection is committed as.
const UNIT: &str = "selection";

/// Where a control goes: beside the selection.
pub fn control_path(request: &Request, control: Option<Control>) -> PathBuf {
    let Some(control) = control else { return request.output.clone() };
    let suffix = format!("-{}", control.suffix());
    match request.output.file_name() {
        Some(_) => beside(&request.output, "", &suffix),
        // `x/..` and the like: beside the folder that it leads to.
        None => beside(&place_of_output(&request.output), "", &suffix),
    }
}

/// Checks what can be checked without the tables.
pub fn check_sizes(request: &Request) -> Result<()> {
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
    let tolerance = request.tolerance();
    let mut folders = std::collections::BTreeSet::new();
    for file in &request.files {
        if let Some(folder) = file.folder.as_ref().filter(|folder| folders.insert((*folder).clone())) {
            tolerance.accept(folder, file.losses.as_deref())?;
        }
    }
    // Before anything is read: what changes from here on will show.
    let files = Files::look(&request.files, request.include.iter().chain(&request.exclude).cloned());
    let resolved = resolve_request(request)?;
    let inputs = inputs(request, &resolved, progress)?;
    let mut run = Selecting { request, resolved: &resolved, progress, left_out: BTreeMap::new(), inputs, files };
    // All places first: what is in the way of a control must not be found when the selection is committed already.
    let controls = std::iter::once(None).chain(request.controls.iter().copied().map(Some));
    let places = controls.map(|control| Ok((control, run.begin(control)?))).collect::<Result<Vec<_>>>()?;
    let mut made: Vec<SelectionReport> = Vec::new();
    for (control, opening) in places {
        let selected = made.first().map(|selection| selection.counts.get("selected").copied().unwrap_or(0));
        made.push(run.one(control, opening, selected)?);
    }
    let mut made = made.into_iter();
    let selection = made.next().ok_or_else(|| Error::Bug("no selection was made".to_owned()))?;
    Ok(Outcome { selection, controls: made.collect() })
}

fn inputs(request: &Request, resolved: &Resolved, progress: &Progress) -> Result<Vec<InputRecord>> {
    let mut records = Vec::new();
    let reads_paths = resolved.reads_paths();
    for file in &request.files {
        progress.check()?;
        // A folder that is renamed changes the rows, whichever part of the path was named.
        let of_path = reads_paths.then(|| name_with_partitions(&file.path)).flatten();
        let name = of_path.map_or_else(|| file.name.clone(), |path| text_of(&path));
        match fingerprint(&file.path, &name) {
            Ok(record) => records.push(record),
            // It is one of the files that may be bad.
            Err(_) if resolved.unopened.iter().any(|(bad, _)| bad == file) => {}
            Err(error) => return Err(error.into()),
        }
    }
    records.extend(request.streams.iter().map(|(_, record)| record.clone()));
    for (option, set) in [("include", &resolved.include), ("exclude", &resolved.exclude)] {
        for path in set.iter().flat_map(crate::id_set::IdSet::files) {
            let name = path.file_name().map(|name| text_of(Path::new(name))).unwrap_or_default();
            let file = open(path)?;
            let bytes = file.size_bytes();
            let hash = hash_file(Sequential::new(file, 0), path)?;
            records.push(InputRecord {
                name: format!("{option}:{name}"),
                bytes,
                fingerprint: hash.to_hex()[..32].to_owned(),
            });
        }
    }
    records.extend(resolved.kept.iter().map(|kept| kept.record().clone()));
    // Files are a set: their order on the command line must not change a byte.
    records.sort_by(|a, b| (&a.name, &a.fingerprint).cmp(&(&b.name, &b.fingerprint)));
    Ok(records)
}

/// A request on its way.
pub struct Selecting<'a> {
    pub(super) request: &'a Request,
    pub(super) resolved: &'a Resolved,
    pub(super) progress: &'a Progress,
    /// Tables that broke while they were read, and are allowed to.
    left_out: BTreeMap<usize, String>,
    inputs: Vec<InputRecord>,
    files: Files,
}

impl Selecting<'_> {
    fn begin(&self, control: Option<Control>) -> Result<Opening> {
        Ok(Output::begin(OutputSpec {
            path: control_path(self.request, control),
            command: "select".to_owned(),
            config: self.request.config(control),
            inputs: self.inputs.clone(),
            guarded: self.guarded(),
            overwrite: self.request.overwrite,
            extend: false,
            resume: false,
        })?)
    }

    /// Makes the selection (`control` is `None`), or a control of `selected` rows.
    fn one(&mut self, control: Option<Control>, opening: Opening, selected: Option<u64>) -> Result<SelectionReport> {
        let path = control_path(self.request, control);
        let (output, doubtful) = match opening {
            Opening::Open(output) => (output, Vec::new()),
            Opening::Finished(found) => {
                self.request.tolerance().accept(&path, found.manifest().losses.as_ref())?;
                let doubtful = self.files.doubtful(found.noted(UNIT), self.progress)?;
                let done = already_done(path, control, self.wanted(control, selected), found.manifest());
                check_lists(self.request, self.resolved, &done.lists)?;
                if doubtful.is_empty() {
                    return Ok(done);
                }
                (Box::new(found.again()?), doubtful)
            }
        };
        let (found, chosen, writer) = loop {
            // Without a result a table broke that may be left out: the same again without it, so that nothing of it shows.
            if let Some(done) = self.attempt(control, selected, &output)? {
                break done;
            }
        };
        let lists = lists_of(self.resolved);
        check_lists(self.request, self.resolved, &lists)?;
        let made = Made { found: &found, chosen, writer, lists, wanted: self.wanted(control, selected) };
        self.commit(output, control, made, &doubtful)
    }

    /// How many rows are asked for, where that is a number; `selected` are those of the selection that a control is for.
    fn wanted(&self, control: Option<Control>, selected: Option<u64>) -> Option<u64> {
        match (control, &self.request.size) {
            (Some(_), _) => selected,
            (None, Size::Count(k)) => Some(*k),
            (None, _) => None,
        }
    }

    fn guarded(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> =
            self.request.files.iter().map(|file| file.folder.clone().unwrap_or_else(|| file.path.clone())).collect();
        paths.extend(self.request.include.iter().chain(&self.request.exclude).cloned());
        paths.extend(self.request.dedup.clone());
        paths.sort();
        paths.dedup();
        paths
    }

    /// Notes newly broken tables; true if there are any and they may be left out.
    fn leave_out(&mut self, found: &Counts) -> Result<bool> {
        if found.broken.is_empty() {
            return Ok(false);
        }
        self.left_out.extend(found.broken.clone());
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
    ) -> Result<Option<(Counts, Chosen, SelectionWriter)>> {
        let reversed = (self.request.order == Order::Descending) != (control == Some(Control::Worst));
        let sort_key = match control {
            Some(Control::Random(seed)) => SortKey::Random(seed),
            _ => SortKey::Score,
        };
        let with_tokens = matches!(self.request.size, Size::TokenBudget(_)) && control.is_none();
        let left_out = self.left_out.clone();
        // What a table that broke has met does not count.
        self.resolved.lists().for_each(|(_, set)| set.forget());
        let layout = Layout { sort_key, reversed, with_tokens };
        let scan = Scan { request: self.request, resolved: self.resolved, left_out: &left_out, layout };
        let rows: u64 = self.resolved.tables.iter().map(|table| table.extent().0).sum();
        let bytes: u64 = self.resolved.tables.iter().map(|table| table.extent().1).sum();
        self.progress.expect(rows, bytes);
        let target = match scan.target(control, selected, self.progress)? {
            Ok(target) => target,
            Err(found) => {
                return if self.leave_out(&found)? {
                    Ok(None)
                } else {
                    Err(Error::Bug("a pass ended without a target".to_owned()))
                };
            }
        };
        let scratch = output.scratch()?;
        let budget = (self.request.memory_limit / 2).max(1 << 20);
        let guess = target.wanted.and_then(|wanted| guess_cut(self.request, self.resolved, &left_out, layout, wanted));
        for (guess, may_cut) in [(guess, true), (None, !with_tokens)] {
            let collector = Collector::new(target.rule, target.first_rank, budget, &scratch, guess, may_cut)
                .with_sources(self.resolved.columns.source_place(layout));
            self.progress.restart();
            let Target { lower, upper, last, .. } = target;
            let goal = Goal::Collect { collector: &collector, lower, upper, last };
            let found = scan.run(&goal, self.progress)?;
            if self.leave_out(&found)? {
                return Ok(None);
            }
            self.check_bad_records(&found)?;
            let (mut collected, dropped) = collector.finish()?;
            let decoder = Decoder::new(&self.resolved.columns, layout)?;
            let writer = SelectionWriter::new(output, decoder.schema(), &scratch, budget / 4)?;
            let (chosen, writer) = writer.take(&decoder, |emit| {
                choose(&mut collected, &dropped, (target.rule, target.first_rank), &scratch, budget, emit)
            })?;
            if chosen.complete || !dropped.any {
                return Ok(Some((found, chosen, writer)));
            }
        }
        Err(Error::Bug("rows were dropped that the selection needed".to_owned()))
    }

    fn check_bad_records(&self, found: &Counts) -> Result<()> {
        // Bad files were judged when they were opened, and under `--strict` the first bad record ended the run.
        let tolerance = Tolerance { strict: false, ..self.request.tolerance() };
        if tolerance.exceeded(found.input, found.quarantined, 0).is_none() {
            return Ok(());
        }
        let first = found.listed.values().flatten().next();
        let example = first.map(|record| {
            let line = record.position.map(|line| format!(", line {line}")).unwrap_or_default();
            format!("; the first is {}{line}: {} ({})", record.file, record.reason, record.detail)
        });
        Err(Error::TooMuchUnreadable(format!(
            "{} of {} records cannot be read, more than --max-bad-fraction {} allows; nothing was written{}",
            found.quarantined,
            found.input,
            self.request.max_bad_fraction,
            example.unwrap_or_default()
        )))
    }

    fn commit(
        &self,
        output: Box<Output>,
        control: Option<Control>,
        made: Made<'_>,
        doubtful: &[PathBuf],
    ) -> Result<SelectionReport> {
        let Made { found, chosen, writer, lists, wanted } = made;
        let wide = self.resolved.columns.id.working == arrow_schema::DataType::FixedSizeBinary(16);
        let (mut names, rows, last_score) = {
            let written = writer.finish(wide)?;
            (written.files, written.rows, written.last_score)
        };
        let mut counts = BTreeMap::from([
            ("input".to_owned(), found.input),
            ("selected".to_owned(), chosen.selected),
            ("quarantined".to_owned(), found.quarantined),
        ]);
        let mut rejected: BTreeMap<String, u64> =
            REASONS.iter().zip(found.rejected).map(|(reason, count)| ((*reason).to_owned(), count)).collect();
        rejected.insert("repeated".to_owned(), chosen.repeated);
        let outranked = found.eligible.checked_sub(chosen.selected + chosen.repeated);
        let outranked = outranked.ok_or_else(|| Error::Bug("more rows were selected than there are".to_owned()))?;
        rejected.insert("outranked".to_owned(), outranked);
        let sum: u64 = rejected.values().sum();
        if chosen.selected + sum + found.quarantined != found.input || rows != chosen.selected {
            return Err(Error::Bug(format!("{counts:?} and {rejected:?} do not add up; nothing was written")));
        }
        counts.extend(
            rejected
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| (format!("rejected.{reason}"), count)),
        );
        let mut quarantined: Vec<_> = found.listed.values().flatten().cloned().collect();
        quarantined.sort();
        let mut bad_files: Vec<String> = self.resolved.unopened.iter().map(|(file, _)| file.name.clone()).collect();
        bad_files.extend(self.left_out.keys().map(|at| self.resolved.tables[*at].name().to_owned()));
        bad_files.sort();
        for name in &bad_files {
            quarantined.push(vlmsel_shards::workspace::quarantine::Quarantined::new(
                name,
                "file",
                None,
                "unreadable_file",
                "",
            ));
        }
        if !quarantined.is_empty() {
            names.push(write_quarantine(&output, &to_json_lines(&quarantined))?);
        }
        let threshold = match last_score {
            Some(score) => score_value(&score)?,
            None => Value::Null,
        };
        let mut detail = json!({"threshold": threshold, "bad_files": bad_files});
        if !lists.is_empty() {
            detail["lists"] = json!(lists);
        }
        self.files.check_unchanged()?;
        let path = control_path(self.request, control);
        let names: Vec<_> = names.into_iter().map(|(name, hash)| (name, Some(hash))).collect();
        if output.standing().is_some() {
            if !output.compare(UNIT, &names, rows, counts, detail)? {
                return Err(changed(&path, doubtful).into());
            }
            output.note(UNIT, self.files.noted());
            return Ok(already_done(path, control, wanted, &output.stands()?));
        }
        output.commit(UNIT, &names, rows, counts.clone(), detail)?;
        output.note(UNIT, self.files.noted());
        let provenance = match self.resolved.provenances.as_slice() {
            [] => Value::Null,
            [one] => one.clone(),
            several => json!({ "mixed": several }),
        };
        self.progress.check()?;
        let losses = Losses::of(found.input, found.quarantined, bad_files.clone(), self.request.tolerance().tolerated);
        output.finish(Summary { counts: counts.clone(), roots: Value::Null, provenance, run: json!({}), losses })?;
        let mut sample = Vec::new();
        if control.is_none() {
            let reversed = self.request.order == Order::Descending;
            sample = sample_values(&found.sample, reversed, self.resolved)?;
        }
        let short_by = wanted.map_or(0, |wanted| wanted.saturating_sub(rows));
        Ok(SelectionReport {
            output: path,
            control,
            already_done: false,
            counts,
            threshold,
            short_by,
            repeated_across_sources: chosen.across,
            lists,
            bad_files,
            sample,
        })
    }
}

/// A selection that is ready to be committed.
struct Made<'a> {
    found: &'a Counts,
    chosen: Chosen,
    writer: SelectionWriter,
    lists: BTreeMap<String, Listed>,
    wanted: Option<u64>,
}

fn lists_of(resolved: &Resolved) -> BTreeMap<String, Listed> {
    resolved.lists().map(|(option, set)| (option.to_owned(), set.listed())).collect()
}

/// A list none of whose ids any table has is one of other tables, or its ids are written in another way.
fn check_lists(request: &Request, resolved: &Resolved, lists: &BTreeMap<String, Listed>) -> Result<()> {
    for (option, set) in resolved.lists() {
        let Some(Listed { ids, unmatched }) = lists.get(option).copied() else { continue };
        if unmatched < ids || request.allow_unmatched {
            continue;
        }
        let (listed, in_tables) = set.examples();
        let like = in_tables.map(|id| format!(", the tables have ids like {id:?}")).unwrap_or_default();
        return Err(Error::usage(format!(
            "--{option}: {unmatched} of {ids} listed ids met no row: the list has ids like {listed:?}{like}. Give a list of the ids in column {:?} (or choose the column with --id-column), or pass --allow-unmatched",
            request.id_column
        )));
    }
    Ok(())
}
