"""Whatever layout a writer chose, the answer is that of sorting in Python; damage under a checksum is never an answer."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
from vlmsel.errors import UnreadableError

ROWS = 1500
CODECS = ["none", "snappy", "zstd", "gzip", "lz4", "brotli"]
IDS = ["binary", "string", "integer"]
#: Encodings that only the general reader knows, by kind of id.
OTHER_ENCODINGS = {"binary": "BYTE_STREAM_SPLIT", "string": "DELTA_BYTE_ARRAY", "integer": "DELTA_BINARY_PACKED"}


def pool(rng: random.Random, ids: str, *, nullable: bool, ties: bool) -> pa.Table:
    """Rows of one kind of id; where nullable, a fifth of ids and of scores are null, and so is the first page."""

    def holes(values: list[Any]) -> list[Any]:
        return [None if nullable and (at < 200 or rng.random() < 0.2) else value for at, value in enumerate(values)]

    make = {
        "binary": lambda _: rng.randbytes(16),
        "string": lambda at: f"id-{at:06d}-{rng.random()}",
        "integer": lambda at: at * 7919 % 4001,
    }[ids]
    kind = {"binary": pa.binary(16), "string": pa.string(), "integer": pa.int64()}[ids]
    scores = [float(rng.randrange(20)) if ties else float(rng.randrange(1 << 20)) / 1024 for _ in range(ROWS)]
    return pa.table(
        [pa.array(holes([make(at) for at in range(ROWS)]), kind), pa.array(holes(scores), pa.float32())],
        schema=pa.schema([pa.field("uid", kind, nullable), pa.field("ppl", pa.float32(), nullable)]),
    )


def best(table: pa.Table, k: int) -> list[tuple[float, Any]]:
    """The k best rows by sorting; the ids of a pool are distinct."""
    rows = zip(table["ppl"].to_pylist(), table["uid"].to_pylist(), strict=True)
    return sorted(row for row in rows if None not in row)[:k]


def selected(path: Path, k: int, output: Path) -> list[tuple[float, Any]]:
    """What vlmsel selects."""
    table = pa.table(vlmsel.select(path, k=k, output=output, threads=2).table())
    return list(zip(table["score"].to_pylist(), table["uid"].to_pylist(), strict=True))


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", CODECS)
def test_every_layout_gives_the_sorted_answer(tmp_path: Path, codec: str, version: str, ids: str) -> None:
    rng = random.Random(f"{codec} {version} {ids}")
    for at in range(16):
        nullable, ties, dictionary, small_pages = bool(at & 1), bool(at & 2), bool(at & 4), bool(at & 8)
        table = pool(rng, ids, nullable=nullable, ties=ties)
        # A dictionary and another encoding exclude each other.
        encodings = {"uid": OTHER_ENCODINGS[ids], "ppl": "BYTE_STREAM_SPLIT"} if not dictionary and ties else None
        path = tmp_path / f"{at}.parquet"
        pq.write_table(
            table,
            path,
            compression=codec,
            data_page_version=version,
            use_dictionary=dictionary,
            column_encoding=encodings,
            data_page_size=300 if small_pages else 1 << 20,
            write_batch_size=50,
            row_group_size=rng.choice([ROWS, 700, 64]),
            write_page_checksum=rng.random() < 0.5,
            write_page_index=rng.random() < 0.5,
            write_statistics=rng.random() < 0.5,
        )
        assert selected(path, 60, tmp_path / f"out{at}") == best(table, 60), (nullable, ties, dictionary, small_pages)


@pytest.mark.parametrize("encoding", ["PLAIN", "BYTE_STREAM_SPLIT"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", CODECS)
def test_a_flipped_bit_under_a_checksum_is_never_read(tmp_path: Path, codec: str, version: str, encoding: str) -> None:
    """Every page of ids and scores that a selection of all rows decompresses is checked, by our reader and the other."""
    rng = random.Random(3)
    path = tmp_path / "t.parquet"
    pq.write_table(
        pool(rng, "binary", nullable=False, ties=False),
        path,
        compression=codec,
        data_page_version=version,
        use_dictionary=False,
        column_encoding={"uid": encoding, "ppl": encoding},
        write_page_checksum=True,
        write_statistics=False,
    )
    whole = path.read_bytes()
    group = pq.ParquetFile(path).metadata.row_group(0)
    for at in range(10):
        column = group.column(at % 2)
        # Behind the header: a page has one checksum, and it is of what follows.
        place = rng.randrange(column.data_page_offset + 60, column.data_page_offset + column.total_compressed_size)
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(UnreadableError, match=r"t\.parquet"):
            vlmsel.select(path, k=ROWS, output=tmp_path / "out")
