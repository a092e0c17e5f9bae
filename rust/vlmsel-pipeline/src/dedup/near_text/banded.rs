//! Candidates among sets of which one is large: those whose signatures agree on a band.

use vlmsel_core::minhash::{Bands, Signer};
use vlmsel_core::prefix_join::shared_tokens;
use vlmsel_core::tokens::TokenLists;
use vlmsel_core::word_set::WordHash;

use super::run::{Run, map_in_parallel, ranges};
use super::sets::{Distinct, Words, for_each_list};
use crate::arena::Arena;
use crate::error::Result;
use crate::external_sort::Sorter;

/// Tokens whose signatures are made at once.
const BATCH_TOKENS: usize = 1 << 20;
/// Band and key, length, slot.
const RECORD_BYTES: usize = 16;

/// Gives the slots of all candidates to `take`, some more than once. Where the lists are in memory, they reach the threshold.
pub fn candidates<H: WordHash>(
    run: &Run<H>,
    distinct: &mut Distinct,
    bands: Bands,
    take: &mut dyn FnMut(u32, u32) -> Result<()>,
) -> Result<()> {
    let mut signers = Signers {
        of_threads: vec![Signer::new(bands); run.threads()],
        sorter: Sorter::new(run.scratch, run.memory() / 8),
        shortest: run.shortest_banded(),
        batch: TokenLists::default(),
        slots: Vec::new(),
        tokens: 0,
    };
    match (&distinct.lists, &mut distinct.words) {
        (Some(lists), _) => {
            for at in 0..lists.len() {
                signers.take(run, at as u32, lists.get(at))?;
            }
        }
        (None, Words::Disk(words)) => {
            for_each_list(run, words, &distinct.frequencies, |slot, tokens| signers.take(run, slot, tokens))?;
        }
        (None, Words::Memory(_)) => {}
    }
    signers.sign()?;
    groups(run, signers.sorter, distinct.lists.as_ref(), take)
}

/// Signs sets on all threads.
struct Signers {
    of_threads: Vec<Signer>,
    sorter: Sorter,
    shortest: usize,
    batch: TokenLists,
    slots: Vec<u32>,
    tokens: usize,
}

impl Signers {
    fn take<H>(&mut self, run: &Run<H>, slot: u32, tokens: &[u32]) -> Result<()> {
        if tokens.len() < self.shortest {
            return Ok(());
        }
        self.batch.push(|out| out.extend_from_slice(tokens));
        self.slots.push(slot);
        self.tokens += tokens.len();
        if self.tokens < BATCH_TOKENS {
            return Ok(());
        }
        run.progress.check()?;
        self.sign()
    }

    fn sign(&mut self) -> Result<()> {
        let (batch, slots) = (&self.batch, &self.slots);
        let work = ranges(batch.len(), self.of_threads.len()).into_iter().zip(&mut self.of_threads).collect();
        let signed = map_in_parallel(work, |(range, signer)| {
            let mut arena = Arena::default();
            for at in range {
                let tokens = batch.get(at);
                let behind = [(tokens.len() as u32).to_be_bytes(), slots[at].to_be_bytes()].concat();
                signer.for_each_band(tokens, |band, key| {
                    arena.push(&[&(u64::from(band) << 56 | key).to_be_bytes(), &behind], 0);
                });
            }
            arena
        })?;
        for mut arena in signed {
            self.sorter.append(&mut arena)?;
        }
        self.batch.clear();
        self.slots.clear();
        self.tokens = 0;
        Ok(())
    }
}

/// Walks over groups of sets that agree on a band.
fn groups<H>(
    run: &Run<H>,
    sorter: Sorter,
    lists: Option<&TokenLists>,
    take: &mut dyn FnMut(u32, u32) -> Result<()>,
) -> Result<()> {
    let mut merge = sorter.finish()?;
    let (mut key, mut group) = ([0; 8], Vec::new());
    while let Some((record, _)) = merge.next()? {
        let Some(record) = record.first_chunk::<RECORD_BYTES>() else { continue };
        let [own @ .., l0, l1, l2, l3, s0, s1, s2, s3] = *record;
        if own != key {
            pairs(run, &group, lists, take)?;
            group.clear();
            key = own;
        }
        group.push((u32::from_be_bytes([l0, l1, l2, l3]) as usize, u32::from_be_bytes([s0, s1, s2, s3])));
    }
    pairs(run, &group, lists, take)
}

/// Pairs of a group, which is sorted by length, that may be near; pairs of two small sets are not looked for here.
fn pairs<H>(
    run: &Run<H>,
    group: &[(usize, u32)],
    lists: Option<&TokenLists>,
    take: &mut dyn FnMut(u32, u32) -> Result<()>,
) -> Result<()> {
    let threshold = &run.options.threshold;
    let first_long = group.partition_point(|(length, _)| *length <= run.longest_exact());
    for (at, (short, a)) in group.iter().enumerate() {
        let largest = threshold.largest(*short);
        let others = &group[first_long.max(at + 1).min(group.len())..];
        if !others.is_empty() {
            run.progress.check()?;
        }
        for (long, b) in others.iter().take_while(|(long, _)| *long <= largest) {
            let reaches = lists.is_none_or(|lists| {
                let required = threshold.required_overlap(*short, *long);
                shared_tokens(lists.get(*a as usize), lists.get(*b as usize), required).is_some()
            });
            if reaches {
                take(*a.min(b), *a.max(b))?;
            }
        }
    }
    Ok(())
}
