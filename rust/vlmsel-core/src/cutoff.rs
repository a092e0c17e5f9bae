//! Where an order is cut: best first, which of the ordered rows are selected.

/// What ends a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// So many selected rows.
    Rows(u64),
    /// The first row whose tokens do not fit.
    Tokens(u64),
    /// The last row.
    All,
}

/// How ordered rows are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Rows of a lower rank are outranked; ranks count rows, repeats included.
    pub start_rank: u64,
    /// Rows from this rank on are outranked.
    pub end_rank: Option<u64>,
    /// An id is selected once.
    pub distinct: bool,
    /// When to stop.
    pub limit: Limit,
}

/// What became of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Selected.
    Selected,
    /// Its id is taken.
    Repeated,
    /// In front of the first rank that counts.
    Outranked,
    /// Neither this row nor any behind it is selected.
    Stop,
}

/// The state of a walk; feed it the rows in order.
#[derive(Debug, Clone)]
pub struct Walk {
    rule: Rule,
    rank: u64,
    left: u64,
    /// Rows selected so far.
    pub selected: u64,
    repeats_behind_last: u64,
    repeats: u64,
}

impl Walk {
    /// A walk whose first row has rank `first_rank` (rows in front of it were not even collected).
    pub fn new(rule: Rule, first_rank: u64) -> Self {
        let left = match rule.limit {
            Limit::Rows(left) | Limit::Tokens(left) => left,
            Limit::All => u64::MAX,
        };
        Self { rule, rank: first_rank, left, selected: 0, repeats_behind_last: 0, repeats: 0 }
    }

    /// How rows are chosen.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// The same walk before its first row, for ranks alone: neither repeats nor a limit count.
    #[must_use]
    pub fn by_rank_alone(&self) -> Self {
        Self::new(Rule { distinct: false, limit: Limit::All, ..self.rule }, self.rank)
    }

    /// Judges the next row. `is_repeat` is asked only where it matters, and must remember the id.
    pub fn judge<E>(&mut self, tokens: u64, is_repeat: impl FnOnce() -> Result<bool, E>) -> Result<Verdict, E> {
        let rank = self.rank;
        if self.is_over() {
            return Ok(Verdict::Stop);
        }
        self.rank += 1;
        if rank < self.rule.start_rank {
            return Ok(Verdict::Outranked);
        }
        if self.rule.distinct && is_repeat()? {
            self.repeats_behind_last += 1;
            return Ok(Verdict::Repeated);
        }
        match self.rule.limit {
            Limit::Rows(_) => self.left -= 1,
            Limit::Tokens(_) if tokens > self.left => {
                self.left = 0;
                self.rule.end_rank = Some(rank);
                return Ok(Verdict::Stop);
            }
            Limit::Tokens(_) => self.left -= tokens,
            Limit::All => {}
        }
        self.selected += 1;
        self.repeats += std::mem::take(&mut self.repeats_behind_last);
        Ok(Verdict::Selected)
    }

    /// Whether no further row can be selected, whatever it is.
    pub fn is_over(&self) -> bool {
        self.rule.end_rank.is_some_and(|end| self.rank >= end)
            || (self.left == 0 && matches!(self.rule.limit, Limit::Rows(_)))
    }

    /// Rows at or above the last selected one whose id was taken.
    pub fn repeated(&self) -> u64 {
        self.repeats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rule: Rule, rows: &[(u32, u64)]) -> (Vec<usize>, u64) {
        let (mut walk, mut seen, mut selected) = (Walk::new(rule, 0), std::collections::HashSet::new(), Vec::new());
        for (at, (id, tokens)) in rows.iter().enumerate() {
            match walk.judge(*tokens, || Ok::<_, ()>(!seen.insert(*id))).unwrap() {
                Verdict::Selected => selected.push(at),
                Verdict::Stop => break,
                _ => {}
            }
        }
        (selected, walk.repeated())
    }

    #[test]
    fn repeats_behind_the_last_selected_row_are_outranked() {
        let rule = Rule { start_rank: 0, end_rank: None, distinct: true, limit: Limit::Rows(2) };
        assert_eq!(run(rule, &[(1, 0), (1, 0), (2, 0), (1, 0)]), (vec![0, 2], 1));
        assert_eq!(run(Rule { limit: Limit::All, ..rule }, &[(1, 0), (2, 0), (1, 0)]), (vec![0, 1], 0));
        assert_eq!(run(Rule { limit: Limit::Rows(0), ..rule }, &[(1, 0)]), (vec![], 0));
    }

    #[test]
    fn bands_collapse_repeats_inside_only() {
        let rule = Rule { start_rank: 1, end_rank: Some(4), distinct: true, limit: Limit::All };
        assert_eq!(run(rule, &[(1, 0), (1, 0), (1, 0), (2, 0), (3, 0)]), (vec![1, 3], 1));
    }

    #[test]
    fn a_budget_stops_at_the_first_row_that_does_not_fit() {
        let rule = Rule { start_rank: 0, end_rank: None, distinct: true, limit: Limit::Tokens(10) };
        assert_eq!(run(rule, &[(1, 4), (1, 4), (2, 6), (3, 0), (4, 1), (5, 0)]), (vec![0, 2, 3], 1));
    }
}
