//! Which of several copies is the best: the order in which keepers are chosen.

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt32Type;
use serde_json::Value;

use super::content::{Images, Texts};
use super::row_set::{Ranks, RowSet};
use super::rows::{Batch, IndexRows};
use super::scores::{Scores, ordered};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// One thing that makes a record better than another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Criterion {
    /// A lower number in a column; records without one come last.
    Lowest(String),
    /// A higher one.
    Highest(String),
    /// A source that is named earlier; those that are not named come last.
    Sources(Vec<String>),
    /// Its place in the index.
    First,
    /// More pixels in all its images, then a longer text in bytes.
    Largest,
}

/// Numbers of the index by which records can be ordered; all others are looked for in the scores.
const OF_INDEX: [&str; 2] = ["n_images", "n_turns"];

impl Criterion {
    fn parse(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("lowest", column)) if !column.is_empty() => Ok(Self::Lowest(column.to_owned())),
            Some(("highest", column)) if !column.is_empty() => Ok(Self::Highest(column.to_owned())),
            Some(("source", names)) if !names.is_empty() => {
                Ok(Self::Sources(names.split(',').map(|name| name.trim().to_owned()).collect()))
            }
            None if text == "first" => Ok(Self::First),
            None if text == "largest" => Ok(Self::Largest),
            _ => Err(Error::usage(format!(
                "--keep {text}: it is lowest:COLUMN, highest:COLUMN, source:NAME,NAME, largest or first"
            ))),
        }
    }

    /// Reads the options; where there are none, the lowest perplexity is kept if there are scores, and else the largest.
    ///
    /// # Errors
    /// Exit 2, with what is possible.
    pub fn parse_all(texts: &[String], has_scores: bool) -> Result<Vec<Self>> {
        if texts.is_empty() {
            return Ok(vec![if has_scores { Self::Lowest("ppl".to_owned()) } else { Self::Largest }]);
        }
        let criteria = texts.iter().map(|text| Self::parse(text)).collect::<Result<Vec<_>>>()?;
        for criterion in &criteria {
            if let (Some(column), false) = (criterion.score_column(), has_scores) {
                return Err(Error::usage(format!(
                    "--keep {criterion}: the index has no number {column:?} (it has {}); give the scores with --scores",
                    OF_INDEX.join(", ")
                )));
            }
        }
        Ok(criteria)
    }

    fn score_column(&self) -> Option<&str> {
        match self {
            Self::Lowest(column) | Self::Highest(column) if !OF_INDEX.contains(&column.as_str()) => Some(column),
            _ => None,
        }
    }

    fn index_columns(&self) -> Vec<&str> {
        match self {
            Self::Lowest(column) | Self::Highest(column) if self.score_column().is_none() => vec![column],
            Self::Largest => vec!["images", "text", "conversations"],
            _ => Vec::new(),
        }
    }
}

impl std::fmt::Display for Criterion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lowest(column) => write!(f, "lowest:{column}"),
            Self::Highest(column) => write!(f, "highest:{column}"),
            Self::Sources(names) => write!(f, "source:{}", names.join(",")),
            Self::First => f.write_str("first"),
            Self::Largest => f.write_str("largest"),
        }
    }
}

/// The criteria as a manifest records them.
pub fn to_json(criteria: &[Criterion]) -> Value {
    criteria.iter().map(ToString::to_string).collect()
}

/// Makes keys of rows that order as the criteria say, the best first.
pub struct KeepOrder<'a> {
    criteria: &'a [Criterion],
    index: &'a IndexRows,
    ranks: &'a Ranks<'a>,
    /// For each criterion over a score, the numbers of the rows; 0 says that there is none.
    numbers: Vec<Vec<u64>>,
}

impl<'a> KeepOrder<'a> {
    /// Reads the scores of `rows` that the criteria need.
    ///
    /// # Errors
    /// Exit 2 for a column that is not there or is no number.
    pub fn new(
        criteria: &'a [Criterion],
        index: &'a IndexRows,
        scores: Option<&Scores>,
        rows: &RowSet,
        ranks: &'a Ranks<'a>,
        progress: &Progress,
    ) -> Result<Self> {
        let mut numbers = Vec::new();
        for criterion in criteria {
            let mut of_rows = Vec::new();
            if let (Some(column), Some(scores)) = (criterion.score_column(), scores) {
                of_rows = vec![0; rows.count() as usize];
                let is_highest = matches!(criterion, Criterion::Highest(_));
                scores.each(column, progress, |row, value| {
                    if rows.contains(row) {
                        of_rows[ranks.before(row) as usize] = present(value, is_highest);
                    }
                })?;
            }
            numbers.push(of_rows);
        }
        Ok(Self { criteria, index, ranks, numbers })
    }

