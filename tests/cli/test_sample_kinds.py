"""What kinds of samples there are in data as people have them: read whole, or said aloud; never half a pair called a pair."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
from pair_corpus import pairs, picture, run, run_json, write_tar
from PIL import Image
from vlmsel.errors import StrictError, UnreadableError

TOLERANT = {"max_bad_fraction": 1.0}


def bmp() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(out, "BMP")
    return out.getvalue()


def rows(index: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(index.glob("*.parquet")) for row in pq.read_table(part).to_pylist()]


def index_of(tmp_path: Path, *sources: Path, **keywords: Any) -> tuple[vlmsel.Index, dict[str, dict[str, Any]]]:
    done = vlmsel.index(list(sources), output=tmp_path / "index", **keywords)
    return done, {row["key"]: row for row in rows(tmp_path / "index")}


# --- pictures of a tar -------------------------------------------------------------------------------------------------


def test_pictures_are_told_by_content(tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "d/0.tar",
        [
            ("a.bmp", bmp()),
            ("a.txt", b"a bitmap"),
            ("b.jfif", picture(1)),
            ("b.txt", b"a photo by another name"),
            ("c.img", picture(2, kind="PNG")),
            ("c.txt", b"no name at all"),
        ],
    )
    done, found = index_of(tmp_path, tar)
    assert done.classes == {"d": {"pair": 3}}
    assert [(found[key]["n_images"], found[key]["class"]) for key in "abc"] == [(1, "pair")] * 3
    assert (found["a"]["images"][0]["width"], found["a"]["images"][0]["height"]) == (9, 7)


@pytest.mark.parametrize(
    "head",
    [b"II*\0rest", b"\0\0\0\x1cftypavif\0\0\0\0", b"\xff\x0a rest", b"\0\0\0\x18ftypheic\0\0\0\0"],
    ids=["tiff", "avif", "jxl", "heic"],
)
def test_pictures_that_are_not_read_are_named_and_never_text(tmp_path: Path, head: bytes) -> None:
    tar = write_tar(tmp_path / "d/0.tar", [*pairs(0, 3), ("x.tif", head.ljust(600, b"\1")), ("x.txt", b"what was it?")])
    with pytest.raises(UnreadableError, match="1 of kinds that are not read"):
        vlmsel.index(tar, output=tmp_path / "index")
    with pytest.raises(StrictError, match="unsupported_image_format"):
        vlmsel.index(tar, output=tmp_path / "strict", strict=True)
    done, found = index_of(tmp_path, tar, **TOLERANT)
    assert (done.unsupported, done.quarantined, done.ok) == (1, 0, 4)
    assert (found["x"]["class"], found["x"]["images"]) == ("unsupported", [])
    assert "unsupported_image_format" in done.notes
    manifest = vlmsel.read_manifest(tmp_path / "index")
    assert manifest["counts"]["class.unsupported"] == 1
    assert manifest["roots"]["d"]["classes"] == {"pair": 3, "unsupported": 1}


@pytest.mark.parametrize("names", [["left.png", "right.png"], ["input.jpg"]], ids=["two", "one"])
def test_a_picture_that_cannot_be_told_is_put_aside(tmp_path: Path, names: list[str]) -> None:
    members = [(f"x.{name}", picture(n)) for n, name in enumerate(names)]
    tar = write_tar(tmp_path / "d/0.tar", [*pairs(0, 3), *members, ("x.txt", b"a caption")])
    done, found = index_of(tmp_path, tar, **TOLERANT)
    assert (done.reasons, "x" in found) == ({"no_plain_image": 1}, False)


def test_other_media_are_unsupported(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "d/0.tar", [("a.mp4", b"\0" * 100), ("a.txt", b"a film")])
    records = [{"video": "b.mp4", "caption": "a film"}, {"image": "https://example.com/c.jpg", "caption": "far away"}]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    done, _ = index_of(tmp_path, tar, tmp_path / "e.jsonl", **TOLERANT)
    assert [kinds["unsupported"] for kinds in done.classes.values()] == [1, 2]
    assert {"unsupported_medium", "remote_image"} <= set(done.notes)


def test_text_alone_among_pairs_is_said(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "d/0.tar", [*pairs(0, 3), ("lost.txt", b"its picture is gone")])
    done = run("index", tar, "-o", tmp_path / "index")
    assert done.returncode == 0
    assert "1 text_without_picture: d/0.tar: lost" in done.stderr
    assert "3 pair, 1 text-only" in done.stderr
    # Text alone is no news where there are no pictures.
    alone = write_tar(tmp_path / "e/0.tar", [("a.txt", b"x"), ("b.txt", b"y")])
    assert "text_without_picture" not in run("index", alone, "-o", tmp_path / "index2").stderr


def test_keys_with_dots(tmp_path: Path) -> None:
    members = [
        (f"photo.v{n}.{kind}", data) for n in (2, 3) for kind, data in (("jpg", picture(n)), ("txt", b"c%d" % n))
    ]
    tar = write_tar(tmp_path / "d/0.tar", members)
    done = run("index", tar, "-o", tmp_path / "first", "--max-bad-fraction", "1")
    assert "--key-until last-dot" in done.stderr
    assert "(keys that hold dots are read with --key-until last-dot)" in run("doctor", tar).stdout
    # The advice is tried.
    advised, found = index_of(tmp_path, tar, key_until="last-dot")
    assert advised.classes == {"d": {"pair": 2}}
    assert {key: row["text"] for key, row in found.items()} == {"photo.v2": "c2", "photo.v3": "c3"}
    assert run("doctor", tar, "--key-until", "last-dot").stdout.endswith("nothing is wrong\n")


# --- our own shards ----------------------------------------------------------------------------------------------------


def test_what_shard_writes_index_reads(tmp_path: Path) -> None:
    images = tmp_path / "d/images"
    images.mkdir(parents=True)
    for n in range(3):
        (images / f"{n}.png").write_bytes(picture(n, kind="PNG"))
    turns = [{"from": "human", "value": "<image><image>\nCompare."}, {"from": "gpt", "value": "They differ."}]
    records = [
        {"id": "two", "image": ["images/0.png", "images/1.png"], "conversations": turns},
        {"id": "more", "image": ["images/0.png", "images/1.png"], "conversations": turns, "extra": 1},
        {"id": "captioned", "image": ["images/1.png", "images/2.png"], "caption": "two pictures"},
        {"id": "one", "image": "images/2.png", "caption": "one picture"},
        {"id": "text", "caption": "no picture"},
        {"id": "chat", "images": ["images/1.png"], "messages": [{"role": "user", "content": [{"type": "image"}]},
                                                                  {"role": "assistant", "content": "A dot."}]},
    ]  # fmt: skip
    (tmp_path / "d/a.json").write_text(json.dumps(records))
    vlmsel.index(tmp_path / "d/a.json", output=tmp_path / "index")
    before = {row["uid"].hex(): row for row in rows(tmp_path / "index")}
    (tmp_path / "ids.txt").write_text("\n".join(before) + "\n")
    vlmsel.shard(tmp_path / "ids.txt", index=tmp_path / "index", output=tmp_path / "shards")
    vlmsel.index(tmp_path / "shards", output=tmp_path / "again", strict=True)
    after = {row["key"]: row for row in rows(tmp_path / "again")}
    assert set(after) == set(before)
    for key, row in before.items():
        same = ("text", "conversations", "n_turns", "text_hash", "n_images", "class")
        assert {name: after[key][name] for name in same} == {name: row[name] for name in same}
        assert [i["hash"] for i in after[key]["images"]] == [i["hash"] for i in row["images"]]


# --- JSON as people write it -------------------------------------------------------------------------------------------


def test_forms_of_conversations(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    user = [{"type": "text", "text": "What?"}, {"type": "image", "image": "a.jpg"}]
    records = [
        {"id": "string", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<image>Hm?"},
                                        {"role": "assistant", "content": "A."}], "images": ["a.jpg"]},
        {"id": "parts", "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": "B."}]},
        {"id": "alpaca", "instruction": "Say", "input": "it", "output": "It."},
        {"id": "swift", "query": "<image>What?", "response": "C.", "images": ["a.jpg"]},
        {"id": "empty", "image": "", "caption": "no path"},
        {"id": "many", "captions": ["x", "y"], "image": "a.jpg"},
    ]  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps(records))
    done, found = index_of(tmp_path, tmp_path / "r.json")
    assert {key: (row["class"], row["n_images"], row["n_turns"]) for key, row in found.items()} == {
        "string": ("conversation", 1, 3),
        "parts": ("conversation", 1, 2),
        "alpaca": ("conversation", 0, 2),
        "swift": ("conversation", 1, 2),
        "empty": ("text-only", 0, 0),
        "many": ("image-only", 1, 0),
    }
    assert json.loads(found["alpaca"]["conversations"]) == [
        {"from": "human", "value": "Say\nit"},
        {"from": "gpt", "value": "It."},
    ]
    assert {kind: note.count for kind, note in done.notes.items()} == {"empty_image_path": 1, "unread_field": 1}
    assert json.loads(found["many"]["metadata"])["captions"] == ["x", "y"]


def test_placeholders_are_counted(tmp_path: Path) -> None:
    for n in range(2):
        (tmp_path / f"{n}.jpg").write_bytes(picture(n))

    def record(places: int, images: int) -> dict[str, Any]:
        turns = [{"from": "human", "value": "<image>" * places + "?"}, {"from": "gpt", "value": "<image> is a word"}]
        return {"id": f"{places} {images}", "image": [f"{n}.jpg" for n in range(images)], "conversations": turns}

    cases = [(0, 0), (0, 1), (1, 1), (2, 2), (1, 2), (2, 0), (2, 1)]
    (tmp_path / "r.json").write_text(json.dumps([record(*case) for case in cases]))
    done, _ = index_of(tmp_path, tmp_path / "r.json")
    assert done.notes["placeholder_mismatch"].count == 3
    assert vlmsel.doctor(tmp_path / "r.json").findings["placeholder_mismatch"].count == 3


@pytest.mark.parametrize("name", ["r.json", "r.json.gz", "r.ndjson", "r.jsonl", "r.json.zst", "r.ndjson.gz"])
def test_names_of_json(tmp_path: Path, name: str) -> None:
    import gzip

    import zstandard

    data = b"".join(json.dumps({"id": n, "caption": f"c {n}"}).encode() + b"\n" for n in range(3))
    compress = {".gz": gzip.compress, ".zst": zstandard.compress}.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(compress(data))
    done, _ = index_of(tmp_path, tmp_path / name)
    assert done.ok == 3


def test_a_pretty_printed_object_is_one_record(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"id": "a", "caption": "x", "more": {"y": [1, 2]}}, indent=2))
    _, found = index_of(tmp_path, tmp_path / "r.json")
    assert found["a"]["text"] == "x"


def test_nesting_is_limited_alike(tmp_path: Path) -> None:
    deep = '{"caption": "x", "a": ' + "[" * 200 + "]" * 200 + "}"
    write_tar(tmp_path / "tar/0.tar", [("a.jpg", picture(1)), ("a.json", deep.encode())])
    (tmp_path / "lines.jsonl").write_text(deep + "\n")
    (tmp_path / "list.json").write_text(f"[{deep}]")
    for source in ("tar/0.tar", "lines.jsonl", "list.json"):
        done = vlmsel.index(tmp_path / source, output=tmp_path / f"{source}-index", **TOLERANT)
        assert done.reasons == {"json_too_deep": 1}


# --- what is not whole, and not read -----------------------------------------------------------------------------------


def test_a_tar_cut_between_members(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", pairs(0, 3)).read_bytes()
    end = len(whole.rstrip(b"\0"))
    members = [at for at in range(0, end, 512) if whole[at + 257 : at + 262] == b"ustar"]
    cut = tmp_path / "d/0.tar"
    cut.parent.mkdir()
    cut.write_bytes(whole[: members[-1]])
    done, found = index_of(tmp_path, cut, **TOLERANT)
    assert (done.reasons, len(found)) == ({"cut_off": 1}, 2)
    assert done.notes["no_end_marker"].count == 1
    cut.write_bytes(whole[: members[-3]])
    done = vlmsel.index(cut, output=tmp_path / "two")
    assert (done.ok, done.notes["no_end_marker"].count) == (2, 1)
    with pytest.raises(StrictError, match="without an end marker"):
        vlmsel.index(cut, output=tmp_path / "strict", strict=True)


def test_advice_for_a_truncated_tar_works(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "d/0.tar", pairs(0, 5))
    tar.write_bytes(tar.read_bytes()[:-11_000])
    refused = run("index", tar, "-o", tmp_path / "index")
    assert refused.returncode == 3
    assert "--allow-bad-files 1" in refused.stderr
    advised = run_json("index", tar, "-o", tmp_path / "index", "--allow-bad-files", "1")
    assert advised["ok"] == 4
    # So does it for whoever reads the index.
    (tmp_path / "ids.txt").write_text("\n".join(row["uid"].hex() for row in rows(tmp_path / "index")) + "\n")
    words = ["shard", "--selection", tmp_path / "ids.txt", "--index", tmp_path / "index", "-o", tmp_path / "shards"]
    assert run(*words).returncode == 3
    assert run(*words, "--allow-bad-files", "1").returncode == 0


def test_no_image_at_all_is_another_root(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps([{"image": f"{n}.jpg", "caption": "x"} for n in range(3)]))
    refused = run("index", tmp_path / "r.json", "-o", tmp_path / "index")
    assert refused.returncode == 3
    assert "--image-root" in refused.stderr
    assert "--max-bad-fraction" not in refused.stderr
    assert vlmsel.doctor(tmp_path / "r.json").images == 0


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><p>404", "HTML"),
    ],
)
@pytest.mark.parametrize("name", ["0.tar", "0.jsonl", "0.parquet"])
def test_stand_ins_are_called_by_their_name(tmp_path: Path, content: bytes, word: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused = run("index", tmp_path / name, "-o", tmp_path / "index")
    assert refused.returncode == 3
    assert word in refused.stderr


def test_a_link_to_nothing_is_a_bad_file(tmp_path: Path) -> None:
    write_tar(tmp_path / "d/0.tar", pairs(0, 2))
    (tmp_path / "d/1.tar").symlink_to("gone.tar")
    assert "a link to nothing" in run("doctor", tmp_path / "d").stdout
    advised = run("index", tmp_path / "d", "-o", tmp_path / "index", "--allow-bad-files", "1")
    assert advised.returncode == 0
    assert "a link to nothing" in advised.stderr


def test_what_looks_like_data_and_is_not_read_is_named(tmp_path: Path) -> None:
    data = tmp_path / "d"
    write_tar(data / "0.tar", pairs(0, 2))
    for name in ("1.tar.gz", "train.jsonl", "sub/2.tar.zst"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_bytes(b"x")
    (data / "0_stats.json").write_text("{}")
    done = vlmsel.index(data, output=tmp_path / "index")
    assert done.skipped.count == 3
    assert {Path(name).name for name in done.skipped.first} == {"1.tar.gz", "train.jsonl", "2.tar.zst"}
    assert "3 files look like data and are not read" in run("doctor", data).stdout
    (data / "0.tar").unlink()
    (data / "train.jsonl").unlink()
    assert "1.tar.gz" in run("index", data, "-o", tmp_path / "none").stderr


def test_members_with_a_dot_slash_join_their_table(tmp_path: Path) -> None:
    keys = [f"{n:09d}" for n in range(2)]
    write_tar(tmp_path / "d/0.tar", [(f"./{key}.jpg", picture(n)) for n, key in enumerate(keys)])
    table = pa.table({"key": keys, "status": ["success"] * 2, "caption": ["c0", "c1"]})
    pq.write_table(table, tmp_path / "d/0.parquet")
    _, found = index_of(tmp_path, tmp_path / "d")
    assert [row["text"] for row in found.values()] == ["c0", "c1"]


@pytest.mark.parametrize("name", ["r.tsv", "r.csv", "r.tsv.gz"])
def test_tables_of_text(tmp_path: Path, name: str) -> None:
    import gzip

    for n in range(2):
        (tmp_path / f"{n}.jpg").write_bytes(picture(n))
    mark = "\t" if "tsv" in name else ","
    lines = [["key", "filepath", "title", "n"], ["a", "0.jpg", "a cat", "1"], ["b", "1.jpg", "a dog", ""], ["c", "x"]]
    text = "\n".join(mark.join(line) for line in lines).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    done, found = index_of(tmp_path, tmp_path / name, **TOLERANT)
    assert {key: (row["text"], row["class"]) for key, row in found.items()} == {
        "a": ("a cat", "pair"),
        "b": ("a dog", "pair"),
    }
    assert (done.reasons, json.loads(found["a"]["metadata"])["n"]) == ({"wrong_field_count": 1}, "1")


@pytest.mark.parametrize(
    ("header", "word"), [("image,caption,image", "twice"), ("a,b", "neither an image nor a caption")]
)
def test_headers_that_say_too_much_or_nothing(tmp_path: Path, header: str, word: str) -> None:
    (tmp_path / "r.csv").write_text(f"{header}\n1,2,3\n")
    refused = run("index", tmp_path / "r.csv", "-o", tmp_path / "index")
    assert (refused.returncode, word in refused.stderr) == (3, True)


def test_a_folder_of_images_with_metadata(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(picture(0))
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "0.jpg", "text": "a cat"}) + "\n")
    done, _ = index_of(tmp_path, tmp_path / "metadata.jsonl")
    assert done.classes == {tmp_path.name: {"pair": 1}}


def test_an_empty_conversation_beside_a_picture_says_nothing(tmp_path: Path) -> None:
    members = [("a.jpg", picture(1)), ("a.txt", b"a cat"), ("a.json", b'{"conversations": [], "caption": 3}')]
    _, found = index_of(tmp_path, write_tar(tmp_path / "d/0.tar", members))
    assert (found["a"]["class"], found["a"]["text"]) == ("pair", "a cat")


def test_a_table_of_text_beside_records_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a.jsonl").write_text(json.dumps({"id": "a", "caption": "x"}) + "\n")
    (tmp_path / "d/losses.csv").write_text("step,loss\n1,2\n")
    done = vlmsel.index(tmp_path / "d", output=tmp_path / "index")
    assert (done.ok, done.skipped.count) == (1, 1)
