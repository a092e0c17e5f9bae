//! Which classes of records are near each other, in memory.

use serde_json::Value;

use super::classes::Classes;
use crate::error::Result;

/// An edge between two classes.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Edge {
    /// The class with the smaller name.
    pub a: u32,
    /// The other.
    pub b: u32,
    /// Bits that differ, or one minus the similarity.
    pub distance: f32,
}

/// Edges on their way to be sorted.
pub struct EdgeList {
    edges: Vec<Edge>,
    most: usize,
}

impl EdgeList {
    /// No more than fit into so many bytes.
    pub fn new(bytes: u64) -> Self {
        Self { edges: Vec::new(), most: bytes as usize / size_of::<Edge>() }
    }

    /// Adds an edge.
    ///
    /// # Errors
    /// Exit 6 where there are more than fit.
    pub fn push(&mut self, edge: Edge) -> Result<()> {
        if self.edges.len() >= self.most {
            let text = format!(
                "more than {} pairs are near each other, which is what fits into --memory-limit; raise it, or ask for a nearer threshold",
                self.most
            );
            return Err(vlmsel_shards::Error::Resource(text).into());
        }
        self.edges.push(edge);
        Ok(())
    }

    /// The edges in order.
    pub fn sorted(mut self) -> Vec<Edge> {
        self.edges.sort_unstable_by_key(|edge| (edge.a, edge.b));
        self.edges
    }
}

/// What a kind found.
#[derive(Debug)]
pub struct Relation {
    /// Classes of rows that are the same to it.
    pub classes: Classes,
    /// Classes that are near each other, sorted.
    pub edges: Vec<Edge>,
    /// What a user should know.
    pub detail: Value,
}
