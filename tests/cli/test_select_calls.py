"""``vlmsel select`` called in ways that a hurried user tries: forms of input, of options, and mistakes in both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
from vlmsel.cli.main import run
from vlmsel.errors import UsageError
from vlmsel.outputs import read_manifest

ROWS = 100
TABLE = pa.table({
    "uid": [f"{n:032x}" for n in range(ROWS)],
    "ppl": pa.array([float((n * 37) % ROWS) for n in range(ROWS)], pa.float32()),
    "note": [f"note {n}" for n in range(ROWS)],
    "n_tokens": pa.array(range(ROWS), pa.int32()),
})  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tables at different depths among files that are none of ours; the working directory is above."""
    monkeypatch.chdir(tmp_path)
    for name in ("f/sub/_tmp", "f/.hidden"):
        (tmp_path / name).mkdir(parents=True)
    pq.write_table(TABLE.slice(0, 50), "f/sub/a.parquet")
    pq.write_table(TABLE.slice(50), "f/b.parquet")
    for name in (".x.parquet", "_x.parquet", "b.parquet.crc", "sub/_tmp/c.parquet", ".hidden/c.parquet", "_SUCCESS"):
        (tmp_path / "f" / name).write_bytes(b"junk")
    (tmp_path / "list").write_text("# tables\nf/sub\n\nf/b.parquet\n")
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["f"],
        ["./f/"],
        ["f", "f/b.parquet"],
        ["f/sub", "f/b.parquet"],
        ["f/*.parquet", "f/sub/*.parquet"],
        ["f/{sub/a,b}.parquet"],
        ["@list"],
    ],
)
def test_every_form_of_input_names_the_same_rows(folder: Path, arguments: list[str]) -> None:
    assert run(["select", *arguments, "--k", "10", "-o", "out", "-q"]) == 0
    found = pq.read_table("out/selection.parquet")
    assert found["score"].to_pylist() == list(range(10))
    assert read_manifest("out")["counts"]["input"] == ROWS


@pytest.mark.parametrize(
    "flags",
    [
        ["--keep-columns", "note,n_tokens"],
        ["--keep-columns", "note, n_tokens"],
        ["--keep-columns", "note", "--keep-columns", "n_tokens"],
    ],
)
def test_kept_columns_are_listed_or_repeated(folder: Path, flags: list[str]) -> None:
    assert run(["select", "f", "--k", "3", *flags, "-o", "out", "-q"]) == 0
    assert pq.read_schema("out/selection.parquet").names == ["uid", "rank", "score", "note", "n_tokens"]


def test_a_workspace_without_scores_says_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["select", "--k", "1"]) == 2
    message = capsys.readouterr().err
    assert "scores: no such folder" in message and "vlmsel score" in message
    (folder / "scores.partial").mkdir()
    (folder / "scores.partial/begun.json").write_text("{}")
    assert run(["select", "--k", "1"]) == 7
    assert "not finished" in capsys.readouterr().err


class Lazy:
    """A query that was not run yet, as Polars has it."""

    columns = ("uid", "ppl")

    def collect(self) -> pa.Table:
        """Runs it."""
        return TABLE


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (None, "NoneType is neither a path nor a table"),
        (5, "int is neither"),
        ({"uid": ["a"], "ppl": [1.0]}, "dict is neither"),
        ([TABLE, 7], "int is neither"),
        (b"f", "bytes is neither"),
        (Lazy(), r"Lazy is neither .* collect\(\) it first"),
        ([], "empty list"),
    ],
)
def test_what_is_no_table_is_named(folder: Path, scores: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        vlmsel.select(scores, k=1, output="out")
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": -1},
        {"k": 1.5},
        {"k": "1M"},
        {"k": True},
        {"k": 1 << 64},
        {"threshold": "x"},
        {"threshold": float("nan")},
        {"band": (1, 2, 3)},
        {"k": 1, "min_tokens": -4},
        {"k": 1, "seed": -1, "control": "random"},
        {"k": 1, "threads": -2},
        {"k": 1, "memory_limit": "2GB"},
        {"k": 1, "max_bad_fraction": float("nan")},
        {"k": 1, "allow_bad_files": -1},
    ],
)
def test_a_wrong_keyword_is_named_with_its_value(folder: Path, wrong: dict[str, Any]) -> None:
    name = "seed" if "seed" in wrong else list(wrong)[-1]
    with pytest.raises(UsageError) as raised:
        vlmsel.select("f", output="out", **wrong)
    assert name in str(raised.value) and repr(wrong[name]) in str(raised.value)
    assert not (folder / "out").exists()


def test_numbers_of_numpy_are_numbers(folder: Path) -> None:
    assert vlmsel.select("f", k=np.int64(3), output="a").selected == 3
    assert vlmsel.select("f", threshold=np.float32(2.5), output="b").selected == 3
    assert vlmsel.select("f", fraction=np.float64(0.25), output="c").selected == 25
    assert vlmsel.select("f", threshold=float("inf"), output="d").selected == ROWS


