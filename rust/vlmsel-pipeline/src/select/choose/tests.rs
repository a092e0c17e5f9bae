//! Choosing by cuts, set-aside repeats and runs on disk equals sorting and going through.

use std::hash::{BuildHasherDefault, Hasher};

use proptest::prelude::*;

use super::*;
use crate::select::collector::{Collector, LEAST_ROWS};
use crate::select::row::KEY_BYTES;
use vlmsel_core::cutoff::Limit;

/// Tells nothing apart.
#[derive(Default)]
struct Zero;

impl Hasher for Zero {
    fn finish(&self) -> u64 {
        0
    }
    fn write(&mut self, _: &[u8]) {}
}

fn selected(arena: &Arena, rule: Rule, hasher: impl BuildHasher) -> (Vec<Vec<u8>>, u64, u64) {
    let mut rows = Vec::new();
    let emit = &mut |picked: Vec<Row<'_>>| {
        rows.extend(picked.into_iter().map(|(row, _)| row.into_owned()));
        Ok(())
    };
    let chosen = choose_in_memory(arena, &Dropped::default(), Walk::new(rule, 0), hasher, emit).unwrap();
    (rows, chosen.selected, chosen.repeated)
}

#[test]
fn large_rows_are_handed_on_before_they_fill_the_memory() {
    let mut arena = Arena::default();
    for at in 0..20_u64 {
        arena.push(&[&at.to_be_bytes(), &[7], &vec![0; 1 << 20]], IdPlace::new(KEY_BYTES, 1).tag());
    }
    let rule = Rule { start_rank: 0, end_rank: None, distinct: false, limit: Limit::All };
    let mut together = Vec::new();
    let emit = &mut |picked: Vec<Row<'_>>| {
        together.push(picked.len());
        Ok(())
    };
    let dropped = Dropped::default();
    choose_in_memory(&arena, &dropped, Walk::new(rule, 0), DefaultHashBuilder::default(), emit).unwrap();
    assert_eq!(together, [8, 8, 4]);
}

/// A row for the reference: its bytes, and what of them matters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Plain {
    key: u64,
    id: Vec<u8>,
    rest: u8,
    tokens: u64,
}

impl Plain {
    fn bytes(&self) -> Vec<u8> {
        [&self.key.to_be_bytes(), self.id.as_slice(), &[self.rest], &self.tokens.to_be_bytes()].concat()
    }

    fn push(&self, arena: &mut Arena) {
        arena.push(&[&self.bytes()], IdPlace::new(KEY_BYTES, self.id.len()).tag());
    }
}

/// Few different keys and ids, and often the same row again: most are repeats. An id ends with a zero and has none before
/// it, as encoded ones say where they end.
fn repetitive() -> impl Strategy<Value = Vec<Plain>> {
    let id = prop_oneof![Just(Vec::new()), Just(vec![1]), Just(vec![1, 2]), (1_u8..30).prop_map(|id| vec![3, id])];
    let row = (0_u64..6, id, 0_u8..3, 0_u64..5).prop_map(|(key, mut id, rest, tokens)| {
        id.push(0);
        Plain { key, id, rest, tokens }
    });
    let times = prop_oneof![3 => Just(1_usize), 1 => 2_usize..60];
    let arrangement = prop_oneof![Just(0), Just(1), Just(2)];
    (prop::collection::vec((row, times), 0..80), arrangement).prop_map(|(rows, arrangement)| {
        let mut rows: Vec<Plain> = rows.into_iter().flat_map(|(row, times)| std::iter::repeat_n(row, times)).collect();
        match arrangement {
            0 => rows.sort(),
            1 => rows.sort_by(|a, b| b.cmp(a)),
            _ => {}
        }
        rows
    })
}

fn rules() -> impl Strategy<Value = Rule> {
    let limit = prop_oneof![(0_u64..50).prop_map(Limit::Rows), (0_u64..120).prop_map(Limit::Tokens), Just(Limit::All)];
    let ranks = prop_oneof![3 => Just((0, None)), 1 => (0_u64..40, prop::option::of(0_u64..60))];
    (limit, ranks, prop::bool::weighted(0.8)).prop_map(|(limit, (start_rank, end_rank), distinct)| Rule {
        start_rank,
        end_rank,
        distinct,
        limit,
    })
}

/// Sorts, and goes through the rows one by one.
fn sorted_and_counted(rows: &[Plain], rule: Rule) -> (Vec<Vec<u8>>, u64) {
    let mut sorted = rows.to_vec();
    sorted.sort();
    let end = rule.end_rank.unwrap_or(u64::MAX).min(sorted.len() as u64) as usize;
    let start = (rule.start_rank as usize).min(end);
    let (mut taken, mut selected) = (Vec::new(), Vec::new());
    let (mut repeated, mut waiting, mut tokens_left) =
        (0, 0, if let Limit::Tokens(all) = rule.limit { all } else { 0 });
    for row in &sorted[start..end] {
        if matches!(rule.limit, Limit::Rows(k) if selected.len() as u64 >= k) {
            break;
        }
        if rule.distinct && taken.contains(&row.id) {
            waiting += 1;
            continue;
        }
        if matches!(rule.limit, Limit::Tokens(_)) {
            if row.tokens > tokens_left {
                break;
            }
            tokens_left -= row.tokens;
        }
        taken.push(row.id.clone());
        selected.push(row.bytes());
        repeated += std::mem::take(&mut waiting);
    }
    (selected, repeated)
}

