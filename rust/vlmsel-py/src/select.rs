//! `_core.select` and `_core.plan_select`: options as JSON, tables in memory as Arrow streams, the report as JSON.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use vlmsel_core::decimal::Decimal;
use vlmsel_pipeline::Error;
use vlmsel_pipeline::progress::Progress;
use vlmsel_pipeline::select::{Control, Order, Request, SelectionReport, Size, plan, select};
use vlmsel_shards::columns::unknown_type;
use vlmsel_shards::storage::paths;
use vlmsel_shards::tables::stream::{SpoolPlace, StreamSpool};
use vlmsel_shards::tables::{KINDS, Table, is_table};
use vlmsel_shards::workspace::inputs::expand;
use vlmsel_shards::workspace::manifest::InputRecord;

use crate::arrow::import_stream;
use crate::gil::{enter, raise};
use crate::stream::Stream;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools, reason = "the wire form of Request")]
struct Options {
    #[serde(deserialize_with = "paths::json::words")]
    scores: Vec<OsString>,
    #[serde(deserialize_with = "paths::json::path")]
    output: PathBuf,
    id_column: String,
    score_column: String,
    order: String,
    size: Map<String, Value>,
    non_negative: bool,
    min_tokens: Option<u64>,
    max_tokens: Option<u64>,
    #[serde(deserialize_with = "paths::json::paths")]
    include: Vec<PathBuf>,
    #[serde(deserialize_with = "paths::json::paths")]
    exclude: Vec<PathBuf>,
    allow_unmatched: bool,
    #[serde(deserialize_with = "paths::json::optional_path")]
    dedup: Option<PathBuf>,
    repeats: String,
    keep_columns: Vec<String>,
    controls: Vec<(String, u64)>,
    threads: usize,
    memory_limit: u64,
    strict: bool,
    max_bad_fraction: f64,
    allow_bad_files: u64,
    mix_provenance: bool,
    overwrite: bool,
}

fn size(map: &Map<String, Value>) -> Result<Size, Error> {
    let wrong = || Error::usage("give exactly one of --k, --fraction, --threshold, --band and --token-budget");
    let decimal =
        |text: &str, option: &str| Decimal::parse(text).map_err(|error| Error::usage(format!("--{option}: {error}")));
    let given: Vec<(&String, &Value)> = map.iter().filter(|(_, value)| !value.is_null()).collect();
    let [(name, value)] = given.as_slice() else { return Err(wrong()) };
    match (name.as_str(), value.as_u64(), value.as_f64(), value.as_str()) {
        ("k", Some(k), ..) => Ok(Size::Count(k)),
        ("token_budget", Some(tokens), ..) => Ok(Size::TokenBudget(tokens)),
        ("threshold", _, Some(threshold), _) => Ok(Size::Threshold(threshold)),
        // JSON has no infinities; Python sends them as text.
        ("threshold", _, _, Some(text)) => {
            text.parse().map(Size::Threshold).map_err(|_| Error::usage(format!("--threshold {text:?}: not a number")))
        }
        ("fraction", _, _, Some(text)) => Ok(Size::Fraction(decimal(text, "fraction")?)),
        ("band", _, _, Some(text)) => match text.split_once(':') {
            Some((low, high)) => Ok(Size::Band(decimal(low, "band")?, decimal(high, "band")?)),
            None => Err(Error::usage(format!("--band {text:?}: give two percentiles as LO:HI, such as 10:30"))),
        },
        _ => Err(Error::usage(format!("--{name}: {value} is not a size; give a whole number that is not negative"))),
    }
}

/// Reads a stream to its end. Half of the memory limit may be held; the selection itself needs the other half.
fn take_stream(
    options: &Options,
    name: &str,
    reader: Stream,
    progress: &Progress,
) -> Result<(Table, InputRecord), Error> {
    let beside = paths::place_of_output(&options.output);
    let beside = beside.ancestors().skip(1).find(|folder| folder.is_dir()).map(Path::to_path_buf);
    let place = SpoolPlace { room: options.memory_limit / 2, scratch: beside.unwrap_or_else(std::env::temp_dir) };
    let mut required = vec![options.id_column.as_str(), options.score_column.as_str()];
    required.extend(options.keep_columns.iter().map(String::as_str));
    let wanted = [required.as_slice(), &["n_tokens", "source", "status"]].concat();
    if let Some((column, what)) = reader.unknown.iter().find(|(column, _)| required.contains(&column.as_str())) {
        return Err(Error::usage(unknown_type(name, column, what)));
    }
    let mut spool = StreamSpool::new(name, &reader.schema(), &wanted, &required, place)?;
    for batch in reader {
        progress.check()?;
        spool.push(&batch.map_err(|error| Error::usage(format!("{name}: {error}")))?)?;
    }
    Ok(spool.finish()?)
}

