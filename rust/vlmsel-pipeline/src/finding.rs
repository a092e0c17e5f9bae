//! One kind of thing that a user should know of: how often, and where.

use serde::{Deserialize, Serialize};
use vlmsel_shards::formats::reader::EXAMPLES;

/// One kind of trouble.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How often.
    pub count: u64,
    /// Where, for the first few in the order of file and place.
    pub examples: Vec<String>,
}

impl Finding {
    /// Counts it so many times more.
    pub fn add(&mut self, count: u64, example: impl FnOnce() -> String) {
        self.count += count;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }

    /// Takes in what was found further on.
    pub fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
    }
}
