"""Text hashes and ids against Python's `unicodedata` and the `xxhash` package."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import xxhash
from vlmsel import hashes
from vlmsel.indexing import index

# Unicode's White_Space property; Python's str.split() also splits at U+001C..U+001F, which are no white space there.
WHITE_SPACE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+")


def test_every_assigned_character(tmp_path: Path) -> None:
    letters = [chr(c) for c in range(1, 0x30000) if unicodedata.category(chr(c)) not in {"Cn", "Cs", "Co"}]
    texts = [f" a{letter}\u0301 {letter}{letter} \n" for letter in letters]
    records = tmp_path / "texts.jsonl"
    records.write_text("".join(json.dumps({"id": text, "text": text}) + "\n" for text in texts))
    index(records, output=tmp_path / "index", max_bad_fraction=0)
    [part] = (tmp_path / "index").glob("*.parquet")
    rows = pq.read_table(part, columns=["uid", "key", "text", "text_hash"]).to_pylist()
    assert [row["text"] for row in rows] == texts == [row["key"] for row in rows]
    place = [tmp_path.name, "texts.jsonl"]
    for row, text in zip(rows, texts, strict=True):
        normal = WHITE_SPACE.sub(" ", unicodedata.normalize("NFC", text)).strip(" ")
        assert row["text_hash"] == xxhash.xxh3_128_digest(normal.encode()), ascii(text)
        words = [len(word.encode()).to_bytes(8, "little") + word.encode() for word in [*place, text]]
        assert row["uid"] == xxhash.xxh3_128_digest(b"".join(words) + bytes(8)), ascii(text)


def test_a_picture_is_compared_with_the_hash_of_its_index() -> None:
    for size in (0, 1, 16, 240, 241, 5000):
        data = bytes(range(256)) * 20
        assert hashes.is_as_indexed(data[:size], xxhash.xxh3_128_digest(data[:size]))
        assert not hashes.is_as_indexed(data[:size] + b"x", xxhash.xxh3_128_digest(data[:size]))
