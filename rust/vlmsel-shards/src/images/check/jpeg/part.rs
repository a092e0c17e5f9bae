//! What a scan says of itself: the components in it, and which of their coefficients it brings.

use super::super::Damage;
use super::huffman::Table;

/// A component in this scan.
pub(super) struct Part<'a> {
    pub component: usize,
    pub dc: Option<&'a Table>,
    pub ac: Option<&'a Table>,
    /// The furthest from grey that a block's mean may be, as coded.
    pub limit: i32,
}

/// Which coefficients a scan brings, and which of their bits.
pub(super) struct Band {
    pub first: u32,
    pub last: u32,
    pub is_refinement: bool,
}

pub(super) const NO_TABLE: Damage = Damage::Corrupt("a scan that names a table that is not there");
