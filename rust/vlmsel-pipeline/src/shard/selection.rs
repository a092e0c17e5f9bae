//! Which samples are selected.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use vlmsel_core::hash::{bare_id, parse_uid_bytes};
use vlmsel_shards::columns::Role;
use vlmsel_shards::error::IoContext;
use vlmsel_shards::storage::identity::Identity;
use vlmsel_shards::storage::source::{Sequential, open};
use vlmsel_shards::storage::text_encoding::foreign_encoding;
use vlmsel_shards::tables::Table;
use vlmsel_shards::tables::npy::read_uids;
use vlmsel_shards::tables::schema::{Wanted, resolve};
use vlmsel_shards::workspace::fingerprint::fingerprint;
use vlmsel_shards::workspace::inputs::{InputFile, expand};
use vlmsel_shards::workspace::manifest::InputRecord;
use vlmsel_shards::workspace::output::hash_file;
use vlmsel_shards::workspace::quarantine::Quarantined;

use super::keys::uids_of_keys;
use crate::error::{Error, Result};
use crate::id_set::{for_each_id, wide_id};
use crate::pick_rows::open_parquet;
use crate::progress::Progress;
use crate::select::{TABLE, UIDS};
use crate::tolerance::Tolerance;

/// A line of a text file of ids is not longer than this.
const MAX_LINE_BYTES: u64 = 4096;

/// The selected ids.
pub(super) struct Selected {
    /// The folder or file that they came from, as an input.
    pub input: InputRecord,
    /// Sorted, with repeats.
    pub uids: Vec<u128>,
    /// Lines that are no ids.
    pub bad: Vec<Quarantined>,
}

/// Ids as the selection has them.
enum Ids {
    /// Of 128 bits.
    Uids(Vec<u128>),
    /// What the samples are called in their shards.
    Keys(Vec<String>),
}

/// Reads a selection; `index` says which samples have its keys, where it has no ids of 128 bits.
pub(super) fn read_selection(
    path: &Path,
    index: &Path,
    memory_limit: u64,
    tolerance: &Tolerance,
    progress: &Progress,
) -> Result<Selected> {
    let is_called = |file: &Path, name: &str| file.file_name().is_some_and(|own| own == name);
    let accept = |file: &Path| is_called(file, UIDS) || is_called(file, TABLE);
    let mut files = expand(&[path.into()], "uids.npy or selection.parquet", &accept, &|| progress.check())?;
    // A selection of 128-bit ids has both.
    if files.iter().any(|file| is_called(&file.path, UIDS)) {
        files.retain(|file| !is_called(&file.path, TABLE));
    }
    let [file] = files.as_slice() else {
        let what = "give one selection folder, .npy, .parquet or text file of ids";
        return Err(Error::usage(format!("{}: {what}", path.display())));
    };
    tolerance.accept(path, file.losses.as_deref())?;
    let before = Identity::at(&file.path).at("inspect", &file.path)?;
    let size = before.bytes;
    if memory_limit > 0 && size / 16 * 24 > memory_limit {
        let text = format!(
            "{} ids need {} bytes of memory, the limit is {memory_limit}; raise --memory-limit",
            size / 16,
            size / 16 * 24
        );
        return Err(vlmsel_shards::Error::Resource(text).into());
    }
    let (ids, mut bad) = match file.path.extension().and_then(|e| e.to_str()) {
        Some("npy") => (Ids::Uids(read_uids(&file.path)?), Vec::new()),
        Some("parquet") => (read_table(file)?, Vec::new()),
        _ => read_lines(&file.path)?,
    };
    let mut uids = match ids {
        Ids::Uids(uids) => uids,
        Ids::Keys(keys) => {
            let (uids, missing) = uids_of_keys(index, keys, progress)?;
            bad.extend(missing);
            uids
        }
    };
    uids.sort_unstable();
    let input = if file.folder.is_some() { fingerprint(path, "selection")? } else { whole(&file.path)? };
    before.check_unchanged(&file.path)?;
    Ok(Selected { input, uids, bad })
}

/// A list of ids as an input: no fingerprint of parts of it, which would miss a line changed in the middle.
fn whole(path: &Path) -> Result<InputRecord> {
    let file = open(path)?;
    let bytes = file.size_bytes();
    let fingerprint = hash_file(Sequential::new(file, 0), path)?.to_hex()[..32].to_owned();
    Ok(InputRecord { name: "selection".to_owned(), bytes, fingerprint })
}

/// The column `uid` of a table: keys, unless each of its ids is one of 128 bits.
fn read_table(file: &InputFile) -> Result<Ids> {
    let table = open_parquet(file)?;
    let wanted = Wanted { name: "uid".to_owned(), role: Role::Id, required: true };
    let found = resolve(&[Table::Parquet(table.clone())], &[wanted])?.columns.pop().flatten();
    let column = found.ok_or_else(|| Error::Bug("no id column".to_owned()))?;
    let (mut uids, mut keys) = (Vec::new(), Vec::new());
    for group in 0..table.groups() {
        for batch in table.batches(group, None, &[&column])? {
            for_each_id(batch?.column(0), |_, id| {
                let Some(id) = id else { return };
                uids.extend(wide_id(id, &column.working));
                keys.push(String::from_utf8_lossy(id).into_owned());
            });
        }
    }
    Ok(if uids.len() == keys.len() { Ids::Uids(uids) } else { Ids::Keys(keys) })
}

fn read_lines(path: &Path) -> Result<(Ids, Vec<Quarantined>)> {
    let mut reader = BufReader::with_capacity(1 << 20, Sequential::new(open(path)?, 0));
    let head = reader.fill_buf().at("read", path)?;
    if let Some(what) = foreign_encoding(head) {
        return Err(Error::usage(format!("{}: {what}", path.display())));
    }
    if head.starts_with(b"\xef\xbb\xbf") {
        reader.consume(3);
    }
    let (mut uids, mut others, mut line, mut number) = (Vec::new(), Vec::new(), Vec::new(), 0);
    loop {
        line.clear();
        if Read::take(&mut reader, MAX_LINE_BYTES).read_until(b'\n', &mut line).at("read", path)? == 0 {
            break;
        }
        number += 1;
        let text = bare_id(&line);
        if text.is_empty() || text.starts_with(b"#") {
            continue;
        }
        match parse_uid_bytes(text) {
            Some(uid) => uids.push(u128::from_be_bytes(uid)),
            None => others.push((number, String::from_utf8_lossy(text).into_owned())),
        }
    }
    // Keys, unless some line is an id: then the others are none.
    if uids.is_empty() && !others.is_empty() {
        return Ok((Ids::Keys(others.into_iter().map(|(_, key)| key).collect()), Vec::new()));
    }
    let bad = |(number, text): (u64, String)| Quarantined::new("selection", "line", Some(number), "bad_id", &text);
    Ok((Ids::Uids(uids), others.into_iter().map(bad).collect()))
}
