"""A finished output is believed only while its inputs are the files that it was made from."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
import vlmsel.tables
from PIL import Image
from vlmsel.errors import MismatchError, UnreadableError


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def age(path: Path) -> None:
    """Makes a file old enough that another change of it would show in its time stamp."""
    os.utime(path, ns=(time.time_ns() - 60 * 10**9,) * 2)


def ids(selection: vlmsel.Selection) -> set[str]:
    return set(pa.table(selection.table())["uid"].to_pylist())


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


class Table:
    """5,000 scores in a file, whose fingerprint does not show which id has which."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids = [f"{i:032x}" for i in range(5000)]
        self.scores = np.random.default_rng(0).random(5000)

    def write(self, scores: np.ndarray) -> None:
        if self.path.suffix == ".parquet":
            pq.write_table(pa.table({"uid": self.ids, "ppl": scores}), self.path)
        else:
            # Above three megabytes, which are read whole.
            row = '{{"uid": "{}", "ppl": {:.12f}, "x": "{}"}}\n' if self.path.suffix == ".jsonl" else "{},{:.12f},{}\n"
            head = "" if self.path.suffix == ".jsonl" else "uid,ppl,x\n"
            rows = zip(self.ids, scores, strict=True)
            self.path.write_text(head + "".join(row.format(uid, score, "x" * 900) for uid, score in rows))

    def best(self, scores: np.ndarray) -> set[str]:
        return {self.ids[i] for i in np.argsort(scores)[:3]}


def corrected(table: Table) -> np.ndarray:
    """Other values of which neither size nor statistics nor the parts that a fingerprint looks at tell."""
    scores = table.scores.copy()
    if table.path.suffix == ".parquet":
        return scores[::-1].copy()
    # Between the first megabyte and the first of the blocks behind it.
    scores[1150:1153] = 1e-6
    return scores


@pytest.mark.parametrize("name", ["s.parquet", "s.csv", "s.jsonl"])
def test_corrected_scores_are_not_answered_with_the_old_selection(tmp_path: Path, name: str) -> None:
    table = Table(tmp_path / name)
    table.write(table.scores)
    out = tmp_path / "out"
    assert ids(vlmsel.select(table.path, k=3, output=out)) == table.best(table.scores)
    before = snapshot(out)
    scores = corrected(table)
    assert table.best(scores) != table.best(table.scores)
    mark = vlmsel.fingerprint(table.path)
    table.write(scores)
    assert vlmsel.fingerprint(table.path) == mark, "the case is about a change that the fingerprint does not show"
    with pytest.raises(MismatchError, match=r"--overwrite"):
        vlmsel.select(table.path, k=3, output=out)
    assert snapshot(out) == before
    assert ids(vlmsel.select(table.path, k=3, output=out, overwrite=True)) == table.best(scores)
    assert {path.name for path in tmp_path.iterdir()} - {".out.identities"} == {"out", name}


def test_a_touched_table_is_compared_once_and_then_believed(tmp_path: Path) -> None:
    table = Table(tmp_path / "s.parquet")
    table.write(table.scores)
    age(table.path)
    out, identities = tmp_path / "out", tmp_path / ".out.identities"
    vlmsel.select(table.path, k=3, output=out)
    before = snapshot(out)
    first = identities.read_bytes()
    assert vlmsel.select(table.path, k=3, output=out).already_done
    assert identities.read_bytes() == first
    age(table.path)
    assert vlmsel.select(table.path, k=3, output=out).already_done
    assert snapshot(out) == before
    assert identities.read_bytes() != first
    # Without what was noted nothing is believed, and what is found out is noted again.
    identities.unlink()
    assert vlmsel.select(table.path, k=3, output=out).already_done
    assert snapshot(out) == before
    assert json.loads(identities.read_text())["units"]


def test_tables_of_ours_are_known_by_their_manifest(tmp_path: Path) -> None:
    table = Table(tmp_path / "s.parquet")
    table.write(table.scores)
    vlmsel.select(table.path, k=1000, output=tmp_path / "first")
    part = tmp_path / "first/selection.parquet"
    age(part)
    again = {"k": 10, "score_column": "score", "output": tmp_path / "second"}
    vlmsel.select(tmp_path / "first", **again)
    age(part)
    assert vlmsel.select(tmp_path / "first", **again).already_done
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 1
    part.write_bytes(content)
    with pytest.raises(UnreadableError, match=r"selection\.parquet.*manifest"):
        vlmsel.select(tmp_path / "first", **again)


