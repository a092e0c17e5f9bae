//! The one driver of every stage: begin, what is left, each, commit, finish.
//!
//! A [`Unit`] of work is plain data, so that any process can do it. [`Run`] is the ceremony around the units, one step at a time,
//! for whoever has a loop of its own (stages in Python); [`run`] is the loop of the stages in Rust.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vlmsel_shards::workspace::manifest::{Manifest, PartRecord};
use vlmsel_shards::workspace::noted::Noted;
use vlmsel_shards::workspace::output::{Finished, Opening, Output, OutputSpec, Summary};

use crate::error::{Error, Result};
use crate::run_options::RunOptions;

/// A piece of a command's work, which makes one part of its output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// The command.
    pub command: String,
    /// The part's name in the manifest.
    pub name: String,
    /// Names of the inputs that it reads, as the manifest has them.
    pub inputs: Vec<String>,
    /// Which of their rows, or of the output's; `None` for all.
    #[serde(default)]
    pub range: Option<Range<u64>>,
}

/// What doing a unit came to. Its files lie at their temporary places ([`Output::temporary`]).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Done {
    /// Names of its files, with their BLAKE3 where it was computed on the way.
    pub files: Vec<(String, Option<blake3::Hash>)>,
    /// Rows of the part.
    pub rows: u64,
    /// Input rows by class.
    pub counts: BTreeMap<String, u64>,
    /// Facts for the manifest.
    pub detail: Value,
    /// What the file system said of what it read, before it was read.
    pub noted: Option<Noted>,
}

/// One stage: what its units are worth, and how each is done.
pub trait Stage: Sync {
    /// Judges what stands, for a run that has the same inputs and options.
    ///
    /// # Errors
    /// Where that run puts up with less.
    fn accept(&self, standing: &Manifest) -> Result<()>;

    /// Whether a part is what its unit would give now.
    ///
    /// # Errors
    /// Where the two cannot be compared.
    fn is_current(&self, _unit: &Unit, _part: &PartRecord, _noted: Option<&Noted>) -> Result<bool> {
        Ok(true)
    }

    /// Says that a unit gives something else than what stands.
    fn changed(&self, unit: &Unit) -> Error {
        Error::Bug(format!("{} is another one than before", unit.name))
    }

    /// What must be known before the first unit, of those that are left.
    ///
    /// # Errors
    /// The stage's.
    fn prepare(&self, _left: &[Unit], _output: &Output) -> Result<()> {
        Ok(())
    }

    /// Does a unit.
    ///
    /// # Errors
    /// What ends the run.
    fn work(&self, unit: &Unit, output: &Output) -> Result<Done>;

    /// Looks at all parts when every unit is done.
    ///
    /// # Errors
    /// What must not be published.
    fn conclude(&self, done: u64, output: &Output) -> Result<Summary>;
}

/// What stands of a unit is believed only if this says so.
pub type IsCurrent<'a> = &'a dyn Fn(&Unit, &PartRecord, Option<&Noted>) -> Result<bool>;

/// A run of a stage under way.
#[derive(Debug)]
pub struct Run {
    output: Output,
    left: Vec<Unit>,
    /// Names of those that are done only to see whether what stands is still what their inputs give.
    compared: HashSet<String>,
    /// All is done; what stands is only compared.
    compares: bool,
}

/// What [`Run::begin`] found.
#[derive(Debug)]
pub enum Begun {
    /// Nothing is left to do, and nothing was touched.
    Finished(Box<Manifest>),
    /// There is something left.
    Left(Box<Run>),
}

impl Run {
    /// Opens the output and finds out which of the units are left.
    ///
    /// # Errors
    /// Those of [`Output::begin`], of `accept` and `is_current`.
    pub fn begin(
        spec: OutputSpec,
        units: &[Unit],
        accept: &dyn Fn(&Manifest) -> Result<()>,
        is_current: IsCurrent<'_>,
    ) -> Result<Begun> {
        let overwrite = spec.overwrite;
        let output = match Output::begin(spec)? {
            Opening::Finished(finished) => return Self::stand(*finished, units, accept, is_current),
            Opening::Open(output) => *output,
        };
        let (mut left, mut compared, mut forgotten) = (Vec::new(), HashSet::new(), Vec::new());
        let committed = output.committed();
        for unit in units {
            let Some(part) = committed.get(&unit.name) else {
                left.push(unit.clone());
                continue;
            };
            if is_current(unit, part, output.noted(&unit.name).as_ref())? {
                continue;
            }
            // What stands in a finished output is not changed unasked.
            let stands = output.standing().is_some_and(|standing| standing.parts.contains(part));
            if stands && !overwrite {
                compared.insert(unit.name.clone());
            } else {
                forgotten.push(unit.name.as_str());
            }
            left.push(unit.clone());
        }
        output.forget(&forgotten)?;
        Ok(Begun::Left(Box::new(Self { output, left, compared, compares: false })))
    }

