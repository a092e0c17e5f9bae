"""A flipped bit in compressed data is found by the checksum that its format has; it never changes an answer."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
import zstandard
from handmade_parquet import Column, ids, page_v1, write
from vlmsel.errors import UnreadableError

ROWS = 400


def rows() -> tuple[list[str], list[float]]:
    """Ids, and scores that compress somewhat, so that a flipped bit decompresses to other scores."""
    chance = np.random.default_rng(5)
    return [chance.bytes(16).hex() for _ in range(ROWS)], chance.permutation(np.arange(1.0, ROWS + 1)).tolist()


def selected(path: Path, output: Path) -> tuple[list[object], list[object]]:
    """The single best row. Pages in which no score is within the threshold are not looked at a second time."""
    vlmsel.select(path, threshold=1.0, score_column="score", output=output, overwrite=True)
    table = pq.read_table(output / "selection.parquet")
    return table["uid"].to_pylist(), table["score"].to_pylist()


def refusals(path: Path, bits: range | list[int]) -> int:
    """Flips the bits one by one and counts how often the file is refused; else the answer has to be what it was."""
    whole, output = path.read_bytes(), path.parent / "out"
    right, refused = selected(path, output), 0
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert selected(path, output) == right, f"bit {bit} changed the selection"
        except UnreadableError:
            refused += 1
    path.write_bytes(whole)
    return refused


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_gzip_pages_of_parquet(tmp_path: Path, version: str, dictionary: bool) -> None:
    uids, scores = rows()
    path = tmp_path / "t.parquet"
    # Where ids may be null they are read with the scores, by another reader.
    schema = pa.schema([pa.field("uid", pa.string(), nullable=False), pa.field("score", pa.float64())])
    pq.write_table(
        pa.table({"uid": uids, "score": scores}, schema=schema),
        path,
        row_group_size=ROWS // 4,
        compression="gzip",
        use_dictionary=dictionary,
        data_page_version=version,
        write_statistics=False,
    )
    scored = pq.ParquetFile(path).metadata.row_group(scores.index(1.0) // (ROWS // 4)).column(1)
    first = scored.dictionary_page_offset or scored.data_page_offset
    # A page's own header, and what a page of version 2 leaves uncompressed, have no checksum.
    end = scored.data_page_offset if dictionary else first + scored.total_compressed_size
    bits = range(8 * (first + 50), 8 * end, 19)
    assert refusals(path, bits) > len(bits) * 3 // 4


def test_more_bytes_than_a_page_says(tmp_path: Path) -> None:
    scores = struct.pack("<20f", *range(20))
    page = page_v1(20, gzip.compress(scores + b"more"), len(scores))
    path = write(tmp_path / "t.parquet", 20, [ids(20), Column("score", "FLOAT", [page], gzip=True)])
    with pytest.raises(UnreadableError, match="more bytes than its header says"):
        vlmsel.select(path, k=3, score_column="score", output=tmp_path / "out")


@pytest.mark.parametrize("form", ["csv.gz", "jsonl.gz", "csv.zst", "jsonl.zst"])
def test_compressed_text_tables(tmp_path: Path, form: str) -> None:
    uids, scores = rows()
    if form.startswith("csv"):
        text = "uid,score\n" + "".join(f"{uid},{score!r}\n" for uid, score in zip(uids, scores, strict=True))
    else:
        lines = [{"uid": uid, "score": score} for uid, score in zip(uids, scores, strict=True)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
    path = tmp_path / f"t.{form}"
    if form.endswith("gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(text.encode()))
    size = path.stat().st_size
    # The last bytes, which hold the checksum, each once.
    bits = [*range(8 * 12, 8 * (size - 8), 4001), *range(8 * (size - 8), 8 * size, 8)]
    assert refusals(path, bits) > len(bits) * 3 // 4


@pytest.mark.parametrize("form", ["jsonl", "list"])
@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_compressed_records(tmp_path: Path, form: str, compression: str) -> None:
    """Data files are read to the end of their stream, also where a list ends before it."""
    records = [{"id": str(number), "text": f"t{number}"} for number in range(50)]
    text = json.dumps(records) if form == "list" else "".join(json.dumps(record) + "\n" for record in records)
    if compression == "gz":
        whole = gzip.compress(text.encode())
    else:
        whole = zstandard.ZstdCompressor(write_checksum=True).compress(text.encode())
    path = tmp_path / "in" / f"a.jsonl.{compression}"
    path.parent.mkdir()
    path.write_bytes(whole)
    assert vlmsel.doctor([path]).findings.get("unreadable_file") is None
    for cut in (whole[:-1], whole[:-4], whole[:-4] + bytes(byte ^ 1 for byte in whole[-4:])):
        path.write_bytes(cut)
        assert vlmsel.doctor([path]).findings["unreadable_file"].count == 1
