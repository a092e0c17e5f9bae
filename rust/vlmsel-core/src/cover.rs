//! Which of several copies is kept.
//!
//! *Keeper cover*: records are walked from the best to the worst. One that is not yet covered is a keeper and covers its direct
//! neighbours. So every record that goes is a neighbour of one that stays, and two that stay are no neighbours. Connected components
//! do not promise that: a chain of near copies joins what is far apart, and one false match joins two clusters.
//!
//! Records are neighbours by relations (equal texts, near images). Within a relation, equal contents are one class, and edges join
//! classes: a million copies of one caption are a million members and not half a billion pairs.

/// In [`Relation::class_of`]: the record takes no part in the relation.
pub const NO_CLASS: u32 = u32::MAX;

/// One way in which records are alike.
#[derive(Debug, Clone, Default)]
pub struct Relation {
    /// The class of each record, or [`NO_CLASS`].
    class_of: Vec<u32>,
    /// Where each class's neighbours begin, and a last entry for their end.
    starts: Vec<usize>,
    /// Classes and how far they are.
    neighbours: Vec<(u32, f32)>,
}

impl Relation {
    /// A relation of `classes` classes; each edge joins two of them, stands once, and has a distance.
    pub fn new(class_of: Vec<u32>, classes: usize, edges: &[(u32, u32, f32)]) -> Self {
        let mut starts = vec![0; classes + 1];
        for (a, b, _) in edges {
            starts[*a as usize] += 1;
            starts[*b as usize] += 1;
        }
        let mut next = 0;
        for start in &mut starts {
            next += std::mem::replace(start, next);
        }
        let mut neighbours = vec![(0, 0.0); 2 * edges.len()];
        let mut place = starts.clone();
        for (a, b, distance) in edges {
            for (from, to) in [(*a, *b), (*b, *a)] {
                neighbours[place[from as usize]] = (to, *distance);
                place[from as usize] += 1;
            }
        }
        Self { class_of, starts, neighbours }
    }

    /// The class of a record.
    pub fn class_of(&self, record: u32) -> Option<u32> {
        Some(self.class_of[record as usize]).filter(|class| *class != NO_CLASS)
    }

    /// The classes next to one, and how far they are.
    pub fn neighbours(&self, class: u32) -> &[(u32, f32)] {
        &self.neighbours[self.starts[class as usize]..self.starts[class as usize + 1]]
    }

    fn classes(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }
}

/// Why a record goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Covered {
    /// The record that stays for it.
    pub keeper: u32,
    /// By which relation.
    pub relation: usize,
    /// How far the two are in it; NaN where that is not known, in a chain.
    pub distance: f32,
}

/// Walks the records in `order`, best first, and says of each by which keeper it is covered; `None` are the keepers. Where several
/// cover a record, the best of them counts, and of its relations the first.
pub fn cover(order: &[u32], relations: &[Relation]) -> Vec<Option<Covered>> {
    let mut covered = vec![None; order.len()];
    // The place in the order of the first keeper that covers a class, and how far it is.
    let mut first: Vec<Vec<(u32, f32)>> = relations.iter().map(|r| vec![(NO_CLASS, 0.0); r.classes()]).collect();
    for (place, record) in order.iter().enumerate() {
        let mut best: Option<(u32, usize, f32)> = None;
        for (at, relation) in relations.iter().enumerate() {
            let Some(class) = relation.class_of(*record) else { continue };
            let (keeper, distance) = first[at][class as usize];
            if keeper != NO_CLASS && best.is_none_or(|(before, ..)| keeper < before) {
                best = Some((keeper, at, distance));
            }
        }
        if let Some((keeper, relation, distance)) = best {
            covered[*record as usize] = Some(Covered { keeper: order[keeper as usize], relation, distance });
            continue;
        }
        for (relation, first) in relations.iter().zip(&mut first) {
            let Some(class) = relation.class_of(*record) else { continue };
            let mut reach = |class: u32, distance: f32| {
                let first = &mut first[class as usize];
                if first.0 == NO_CLASS {
                    *first = (place as u32, distance);
                }
            };
            reach(class, 0.0);
            relation.neighbours(class).iter().for_each(|(class, distance)| reach(*class, *distance));
        }
    }
    covered
}

/// The same by connected components: of each, the best record stays.
pub fn components(order: &[u32], relations: &[Relation]) -> Vec<Option<Covered>> {
    // Nodes are records, and the classes of each relation.
    let mut parent: Vec<u32> = (0..order.len() as u32).collect();
    for relation in relations {
        let base = parent.len() as u32;
        parent.extend(base..base + relation.classes() as u32);
        for record in 0..order.len() as u32 {
            if let Some(class) = relation.class_of(record) {
                join(&mut parent, record, base + class);
            }
        }
        for class in 0..relation.classes() as u32 {
            relation.neighbours(class).iter().for_each(|(other, _)| join(&mut parent, base + class, base + other));
        }
    }
    let mut keeper_of = vec![NO_CLASS; parent.len()];
    let mut covered = vec![None; order.len()];
    for record in order {
        let root = find(&mut parent, *record) as usize;
        if keeper_of[root] == NO_CLASS {
            keeper_of[root] = *record;
        } else {
            let keeper = keeper_of[root];
            covered[*record as usize] = Some(nearest(keeper, *record, relations));
        }
    }
    covered
}