    /// A finished output of the same inputs, by their fingerprints: units whose files may have changed all the same are done
    /// again and compared.
    fn stand(
        finished: Finished,
        units: &[Unit],
        accept: &dyn Fn(&Manifest) -> Result<()>,
        is_current: IsCurrent<'_>,
    ) -> Result<Begun> {
        let mut left = Vec::new();
        let parts: HashMap<&str, &PartRecord> =
            finished.manifest().parts.iter().map(|part| (part.unit.as_str(), part)).collect();
        for unit in units {
            let Some(part) = parts.get(unit.name.as_str()) else { continue };
            if !is_current(unit, part, finished.noted(&unit.name))? {
                left.push(unit.clone());
            }
        }
        accept(finished.manifest())?;
        if left.is_empty() {
            return Ok(Begun::Finished(Box::new(finished.manifest().clone())));
        }
        let compared = left.iter().map(|unit| unit.name.clone()).collect();
        Ok(Begun::Left(Box::new(Self { output: finished.again()?, left, compared, compares: true })))
    }

    /// The output.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Units that are left, in the order in which they were given.
    pub fn left(&self) -> &[Unit] {
        &self.left
    }

    /// Whether nothing will be published: what stands is only compared.
    pub fn compares(&self) -> bool {
        self.compares
    }

    /// Commits a unit that is done, or compares it with what stands: `Ok(false)` says that it is another one.
    ///
    /// # Errors
    /// The file system's.
    pub fn commit(&self, unit: &str, done: Done) -> Result<bool> {
        self.judge(unit, done, |done, names| {
            self.output.commit(unit, names, done.rows, done.counts, done.detail)?;
            if let Some(noted) = done.noted {
                self.output.note(unit, noted);
            }
            Ok(())
        })
    }

    /// As [`Run::commit`], for a unit that took this long: it may wait for others, to be made durable with them
    /// ([`Output::commit_soon`]).
    ///
    /// # Errors
    /// The file system's.
    pub fn commit_soon(&self, unit: &str, done: Done, took: Duration) -> Result<bool> {
        self.judge(unit, done, |done, names| {
            Ok(self.output.commit_soon(unit, names, done.rows, done.counts, done.detail, done.noted, took)?)
        })
    }

    fn judge(
        &self,
        unit: &str,
        mut done: Done,
        commit: impl FnOnce(Done, &[(&str, Option<blake3::Hash>)]) -> Result<()>,
    ) -> Result<bool> {
        let files = std::mem::take(&mut done.files);
        let names: Vec<(&str, Option<blake3::Hash>)> =
            files.iter().map(|(name, hash)| (name.as_str(), *hash)).collect();
        if !self.compared.contains(unit) {
            return commit(done, &names).map(|()| true);
        }
        if !self.output.compare(unit, &names, done.rows, done.counts, done.detail)? {
            return Ok(false);
        }
        if let Some(noted) = done.noted {
            self.output.note(unit, noted);
        }
        Ok(true)
    }

    /// Publishes the output; where it was only compared, what stands is left as it is.
    ///
    /// # Errors
    /// The file system's.
    pub fn finish(self, summary: Summary) -> Result<Manifest> {
        Ok(if self.compares { self.output.stands()? } else { self.output.finish(summary)? })
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Ended {
    /// The manifest of the output.
    pub manifest: Manifest,
    /// Units that were done for it.
    pub done: u64,
    /// The output was finished before; nothing in it was touched.
    pub already_finished: bool,
}

/// Runs a stage: its units, each in one of `threads` threads, and what comes before and after them.
///
/// # Errors
/// Those of the stage and of [`Output`].
pub fn run(stage: &impl Stage, spec: OutputSpec, units: &[Unit], threads: usize) -> Result<Ended> {
    let accept = |standing: &Manifest| stage.accept(standing);
    let is_current = |unit: &Unit, part: &PartRecord, noted: Option<&Noted>| stage.is_current(unit, part, noted);
    let run = match Run::begin(spec, units, &accept, &is_current)? {
        Begun::Finished(manifest) => return Ok(Ended { manifest: *manifest, done: 0, already_finished: true }),
        Begun::Left(run) => run,
    };
    let left = run.left();
    stage.prepare(left, run.output())?;
    let all_done = RunOptions::each(threads, left, |_, unit| {
        let begun = Instant::now();
        let done = stage.work(unit, run.output())?;
        if run.commit_soon(&unit.name, done, begun.elapsed())? { Ok(()) } else { Err(stage.changed(unit)) }
    });
    // What is done is kept, also where the run ends here; and `conclude` may read it.
    let flushed = run.output().flush();
    all_done?;
    flushed?;
    let done = left.len() as u64;
    let (already_finished, done) = if run.compares() { (true, 0) } else { (false, done) };
    let summary = if already_finished { Summary::default() } else { stage.conclude(done, run.output())? };
    Ok(Ended { manifest: run.finish(summary)?, done, already_finished })
}
