//! All pairs of sets of up to 64 items whose overlap reaches a Jaccard threshold, each once and none missed.
//!
//! Two such sets share one of the first few tokens of both (prefix filtering). Lists are grouped by the tokens of their
//! prefixes; a group that is large is split by the next token that its lists share, for which the prefix is one longer, and so
//! on. In a small group every pair is compared: by lengths, by places left behind the shared token, by bitmaps of 64 bits, and
//! at last by a walk over both lists that stops as soon as too much differs. A pair is told only where the tokens that lead
//! to its group are the first that it shares, so that no pair is told twice and no table of pairs is needed.
//!
//! Prefix filtering: Chaudhuri et al., ICDE 2006; Bayardo et al., WWW 2007. What is worth filtering: Mann et al., PVLDB 2016.

mod collect;
mod plan;
#[cfg(test)]
mod tests;

use crate::tokens::TokenLists;

pub use collect::Part;
pub use plan::{MAX_ITEMS, PrefixJoin};

use collect::Entry;

/// Groups of more lists are split, if that saves comparisons.
const LARGEST_GROUP: usize = 64;

/// Takes what the join finds.
pub trait Sink {
    /// Why it wants no more.
    type Error;

    /// Two lists whose overlap reaches the threshold, by their places among the lists, in no order.
    ///
    /// # Errors
    /// Ends the join.
    fn pair(&mut self, a: usize, b: usize) -> Result<(), Self::Error>;

    /// Called before each group, and often within large ones.
    ///
    /// # Errors
    /// Ends the join.
    fn pause(&mut self) -> Result<(), Self::Error>;
}

impl PrefixJoin {
    /// Tells every pair whose first shared token is in `part`. Lists of more than [`MAX_ITEMS`] are left out. With `apart`,
    /// only pairs of one list before that place and one from it on.
    ///
    /// Memory: twice [`PrefixJoin::entries`] of the part, at [`PrefixJoin::ENTRY_BYTES`] each.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn run<S: Sink>(
        &self,
        lists: &TokenLists,
        part: Part,
        apart: Option<usize>,
        sink: &mut S,
    ) -> Result<(), S::Error> {
        let mut entries = self.collect(lists, part);
        let mut walk = Walk { plan: self, lists, apart, sink, path: Vec::new() };
        for group in entries.chunk_by_mut(|a, b| a.token == b.token) {
            walk.group(group)?;
        }
        Ok(())
    }
}

/// The way down from a token to groups of lists that share more.
struct Walk<'a, S> {
    plan: &'a PrefixJoin,
    lists: &'a TokenLists,
    apart: Option<usize>,
    sink: &'a mut S,
    /// Tokens that all lists of the group share.
    path: Vec<u32>,
}

