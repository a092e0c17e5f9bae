"""``vlmsel select --dedup``: copies are no candidates, and all other rows are what they were."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
import vlmsel
from dedup_corpus import make_scores, part_files
from pair_corpus import run, run_json
from vlmsel.errors import MismatchError, UsageError

ROWS = 900


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index in three parts, copies in all of them, scores in many ranges."""
    folder = tmp_path_factory.mktemp("select")
    choose = random.Random(9)
    for source in ("a", "b", "c"):
        (folder / source).mkdir()
        lines = [json.dumps({"caption": f"text {choose.randrange(500)}"}) + "\n" for _ in range(ROWS // 3)]
        (folder / source / "list.jsonl").write_text("".join(lines))
    index = vlmsel.index([folder / source for source in "abc"], output=folder / "index").path
    odd = [None, math.nan, math.inf, -math.inf]
    scores = [choose.choice(odd) if choose.random() < 0.1 else float(choose.randrange(60)) for _ in range(ROWS)]
    make_scores(
        index,
        folder / "scores",
        {
            "ppl": pa.array(scores, pa.float32()),
            "n_tokens": pa.array([choose.randrange(1, 100) for _ in range(ROWS)], pa.uint32()),
            "status": pa.array(["failed" if choose.random() < 0.05 else "ok" for _ in range(ROWS)]),
        },
        unit_rows=64,
    )
    vlmsel.dedup(index, scores=folder / "scores", output=folder / "dedup", exact=["text"], max_removed=1.0)
    return folder


def rows_of(workspace: Path) -> list[dict[str, Any]]:
    """Scores with whether dedup keeps the row, in the order of the index."""
    kept = [
        row["keep"]
        for _, file in part_files(workspace / "dedup")
        for row in pq.read_table(workspace / "dedup" / file).to_pylist()
    ]
    tables = [pq.read_table(workspace / "scores" / file) for _, file in part_files(workspace / "scores")]
    return [row | {"keep": keep} for row, keep in zip(pa.concat_tables(tables).to_pylist(), kept, strict=True)]


def eligible(row: dict[str, Any], max_tokens: int | None = None) -> str:
    """Why a row does not rank, or ``rank``: the first of these that holds."""
    score = row["ppl"]
    if score is None:
        return "missing"
    if math.isnan(score):
        return "nan"
    if math.isinf(score):
        return "infinite"
    if row["status"] != "ok":
        return "failed"
    if max_tokens is not None and row["n_tokens"] > max_tokens:
        return "too_long"
    return "rank" if row["keep"] else "duplicate"


def best(rows: list[dict[str, Any]], max_tokens: int | None = None) -> list[bytes]:
    ranked = [row for row in rows if eligible(row, max_tokens) == "rank"]
    return [row["uid"] for row in sorted(ranked, key=lambda row: (row["ppl"], row["uid"]))]


def uids(folder: Path) -> list[bytes]:
    return [bytes(uid) for uid in pq.read_table(folder / "selection.parquet")["uid"].to_pylist()]


@pytest.mark.parametrize("threads", ["1", "2", "8"])
@pytest.mark.parametrize("max_tokens", [None, 50])
def test_scores_of_the_index_are_known_by_their_place(
    workspace: Path, tmp_path: Path, threads: str, max_tokens: int | None
) -> None:
    rows = rows_of(workspace)
    duplicates = sum(eligible(row, max_tokens) == "duplicate" for row in rows)
    assert duplicates > 100
    words = ["--max-tokens", str(max_tokens)] if max_tokens else []
    for k in (1, 40, 10_000):
        done = run_json(
            "select", workspace / "scores", "-k", str(k), "--dedup", workspace / "dedup", "-o", tmp_path / f"{k}",
            "--threads", threads, *words,
        )  # fmt: skip
        expected = best(rows, max_tokens)
        assert uids(tmp_path / f"{k}") == expected[:k]
        assert done["rejected"]["duplicate"] == duplicates
        assert done["rejected"].get("too_long", 0) == sum(eligible(row, max_tokens) == "too_long" for row in rows)
        assert done["rejected"].get("outranked", 0) == max(len(expected) - k, 0)
        assert done["input"] == ROWS == done["selected"] + sum(done["rejected"].values()) + done["quarantined"]
        assert vlmsel.verify(tmp_path / f"{k}").problems == []


def foreign(workspace: Path, folder: Path, end: str) -> Any:
    """The same rows in another order, in a table that says nothing of the index."""
    rows = rows_of(workspace)
    random.Random(2).shuffle(rows)
    rows = [row for row in rows if eligible({**row, "keep": True}) == "rank"]
    table = pa.table(
        {"uid": [row["uid"].hex() for row in rows], "ppl": pa.array([row["ppl"] for row in rows], pa.float32())}
    )
    if end == "memory":
        return table
    path = folder / f"table.{end}"
    if end == "parquet":
        pq.write_table(table, path)
    elif end == "csv":
        pcsv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


@pytest.mark.parametrize("end", ["parquet", "csv", "jsonl", "memory"])
def test_other_tables_are_known_by_their_ids(workspace: Path, tmp_path: Path, end: str) -> None:
    rows = rows_of(workspace)
    table = foreign(workspace, tmp_path, end)
    done = vlmsel.select(table, k=50, dedup=workspace / "dedup", output=tmp_path / "out")
    assert pa.table(done.table())["uid"].to_pylist() == [uid.hex() for uid in best(rows)[:50]]
    assert done.rejected["duplicate"] == sum(eligible(row) == "duplicate" for row in rows)
    assert done.input == done.selected + sum(done.rejected.values())


def test_a_fraction_is_of_what_can_be_selected(workspace: Path, tmp_path: Path) -> None:
    """With and without dedup by the same rule."""
    expected = best(rows_of(workspace))
    for dedup in (None, workspace / "dedup"):
        done = vlmsel.select(workspace / "scores", fraction=0.2, dedup=dedup, output=tmp_path / f"{dedup is None}")
        can_rank = done.input - sum(n for reason, n in done.rejected.items() if reason != "outranked")
        assert done.selected in (math.floor(0.2 * can_rank), math.ceil(0.2 * can_rank))
    assert uids(tmp_path / "False") == expected[: done.selected]


def test_a_threshold_counts_copies_as_duplicates(workspace: Path, tmp_path: Path) -> None:
    rows = rows_of(workspace)
    done = vlmsel.select(workspace / "scores", threshold=20, dedup=workspace / "dedup", output=tmp_path / "out")
    expected = [row for row in rows if eligible(row) == "rank" and row["ppl"] <= 20]
    assert sorted(uids(done.path)) == sorted(row["uid"] for row in expected)
    assert done.rejected["duplicate"] == sum(eligible(row) == "duplicate" for row in rows)


def test_controls_draw_no_copies(workspace: Path, tmp_path: Path) -> None:
    rows = rows_of(workspace)
    run_json(
        "select", workspace / "scores", "-k", "100", "--dedup", workspace / "dedup", "-o", tmp_path / "out",
        "--control", "random", "--seed", "4",
    )  # fmt: skip
    [control] = [path for path in tmp_path.iterdir() if path.name.startswith("out-random")]
    drawn = uids(control)
    assert len(drawn) == 100
    assert set(drawn) <= set(best(rows))


def test_ids_that_repeat_are_known_by_their_place(tmp_path: Path) -> None:
    """Two rows of one id, of which one goes: the other is still a candidate."""
    (tmp_path / "pool").mkdir()
    lines = [{"caption": "x"}, {"caption": "x"}, {"caption": "y"}]
    (tmp_path / "pool" / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    index = vlmsel.index(tmp_path / "pool", output=tmp_path / "index").path
    scores = make_scores(index, tmp_path / "scores", {"ppl": pa.array([2.0, 1.0, 3.0], pa.float32())}, unit_rows=2)
    vlmsel.dedup(index, scores=scores, output=tmp_path / "dedup", exact=["text"], max_removed=1.0)
    [(_, file)] = part_files(index)
    ids = pq.read_table(index / file)["uid"].to_pylist()
    # Every row twice in the table: both of a row that stays, none of one that goes.
    table = pa.table({"uid": [uid.hex() for uid in ids] * 2, "ppl": [2.0, 1.0, 3.0] * 2})
    for repeats, expected in (("drop", [1, 2]), ("keep", [1, 1, 2, 2])):
        done = vlmsel.select(table, k=10, dedup=tmp_path / "dedup", output=tmp_path / repeats, repeats=repeats)  # type: ignore[arg-type]
        assert pa.table(done.table())["uid"].to_pylist() == [ids[at].hex() for at in expected]
        assert done.rejected["duplicate"] == 2


def test_dedup_of_another_index_is_exit_code_7(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "list.jsonl").write_text(
        "".join(json.dumps({"caption": f"{n % 2}"}) + "\n" for n in range(ROWS // 3))
    )
    index = vlmsel.index(tmp_path / "a", output=tmp_path / "index").path
    vlmsel.dedup(index, output=tmp_path / "dedup", exact=["text"], max_removed=1.0)
    with pytest.raises(MismatchError, match="different indexes"):
        vlmsel.select(workspace / "scores", k=5, dedup=tmp_path / "dedup", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_dedup_is_exit_code_2(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    for wrong in (workspace / "index", workspace / "dedup-edges", workspace / "scores", tmp_path / "nothing"):
        with pytest.raises(UsageError, match="dedup"):
            vlmsel.select(workspace / "scores", k=5, dedup=wrong, output=tmp_path / "out")
    done = run("select", workspace / "scores", "-k", "5", "--dedup", tmp_path / "not there", "-o", tmp_path / "out")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    # The selection never lies in what it is made from.
    with pytest.raises(UsageError):
        vlmsel.select(workspace / "scores", k=5, dedup=workspace / "dedup", output=workspace / "dedup" / "out")


def test_another_dedup_is_another_selection(workspace: Path, tmp_path: Path) -> None:
    """What it kept is an input: a changed one is noticed, and the same is not."""
    folder = tmp_path / "dedup"
    index, out = workspace / "index", tmp_path / "out"
    vlmsel.dedup(index, output=folder, exact=["text"], max_removed=1.0, keep=["first"])
    first = vlmsel.select(workspace / "scores", k=50, dedup=folder, output=out)
    assert vlmsel.select(workspace / "scores", k=50, dedup=folder, output=out).already_done
    ids = np.load(first.path / "uids.npy").tolist()
    vlmsel.dedup(
        index,
        scores=workspace / "scores",
        output=folder,
        exact=["text"],
        max_removed=1.0,
        keep=["highest:ppl"],
        overwrite=True,
    )
    with pytest.raises(MismatchError):
        vlmsel.select(workspace / "scores", k=50, dedup=folder, output=out)
    again = vlmsel.select(workspace / "scores", k=50, dedup=folder, output=out, overwrite=True)
    assert np.load(again.path / "uids.npy").tolist() != ids
