"""Pages that say one thing and hold another, and pages that are odd but right."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import vlmsel
from handmade_parquet import Column, Page, ids, levels, page_v1, page_v2, snappy_literal, write

ROWS = 20
FLOATS = struct.pack(f"<{ROWS}f", *range(ROWS))


def floats(folder: Path, snappy: bool, pages: Callable[[Callable[[bytes], bytes]], list[Page]]) -> Path:
    """A file of ids and nullable scores."""
    made = pages(snappy_literal if snappy else bytes)
    return write(folder / "t.parquet", ROWS, [ids(ROWS), Column("score", "FLOAT", made, nullable=True, snappy=snappy)])


@pytest.mark.parametrize("snappy", [True, False])
def test_a_page_of_nulls_alone_may_have_no_bytes(tmp_path: Path, snappy: bool) -> None:
    path = floats(
        tmp_path,
        snappy,
        lambda stored: [
            page_v2(10, 10, levels((0, 10)), b"", 0),
            page_v2(10, 0, levels((1, 10)), stored(FLOATS[:40]), 40),
        ],
    )
    assert pq.read_table(path)["score"].null_count == 10
    found = vlmsel.select(path, k=ROWS, score_column="score", output=tmp_path / "out")
    assert (found.selected, found.rejected) == (10, {"missing": 10})


@pytest.mark.parametrize("snappy", [True, False])
@pytest.mark.parametrize("values", [ROWS, ROWS - 5])
def test_nulls_that_the_header_denies_are_seen(tmp_path: Path, snappy: bool, values: int) -> None:
    body = FLOATS[: 4 * values]
    path = floats(tmp_path, snappy, lambda stored: [page_v2(ROWS, 0, levels((0, 5), (1, 15)), stored(body), len(body))])
    found = vlmsel.select(path, k=ROWS, score_column="score", output=tmp_path / "out")
    assert (found.selected, found.rejected) == (15, {"missing": 5})


@pytest.mark.parametrize("snappy", [True, False])
@pytest.mark.parametrize("covered", [0, 7])
def test_levels_that_end_early_are_damage(tmp_path: Path, snappy: bool, covered: int) -> None:
    runs = [(1, covered)] if covered else []
    path = floats(tmp_path, snappy, lambda stored: [page_v2(ROWS, 0, levels(*runs), stored(FLOATS), len(FLOATS))])
    with pytest.raises(vlmsel.errors.UnreadableError, match="score"):
        vlmsel.select(path, k=3, score_column="score", output=tmp_path / "out")


def test_a_decimal_of_more_digits_than_its_type_has_is_refused(tmp_path: Path) -> None:
    values = [2**100 + row for row in range(ROWS)]
    body = b"".join(value.to_bytes(16, "big") for value in values)
    page = page_v1(ROWS, body, len(body))
    for digits in (18, 38):
        column = Column("score", "FIXED_LEN_BYTE_ARRAY", [page], width=16, decimal=(digits, 0))
        path = write(tmp_path / f"{digits}.parquet", ROWS, [ids(ROWS), column])
        if digits == 38:
            found = vlmsel.select(path, k=3, score_column="score", output=tmp_path / "out")
            assert found.threshold == str(values[2])
        else:
            with pytest.raises(vlmsel.errors.VlmselError, match=r"score.*1267650600228229401496703205376"):
                vlmsel.select(path, k=3, score_column="score", output=tmp_path / "no")
