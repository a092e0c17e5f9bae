//! How much bad input a run, or a reader of what a run made, puts up with: the one policy of every command.

use std::path::Path;

use vlmsel_shards::workspace::manifest::{Losses, Tolerated};
use vlmsel_shards::workspace::quarantine::Quarantined;

use crate::error::{Error, Result};

/// What a run or a reader puts up with.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// How much may be lost.
    pub tolerated: Tolerated,
    /// Nothing may.
    pub strict: bool,
}

/// What there is too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// Something is bad, and nothing may be.
    Any,
    /// Files.
    Files,
    /// Records.
    Records,
}

impl Tolerance {
    /// Whether `bad` of `input` records and so many files are more than this puts up with.
    pub fn exceeded(&self, input: u64, bad: u64, files: u64) -> Option<Excess> {
        if files > self.tolerated.allow_bad_files {
            Some(Excess::Files)
        } else if self.strict && (bad > 0 || files > 0) {
            Some(Excess::Any)
        } else if bad as f64 > self.tolerated.max_bad_fraction * input as f64 {
            Some(Excess::Records)
        } else {
            None
        }
    }

    fn error(&self, text: String) -> Error {
        if self.strict { Error::Strict(text) } else { Error::TooMuchUnreadable(text) }
    }

    /// Under `--strict` a bad record ends the run.
    ///
    /// # Errors
    /// Exit 5.
    pub fn refuse(&self, bad: &Quarantined) -> Result<()> {
        if !self.strict {
            return Ok(());
        }
        let place = bad.position.map(|at| format!(", {} {at}", bad.unit)).unwrap_or_default();
        let key = bad.key.as_deref().map(|key| format!(", key {key:?}")).unwrap_or_default();
        Err(Error::Strict(format!(
            "{}{place}{key}: {} ({:?}); without --strict such records are put aside",
            bad.file, bad.reason, bad.detail
        )))
    }

    /// Judges a run by what it read: `damaged` names the files that could not be read to their end, and why.
    ///
    /// # Errors
    /// Exit 3, or 5 under `--strict`, with what to accept it with.
    pub fn judge(&self, input: u64, bad: u64, damaged: &[String], where_listed: &str) -> Result<()> {
        let fraction = bad as f64 / input.max(1) as f64;
        match self.exceeded(input, bad, damaged.len() as u64) {
            Some(Excess::Files) => {
                let shown = damaged.iter().take(10).map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n");
                let more = damaged.len().saturating_sub(10);
                let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
                Err(self.error(format!(
                    "{} file(s) cannot be read to their end, {} allowed:\n{shown}{more}\nRepair or leave them out, or keep what can be read with --allow-bad-files {}",
                    damaged.len(),
                    self.tolerated.allow_bad_files,
                    damaged.len()
                )))
            }
            // Read by an earlier run, which was not strict.
            Some(Excess::Any) if bad > 0 => Err(self.error(format!(
                "{bad} of {input} records cannot be used: {where_listed}; without --strict they are put aside"
            ))),
            Some(Excess::Records) => Err(self.error(format!(
                "{bad} of {input} records cannot be used ({fraction:.4}, allowed {}): {where_listed}\n`vlmsel doctor` says what is wrong with each; accept it with --max-bad-fraction {:.4}",
                self.tolerated.max_bad_fraction,
                rounded_up(fraction)
            ))),
            // Files that are allowed.
            Some(Excess::Any) | None => Ok(()),
        }
    }

    /// Refuses what is in `folder` if the run that made it lost more than this puts up with.
    ///
    /// # Errors
    /// Exit 3, or 5 under `--strict`, with what to accept it with.
    pub fn accept(&self, folder: &Path, losses: Option<&Losses>) -> Result<()> {
        let Some(losses) = losses else { return Ok(()) };
        let Losses { input, quarantined, bad_files, .. } = losses;
        if self.exceeded(*input, *quarantined, bad_files.len() as u64).is_none() {
            return Ok(());
        }
        let mut what = Vec::new();
        let mut advice = Vec::new();
        if *quarantined > 0 {
            what.push(format!("{quarantined} of {input} records, which could not be used"));
            let fraction = *quarantined as f64 / (*input).max(1) as f64;
            advice.push(format!("--max-bad-fraction {:.4}", rounded_up(fraction)));
        }
        if !bad_files.is_empty() {
            let first = bad_files.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            what.push(format!("{} file(s) that could not be read whole ({first})", bad_files.len()));
            advice.push(format!("--allow-bad-files {}", bad_files.len()));
        }
        let text = format!("{} was made without {}", folder.display(), what.join(" and without "));
        let advice = advice.join(" ");
        Err(self.error(if self.strict {
            format!("{text}; without --strict it may be accepted with {advice}")
        } else {
            format!("{text}; mend the data and make it again, or accept it with {advice}")
        }))
    }
}

/// A fraction with four digits that is not below the real one.
fn rounded_up(fraction: f64) -> f64 {
    (fraction * 1e4).ceil() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exceeded(fraction: f64, files: u64, strict: bool, found: (u64, u64, u64)) -> Option<Excess> {
        let tolerated = Tolerated { max_bad_fraction: fraction, allow_bad_files: files };
        Tolerance { tolerated, strict }.exceeded(found.0, found.1, found.2)
    }

    #[test]
    fn just_as_much_as_is_allowed_is_accepted() {
        assert_eq!(exceeded(0.1, 1, false, (100, 10, 1)), None);
        assert_eq!(exceeded(0.1, 1, false, (100, 11, 1)), Some(Excess::Records));
        assert_eq!(exceeded(0.1, 1, false, (100, 11, 2)), Some(Excess::Files));
        assert_eq!(exceeded(0.1, 1, true, (100, 1, 0)), Some(Excess::Any));
        assert_eq!(exceeded(0.0, 0, true, (100, 0, 0)), None);
        assert_eq!(exceeded(0.0, 0, false, (0, 0, 0)), None);
    }
}