impl<S: Sink> Walk<'_, S> {
    /// All pairs of entries of one token, which are sorted by length.
    fn group(&mut self, entries: &mut [Entry]) -> Result<(), S::Error> {
        let Some(first) = entries.first() else { return Ok(()) };
        if entries.len() < 2 {
            return Ok(());
        }
        self.sink.pause()?;
        self.path.push(first.token);
        let result = match (entries.len() > LARGEST_GROUP).then(|| self.split(entries)).flatten() {
            Some(mut children) => self.exhausted(entries).and_then(|()| {
                children.chunk_by_mut(|a, b| a.token == b.token).try_for_each(|group| self.group(group))
            }),
            None => self.leaf(entries),
        };
        self.path.pop();
        result
    }

    /// Entries of the next tokens that pairs of this group may share, by token; `None` where comparing all pairs is cheaper,
    /// as where most of the lists are alike.
    fn split(&mut self, entries: &[Entry]) -> Option<Vec<Entry>> {
        let mut children = Vec::new();
        for entry in entries {
            let list = self.lists.get(entry.list as usize);
            let reach = (self.plan.prefix(list.len()) + self.path.len()).min(list.len());
            let from = usize::from(entry.position) + 1;
            for (position, token) in list.iter().enumerate().take(reach).skip(from) {
                if !crate::tokens::is_alone(*token) {
                    children.push(entry.at(*token, position));
                }
            }
        }
        collect::sort(&mut children);
        let pairs = |n: usize| n as u64 * (n as u64).saturating_sub(1) / 2;
        let below: u64 = children.chunk_by(|a, b| a.token == b.token).map(|group| pairs(group.len())).sum();
        (below <= pairs(entries.len()) / 2).then_some(children)
    }

    /// Pairs that need share no more than the tokens of this group: no group below would have them.
    fn exhausted(&mut self, entries: &[Entry]) -> Result<(), S::Error> {
        let level = self.path.len();
        let mut lengths: Vec<&[Entry]> = entries.chunk_by(|a, b| a.length == b.length).collect();
        lengths.retain(|alike| self.plan.least(usize::from(alike[0].length)) <= level);
        for (at, short) in lengths.iter().enumerate() {
            for long in &lengths[at..] {
                if self.plan.required(short[0].length, long[0].length) != Some(level) {
                    continue;
                }
                for (at, a) in short.iter().enumerate() {
                    self.sink.pause()?;
                    let others = if short[0].length == long[0].length { &long[at + 1..] } else { long };
                    for b in others {
                        self.tell(a, b)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Compares all pairs.
    fn leaf(&mut self, entries: &[Entry]) -> Result<(), S::Error> {
        let level = self.path.len();
        for (at, a) in entries.iter().enumerate() {
            if entries.len() > LARGEST_GROUP {
                self.sink.pause()?;
            }
            let longest = self.plan.longest(a.length);
            let after_a = a.length - a.position;
            for b in &entries[at + 1..] {
                if b.length > longest {
                    break;
                }
                if a.differing_at_least(b) > self.plan.slack(a.length, b.length) {
                    continue;
                }
                let Some(required) = self.plan.required(a.length, b.length) else { continue };
                // Fewer than the shared tokens: told above. More than those and what is left behind the last: never.
                let reachable = level - 1 + usize::from(after_a.min(b.length - b.position));
                if required >= level && required <= reachable {
                    self.tell(a, b)?;
                }
            }
        }
        Ok(())
    }

    /// Tells a pair if it reaches the threshold and has this path and no other.
    fn tell(&mut self, a: &Entry, b: &Entry) -> Result<(), S::Error> {
        let (a, b) = (a.list as usize, b.list as usize);
        if self.apart.is_some_and(|border| (a < border) == (b < border)) {
            return Ok(());
        }
        let (list_a, list_b) = (self.lists.get(a), self.lists.get(b));
        let slack = self.plan.slack(list_a.len() as u8, list_b.len() as u8);
        if reaches(list_a, list_b, slack, &self.path) { self.sink.pair(a, b) } else { Ok(()) }
    }
}

/// Whether the lists differ in at most `slack` tokens, counted on both sides, and `path` is the first that they share.
fn reaches(a: &[u32], b: &[u32], slack: u32, path: &[u32]) -> bool {
    let (mut i, mut j, mut shared, mut differing) = (0, 0, 0, 0);
    while i < a.len() && j < b.len() {
        let order = a[i].cmp(&b[j]);
        if order.is_eq() {
            if path.get(shared).is_some_and(|token| *token != a[i]) {
                return false;
            }
            shared += 1;
        } else {
            differing += 1;
            if differing > slack {
                return false;
            }
        }
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
    }
    differing as usize + (a.len() - i) + (b.len() - j) <= slack as usize
}

/// How many tokens two ascending lists share, or `None` as soon as it is fewer than `required`.
pub fn shared_tokens(a: &[u32], b: &[u32], required: usize) -> Option<usize> {
    let slack = (a.len() + b.len()).checked_sub(2 * required)?;
    let (mut i, mut j, mut shared) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        let order = a[i].cmp(&b[j]);
        shared += usize::from(order.is_eq());
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
        if i + j - 2 * shared > slack {
            return None;
        }
    }
    (shared >= required).then_some(shared)
}