/// The first relation in which two records are neighbours, and else the first that the covered one has.
fn nearest(keeper: u32, record: u32, relations: &[Relation]) -> Covered {
    let mut of_chain = None;
    for (at, relation) in relations.iter().enumerate() {
        let Some(class) = relation.class_of(record) else { continue };
        of_chain.get_or_insert(at);
        let Some(other) = relation.class_of(keeper) else { continue };
        if class == other {
            return Covered { keeper, relation: at, distance: 0.0 };
        }
        if let Some((_, distance)) = relation.neighbours(class).iter().find(|(next, _)| *next == other) {
            return Covered { keeper, relation: at, distance: *distance };
        }
    }
    Covered { keeper, relation: of_chain.unwrap_or_default(), distance: f32::NAN }
}

fn find(parent: &mut [u32], node: u32) -> u32 {
    let mut root = node;
    while parent[root as usize] != root {
        root = parent[root as usize];
    }
    let mut at = node;
    while parent[at as usize] != root {
        at = std::mem::replace(&mut parent[at as usize], root);
    }
    root
}

fn join(parent: &mut [u32], a: u32, b: u32) {
    let (a, b) = (find(parent, a), find(parent, b));
    // Linking to the smaller keeps the answer free of the order; paths are halved as they are walked.
    let (low, high) = (a.min(b), a.max(b));
    parent[high as usize] = low;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    type Raw = (Vec<u32>, usize, Vec<(u32, u32, f32)>);

    fn raw(records: usize) -> impl Strategy<Value = Raw> {
        (1..12_usize).prop_flat_map(move |classes| {
            let class = prop_oneof![3 => 0..classes as u32, 1 => Just(NO_CLASS)];
            let edge = (0..classes as u32, 0..classes as u32, 1..9_u32);
            (prop::collection::vec(class, records), Just(classes), prop::collection::vec(edge, 0..14)).prop_map(
                |(class_of, classes, edges)| {
                    let mut seen = BTreeSet::new();
                    let edges = edges.into_iter().map(|(a, b, d)| (a.min(b), a.max(b), d as f32));
                    // Every class has a record.
                    let is_real = |class: u32| class_of.contains(&class);
                    let edges = edges.filter(|(a, b, _)| a != b && is_real(*a) && is_real(*b) && seen.insert((*a, *b)));
                    let edges = edges.collect();
                    (class_of, classes, edges)
                },
            )
        })
    }

    fn input() -> impl Strategy<Value = (Vec<u32>, Vec<Raw>)> {
        (0..30_usize).prop_flat_map(|records| {
            let order = Just((0..records as u32).collect::<Vec<_>>()).prop_shuffle();
            (order, prop::collection::vec(raw(records), 1..4))
        })
    }

    fn distance((class_of, _, edges): &Raw, a: u32, b: u32) -> Option<f32> {
        let (a, b) = (class_of[a as usize], class_of[b as usize]);
        if a == NO_CLASS || b == NO_CLASS {
            None
        } else if a == b {
            Some(0.0)
        } else {
            edges.iter().find(|edge| (edge.0, edge.1) == (a.min(b), a.max(b))).map(|edge| edge.2)
        }
    }

    /// The definition, word by word.
    fn slow(order: &[u32], raw: &[Raw]) -> Vec<Option<Covered>> {
        let mut covered: Vec<Option<Covered>> = vec![None; order.len()];
        let mut keepers: Vec<u32> = Vec::new();
        for record in order {
            let found = keepers.iter().find_map(|keeper| {
                let near = raw.iter().enumerate().find_map(|(at, r)| distance(r, *keeper, *record).map(|d| (at, d)));
                near.map(|(relation, distance)| Covered { keeper: *keeper, relation, distance })
            });
            covered[*record as usize] = found;
            if found.is_none() {
                keepers.push(*record);
            }
        }
        covered
    }

    fn relations(raw: &[Raw]) -> Vec<Relation> {
        raw.iter().map(|(class_of, classes, edges)| Relation::new(class_of.clone(), *classes, edges)).collect()
    }

    proptest! {
        #[test]
        fn covers_as_the_definition_says((order, raw) in input()) {
            let covered = cover(&order, &relations(&raw));
            prop_assert_eq!(&covered, &slow(&order, &raw));
            for record in covered.iter().flatten() {
                prop_assert!(covered[record.keeper as usize].is_none());
            }
        }

        #[test]
        fn components_keep_one_of_each((order, raw) in input()) {
            let covered = components(&order, &relations(&raw));
            // Spread the best record of each component until nothing changes.
            let mut best: Vec<usize> = (0..order.len()).map(|r| order.iter().position(|o| *o == r as u32).unwrap()).collect();
            let mut changed = true;
            while changed {
                changed = false;
                for a in 0..order.len() {
                    for b in 0..order.len() {
                        if best[a] < best[b] && raw.iter().any(|r| distance(r, a as u32, b as u32).is_some()) {
                            best[b] = best[a];
                            changed = true;
                        }
                    }
                }
            }
            for record in 0..order.len() {
                let keeper = order[best[record]];
                prop_assert_eq!(covered[record].map_or(record as u32, |c| c.keeper), keeper);
                if let Some(Covered { relation, distance: far, .. }) = covered[record] {
                    let direct = raw.iter().enumerate().find_map(|(at, r)| distance(r, keeper, record as u32).map(|d| (at, d)));
                    match direct {
                        Some(direct) => prop_assert_eq!(direct, (relation, far)),
                        None => prop_assert!(far.is_nan()),
                    }
                }
            }
        }
    }
}