def test_a_corrected_caption_is_not_answered_with_the_old_index(tmp_path: Path) -> None:
    data = tmp_path / "d"
    data.mkdir()
    members = [m for i in range(300) for m in ((f"{i:03d}.jpg", picture(i) * 12), (f"{i:03d}.txt", b"wrong caption"))]
    write_tar(data / "0.tar", members)
    vlmsel.index(data, output=tmp_path / "index")
    before = snapshot(tmp_path / "index")
    mark = vlmsel.fingerprint(data / "0.tar")
    at = next(i for i in range(1, 600, 2) if fingerprint_misses(data / "0.tar", members, i, mark))
    members[at] = (members[at][0], b"right caption")
    write_tar(data / "0.tar", members)
    assert vlmsel.fingerprint(data / "0.tar") == mark
    with pytest.raises(MismatchError, match=r"0\.tar.*--overwrite"):
        vlmsel.index(data, output=tmp_path / "index")
    assert snapshot(tmp_path / "index") == before
    vlmsel.index(data, output=tmp_path / "index", overwrite=True)
    parts = list((tmp_path / "index").glob("*.parquet"))
    texts = {row["key"]: row["text"] for row in vlmsel.tables.rows(parts, ["key", "text"])}
    assert texts[members[at][0].removesuffix(".txt")] == "right caption"
    assert sorted(texts.values()).count("right caption") == 1


def fingerprint_misses(path: Path, members: list[tuple[str, bytes]], at: int, mark: dict[str, object]) -> bool:
    changed = list(members)
    changed[at] = (members[at][0], b"right caption")
    trial = path.with_name("trial")
    write_tar(trial, changed)
    found = vlmsel.fingerprint(trial, path.name)
    trial.unlink()
    return found == mark


def test_extending_an_index_does_not_believe_the_old_shards_blindly(tmp_path: Path) -> None:
    data = tmp_path / "d"
    data.mkdir()
    members = [m for i in range(300) for m in ((f"{i:03d}.jpg", picture(i) * 12), (f"{i:03d}.txt", b"wrong caption"))]
    write_tar(data / "0.tar", members)
    vlmsel.index(data, output=tmp_path / "index")
    mark = vlmsel.fingerprint(data / "0.tar")
    at = next(i for i in range(1, 600, 2) if fingerprint_misses(data / "0.tar", members, i, mark))
    write_tar(data / "0.tar", [*members[:at], (members[at][0], b"right caption"), *members[at + 1 :]])
    write_tar(data / "1.tar", [("x.jpg", picture(1)), ("x.txt", b"new")])
    for _ in range(2):
        with pytest.raises(MismatchError, match=r"0\.tar"):
            vlmsel.index(data, output=tmp_path / "index")
    done = vlmsel.index(data, output=tmp_path / "index", overwrite=True)
    assert done.ok == 301
    assert vlmsel.verify(tmp_path / "index").problems == []


