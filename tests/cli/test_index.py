"""`vlmsel index` against the slow obvious reading of the same files by `tarfile` and `json`."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import time
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from pair_corpus import corpus, pairs, picture, run, run_json, tree, write_tar
from PIL import Image


def rows_of(index: Path) -> list[dict[str, Any]]:
    manifest = json.loads((index / "manifest.json").read_text())
    names = [file["file"] for part in manifest["parts"] for file in part["files"] if file["file"].endswith(".parquet")]
    return [row for name in names for row in pq.read_table(index / name).to_pylist()]


def oracle_uid(source: str, shard: str, key: str, ordinal: int) -> bytes:
    data = b"".join(len(part.encode()).to_bytes(8, "little") + part.encode() for part in (source, shard, key))
    return xxhash.xxh3_128_digest(data + ordinal.to_bytes(8, "little"))


def oracle_text_hash(text: str) -> bytes:
    return xxhash.xxh3_128_digest(" ".join(unicodedata.normalize("NFC", text).split()).encode())


def test_every_row_is_what_tarfile_reads(tmp_path: Path) -> None:
    corpus(tmp_path / "pool")
    result = run_json("index", tmp_path / "pool", "-o", tmp_path / "index")
    assert (result["input"], result["ok"], result["quarantined"], result["shards"]) == (36, 36, 0, 3)
    rows = rows_of(tmp_path / "index")
    assert len(rows) == 36
    for row in rows:
        path = tmp_path / "pool" / row["shard"]
        with tarfile.open(path) as tar:
            members = [m for m in tar.getmembers() if m.name.split(".")[0] == row["key"]]
        data = path.read_bytes()
        assert [(f"{row['key']}.{m['extension']}", m["offset"], m["size"]) for m in row["members"]] == [
            (m.name, m.offset_data, m.size) for m in members
        ]
        image = row["images"][0]
        stored = data[image["offset"] : image["offset"] + image["size"]]
        assert Image.open(io.BytesIO(stored)).size == (image["width"], image["height"])
        assert image["hash"] == xxhash.xxh3_128_digest(stored)
        assert row["text"] == f"caption  {int(row['key'])}"
        assert row["text_hash"] == oracle_text_hash(row["text"])
        assert json.loads(row["metadata"]) == {"n": int(row["key"]), "big": 2**62 + int(row["key"]), "x": 0.1}
        assert row["uid"] == oracle_uid("pool", row["shard"], row["key"], 0)
        assert row["source"] == "pool"


def test_parts_of_few_rows_and_of_many_are_one_table(tmp_path: Path) -> None:
    """Few rows are written by another writer: neither types nor values tell."""
    members = [member for n in range(65) for member in ((f"{n:03}.jpg", picture(n)), (f"{n:03}.txt", f"t{n}".encode()))]
    write_tar(tmp_path / "pool" / "few.tar", members[: 2 * 64])
    write_tar(tmp_path / "pool" / "many.tar", members)
    run_json("index", tmp_path / "pool", "-o", tmp_path / "index")
    few, many = [pq.ParquetFile(path) for path in sorted((tmp_path / "index").glob("*.parquet"))]
    codecs = [file.metadata.row_group(0).column(0).compression for file in (few, many)]
    assert codecs == ["UNCOMPRESSED", "ZSTD"]
    assert few.schema_arrow.equals(many.schema_arrow, check_metadata=True)
    assert few.schema.equals(many.schema)
    tables = [file.read().drop_columns(["uid", "shard"]) for file in (few, many)]
    assert tables[0].num_rows == 64
    assert tables[0].to_pylist() == tables[1].slice(0, 64).to_pylist()
    few.read().validate(full=True)


@pytest.mark.parametrize("threads", ["2", "8"])
def test_threads_do_not_show(tmp_path: Path, threads: str) -> None:
    corpus(tmp_path / "pool", shards=5)
    run_json("index", tmp_path / "pool", "-o", tmp_path / "one", "--threads", "1")
    run_json("index", tmp_path / "pool", "-o", tmp_path / "many", "--threads", threads, "--memory-limit", "1GB")
    assert tree(tmp_path / "one") == tree(tmp_path / "many")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "JPEG"])
def test_every_image_format(tmp_path: Path, kind: str) -> None:
    extension = {"JPEG": "jpeg"}.get(kind, kind.lower())
    write_tar(tmp_path / "a" / "0.tar", [(f"x.{extension}", picture(1, 57, 31, kind)), ("x.txt", b"t")])
    run_json("index", tmp_path / "a", "-o", tmp_path / "index")
    image = rows_of(tmp_path / "index")[0]["images"][0]
    assert (image["width"], image["height"]) == (57, 31)


def test_bad_records_are_put_aside_with_file_offset_key_and_reason(tmp_path: Path) -> None:
    members = pairs(0, 3)
    members[3] = (members[3][0], b"")
    members += [
        ("bad.jpg", b"no picture"),
        ("bad.txt", b"t"),
        ("utf.txt", b"\xff\xfe"),
        ("js.jpg", picture(9)),
        ("js.json", b"{"),
    ]
    members += [("000000.txt", b"again"), ("../up.txt", b"t"), ("/abs.txt", b"t")]
    write_tar(tmp_path / "p" / "0.tar", members)
    assert run("index", tmp_path / "p", "-o", tmp_path / "index").returncode == 3
    assert not (tmp_path / "index").exists()
    assert run("index", tmp_path / "p", "-o", tmp_path / "index", "--strict").returncode in {3, 5}
    result = run_json("index", tmp_path / "p", "-o", tmp_path / "index", "--max-bad-fraction", "0.9")
    assert result["reasons"] == {
        "absolute_path": 1, "bad_json": 1, "empty_image": 1, "parent_path": 1,
        "repeated_key": 1, "text_not_utf8": 1, "unknown_image_format": 1,
    }  # fmt: skip
    assert result["input"] == result["ok"] + result["quarantined"] == 2 + 7
    [listed] = (tmp_path / "index").glob("*.quarantine.jsonl")
    records = [json.loads(line) for line in listed.read_text().splitlines()]
    with tarfile.open(tmp_path / "p" / "0.tar") as tar:
        offsets = {member.name: member.offset for member in tar.getmembers()}
    bad = next(record for record in records if record["key"] == "bad")
    assert (bad["file"], bad["position"], bad["reason"]) == ("p/0.tar", offsets["bad.jpg"], "unknown_image_format")


def test_strict_ends_at_the_first_bad_record(tmp_path: Path) -> None:
    write_tar(tmp_path / "p" / "0.tar", [*pairs(0, 2), ("x.jpg", b"")])
    done = run("index", tmp_path / "p", "-o", tmp_path / "index", "--strict")
    assert done.returncode == 5 and "empty_image" in done.stderr and not (tmp_path / "index").exists()


def test_a_damaged_tar_is_no_shorter_tar(tmp_path: Path) -> None:
    corpus(tmp_path / "p")
    path = tmp_path / "p" / "00001.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        data[tar.getmembers()[15].offset + 3] ^= 1
    path.write_bytes(data)
    # tarfile stops there without a word.
    with tarfile.open(path) as tar:
        assert len(tar.getmembers()) == 15
    done = run("index", tmp_path / "p", "-o", tmp_path / "index")
    assert done.returncode == 3 and "bad_checksum" in done.stderr and "00001.tar" in done.stderr
    result = run_json(
        "index", tmp_path / "p", "-o", tmp_path / "index", "--allow-bad-files", "1", "--max-bad-fraction", "0.1"
    )
    assert len(result["damaged"]) == 1 and result["ok"] == 24 + 4


def test_new_shards_alone_are_read_and_changed_ones_noticed(tmp_path: Path) -> None:
    corpus(tmp_path / "p", shards=2)
    run_json("index", tmp_path / "p", "-o", tmp_path / "index")
    before = tree(tmp_path / "index")
    again = run_json("index", tmp_path / "p", "-o", tmp_path / "index")
    assert again["already_finished"] and tree(tmp_path / "index") == before
    corpus(tmp_path / "more" / "p", shards=4)
    for name in ("00002.tar", "00003.tar"):
        (tmp_path / "more" / "p" / name).rename(tmp_path / "p" / name)
    for old in (tmp_path / "p").glob("0000[01].tar"):
        os.utime(old, ns=(time.time_ns() - 60 * 10**9,) * 2)
    run_json("index", tmp_path / "p" / "00000.tar", tmp_path / "p" / "00001.tar", "-o", tmp_path / "index")
    grown = run_json("index", tmp_path / "p", "-o", tmp_path / "index")
    assert (grown["shards"], grown["shards_read"], grown["ok"]) == (4, 2, 48)
    run_json("index", tmp_path / "p", "-o", tmp_path / "fresh")
    assert tree(tmp_path / "fresh") == tree(tmp_path / "index")
    write_tar(tmp_path / "p" / "00000.tar", pairs(500, 12))
    done = run("index", tmp_path / "p", "-o", tmp_path / "index")
    assert done.returncode == 7 and "00000.tar" in done.stderr
    assert tree(tmp_path / "fresh") == tree(tmp_path / "index")
    (tmp_path / "p" / "00000.tar").unlink()
    assert run("index", tmp_path / "p", "-o", tmp_path / "index").returncode == 7


def test_a_parquet_file_that_appears_later_is_noticed(tmp_path: Path) -> None:
    corpus(tmp_path / "p", shards=1)
    run_json("index", tmp_path / "p", "-o", tmp_path / "index")
    pq.write_table(pa.table({"key": ["000000"], "status": ["success"]}), tmp_path / "p" / "00000.parquet")
    assert run("index", tmp_path / "p", "-o", tmp_path / "index").returncode == 7


def test_img2dataset_rows_join_by_key(tmp_path: Path) -> None:
    keys = [f"{n:06d}" for n in range(6)]
    write_tar(
        tmp_path / "i" / "00000.tar", [(f"{key}.jpg", picture(n)) for n, key in enumerate(keys) if n not in {2, 4}]
    )
    (tmp_path / "i" / "00000_stats.json").write_text("{}")
    order = [5, 3, 1, 4, 2, 0]
    pq.write_table(
        pa.table(
            {
                "key": [keys[n] for n in order],
                "caption": [f"picture {n}" for n in order],
                "status": ["failed_to_download" if n == 2 else "success" for n in order],
                "uid": [f"{n:032x}" for n in order],
                "n": order,
            }
        ),
        tmp_path / "i" / "00000.parquet",
    )
    result = run_json("index", tmp_path / "i", "-o", tmp_path / "index", "--max-bad-fraction", "0.5")
    assert result["reasons"] == {"row_without_member": 1} and result["shards"] == 1
    for row in rows_of(tmp_path / "index"):
        n = int(row["key"])
        assert row["text"] == f"picture {n}" and row["uid"] == n.to_bytes(16, "big")
        assert json.loads(row["metadata"])["n"] == n


LLAVA = [
    {
        "id": 7,
        "image": "a.jpg",
        "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}],
    },
    {
        "id": 7,
        "image": ["a.jpg", "sub/b.png"],
        "conversations": [{"from": "human", "value": "Both?"}, {"from": "gpt", "value": "Yes."}],
    },
    {
        "id": "text",
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}],
        "quality": 1e-7,
    },
    {"image": "a.jpg", "caption": "a  caption"},
]


@pytest.mark.parametrize("form", ["json", "jsonl", "jsonl.gz"])
def test_llava_and_caption_records(tmp_path: Path, form: str) -> None:
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    (images / "a.jpg").write_bytes(picture(1))
    (images / "sub" / "b.png").write_bytes(picture(2, kind="PNG"))
    text = json.dumps(LLAVA, indent=1) if form == "json" else "".join(json.dumps(row) + "\n" for row in LLAVA)
    path = tmp_path / "j" / f"data.{form}"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(text.encode()) if form.endswith("gz") else text.encode())
    run_json("index", path, "-o", tmp_path / "index", "--image-root", images)
    rows = rows_of(tmp_path / "index")
    assert [len(row["images"]) for row in rows] == [1, 2, 0, 1]
    assert rows[1]["images"][1]["file"] == "sub/b.png"
    assert rows[1]["images"][1]["hash"] == xxhash.xxh3_128_digest(picture(2, kind="PNG"))
    assert [row["uid"] for row in rows[:2]] == [oracle_uid("j", path.name, "7", n) for n in (0, 1)]
    assert json.loads(rows[0]["conversations"]) == LLAVA[0]["conversations"] and rows[0]["n_turns"] == 2
    assert rows[0]["text_hash"] == oracle_text_hash("<image>\nWhat?\nA.")
    assert json.loads(rows[2]["metadata"]) == LLAVA[2] and rows[0]["metadata"] is None
    assert rows[3]["text"] == "a  caption" and rows[3]["key"] == "3"


def test_hostile_records_are_quarantined(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    lines = [
        json.dumps({"image": "../a.jpg", "caption": "t"}),
        json.dumps({"image": "/etc/passwd", "caption": "t"}),
        json.dumps({"image": "gone.jpg", "caption": "t"}),
        json.dumps({"image": ".", "caption": "t"}),
        '{"caption": ' + "[" * 10_000,
        json.dumps({"image": "a.jpg", "caption": "\x1b[31m fine"}),
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    result = run_json("index", tmp_path / "d.jsonl", "-o", tmp_path / "index", "--max-bad-fraction", "0.9")
    assert result["ok"] == 1
    assert set(result["reasons"]) == {
        "parent_path",
        "absolute_path",
        "missing_image",
        "unreadable_image",
        "json_too_deep",
    }


def test_two_roots_of_one_name_are_refused(tmp_path: Path) -> None:
    corpus(tmp_path / "a" / "x", shards=1)
    corpus(tmp_path / "b" / "x", shards=1)
    done = run("index", tmp_path / "a" / "x", tmp_path / "b" / "x", "-o", tmp_path / "index")
    assert done.returncode == 2 and "--source" in done.stderr
    named = run_json("index", tmp_path / "a" / "x", "--source", f"y={tmp_path / 'b' / 'x'}", "-o", tmp_path / "index")
    assert named["shards"] == 2 and len({row["uid"] for row in rows_of(tmp_path / "index")}) == 24


def test_the_output_never_lies_in_an_input(tmp_path: Path) -> None:
    corpus(tmp_path / "p", shards=1)
    for output in (tmp_path / "p", tmp_path / "p" / "index", tmp_path):
        assert run("index", tmp_path / "p", "-o", output).returncode == 2
    (tmp_path / "link").symlink_to(tmp_path / "p")
    assert run("index", tmp_path / "p", "-o", tmp_path / "link" / "index").returncode == 2
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["00000.tar"]


def test_ids_do_not_depend_on_where_the_root_lies(tmp_path: Path) -> None:
    corpus(tmp_path / "one" / "p", shards=2)
    shutil.copytree(tmp_path / "one" / "p", tmp_path / "two" / "p")
    run_json("index", tmp_path / "one" / "p", "-o", tmp_path / "i1")
    run_json("index", tmp_path / "two" / "p" / "{00000..00001}.tar", "-o", tmp_path / "i2")
    assert rows_of(tmp_path / "i1") == rows_of(tmp_path / "i2")


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    corpus(tmp_path / "p", shards=1)
    assert run_json("index", tmp_path / "p", "-o", tmp_path / "index", "--dry-run")["shards"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]