    /// Columns of the index that the keys are made of.
    pub fn columns(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.criteria.iter().flat_map(Criterion::index_columns).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The columns of a batch, ready for [`KeepOrder::write`].
    ///
    /// # Errors
    /// Where a column is not as an index has it.
    pub fn of<'b>(&self, batch: &'b Batch<'_>) -> Result<KeyColumns<'b>> {
        let is_largest = self.criteria.contains(&Criterion::Largest);
        let images = is_largest.then(|| Pixels::of(&batch.columns)).transpose()?;
        let texts = is_largest.then(|| Texts::of(&batch.columns)).transpose()?;
        let mut numbers = Vec::new();
        for criterion in self.criteria {
            let column = match criterion {
                Criterion::Lowest(name) | Criterion::Highest(name) if criterion.score_column().is_none() => {
                    batch.columns.column_by_name(name).and_then(ordered)
                }
                _ => None,
            };
            numbers.push(column);
        }
        Ok(KeyColumns { images, texts, numbers, part: batch.part })
    }

    /// Appends the key of a batch's row.
    ///
    /// # Errors
    /// Where a conversation is none.
    pub fn write(&self, columns: &KeyColumns<'_>, at: usize, row: u32, out: &mut Vec<u8>) -> Result<()> {
        for (number, criterion) in self.criteria.iter().enumerate() {
            match criterion {
                Criterion::Lowest(_) | Criterion::Highest(_) => {
                    let is_highest = matches!(criterion, Criterion::Highest(_));
                    let key = match &columns.numbers[number] {
                        Some(values) => values[at].map_or(0, |value| present(value, is_highest)),
                        None => self.numbers[number][self.ranks.before(row) as usize],
                    };
                    // What has no number comes last.
                    out.extend_from_slice(&key.wrapping_sub(1).to_be_bytes());
                }
                Criterion::Sources(names) => {
                    let source = self.index.parts[columns.part].unit.split('/').next().unwrap_or_default();
                    let place = names.iter().position(|name| name == source).unwrap_or(names.len());
                    out.extend_from_slice(&(place as u32).to_be_bytes());
                }
                Criterion::First => out.extend_from_slice(&row.to_be_bytes()),
                Criterion::Largest => {
                    let pixels = columns.images.as_ref().map_or(0, |images| images.of_row(at));
                    let text = columns.texts.as_ref().map(|texts| texts.of_row(at)).transpose()?.flatten();
                    out.extend_from_slice(&(!pixels).to_be_bytes());
                    out.extend_from_slice(&(!(text.map_or(0, |text| text.len()) as u64)).to_be_bytes());
                }
            }
        }
        Ok(())
    }
}

/// A number that is there: never 0, and turned round where the highest is the best.
fn present(value: u64, is_highest: bool) -> u64 {
    (if is_highest { !value } else { value }).saturating_add(1)
}

/// What the keys of a batch are made of.
pub struct KeyColumns<'b> {
    images: Option<Pixels<'b>>,
    texts: Option<Texts<'b>>,
    numbers: Vec<Option<Vec<Option<u64>>>>,
    part: usize,
}

/// Sizes of images.
struct Pixels<'b> {
    images: Images<'b>,
    widths: &'b [u32],
    heights: &'b [u32],
}

impl<'b> Pixels<'b> {
    fn of(batch: &'b RecordBatch) -> Result<Self> {
        let images = Images::of(batch)?;
        let side = |name: &str| {
            let list = batch.column_by_name("images").and_then(|column| column.as_list_opt::<i32>());
            let column =
                list.and_then(|list| list.values().as_struct_opt()).and_then(|table| table.column_by_name(name));
            let sides = column.and_then(|column| column.as_primitive_opt::<UInt32Type>());
            sides.map(|sides| &sides.values()[..]).ok_or_else(|| Error::Bug(format!("images have no {name}")))
        };
        Ok(Self { images, widths: side("width")?, heights: side("height")? })
    }

    fn of_row(&self, row: usize) -> u64 {
        let images = self.images.of_row(row);
        images.map(|at| u64::from(self.widths[at]) * u64::from(self.heights[at])).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_possible() {
        let read = |texts: &[&str], scores| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            Criterion::parse_all(&texts, scores).map(|all| to_json(&all).to_string()).map_err(|error| error.to_string())
        };
        assert_eq!(read(&[], true).unwrap(), r#"["lowest:ppl"]"#);
        assert_eq!(read(&[], false).unwrap(), r#"["largest"]"#);
        assert_eq!(read(&["source:a, b", "highest:n_turns"], false).unwrap(), r#"["source:a,b","highest:n_turns"]"#);
        assert!(read(&["lowest:ppl"], false).unwrap_err().contains("--scores"));
        for wrong in ["best", "lowest", "lowest:", "source:", "first:ppl"] {
            assert!(read(&[wrong], true).unwrap_err().contains("lowest:COLUMN"), "{wrong}");
        }
    }
}
