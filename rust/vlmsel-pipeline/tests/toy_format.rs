//! A format made up for this test: what it takes to read another one is a file like this and a line in a table.
//!
//! Its files end in `.pairs` and have a line for each sample: key, path of an image, caption, with tabs between.

use std::path::Path;

use vlmsel_core::hash::image_hash;
use vlmsel_pipeline::doctor::{DoctorOptions, doctor};
use vlmsel_pipeline::index::{IndexOptions, index};
use vlmsel_pipeline::progress::Progress;
use vlmsel_pipeline::run_options::RunOptions;
use vlmsel_pipeline::sources::{Formats, SourceOptions};
use vlmsel_shards::formats::FORMATS;
use vlmsel_shards::formats::location::ImageLocation;
use vlmsel_shards::formats::reader::{Batch, Closing, Format, RawSample, ReadOptions, Record, SampleReader, Shard};
use vlmsel_shards::formats::sample::{ImageRow, Kept, Position, Sample, SampleImage, Taken};
use vlmsel_shards::images::header::read_header;
use vlmsel_shards::parquet::table::ParquetTable;
use vlmsel_shards::workspace::quarantine::{Bad, Quarantined};
use vlmsel_shards::{Error, Result};

struct Pairs;

impl Format for Pairs {
    fn name(&self) -> &'static str {
        "pairs"
    }

    fn endings(&self) -> &'static [&'static str] {
        &[".pairs"]
    }

    fn recognises(&self, path: &Path) -> bool {
        path.extension().is_some_and(|e| e == "pairs")
    }

    fn open(&self, shard: &Shard<'_>) -> Result<Box<dyn SampleReader>> {
        let text = std::fs::read_to_string(shard.path).map_err(|error| Error::unreadable(shard.path, error))?;
        let line = |(number, line): (usize, &str)| {
            let (root, unit) = (shard.image_root.to_path_buf(), shard.unit.to_owned());
            Record::Raw(Box::new(Line { number: number as u64, text: line.to_owned(), root, unit }))
        };
        let records = text.lines().enumerate().map(line).collect();
        Ok(Box::new(Lines(Some(Batch { records, bytes: text.len() as u64, is_costly: true }))))
    }
}

struct Lines(Option<Batch>);

impl SampleReader for Lines {
    fn next_batch(&mut self) -> Result<Option<Batch>> {
        Ok(self.0.take())
    }

    fn close(self: Box<Self>) -> Closing {
        Closing::default()
    }
}

struct Line {
    number: u64,
    text: String,
    root: std::path::PathBuf,
    unit: String,
}

impl RawSample for Line {
    fn take_apart(self: Box<Self>) -> Result<Taken> {
        let mut sample = Sample::at(Position { unit: "line", number: self.number });
        let fields: Vec<&str> = self.text.split('\t').collect();
        let [key, file, caption] = fields[..] else {
            let text = format!("{} fields", fields.len());
            return Ok(Err(Quarantined::new(&self.unit, "line", Some(self.number), "bad_line", &text)));
        };
        let found = match std::fs::read(self.root.join(file)) {
            Ok(bytes) => read_header(&bytes).map_err(|fault| Bad::new(fault.reason(), file)).map(|header| {
                let location = ImageLocation::File { file: file.to_owned(), size: bytes.len() as u64 };
                ImageRow { location, width: header.width, height: header.height, hash: image_hash(&bytes) }
            }),
            Err(_) => Err(Bad::new("missing_image", file)),
        };
        let hash = found.as_ref().ok().map(|row| row.hash);
        sample.images.push(SampleImage { name: file.to_owned(), hash, found, kept: Kept::Nothing });
        sample.key = Some(key.to_owned());
        sample.said.text = Some(caption.to_owned());
        Ok(Ok(sample))
    }
}

/// The line in the table.
static WITH_PAIRS: &[&dyn Format] = &[&Pairs, FORMATS[0], FORMATS[1], FORMATS[2]];

// A GIF of one black pixel.
const GIF: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

#[allow(clippy::unwrap_used, reason = "a test")]
fn data() -> (tempfile::TempDir, SourceOptions) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("data");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("a.gif"), GIF).unwrap();
    std::fs::write(root.join("0.pairs"), "a\ta.gif\ta cat\nb\tb.gif\ta dog\nnothing\n").unwrap();
    let sources = vec![root.into_os_string()];
    (folder, SourceOptions { sources, formats: Formats(WITH_PAIRS), ..SourceOptions::default() })
}

#[test]
fn index_reads_it() {
    let (folder, data) = data();
    let output = folder.path().join("index");
    let run = RunOptions { max_bad_fraction: 1.0, ..RunOptions::default() };
    let summary = index(
        &IndexOptions { data, read: ReadOptions::default(), output: output.clone(), image_codes: false, run },
        &Progress::default(),
    )
    .unwrap();
    assert_eq!((summary.input, summary.ok, summary.shards), (3, 1, 1));
    let reasons: Vec<_> = summary.reasons.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    assert_eq!(reasons, [("bad_line", 1), ("missing_image", 1)]);
    let part = std::fs::read_dir(&output).unwrap().map(|entry| entry.unwrap().path());
    let part = part.into_iter().find(|path| path.extension().is_some_and(|e| e == "parquet")).unwrap();
    assert_eq!(ParquetTable::open(&part, "index").unwrap().rows(), 1);
}

#[test]
fn doctor_reads_it() {
    let (_folder, data) = data();
    let found =
        doctor(&DoctorOptions { data, read: ReadOptions::default(), run: RunOptions::default() }, &Progress::default())
            .unwrap();
    // An image that is not there is none.
    assert_eq!((found.records, found.images, found.texts), (3, 1, 2));
    let example = |kind: &str| found.findings[kind].examples[0].clone();
    assert_eq!(example("missing_image"), "data/0.pairs, line 1, key b, b.gif");
    assert_eq!(example("bad_line"), "data/0.pairs, line 2: 1 fields");
    assert!(found.findings.contains_key("tiny_image"));
}

#[test]
fn without_its_line_nobody_knows_it() {
    let (folder, mut data) = data();
    data.formats = Formats::default();
    data.sources = vec![folder.path().join("data/0.pairs").into_os_string()];
    let error =
        doctor(&DoctorOptions { data, read: ReadOptions::default(), run: RunOptions::default() }, &Progress::default())
            .unwrap_err();
    assert!(error.to_string().contains("expected .tar, .jsonl"), "{error}");
}