fn request(py: Python<'_>, options: &str, memory: Vec<(String, Bound<'_, PyAny>)>) -> PyResult<Request> {
    let options: Options =
        serde_json::from_str(options).map_err(|error| raise(py, &Error::usage(format!("options: {error}"))))?;
    let mut streams = Vec::with_capacity(memory.len());
    for (name, object) in memory {
        let reader = import_stream(&object, &name)?;
        streams.push(enter(py, None, |progress| take_stream(&options, &name, reader, progress))?);
    }
    let controls = options
        .controls
        .iter()
        .map(|(kind, seed)| match kind.as_str() {
            "random" => Ok(Control::Random(*seed)),
            "worst" => Ok(Control::Worst),
            "middle" => Ok(Control::Middle),
            other => Err(Error::usage(format!("--control {other:?}: one of random, worst, middle"))),
        })
        .collect::<Result<Vec<_>, Error>>()
        .map_err(|error| raise(py, &error))?;
    let one_of = |option: &str, value: &str, first: &str, second: &str| match value {
        v if v == first => Ok(true),
        v if v == second => Ok(false),
        other => Err(raise(py, &Error::usage(format!("--{option} {other:?}: {first} or {second}")))),
    };
    let files = enter(py, None, |progress| Ok(expand(&options.scores, KINDS, &is_table, &|| progress.check())?))?;
    Ok(Request {
        files,
        streams,
        order: if one_of("order", &options.order, "asc", "desc")? { Order::Ascending } else { Order::Descending },
        size: size(&options.size).map_err(|error| raise(py, &error))?,
        keep_repeats: one_of("repeats", &options.repeats, "keep", "drop")?,
        controls,
        id_column: options.id_column,
        score_column: options.score_column,
        non_negative: options.non_negative,
        min_tokens: options.min_tokens,
        max_tokens: options.max_tokens,
        include: options.include,
        exclude: options.exclude,
        allow_unmatched: options.allow_unmatched,
        dedup: options.dedup,
        keep_columns: options.keep_columns,
        output: options.output,
        threads: options.threads,
        memory_limit: options.memory_limit,
        strict: options.strict,
        max_bad_fraction: options.max_bad_fraction,
        allow_bad_files: options.allow_bad_files,
        mix_provenance: options.mix_provenance,
        overwrite: options.overwrite,
    })
}

fn report(report: &SelectionReport) -> Value {
    let mut rejected = Map::new();
    for (name, count) in &report.counts {
        if let Some(reason) = name.strip_prefix("rejected.") {
            rejected.insert(reason.to_owned(), json!(count));
        }
    }
    let count = |name: &str| report.counts.get(name).copied().unwrap_or(0);
    json!({
        "output": paths::text_of(&report.output),
        "control": report.control.map(Control::suffix),
        "already_done": report.already_done,
        "input": count("input"),
        "selected": count("selected"),
        "quarantined": count("quarantined"),
        "rejected": rejected,
        "threshold": report.threshold,
        "short_by": report.short_by,
        "repeated_across_sources": report.repeated_across_sources,
        "lists": report.lists,
        "bad_files": report.bad_files,
        "sample": report.sample,
    })
}

/// Runs a selection; returns the report as JSON.
#[pyfunction]
#[pyo3(name = "select", signature = (options, memory, watch=None))]
fn run_select(
    py: Python<'_>,
    options: &str,
    memory: Vec<(String, Bound<'_, PyAny>)>,
    watch: Option<Py<PyAny>>,
) -> PyResult<String> {
    let request = request(py, options, memory)?;
    let outcome = enter(py, watch, |progress| select(&request, progress))?;
    let controls: Vec<Value> = outcome.controls.iter().map(report).collect();
    Ok(json!({"selection": report(&outcome.selection), "controls": controls}).to_string())
}

/// Checks the options against the tables and says what the run would cost, as JSON.
#[pyfunction]
fn plan_select(py: Python<'_>, options: &str, memory: Vec<(String, Bound<'_, PyAny>)>) -> PyResult<String> {
    let request = request(py, options, memory)?;
    let plan = enter(py, None, |_| plan(&request))?;
    Ok(json!({
        "files": plan.files,
        "rows": plan.rows,
        "bytes": plan.bytes,
        "memory_bytes": plan.memory_bytes,
        "scratch_bytes": plan.scratch_bytes,
        "config": plan.config,
        "outputs": plan.outputs.iter().map(|path| paths::text_of(path)).collect::<Vec<_>>(),
    })
    .to_string())
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(run_select, module)?)?;
    module.add_function(wrap_pyfunction!(plan_select, module)?)
}
