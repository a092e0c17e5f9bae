"""UTF-16 and UTF-32 files are called what they are, and the advice in the message works."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
import zstandard
from vlmsel.errors import UnreadableError, UsageError

ENCODINGS = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
NAME = r"UTF-(16|32) text \((little|big)-endian\)"
IDS = [f"{n:032x}" for n in range(5)]
CSV = "uid,ppl\n" + "".join(f"{uid},{n}\n" for n, uid in enumerate(IDS))
LINES = "".join(json.dumps({"uid": uid, "ppl": n}) + "\n" for n, uid in enumerate(IDS))


def follow(message: str, path: Path) -> None:
    """Runs the command that the message advises, and puts what it makes in the file's place."""
    command = re.search(r"iconv -f UTF-\w+ -t UTF-8 IN > OUT", message)
    assert command, message
    if shutil.which("iconv"):
        out = path.with_name("out")
        words = command.group().replace("IN", str(path)).replace("OUT", str(out))
        subprocess.run(words, shell=True, check=True, timeout=30)
        out.replace(path)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("name", "text"), [("s.csv", CSV), ("s.jsonl", LINES)])
def test_score_tables(tmp_path: Path, encoding: str, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    with pytest.raises(UnreadableError, match=NAME) as caught:
        vlmsel.select(path, k=2, output=tmp_path / "o")
    assert caught.value.exit_code == 3
    follow(str(caught.value), path)
    if shutil.which("iconv"):
        assert vlmsel.select(path, k=2, output=tmp_path / "o").selected == 2


@pytest.mark.parametrize(("name", "text"), [("s.csv", CSV), ("s.jsonl", LINES)])
def test_compressed_score_tables(tmp_path: Path, name: str, text: str) -> None:
    wide = text.encode("utf-16")
    for ending, whole in [("gz", gzip.compress(wide)), ("zst", zstandard.compress(wide))]:
        path = tmp_path / f"{name}.{ending}"
        path.write_bytes(whole)
        with pytest.raises(UnreadableError, match=NAME + "; decompress it, then convert"):
            vlmsel.select(path, k=2, output=tmp_path / "o")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("form", ["list", "lines"])
def test_data_files(tmp_path: Path, encoding: str, form: str) -> None:
    records = [{"id": str(n), "text": f"t{n}"} for n in range(3)]
    text = json.dumps(records) if form == "list" else "".join(json.dumps(record) + "\n" for record in records)
    path = tmp_path / "in" / "a.json"
    path.parent.mkdir()
    path.write_bytes(text.encode(encoding))
    [example] = vlmsel.doctor([path]).findings["unreadable_file"].examples
    assert re.search(NAME, example)
    with pytest.raises(UnreadableError, match=NAME):
        vlmsel.index([path], output=tmp_path / "index")
    follow(example, path)
    if shutil.which("iconv"):
        assert "unreadable_file" not in vlmsel.doctor([path]).findings


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lists_of_ids(tmp_path: Path, encoding: str) -> None:
    scores = tmp_path / "s.parquet"
    pq.write_table(pa.table({"uid": IDS, "ppl": [1.0, 2.0, 3.0, 4.0, 5.0]}), scores)
    chosen = tmp_path / "ids.txt"
    chosen.write_bytes("\n".join(IDS[:2]).encode(encoding))
    with pytest.raises(UsageError, match=NAME) as caught:
        vlmsel.select(scores, k=1, include=chosen, output=tmp_path / "o")
    assert caught.value.exit_code == 2
    data = tmp_path / "in" / "a.jsonl"
    data.parent.mkdir()
    data.write_text("".join(json.dumps({"id": uid, "uid": uid, "text": uid}) + "\n" for uid in IDS))
    vlmsel.index([data], output=tmp_path / "index")
    with pytest.raises(UsageError, match=NAME):
        vlmsel.shard(chosen, index=tmp_path / "index", output=tmp_path / "shards")
    follow(str(caught.value), chosen)
    if shutil.which("iconv"):
        # iconv leaves the mark of UTF-16 out; one that an editor wrote is no part of the first id.
        for mark in [b"", b"\xef\xbb\xbf"]:
            chosen.write_bytes(mark + chosen.read_bytes().removeprefix(b"\xef\xbb\xbf"))
            done = vlmsel.shard(chosen, index=tmp_path / "index", output=tmp_path / "shards", overwrite=True)
            assert done.written == 2, done
            assert vlmsel.select(scores, k=5, include=chosen, output=tmp_path / "o", overwrite=True).selected == 2


def test_captions_in_tars(tmp_path: Path) -> None:
    """ASCII in UTF-16 would pass for UTF-8 with zeros in it."""
    import io
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key, text in [("a", b"a plain caption"), ("b", "a wide caption".encode("utf-16-le"))]:
            info = tarfile.TarInfo(f"{key}.txt")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    assert vlmsel.doctor([tmp_path / "a.tar"]).findings["text_not_utf8"].count == 1
    with pytest.raises(UnreadableError, match="text_not_utf8"):
        vlmsel.index([tmp_path / "a.tar"], output=tmp_path / "index")
