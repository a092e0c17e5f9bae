"""Lists of ids for ``--include`` and ``--exclude``: every spelling and type of an id meets, and what does not is said."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
from vlmsel.cli.main import run
from vlmsel.errors import UsageError

IDS = [uuid.UUID(int=0xABCDEF << 96 | n) for n in range(4)]

COLUMNS: dict[str, pa.Array] = {
    "hex": pa.array([one.hex for one in IDS]),
    "upper": pa.array([one.hex.upper() for one in IDS]),
    "dashed": pa.array([str(one) for one in IDS]),
    "braced": pa.array([f"{{{one}}}" for one in IDS]),
    "urn": pa.array([one.urn for one in IDS]),
    "spaced": pa.array([f" {one}\t" for one in IDS]),
    "binary": pa.array([one.bytes for one in IDS], pa.binary()),
    "text in binary": pa.array([str(one).encode() for one in IDS], pa.binary()),
    "fixed": pa.array([one.bytes for one in IDS], pa.binary(16)),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([one.bytes for one in IDS], pa.binary(16))),
    "dictionary": pa.array([str(one) for one in IDS]).dictionary_encode(),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_list(form: str) -> str:
    """The first two ids."""
    name = f"list.{form}"
    if form == "npy":
        pairs = [(one.int >> 64, one.int & (1 << 64) - 1) for one in IDS[:2]]
        np.save(name, np.array(pairs, dtype="u8,u8"))
    elif form in COLUMNS:
        name = "list.parquet"
        pq.write_table(pa.table({"uid": COLUMNS[form][:2]}), name)
    else:
        spell: dict[str, Any] = {
            "txt": lambda one: one.hex,
            "quoted.txt": lambda one: f'"{one}"',
            "spaced.txt": lambda one: f"  {one.hex.upper()} \r",
            "csv": str,
        }
        lines = [*(["uid"] if form == "csv" else []), *map(spell[form], IDS[:2])]
        Path(name).write_text("\n".join(lines))
    return name


@pytest.mark.parametrize("listed", ["npy", "txt", "quoted.txt", "spaced.txt", "csv", *COLUMNS])
@pytest.mark.parametrize("column", COLUMNS)
def test_an_id_is_met_in_every_spelling_and_type(column: str, listed: str) -> None:
    table = pa.table({"uid": COLUMNS[column], "ppl": [1.0, 2.0, 3.0, 4.0]})
    pq.write_table(table, "t.parquet")
    name = write_list(listed)
    kept = vlmsel.select("t.parquet", k=4, exclude=name, output="kept")
    assert kept.rejected == {"excluded": 2} and kept.lists["exclude"].unmatched == 0
    # Ids of 128 bits are what `shard` and DataComp's tools join by, whatever the table has.
    assert [(int(high) << 64) | int(low) for high, low in kept.uids().tolist()] == [one.int for one in IDS[2:]]
    stored = pa.table(kept.table())["uid"]
    storage = [item.value.as_py() if isinstance(item, pa.ExtensionScalar) else item.as_py() for item in COLUMNS[column]]
    assert stored.to_pylist() == storage[2:], "the bytes are as they were"


def test_ids_that_are_no_128_bits_meet_in_spite_of_quotes_and_space() -> None:
    pq.write_table(pa.table({"uid": ["a", " b", '"c"', "d e"], "ppl": [1.0, 2.0, 3.0, 4.0]}), "t.parquet")
    Path("list").write_text('"a"\nb\n"c"\n d e\n')
    assert vlmsel.select("t.parquet", k=4, include="list", output="out").selected == 4


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_list_that_meets_nothing_is_an_error(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"uid": COLUMNS["hex"], "ppl": [1.0, 2.0, 3.0, 4.0]}), "t.parquet")
    Path("list").write_text("not\nthere\n")
    select = ["select", "t.parquet", "-k", "4", f"--{option}", "list", "-q", "--json"]
    assert run([*select, "-o", "out"]) == 2
    said = capsys.readouterr()
    for words in (f"--{option}: 2 of 2 listed ids met no row", "not", IDS[0].hex, "--allow-unmatched", "--id-column"):
        assert words in said.err
    assert said.out == "" and not Path("out").exists()
    assert run([*select, "-o", "out", "--allow-unmatched"]) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)
    assert (record[f"{option}_listed"], record[f"{option}_unmatched"]) == (2, 2)
    assert f"warning: --{option}: 2 of 2 listed ids met no row" in said.err
    # What stands there was allowed; whoever does not allow it is told, and it is there again for who does.
    assert run([*select, "-o", "out"]) == 2
    capsys.readouterr()
    assert run([*select, "-o", "out", "--allow-unmatched"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[f"{option}_unmatched"] == 2 and "2 of 2 listed ids" in said.err
    with pytest.raises(UsageError, match="2 of 2 listed ids"):
        vlmsel.select("t.parquet", k=4, output="other", **{option: "list"})  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 4])
def test_ids_that_met_no_row_are_counted_exactly(threads: int, capsys: pytest.CaptureFixture[str]) -> None:
    rows = 20_000
    ids = [f"{n:032x}" for n in range(rows)]
    table = pa.table({"uid": ids, "ppl": [float(n % 97) for n in range(rows)]})
    pq.write_table(table, "t.parquet", row_group_size=500)
    Path("list").write_text("\n".join([*ids[::7], *ids[::7], *(f"other {n}" for n in range(11))]))
    select = ["select", "t.parquet", "--fraction", "0.5", "--exclude", "list", "-o", "out", "--threads", str(threads)]
    assert run([*select, "-q", "--json", "--control", "middle"]) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)
    listed = len(ids[::7]) + 11
    assert (record["exclude_listed"], record["exclude_unmatched"]) == (listed, 11)
    assert said.err == f"warning: --exclude: 11 of {listed:,} listed ids met no row\n"
    assert "include_listed" not in record


def test_what_a_table_met_that_was_left_out_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    whole = pa.table({"uid": ["a", "b"], "ppl": [1.0, 2.0]})
    pq.write_table(whole, "good.parquet")
    pq.write_table(pa.table({"uid": ["x"] * 9, "ppl": [1.0] * 9}), "bad.parquet", row_group_size=3)
    data = bytearray(Path("bad.parquet").read_bytes())
    place = pq.ParquetFile("bad.parquet").metadata.row_group(2).column(1).data_page_offset
    data[place : place + 8] = b"\xff" * 8
    Path("bad.parquet").write_bytes(data)
    Path("list").write_text("a\nx\n")
    select = ["select", "good.parquet", "bad.parquet", "-k", "2", "--exclude", "list", "-o", "out", "--json"]
    assert run([*select, "--allow-bad-files", "1", "--threads", "1"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["selected"], record["exclude_unmatched"]) == (1, 1)


def test_fewer_than_asked_for_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"uid": ["a", "b", "b"], "ppl": [1.0, 2.0, 3.0]}), "t.parquet")
    for again in range(2):
        assert run(["select", "t.parquet", "-k", "5", "-o", "out", "-q", "--json"]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out)["short_by"] == 3, again
        assert said.err == "warning: out: 2 rows, not 5: no more of them rank\n"
    assert run(["select", "t.parquet", "-k", "2", "-o", "two", "-q", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["short_by"] == 0 and said.err == ""