class Json:
    """Five records whose pictures lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "a.json"
        self.images = folder / "img"
        self.images.mkdir()
        for i in range(5):
            (self.images / f"{i}.jpg").write_bytes(picture(i))
            age(self.images / f"{i}.jpg")
        records = [{"id": str(i), "image": f"img/{i}.jpg", "caption": "x"} for i in range(5)]
        self.file.write_text(json.dumps(records))
        age(self.file)


def test_a_downloaded_image_is_seen_by_the_next_run(tmp_path: Path) -> None:
    source = Json(tmp_path)
    missing = source.images / "4.jpg"
    content = missing.read_bytes()
    missing.unlink()
    with pytest.raises(UnreadableError, match="missing_image"):
        vlmsel.index(source.file, output=tmp_path / "index")
    missing.write_bytes(content)
    done = vlmsel.index(source.file, output=tmp_path / "index")
    assert (done.ok, done.quarantined) == (5, 0)
    assert vlmsel.verify(tmp_path / "index").problems == []


@pytest.mark.parametrize("what", ["repaired", "replaced"])
def test_a_repaired_or_replaced_image_is_seen_in_a_finished_index(tmp_path: Path, what: str) -> None:
    source = Json(tmp_path)
    first = source.images / "0.jpg"
    if what == "repaired":
        first.rename(tmp_path / "aside")
    again = {"output": tmp_path / "index", "max_bad_fraction": 0.5}
    vlmsel.index(source.file, **again)
    assert vlmsel.index(source.file, **again).already_done
    before = snapshot(tmp_path / "index")
    if what == "repaired":
        (tmp_path / "aside").rename(first)
    else:
        first.write_bytes(picture(99))
    with pytest.raises(MismatchError, match=r"a\.json.*--overwrite"):
        vlmsel.index(source.file, **again)
    assert snapshot(tmp_path / "index") == before
    assert vlmsel.index(source.file, **again, overwrite=True).ok == 5


def test_a_touched_image_is_read_again_and_nothing_changes(tmp_path: Path) -> None:
    source = Json(tmp_path)
    vlmsel.index(source.file, output=tmp_path / "index")
    before, noted = snapshot(tmp_path / "index"), (tmp_path / ".index.identities").read_bytes()
    os.utime(source.images / "3.jpg", ns=(time.time_ns() - 10**10,) * 2)
    assert vlmsel.index(source.file, output=tmp_path / "index").already_done
    assert snapshot(tmp_path / "index") == before
    assert (tmp_path / ".index.identities").read_bytes() != noted


def test_two_swapped_ids_in_a_sidecar_are_seen(tmp_path: Path) -> None:
    data = tmp_path / "d"
    data.mkdir()
    write_tar(data / "0.tar", [("a.jpg", picture(1)), ("b.jpg", picture(2))])
    uids = [f"{i:032x}" for i in (7, 9)]

    def sidecar(order: list[str]) -> None:
        table = {"key": ["a", "b"], "status": ["success"] * 2, "uid": order, "caption": ["x", "x"]}
        pq.write_table(pa.table(table), data / "0.parquet")

    sidecar(uids)
    vlmsel.index(data, output=tmp_path / "index")
    sidecar(uids[::-1])
    with pytest.raises(MismatchError, match=r"0\.tar"):
        vlmsel.index(data, output=tmp_path / "index")


WRITER = """
import os, sys, time
path, mode = sys.argv[1:]
descriptor = os.open(path, os.O_RDWR | (os.O_APPEND if mode == "append" else 0))
end = time.monotonic() + 60
print("writing", flush=True)
while time.monotonic() < end:
    if mode == "append":
        os.write(descriptor, b"ffffffffffffffffffffffffffffffff,0.5\\n")
    elif mode == "truncate":
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - 40)
    else:
        os.pwrite(descriptor, os.urandom(1), 700)
    time.sleep(0.002)
"""


@contextlib.contextmanager
def written_to(path: Path, mode: str) -> Iterator[None]:
    """Another process writes to the file every few milliseconds."""
    command = [sys.executable, "-c", WRITER, str(path), mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"writing\n"
        try:
            yield
            assert writer.poll() is None, "it wrote to the end"
        finally:
            writer.kill()


@pytest.mark.parametrize("mode", ["append", "truncate", "overwrite"])
def test_a_table_that_changes_while_it_is_read_is_no_answer(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text("uid,ppl\n" + "".join(f"{i:032x},{i}\n" for i in range(400_000)))
    with written_to(path, mode), pytest.raises(UnreadableError, match="still being written"):
        vlmsel.select(path, k=3, output=tmp_path / "out", max_bad_fraction=0.5)
    assert not (tmp_path / "out").exists()


def test_a_tar_that_is_written_to_while_it_is_read_is_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    write_tar(path, [m for i in range(3000) for m in ((f"{i}.jpg", picture(i % 7) * 20), (f"{i}.txt", b"x"))])
    with written_to(path, "overwrite"), pytest.raises(UnreadableError, match="still being written"):
        vlmsel.index(path, output=tmp_path / "index", max_bad_fraction=0.5)
    # What could not be read is tried again.
    write_tar(path, [("a.jpg", picture(1)), ("a.txt", b"x")])
    assert vlmsel.index(path, output=tmp_path / "index", overwrite=True).ok == 1


def test_a_list_of_ids_changed_in_its_middle_is_another_list(tmp_path: Path) -> None:
    data = tmp_path / "d"
    data.mkdir()
    write_tar(data / "0.tar", [("a.jpg", picture(1)), ("a.txt", b"x")])
    vlmsel.index(data, output=tmp_path / "index")
    uid = next(iter(vlmsel.tables.rows(list((tmp_path / "index").glob("*.parquet")), ["uid"])))["uid"].hex()
    lines = [f"{i:032x}" for i in range(200_000)]
    chosen = tmp_path / "ids.txt"
    chosen.write_text("\n".join([*lines[:70_000], uid, *lines[70_001:]]) + "\n")
    run = {"index": tmp_path / "index", "output": tmp_path / "shards", "max_bad_fraction": 1.0}
    assert vlmsel.shard(chosen, **run).written == 1
    chosen.write_text("\n".join(lines) + "\n")
    with pytest.raises(MismatchError, match="selection"):
        vlmsel.shard(chosen, **run)
