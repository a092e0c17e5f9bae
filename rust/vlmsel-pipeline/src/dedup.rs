//! `dedup`: which records are copies of which, and which of them is kept.

mod classes;
mod content;
mod edges;
mod equal;
mod exact;
mod keep_order;
mod kinds;
mod relation;
mod row_set;
mod rows;
mod scores;
