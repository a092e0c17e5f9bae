use super::*;
use crate::storage::identity::Identity;
use crate::workspace::noted::NotedFile;
use crate::workspace::output::{Opening, OutputSpec, Summary};

fn begin(folder: &Path) -> Output {
    let spec = OutputSpec {
        path: folder.join("out"),
        command: "index".to_owned(),
        config: Value::Null,
        inputs: Vec::new(),
        guarded: Vec::new(),
        overwrite: false,
        extend: false,
        resume: true,
    };
    match Output::begin(spec).unwrap() {
        Opening::Open(output) => *output,
        Opening::Finished(_) => panic!("finished already"),
    }
}

fn noted() -> Noted {
    let identity = Identity { bytes: 1, modified_ns: 2, inode: 3 };
    Noted { files: BTreeMap::from([("a".to_owned(), NotedFile { identity, blake3: None })]), named_files: None }
}

/// Commits a unit with one file in a folder of its own; it took no time.
fn add(output: &Output, unit: &str, took: Duration) {
    let name = format!("of-{unit}/{unit}.txt");
    fs::write(output.temporary(&name).unwrap(), unit).unwrap();
    let counts = BTreeMap::from([("ok".to_owned(), 1)]);
    output.commit_soon(unit, &[(&name, None)], 1, counts, Value::Null, Some(noted()), took).unwrap();
}

fn units(output: &Output) -> Vec<String> {
    output.committed().into_keys().collect()
}

fn records(folder: &Path) -> usize {
    fs::read_dir(folder.join("out.partial/parts")).unwrap().count()
}

#[test]
fn what_waits_is_committed_for_this_run_and_lost_by_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let output = begin(folder.path());
    add(&output, "a", Duration::ZERO);
    output.flush().unwrap();
    add(&output, "b", Duration::ZERO);
    assert_eq!(units(&output), ["a", "b"]);
    assert_eq!((records(folder.path()), output.noted("b")), (1, Some(noted())));
    // As a kill leaves it: nothing is done at the end.
    drop(output);
    let output = begin(folder.path());
    assert_eq!(units(&output), ["a"]);
    assert_eq!((output.noted("a"), output.noted("b")), (Some(noted()), None));
    add(&output, "b", Duration::ZERO);
    let manifest = output.finish(Summary::default()).unwrap();
    assert_eq!(manifest.parts.len(), 2);
    let content = |unit: &str| fs::read_to_string(folder.path().join(format!("out/of-{unit}/{unit}.txt"))).unwrap();
    assert_eq!((content("a"), content("b")), ("a".to_owned(), "b".to_owned()));
    assert!(!folder.path().join("out.partial").exists());
}

#[test]
fn many_parts_large_ones_and_slow_ones_wait_for_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let output = begin(folder.path());
    for unit in 0..MOST_PARTS {
        assert_eq!(records(folder.path()), 0);
        add(&output, &format!("{unit:05}"), Duration::ZERO);
    }
    assert_eq!(records(folder.path()), 1);
    add(&output, "slow", MOST_WORK / 2);
    assert_eq!(records(folder.path()), 1);
    add(&output, "slower", MOST_WORK / 2);
    assert_eq!(records(folder.path()), 2);
    let file = fs::File::create(output.temporary("large.bin").unwrap()).unwrap();
    file.set_len(MOST_BYTES).unwrap();
    let hash = Some(blake3::hash(b"not looked at here"));
    let none = BTreeMap::new();
    output.commit_soon("large", &[("large.bin", hash)], 1, none, Value::Null, None, Duration::ZERO).unwrap();
    assert_eq!(records(folder.path()), 3);
    drop(output);
    assert_eq!(units(&begin(folder.path())).len(), MOST_PARTS + 3);
}

#[test]
fn a_unit_is_forgotten_whatever_was_recorded_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let output = begin(folder.path());
    for unit in ["a", "b", "c"] {
        add(&output, unit, Duration::ZERO);
    }
    output.flush().unwrap();
    add(&output, "d", Duration::ZERO);
    fs::write(output.temporary("e.txt").unwrap(), "e").unwrap();
    output.commit("e", &[("e.txt", None)], 1, BTreeMap::new(), Value::Null).unwrap();
    output.forget(&["b", "d", "e"]).unwrap();
    assert_eq!(units(&output), ["a", "c"]);
    drop(output);
    let output = begin(folder.path());
    assert_eq!(units(&output), ["a", "c"]);
    assert_eq!((output.noted("c"), output.noted("b")), (Some(noted()), None));
    // Committed again, by itself or with others, a unit has one record.
    fs::write(output.temporary("a.txt").unwrap(), "anew").unwrap();
    output.commit("a", &[("a.txt", None)], 7, BTreeMap::new(), Value::Null).unwrap();
    add(&output, "c", Duration::ZERO);
    output.flush().unwrap();
    drop(output);
    let output = begin(folder.path());
    assert_eq!(output.committed()["a"].rows, 7);
    assert_eq!(records(folder.path()), 2);
}

#[test]
fn a_batch_that_cannot_be_put_in_place_is_not_committed() {
    let folder = tempfile::tempdir().unwrap();
    let output = begin(folder.path());
    add(&output, "a", Duration::ZERO);
    fs::remove_file(output.temporary("of-a/a.txt").unwrap()).unwrap();
    assert!(output.flush().is_err());
    assert!(units(&output).is_empty());
}

#[test]
fn a_part_that_is_not_as_long_as_its_record_says_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let output = begin(folder.path());
    for unit in ["a", "b"] {
        add(&output, unit, Duration::ZERO);
    }
    output.flush().unwrap();
    drop(output);
    fs::write(folder.path().join("out.partial/output/of-a/a.txt"), "").unwrap();
    let output = begin(folder.path());
    assert_eq!(units(&output), ["b"]);
    // What is made in its place has the length that the old record says.
    fs::write(output.temporary("of-a/a.txt").unwrap(), "A").unwrap();
    output.commit("a", &[("of-a/a.txt", None)], 7, BTreeMap::new(), Value::Null).unwrap();
    drop(output);
    assert_eq!(begin(folder.path()).committed()["a"].rows, 7);
}