@pytest.mark.parametrize("ids", [pa.int64(), pa.string()])
@pytest.mark.parametrize("form", ["txt", "csv", "jsonl", "parquet", "bom"])
def test_a_list_of_sixteen_digits_is_a_list_of_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: pa.DataType, form: str
) -> None:
    """Sixteen digits are not sixteen raw bytes: lists of text match integer ids, and the other way round."""
    monkeypatch.chdir(tmp_path)
    numbers = [10**15 + n for n in range(20)]
    uids = pa.array(numbers, pa.int64()).cast(ids)
    pq.write_table(pa.table({"uid": uids, "ppl": [float(n) for n in range(20)]}), "scores.parquet")
    listed = [str(n) for n in numbers[:5]]
    name = "ids.txt" if form == "bom" else f"ids.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"uid": listed}), name)
    else:
        lines = {"csv": ["uid", *listed], "jsonl": [f'{{"uid": "{n}"}}' for n in listed]}.get(form, listed)
        Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8-sig" if form == "bom" else "utf-8")
    assert run(["select", "scores.parquet", "--k", "20", "--exclude", name, "-o", "out", "-q"]) == 0
    assert read_manifest("out")["counts"]["rejected.excluded"] == 5


@pytest.mark.parametrize("name", ["ids.txt.gz", "ids.zst"])
def test_a_compressed_list_of_lines_is_refused(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_bytes(b"\x1f\x8b\n")
    assert run(["select", "f", "--k", "3", "--exclude", name, "-o", "out", "-q"]) == 2
    assert "decompress" in capsys.readouterr().err


def test_a_subset_file_for_ids_of_another_width_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["select", "f", "--k", "3", "-o", "first", "-q"]) == 0
    pq.write_table(pa.table({"uid": [1, 2], "ppl": [1.0, 2.0]}), "int.parquet")
    assert run(["select", "int.parquet", "--k", "1", "--exclude", "first/uids.npy", "-o", "out", "-q"]) == 2
    assert "128 bits" in capsys.readouterr().err


@pytest.mark.parametrize("ids", [pa.binary(), pa.binary(16), pa.string()])
def test_a_subset_file_excludes_ids_of_128_bits_in_any_column(folder: Path, ids: pa.DataType) -> None:
    assert run(["select", "f", "--k", "3", "-o", "first", "-q"]) == 0
    uids = TABLE["uid"].to_pylist()
    values = uids if ids == pa.string() else [bytes.fromhex(uid) for uid in uids]
    pq.write_table(TABLE.set_column(0, "uid", pa.array(values, ids)), "other.parquet")
    assert run(["select", "other.parquet", "--k", "5", "--exclude", "first/uids.npy", "-o", "out", "-q"]) == 0
    assert read_manifest("out")["counts"]["rejected.excluded"] == 3


def test_when_no_table_can_be_read_each_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x.parquet", "y.parquet"):
        Path(name).write_bytes(b"PAR1 damaged PAR1")
    assert run(["select", "x.parquet", "y.parquet", "--k", "1", "--allow-bad-files", "2", "-o", "out", "-q"]) == 3
    said = capsys.readouterr().err
    assert "x.parquet" in said and "y.parquet" in said


def test_a_pattern_does_not_enter_hidden_folders(folder: Path) -> None:
    assert run(["select", "f/**/*.parquet", "--k", "10", "-o", "out", "-q"]) == 0
    assert read_manifest("out")["counts"]["input"] == ROWS


def test_any_flipped_bit_of_a_manifest_is_found(folder: Path) -> None:
    assert run(["select", "f", "--k", "3", "-o", "out", "-q"]) == 0
    path = Path("out/manifest.json")
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(bytes(flipped))
        assert run(["verify", "out", "-q"]) != 0, (at, bytes(flipped[max(0, at - 20) : at + 20]))
    path.write_bytes(whole)
    assert run(["verify", "out", "-q"]) == 0


def test_a_select_that_fails_leaves_nothing_behind(folder: Path) -> None:
    Path("broken.parquet").write_bytes(Path("f/b.parquet").read_bytes())
    data = bytearray(Path("broken.parquet").read_bytes())
    data[4:200] = bytes(196)
    Path("broken.parquet").write_bytes(bytes(data))
    assert run(["select", "broken.parquet", "--k", "3", "-o", "out", "-q"]) == 3
    assert not Path("out").exists()
    assert not Path("out.partial").exists()


def test_an_unfinished_run_of_another_command_is_never_wiped(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a scoring run is worth more than any selection."""
    begun = {"command": "score", "config": {}, "inputs": []}
    for name in ("parts", "output"):
        (folder / "scores.partial" / name).mkdir(parents=True)
    (folder / "scores.partial/begun.json").write_text(json.dumps(begun))
    (folder / "scores.partial/output/part.parquet").write_bytes(b"hours of work")
    for flags in ([], ["--overwrite"]):
        assert run(["select", "f", "--k", "3", "-o", "scores", "-q", *flags]) == 2
        assert "unfinished `vlmsel score`" in capsys.readouterr().err
    assert (folder / "scores.partial/output/part.parquet").read_bytes() == b"hours of work"
