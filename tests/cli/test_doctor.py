"""`vlmsel doctor` finds what was planted, and nothing where nothing is."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pair_corpus import corpus, pairs, picture, run, run_json, write_tar


def counts(result: dict[str, dict[str, dict[str, int]]]) -> dict[str, int]:
    return {kind: finding["count"] for kind, finding in result["findings"].items()}


def test_a_healthy_set(tmp_path: Path) -> None:
    corpus(tmp_path / "p")
    result = run_json("doctor", tmp_path / "p", "--strict")
    assert result["healthy"] and result["findings"] == {} and result["records"] == 36
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]


def test_what_was_planted_is_found(tmp_path: Path) -> None:
    members = pairs(0, 6)
    members += [("z0.jpg", b""), ("z0.txt", b"t")]
    members += [("z1.jpg", picture(50)[:-30]), ("z1.txt", b"cut")]
    members += [("z2.jpg", b"<html>"), ("z2.txt", b"page")]
    members += [("z3.jpg", picture(3)), ("z3.txt", b"another caption of picture 3")]
    members += [("z4.jpg", picture(4)), ("z4.txt", b" caption 4 ")]
    members += [("z5.jpg", picture(55)), ("z5.txt", b" \n")]
    members += [("z6.jpg", picture(56, 5, 5)), ("z6.txt", b"tiny")]
    members += [("000001.txt", b"a key that comes back")]
    path = write_tar(tmp_path / "p" / "00000.tar", members)
    rows = [f"{n:06d}" for n in range(6)] + [f"z{n}" for n in range(7)] + ["gone", "failed"]
    status = ["success"] * (len(rows) - 1) + ["failed_to_download"]
    pq.write_table(pa.table({"key": rows, "status": status}), path.with_suffix(".parquet"))
    whole = write_tar(tmp_path / "p" / "00001.tar", pairs(100, 3))
    whole.write_bytes(whole.read_bytes()[:5000])
    result = run_json("doctor", tmp_path / "p")
    assert counts(result) == {
        "empty_image": 1, "truncated_image": 1, "unknown_image_format": 1, "one_image_many_captions": 1, "repeated_pair": 1,
        "empty_caption": 1, "tiny_image": 1, "repeated_key": 1, "row_without_member": 1, "failed_download": 1, "truncated_tar": 1,
    }  # fmt: skip
    assert "z1" in result["findings"]["truncated_image"]["examples"][0]
    assert run("doctor", tmp_path / "p", "--strict").returncode == 5


def test_examples_cannot_steer_the_terminal(tmp_path: Path) -> None:
    write_tar(tmp_path / "p" / "0.tar", [("a\x1b[31m\nb.jpg", b""), ("c.txt", b"t")])
    done = run("doctor", tmp_path / "p")
    assert done.returncode == 0 and "\x1b" not in done.stdout and "empty_image" in done.stdout


def test_json_sources(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    rows = [
        {"id": 1, "image": "a.jpg", "caption": "x"},
        {"id": 1, "image": "b.jpg", "caption": "y"},
        {"id": 2, "image": "a.jpg", "caption": ""},
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    found = counts(run_json("doctor", tmp_path / "d.jsonl"))
    assert found == {
        "repeated_key": 1,
        "missing_image": 1,
        "empty_caption": 1,
        "one_image_many_captions": 1,
        "bad_json": 1,
    }
