//! Records whose image or text is that of a benchmark: they go, whatever else they are like.

use super::dropped::{AGAINST, Dropped};

/// A record that matches an item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Matched {
    /// Its row.
    pub row: u32,
    /// Which item.
    pub item: u32,
    /// How far it is.
    pub distance: f32,
}

impl Matched {
    /// The record as one that goes.
    pub fn dropped(&self) -> Dropped {
        let Self { row, item, distance } = *self;
        Dropped { row, keeper: row, keeper_uid: [0; 16], distance, kind: AGAINST, item }
    }
}
