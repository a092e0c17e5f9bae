//! Near texts of a file, one text a line: what `benches/near_text.py` measures.
//!
//!     near_text FILE THRESHOLD words|chars:N THREADS MEMORY_BYTES SCRATCH [PAIRS]
//!
//! Prints one line of JSON. Writes the pairs, a line each (`a b similarity`, equal ones with 1), to PAIRS where it is given.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use vlmsel_core::jaccard::Jaccard;
use vlmsel_core::word_set::SetsOf;
use vlmsel_pipeline::dedup::near_text::{NearText, NearTextOptions, TextEdge, TextMatch};
use vlmsel_pipeline::progress::Progress;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, threshold, sets, threads, memory, scratch, rest @ ..] = arguments.as_slice() else {
        return Err("near_text FILE THRESHOLD words|chars:N THREADS MEMORY_BYTES SCRATCH [PAIRS]".into());
    };
    let options = NearTextOptions {
        threshold: Jaccard::parse(threshold)?,
        sets: SetsOf::parse(sets).ok_or("words or chars:N")?,
        memory_limit: memory.parse()?,
        threads: threads.parse()?,
    };
    let mut pairs = rest.first().map(|path| File::create(path).map(BufWriter::new)).transpose()?;
    let begin = Instant::now();
    let mut search = NearText::new(options, Path::new(scratch));
    let (mut lines, mut line, mut number) = (BufReader::with_capacity(1 << 20, File::open(file)?), String::new(), 0);
    while lines.read_line(&mut line)? > 0 {
        search.push(number, line.trim_end_matches('\n'))?;
        line.clear();
        number += 1;
    }
    let taken_in = begin.elapsed();
    let mut failed = None;
    let summary = search.finish(&Progress::default(), &mut |found| {
        let (a, b, similarity) = match found {
            TextMatch::Same { text, representative } => (representative, text, 1.0),
            TextMatch::Near(TextEdge { a, b, similarity }) => (a, b, similarity),
        };
        if let Some(Err(error)) = pairs.as_mut().map(|out| writeln!(out, "{a} {b} {similarity}")) {
            failed.get_or_insert(error);
        }
        Ok(())
    })?;
    failed.map_or(Ok(()), Err)?;
    let line = format!(
        r#"{{"intake_s": {:.3}, "wall_s": {:.3}, "texts": {}, "sets": {}, "same": {}, "near": {}, "banded": {}, "expected_recall": {:.4}}}"#,
        taken_in.as_secs_f64(),
        begin.elapsed().as_secs_f64(),
        summary.texts,
        summary.sets,
        summary.same,
        summary.near,
        summary.banded_sets,
        summary.expected_recall,
    );
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}
