"""The demo's report: counts by planted kind, joined by uid."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vlmsel_trainer.demo import report
from vlmsel_trainer.demo.corpus import KIND_MEANINGS


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for folder in ("index", "dedup", "selection", "random"):
        (tmp_path / folder).mkdir()
        parts = [{"unit": "u", "files": [{"file": "u.parquet"}]}]
        (tmp_path / folder / "manifest.json").write_text(json.dumps({"schema": 1, "parts": parts}))
    return tmp_path


def places(folder: Path) -> tuple[Path, Path, Path, Path]:
    return folder / "index", folder / "dedup", folder / "selection", folder / "random"


def read(paths: list[Path], columns: list[str]) -> Iterator[dict[str, Any]]:
    kinds = ["good"] * 6 + ["tiny-picture"] * 4
    uids = {"index": range(10), "dedup": range(10), "selection": [5, 0, 1], "random": [9, 8, 0]}[paths[0].parent.name]
    for number in uids:
        row = {"uid": bytes([number]), "metadata": json.dumps({"kind": kinds[number]}).encode()}
        row["keep"] = number not in (2, 6, 7)
        yield {column: row[column] for column in columns}


def test_counts_join_by_uid(folders: Path) -> None:
    found = report.count_kinds(*places(folders), read)
    assert [entry.kind for entry in found] == list(KIND_MEANINGS)
    counts = {
        entry.kind: (entry.n_pool, entry.n_removed, entry.n_selected, entry.n_random) for entry in found if entry.n_pool
    }
    assert counts == {"good": (6, 1, 3, 1), "tiny-picture": (4, 2, 0, 2)}


def test_text_and_json_say_the_same(folders: Path) -> None:
    found = report.count_kinds(*places(folders), read)
    text = report.write(found, folders).read_text()
    assert re.search(r"^good +6 +1 = +16\.7 % +3 = +50\.0 % +1 = +16\.7 %", text, re.MULTILINE)
    assert re.search(r"^all +10 +3 = +30\.0 % +3 = +30\.0 % +3 = +30\.0 %", text, re.MULTILINE)
    kinds = {kind["kind"]: kind for kind in json.loads((folders / "report.json").read_text())["kinds"]}
    assert kinds["tiny-picture"] == {
        "kind": "tiny-picture",
        "n_pool": 4,
        "n_removed": 2,
        "n_selected": 0,
        "n_random": 2,
    }


def test_planted_counts_cover_what_the_index_left_out(folders: Path) -> None:
    found = report.count_kinds(*places(folders), read, {"broken-jpeg": 7})
    assert {entry.kind: entry.n_pool for entry in found}["broken-jpeg"] == 7
