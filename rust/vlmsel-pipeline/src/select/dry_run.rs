//! What a selection would read and need, for `--dry-run`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::plan::{Request, Size, resolve_request};
use super::run::{check_sizes, control_path};
use crate::error::Result;

/// What a run would do, for `--dry-run`.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Tables.
    pub files: u64,
    /// Rows, as far as they are known before reading.
    pub rows: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Estimated memory.
    pub memory_bytes: u64,
    /// Estimated scratch disk.
    pub scratch_bytes: u64,
    /// The resolved options.
    pub config: Value,
    /// Folders that would be written.
    pub outputs: Vec<PathBuf>,
}

/// Checks the request and says what it would cost.
///
/// # Errors
/// As [`select`], before any work; [`vlmsel_shards::Error::Resource`] for a scratch disk that is too small.
pub fn plan(request: &Request) -> Result<Plan> {
    check_sizes(request)?;
    let resolved = resolve_request(request)?;
    let (mut rows, mut bytes) = (0_u64, 0_u64);
    for table in &resolved.tables {
        let (more_rows, more_bytes) = table.extent();
        rows += more_rows;
        bytes += more_bytes;
    }
    let wanted = match &request.size {
        Size::Count(k) => (*k).min(if rows == 0 { *k } else { rows }),
        Size::Fraction(fraction) => fraction.of(rows, 1),
        Size::Band(low, high) => high.of(rows, 100).saturating_sub(low.of(rows, 100)),
        Size::Threshold(_) | Size::TokenBudget(_) => rows,
    };
    let needed = wanted.saturating_mul(2 * 60);
    let budget = request.memory_limit / 2;
    let (memory_bytes, scratch_bytes) =
        if needed <= budget { (needed, 0) } else { (budget, wanted.saturating_mul(3 * 60)) };
    let parent = request.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(free) = vlmsel_shards::storage::disk::free_bytes(parent)
        && free < scratch_bytes
    {
        return Err(vlmsel_shards::Error::Resource(format!(
                "about {scratch_bytes} bytes of scratch disk are needed beside {}, {free} are free; raise --memory-limit or free some space",
                request.output.display()
            ))
            .into());
    }
    let outputs = std::iter::once(None).chain(request.controls.iter().copied().map(Some));
    Ok(Plan {
        files: resolved.tables.len() as u64,
        rows,
        bytes,
        memory_bytes: memory_bytes + (128 << 20),
        scratch_bytes,
        config: request.config(None),
        outputs: outputs.map(|control| control_path(request, control)).collect(),
    })
}
