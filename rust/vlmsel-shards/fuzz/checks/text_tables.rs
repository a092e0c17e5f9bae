//! No bytes make the readers of CSV and JSON-lines tables panic; every line is a row or put aside with a reason.

use vlmsel_shards::columns::{Column, Role};
use vlmsel_shards::tables::schema::{Wanted, resolve};
use vlmsel_shards::tables::{Table, open};
use vlmsel_shards::workspace::inputs::InputFile;

/// Reads `bytes` as a table of scores in both syntaxes, compressed if they begin so.
pub fn check(bytes: &[u8]) {
    let folder = super::scratch();
    let ending = match bytes {
        [0x1f, 0x8b, ..] => ".gz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ".zst",
        _ => "",
    };
    for syntax in ["csv", "jsonl"] {
        let name = format!("t.{syntax}{ending}");
        let path = folder.path().join(&name);
        std::fs::write(&path, bytes).expect("there is room");
        if let Ok(table) = open(&InputFile::named(&path)) {
            read(&table);
        }
    }
}

fn read(table: &Table) {
    let wants = [("uid", Role::Id), ("ppl", Role::Score), ("n_tokens", Role::Tokens), ("source", Role::Source)];
    let wanted: Vec<Wanted> = wants
        .iter()
        .map(|(name, role)| Wanted { name: (*name).to_owned(), role: *role, required: *role == Role::Id })
        .collect();
    let Ok(found) = resolve(std::slice::from_ref(table), &wanted) else { return };
    let Table::Text(text) = table else { return };
    let columns: Vec<(&Column, Role)> = found
        .columns
        .iter()
        .zip(&wants)
        .filter_map(|(column, (_, role))| column.as_ref().map(|column| (column, *role)))
        .collect();
    let mut last = 0;
    let _ = text.read(
        &columns,
        &mut |batch| {
            assert_eq!(batch.num_columns(), columns.len());
            Ok(())
        },
        &mut |bad| {
            assert!(!bad.reason.is_empty() && bad.position >= Some(last));
            last = bad.position.unwrap_or(0);
            Ok(())
        },
    );
}
