"""``vlmsel select`` as a user meets it: formats, flags, messages, exit codes."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
import vlmsel
import zstandard

MAIN = "import sys; from vlmsel.cli.main import run; sys.exit(run())"


def run(*args: Any, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=120
    )


def fails(code: int, *args: Any, says: tuple[str, ...] = ()) -> str:
    """The command fails with this exit code and these words, and prints no result."""
    done = run(*args)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    for words in says:
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def table() -> pa.Table:
    """100 rows; scores 0 to 99 in a scrambled order."""
    scores = [float((n * 37) % 100) for n in range(100)]
    return pa.table(
        {
            "uid": [f"{n:032x}" for n in range(100)],
            "ppl": pa.array(scores, pa.float32()),
            "n_tokens": pa.array(range(100), pa.int32()),
        }
    )


@pytest.fixture
def scores(tmp_path: Path, table: pa.Table) -> Path:
    """The table as ``scores/`` of a workspace."""
    (tmp_path / "scores").mkdir()
    pq.write_table(table, tmp_path / "scores" / "a.parquet")
    return tmp_path / "scores"


def test_short_form_in_a_workspace(scores: Path) -> None:
    done = run("select", "--k", "10", cwd=scores.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "selection\n"
    assert "<- the cut" in done.stderr and "10 of 100 rows" in done.stderr and "90 outranked" in done.stderr
    assert pq.read_table(scores.parent / "selection" / "selection.parquet")["score"].to_pylist() == list(range(10))
    again = run("select", "--k", "10", cwd=scores.parent)
    assert again.returncode == 0 and "already there" in again.stderr
    other = run("select", "--k", "11", cwd=scores.parent)
    assert other.returncode == 7 and "option size.k: 10 -> 11" in other.stderr and "--overwrite" in other.stderr
    assert run("select", "--k", "11", "--overwrite", cwd=scores.parent).returncode == 0
    assert len(np.load(scores.parent / "selection" / "uids.npy")) == 11


def test_json_is_one_object(scores: Path, tmp_path: Path) -> None:
    done = run(
        "select", scores, "--k", "5", "--json", "-q", "-o", tmp_path / "out", "--control", "random", "--seed", "3"
    )
    record = json.loads(done.stdout)
    assert done.stderr == ""
    assert record["schema"] == 1 and record["command"] == "select" and record["output"] == str(tmp_path / "out")
    assert (record["input"], record["selected"], record["threshold"], record["rejected"], record["quarantined"]) == (
        100,
        5,
        4.0,
        {"outranked": 95},
        0,
    )
    assert record["wall_s"] >= 0 and record["peak_bytes"] > 0
    assert record["controls"][0]["output"] == str(tmp_path / "out-random-s3")


def test_uids_are_datacomp_subset(scores: Path, tmp_path: Path) -> None:
    run("select", scores, "--k", "20", "-o", tmp_path / "out")
    uids = np.load(tmp_path / "out" / "uids.npy")
    assert uids.dtype == np.dtype("u8,u8")
    hexes = [f"{high:016x}{low:016x}" for high, low in uids.tolist()]
    assert hexes == sorted(hexes) == sorted(pq.read_table(tmp_path / "out" / "selection.parquet")["uid"].to_pylist())


def write_text(table: pa.Table, path: Path) -> None:
    """The table in the format that the name says."""
    if ".csv" in path.name:
        sink = pa.BufferOutputStream()
        pcsv.write_csv(table, sink)
        data = sink.getvalue().to_pybytes()
    else:
        data = "".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = zstandard.compress(data)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.csv.zst", "t.jsonl", "t.jsonl.gz", "t.jsonl.zst", "t.ndjson"])
def test_every_text_format(table: pa.Table, tmp_path: Path, name: str) -> None:
    write_text(table, tmp_path / name)
    found = vlmsel.select(tmp_path / name, k=10, output=tmp_path / "out")
    assert pa.table(found.table())["score"].to_pylist() == list(range(10))
    assert pa.table(found.table())["uid"].type == pa.string()


def test_datacomp_metadata_just_works(tmp_path: Path) -> None:
    rows = 50
    meta = pa.table({
        "uid": [f"{n * 7919:032x}" for n in range(rows)],
        "url": [f"https://example.org/{n}" for n in range(rows)],
        "text": ["a caption"] * rows,
        "original_width": pa.array([640] * rows, pa.int32()),
        "clip_b32_similarity_score": pa.array([0.1] * rows, pa.float32()),
        "clip_l14_similarity_score": pa.array([n / 100 - 0.1 for n in range(rows)], pa.float32()),
        "face_bboxes": pa.array([[[0.0, 0.0, 1.0, 1.0]]] * rows, pa.list_(pa.list_(pa.float64()))),
        "sha256": ["0" * 64] * rows,
    })  # fmt: skip
    pq.write_table(meta, tmp_path / "m.parquet")
    done = run(
        "select",
        tmp_path / "m.parquet",
        "--score-column",
        "clip_l14_similarity_score",
        "--order",
        "desc",
        "--fraction",
        "0.3",
        "-o",
        tmp_path / "out",
    )
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "out/selection.parquet")["uid"].to_pylist() == [
        f"{n * 7919:032x}" for n in range(49, 34, -1)
    ]


def test_bad_text_records_are_quarantined_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "uid,ppl\na,1.5\nb,abc\nc,\nd,NaN\ne,2,3\nf,-Infinity\n,4\ng,9007199254740993\nh,0.5\n"
    )
    fails(
        3,
        "select",
        tmp_path / "t.csv",
        "--k",
        1,
        "-o",
        tmp_path / "out",
        says=("3 of 9 records", "t.csv, line 3", "abc", "--max-bad-fraction"),
    )
    assert not (tmp_path / "out").exists()
    fails(5, "select", tmp_path / "t.csv", "--k", 1, "-o", tmp_path / "out", "--strict", says=("t.csv, line 3", "abc"))
    done = run("select", tmp_path / "t.csv", "--k", 5, "-o", tmp_path / "out", "--max-bad-fraction", "0.5", "--json")
    record = json.loads(done.stdout)
    assert record["quarantined"] == 3 and record["selected"] == 2
    assert record["rejected"] == {"missing": 2, "nan": 1, "infinite": 1}
    listed = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert [(entry["position"], entry["reason"]) for entry in listed] == [
        (3, "bad_number"),
        (6, "wrong_field_count"),
        (9, "bad_number"),
    ]
    (tmp_path / "t.jsonl").write_text(
        '{"uid": 1, "ppl": NaN}\n{"uid": 2, "ppl": 3}\n\nnot json\n{"uid": 3, "ppl": Infinity}\n[1]\n{"uid": "x"}\n'
    )
    record = json.loads(
        run(
            "select", tmp_path / "t.jsonl", "--k", 5, "-o", tmp_path / "out2", "--max-bad-fraction", "0.5", "--json"
        ).stdout
    )
    assert (record["input"], record["selected"], record["quarantined"], record["rejected"]) == (
        6,
        1,
        2,
        {"nan": 1, "infinite": 1, "missing": 1},
    )


def test_messages_of_wrong_calls(scores: Path, tmp_path: Path, table: pa.Table) -> None:
    out = ("-o", tmp_path / "out")
    fails(2, "select", scores, *out, says=("how many", "--token-budget"))
    fails(2, "select", scores, "--k", 1, "--fraction", "0.5", *out, says=("exclude each other",))
    fails(2, "select", scores, "--k", "-1", *out)
    fails(2, "select", scores, "--fraction", "1.5", *out, says=("between 0 and 1",))
    fails(2, "select", scores, "--band", "30:10", *out, says=("--band",))
    fails(2, "select", tmp_path / "scroes", "--k", 1, *out, says=("no such file or folder", "did you mean", "scores"))
    fails(2, "select", scores, "--k", 1, "--score-column", "pppl", *out, says=('no column "pppl"', "did you mean ppl"))
    fails(2, "select", scores, "--k", 1, "--id-column", "id", *out, says=("--id-column", "uid"))
    fails(2, "select", scores, "--k", 1, "--score-column", "uid", *out, says=("a score must be",))
    fails(2, "select", scores, "--k", 1, "--keep-columns", "uid", *out, says=("has that column already",))
    fails(2, "select", scores, "--k", 1, "--include", tmp_path / "none.txt", *out, says=("none.txt",))
    fails(2, "select", scores, "--k", 1, "-o", scores, says=("the output", "input"))
    fails(2, "select", scores, "--k", 1, "-o", scores / "inside", says=("lies inside the input",))
    (tmp_path / "empty").mkdir()
    fails(2, "select", tmp_path / "empty", "--k", 1, *out, says=("no table",))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/precious.txt").write_text("x")
    fails(2, "select", scores, "--k", 1, "-o", tmp_path / "foreign", "--overwrite", says=("vlmsel did not make it",))
    assert (tmp_path / "foreign/precious.txt").read_text() == "x"
    pq.write_table(table.set_column(1, "ppl", table["ppl"].cast(pa.float64())), scores / "b.parquet")
    fails(2, "select", scores, "--k", 1, *out, says=("Float32", "Float64", "b.parquet"))
    pq.write_table(table.rename_columns(["uid", "perplexity", "n_tokens"]), scores / "b.parquet")
    fails(2, "select", scores, "--k", 1, *out, says=("all tables must have the same columns",))
    assert not (tmp_path / "out").exists()


def test_more_than_there_is_is_all_of_it(scores: Path, tmp_path: Path) -> None:
    done = run("select", scores, "--k", "1M", "-o", tmp_path / "out")
    assert done.returncode == 0 and "100 of 100 rows" in done.stderr


def test_unreadable_files(scores: Path, tmp_path: Path) -> None:
    (scores / "bad.parquet").write_bytes(b"PAR1 not really")
    out = ("-o", tmp_path / "out", "--k", 3)
    fails(3, "select", scores, *out, says=("bad.parquet", "--allow-bad-files 1"))
    fails(5, "select", scores, *out, "--strict", says=("bad.parquet",))
    done = run("select", scores, *out, "--allow-bad-files", 1)
    assert done.returncode == 0 and "left out: bad.parquet" in done.stderr
    assert "unreadable_file" in (tmp_path / "out/quarantine.jsonl").read_text()
    (scores / "bad.parquet").write_bytes(b"PARE" + b"x" * 100 + struct.pack("<I", 8) + b"PARE")
    fails(3, "select", scores, "--k", 3, "-o", tmp_path / "out2", says=("encrypted",))


def test_perplexities_below_zero_are_bad_and_similarities_are_not(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": ["a", "b"], "ppl": [-1.0, 2.0], "sim": [-1.0, 2.0]}), tmp_path / "t.parquet")
    assert vlmsel.select(tmp_path / "t.parquet", k=2, output=tmp_path / "a").rejected == {"negative": 1}
    assert vlmsel.select(tmp_path / "t.parquet", k=2, score_column="sim", output=tmp_path / "b").selected == 2
    assert vlmsel.select(
        tmp_path / "t.parquet", k=2, score_column="sim", non_negative=True, output=tmp_path / "c"
    ).rejected == {"negative": 1}


def test_lists_of_ids_in_every_form(scores: Path, tmp_path: Path, table: pa.Table) -> None:
    wanted = table["uid"].to_pylist()[10:20]
    (tmp_path / "ids.txt").write_text("\n".join(uid.upper() for uid in wanted) + "\n")
    pq.write_table(pa.table({"uid": [bytes.fromhex(uid) for uid in wanted]}), tmp_path / "ids.parquet")
    np.save(tmp_path / "ids.npy", np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in wanted], dtype="u8,u8"))
    for at, name in enumerate(["ids.txt", "ids.parquet", "ids.npy"]):
        found = vlmsel.select(scores, k=100, include=tmp_path / name, output=tmp_path / f"in{at}")
        assert sorted(pa.table(found.table())["uid"].to_pylist()) == wanted
        assert found.rejected == {"excluded": 90}
        assert vlmsel.select(scores, k=100, exclude=tmp_path / name, output=tmp_path / f"out{at}").selected == 90
    np.save(tmp_path / "wrong.npy", np.arange(4))
    fails(
        3,
        "select",
        scores,
        "--k",
        1,
        "--include",
        tmp_path / "wrong.npy",
        "-o",
        tmp_path / "x",
        says=("wrong.npy", "u8,u8"),
    )


def test_dry_run_writes_nothing(scores: Path, tmp_path: Path) -> None:
    done = run("select", scores, "--k", 10, "--dry-run", "-o", tmp_path / "out", "--json")
    record = json.loads(done.stdout)
    assert (record["files"], record["rows"], record["outputs"]) == (1, 100, [str(tmp_path / "out")])
    assert "would read 1 tables, 100 rows" in done.stderr
    assert os.listdir(tmp_path) == ["scores"]
    fails(2, "select", scores, "--k", 10, "--dry-run", "--score-column", "x", "-o", tmp_path / "out")


def test_provenances_do_not_mix(tmp_path: Path) -> None:
    for name, model in (("a", "m1"), ("b", "m2")):
        table = pa.table({"uid": [name * 3], "ppl": [1.0], "status": ["ok"]})
        pq.write_table(
            table.replace_schema_metadata({"vlmsel.provenance": json.dumps({"model": model})}),
            tmp_path / f"{name}.parquet",
        )
    message = fails(
        7,
        "select",
        tmp_path / "a.parquet",
        tmp_path / "b.parquet",
        "--k",
        1,
        "-o",
        tmp_path / "out",
        says=("--mix-provenance",),
    )
    assert 'model: "m1" -> "m2"' in message
    assert (
        run(
            "select",
            tmp_path / "a.parquet",
            tmp_path / "b.parquet",
            "--k",
            1,
            "-o",
            tmp_path / "out",
            "--mix-provenance",
        ).returncode
        == 0
    )
    assert json.loads((tmp_path / "out/manifest.json").read_text())["provenance"] == {
        "mixed": [{"model": "m1"}, {"model": "m2"}]
    }


def test_failed_rows_of_vlmsels_own_tables(tmp_path: Path) -> None:
    table = pa.table(
        {"uid": ["a", "b", "c"], "ppl": [1.0, 2.0, None], "status": ["ok", "decode_error", "decode_error"]}
    )
    pq.write_table(table, tmp_path / "foreign.parquet")
    assert vlmsel.select(tmp_path / "foreign.parquet", k=3, output=tmp_path / "f").selected == 2
    pq.write_table(table.replace_schema_metadata({"vlmsel.provenance": "{}"}), tmp_path / "ours.parquet")
    assert vlmsel.select(tmp_path / "ours.parquet", k=3, output=tmp_path / "o").rejected == {"failed": 1, "missing": 1}


def test_arrow_objects_of_other_libraries(table: pa.Table, tmp_path: Path) -> None:
    found = vlmsel.select(table, k=7, output=tmp_path / "out")
    assert pa.table(found.table())["score"].to_pylist() == list(range(7))
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=9))
    assert vlmsel.select([reader], k=7, output=tmp_path / "out").already_done
    assert "7 of 100" in repr(found)


def test_a_selection_is_verified(scores: Path, tmp_path: Path) -> None:
    run("select", scores, "--k", 50, "-o", tmp_path / "out")
    assert run("verify", tmp_path / "out").returncode == 0
    for path in sorted((tmp_path / "out").iterdir()):
        if path.name == "run.json":
            continue
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        path.write_bytes(bytes(flipped))
        done = run("verify", tmp_path / "out")
        assert done.returncode in (3, 7), (path.name, done.stderr)
        path.write_bytes(whole)
    (tmp_path / "out/extra").write_text("x")
    assert "extra: not in the manifest" in run("verify", tmp_path / "out").stderr
    fails(2, "verify", tmp_path / "none")
    fails(7, "verify", scores)


def test_terminal_escapes_in_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "evil\x1b[2J"
    folder.mkdir()
    done = run("select", folder, "--k", 1, "-o", tmp_path / "out")
    assert done.returncode == 2 and "\x1b" not in done.stderr and "\\x1b" in done.stderr
