//! The first step: who is like whom. An output of its own, which knows nothing of scores, so that other keepers can be chosen without
//! comparing anything again.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use vlmsel_core::word_set::SetsOf;
use vlmsel_shards::workspace::manifest::{InputRecord, Manifest};
use vlmsel_shards::workspace::output::{Output, OutputSpec, Summary};

use super::alike::{Edge, Relation};
use super::exact::{self, Bounds, Equality};
use super::images::{self, ImageRule};
use super::kinds::Kind;
use super::near_pair;
use super::outside::{Outside, SAMPLED_ROWS};
use super::relation::{ColumnWriter, classes_file, edges_file, outside_file};
use super::rows::IndexRows;
use super::texts;
use crate::error::{Error, Result};
use crate::stage::{self, Done, Stage, Unit};

/// The command that the output is of.
pub const COMMAND: &str = "dedup-edges";

/// What all kinds share.
pub struct Finding<'a> {
    /// The index.
    pub index: &'a IndexRows,
    /// The kinds, in order.
    pub kinds: &'a [Kind],
    /// How images are compared, where a kind compares them.
    pub images: Option<ImageRule>,
    /// How equality is told.
    pub equality: Equality<'a>,
    /// What near texts are sets of.
    pub sets: SetsOf,
    /// Where scratch files go; into the unfinished output if not given.
    pub scratch: Option<&'a Path>,
    /// Within which bounds.
    pub bounds: Bounds<'a>,
}

impl Finding<'_> {
    /// Makes what is missing of the edges in `folder`.
    ///
    /// # Errors
    /// Those of the kinds, and of [`Output::begin`].
    pub fn run(
        &self,
        folder: &Path,
        config: Value,
        inputs: Vec<InputRecord>,
        overwrite: bool,
    ) -> Result<(Manifest, bool)> {
        // Other keepers are asked for with --overwrite, too: edges of the same work stay.
        let stands = Manifest::read(folder).ok().flatten();
        let is_same = stands.is_some_and(|m| m.command == COMMAND && m.config == config && m.inputs == inputs);
        let spec = OutputSpec {
            path: folder.to_path_buf(),
            command: COMMAND.to_owned(),
            config,
            inputs,
            guarded: vec![self.index.folder.clone()],
            overwrite: overwrite && !is_same,
            extend: false,
            resume: true,
        };
        let unit = |kind: &Kind| Unit {
            command: COMMAND.to_owned(),
            name: kind.unit(),
            inputs: vec!["index".to_owned()],
            range: None,
        };
        let units: Vec<Unit> = self.kinds.iter().map(unit).collect();
        let ended = stage::run(self, spec, &units, 1)?;
        Ok((ended.manifest, ended.already_finished))
    }

    /// Pairs just beyond the threshold of a kind, by the same joins.
    fn outside(&self, kind: Kind, bounds: Bounds<'_>) -> Result<Option<Outside>> {
        let index = self.index.sampled(SAMPLED_ROWS);
        let Finding { kinds, equality, sets, .. } = *self;
        let (images, scratch) = (self.images.clone(), self.scratch);
        let sample = Finding { index: &index, kinds, images, equality, sets, scratch, bounds };
        Outside::find(&index, kind, bounds, |kind, bounds| sample.relation(kind, bounds))
    }

    fn relation(&self, kind: Kind, bounds: Bounds<'_>) -> Result<Relation> {
        match kind {
            Kind::Exact(field) => {
                let classes = exact::classes(self.index, field, self.equality, bounds)?;
                Ok(Relation { classes, edges: Vec::new(), detail: json!({}) })
            }
            Kind::NearText(threshold) => texts::relation(self.index, threshold, self.sets, self.equality, bounds),
            Kind::NearImage(radius) => {
                let rule = self.images.as_ref().ok_or_else(|| Error::Bug("images without codes".to_owned()))?;
                images::relation(self.index, radius, rule, bounds)
            }
            Kind::NearPair(threshold, radius) => {
                // Each of the two is held while the other is made.
                let half = Bounds { memory: bounds.memory / 2, ..bounds };
                let texts = self.relation(Kind::NearText(threshold), half)?;
                let images = self.relation(Kind::NearImage(radius), half)?;
                near_pair::relation(self.index.rows, &texts, &images, half)
            }
        }
    }
}

impl Stage for Finding<'_> {
    fn accept(&self, _standing: &Manifest) -> Result<()> {
        Ok(())
    }

    fn work(&self, unit: &Unit, output: &Output) -> Result<Done> {
        let kind = self.kinds.iter().find(|kind| kind.unit() == unit.name);
        let kind = *kind.ok_or_else(|| Error::Bug(format!("there is no kind {}", unit.name)))?;
        let of_output = output.scratch()?;
        let bounds = Bounds { scratch: self.scratch.unwrap_or(&of_output), ..self.bounds };
        let Relation { classes, edges, mut detail } = self.relation(kind, bounds)?;
        let (classes_name, edges_name) = (classes_file(&unit.name), edges_file(&unit.name));
        let mut writer = ColumnWriter::classes(&output.temporary(&classes_name)?)?;
        let mut count = 0_u64;
        classes.in_order(|class, rows| {
            count += 1;
            bounds.progress.check()?;
            rows.iter().try_for_each(|row| writer.push(class, *row))
        })?;
        let (rows, classes_hash) = writer.finish()?;
        let mut writer = ColumnWriter::edges(&output.temporary(&edges_name)?)?;
        edges.iter().try_for_each(|Edge { a, b, distance }| writer.push_edge(*a, *b, *distance))?;
        drop((classes, edges));
        let (edges, edges_hash) = writer.finish()?;
        let mut files = vec![(classes_name, Some(classes_hash)), (edges_name, Some(edges_hash))];
        if let Some(outside) = self.outside(kind, bounds)? {
            let name = outside_file(&unit.name);
            let mut writer = ColumnWriter::edges(&output.temporary(&name)?)?;
            outside.pairs.iter().try_for_each(|Edge { a, b, distance }| writer.push_edge(*a, *b, *distance))?;
            files.push((name, Some(writer.finish()?.1)));
            detail["outside"] = outside.detail();
        }
        let counts = [("classes", count), ("rows", rows), ("edges", edges)];
        Ok(Done {
            files,
            rows,
            counts: counts.into_iter().map(|(name, n)| (name.to_owned(), n)).collect(),
            detail,
            noted: None,
        })
    }

    fn conclude(&self, done: u64, output: &Output) -> Result<Summary> {
        let parts = output.committed();
        let sum = |name: &str| parts.values().filter_map(|part| part.counts.get(name)).sum::<u64>();
        let counts: BTreeMap<String, u64> =
            ["classes", "rows", "edges"].iter().map(|name| ((*name).to_owned(), sum(name))).collect();
        Ok(Summary {
            counts,
            roots: Value::Null,
            provenance: json!({}),
            run: json!({ "kinds_compared": done }),
            losses: None,
        })
    }
}