/// As a pass and the walk behind it do; a second time without a guess if the first was cut too short.
fn collected_and_chosen(
    rows: &[Plain],
    rule: Rule,
    (budget, room, share, guess): (u64, usize, usize, Option<u64>),
) -> (Vec<Vec<u8>>, u64) {
    let folder = tempfile::tempdir().unwrap();
    for (guess, may_cut) in [(guess, true), (None, !matches!(rule.limit, Limit::Tokens(_)))] {
        let mut collector = Collector::new(rule, 0, budget, folder.path(), guess, may_cut);
        collector.room = room;
        collector.state.get_mut().unwrap().enough = room;
        for part in rows.chunks(share) {
            let mut arena = Arena::default();
            for row in part {
                if row.key <= collector.cut() {
                    row.push(&mut arena);
                } else {
                    collector.note_dropped();
                }
            }
            collector.take(&mut arena).unwrap();
        }
        let (mut collected, dropped) = collector.finish().unwrap();
        let mut selected = Vec::new();
        let emit = &mut |picked: Vec<Row<'_>>| {
            selected.extend(picked.into_iter().map(|(row, _)| row.into_owned()));
            Ok(())
        };
        let chosen = choose(&mut collected, &dropped, (rule, 0), folder.path(), budget, emit).unwrap();
        if chosen.complete || !dropped.any {
            assert_eq!(chosen.selected, selected.len() as u64);
            return (selected, chosen.repeated);
        }
    }
    panic!("rows were dropped that the selection needed");
}

#[test]
fn one_row_however_often_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let rule = Rule { start_rank: 0, end_rank: None, distinct: true, limit: Limit::Rows(1000) };
    let collector = Collector::new(rule, 0, 1 << 30, folder.path(), None, true);
    let row = Plain { key: 1, id: vec![7, 0], rest: 0, tokens: 0 };
    for _ in 0..40 {
        let mut arena = Arena::default();
        (0..LEAST_ROWS / 10).for_each(|_| row.push(&mut arena));
        collector.take(&mut arena).unwrap();
        assert!(collector.state.lock().unwrap().arena.len() < LEAST_ROWS + LEAST_ROWS / 10);
    }
}

#[test]
fn what_cannot_be_cut_is_sorted_again_only_when_there_is_twice_as_much() {
    let folder = tempfile::tempdir().unwrap();
    // A budget has no number of rows; all of these fit into it.
    let rule = Rule { start_rank: 0, end_rank: None, distinct: false, limit: Limit::Tokens(u64::MAX) };
    let collector = Collector::new(rule, 0, 1 << 30, folder.path(), None, true);
    let mut sorts = std::collections::BTreeSet::new();
    for share in 0..100_u64 {
        let mut arena = Arena::default();
        for at in 0..LEAST_ROWS as u64 / 8 {
            Plain { key: at, id: share.to_be_bytes().to_vec(), rest: 0, tokens: 1 }.push(&mut arena);
        }
        collector.take(&mut arena).unwrap();
        sorts.insert(collector.state.lock().unwrap().enough);
    }
    assert!(sorts.len() <= 6, "{sorts:?}");
}

proptest! {
    #[test]
    fn a_hash_that_is_always_zero_changes_nothing(
        rows in prop::collection::vec((0_u64..4, prop::collection::vec(0_u8..3, 0..3)), 0..60),
        k in 0_u64..40,
    ) {
        let mut arena = Arena::default();
        for (key, id) in &rows {
            arena.push(&[&key.to_be_bytes(), id], IdPlace::new(KEY_BYTES, id.len()).tag());
        }
        arena.sort();
        let rule = Rule { start_rank: 0, end_rank: None, distinct: true, limit: Limit::Rows(k) };
        let usual = selected(&arena, rule, DefaultHashBuilder::default());
        let zero = selected(&arena, rule, BuildHasherDefault::<Zero>::default());
        prop_assert_eq!(&usual, &zero);
        // And both are right: each id once, by its first row.
        let mut sorted = rows.clone();
        sorted.sort();
        let mut ids = Vec::new();
        for (_, id) in sorted {
            if !ids.contains(&id) && (ids.len() as u64) < k {
                ids.push(id);
            }
        }
        let found: Vec<Vec<u8>> = usual.0.iter().map(|row| row[KEY_BYTES..].to_vec()).collect();
        prop_assert_eq!(found, ids);
    }

    #[test]
    fn any_room_and_budget_choose_what_sorting_does(
        rows in repetitive(),
        rule in rules(),
        room in 1_usize..80,
        budget in prop_oneof![Just(1 << 30), 1_u64..3000],
        share in 1_usize..60,
        guess in prop::option::of(0_u64..7),
    ) {
        // A guess is made for rows alone.
        let guess = guess.filter(|_| matches!(rule.limit, Limit::Rows(_)));
        let found = collected_and_chosen(&rows, rule, (budget, room, share, guess));
        prop_assert_eq!(found, sorted_and_counted(&rows, rule));
    }
}
