"""The compiled mean as Python sees it: buffers in, buffer out, and calls that make no sense."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlmsel.averaging import DTYPES, mean_into
from vlmsel.errors import UsageError

ONE_TWO = struct.pack("<2f", 1.0, 2.0)
FIVE_EIGHT = struct.pack("<2f", 5.0, 8.0)


def test_any_contiguous_buffer_will_do() -> None:
    out = bytearray(8)
    chunks = [ONE_TWO, memoryview(b"?" + FIVE_EIGHT)[1:], np.array([3.0, 2.0], "<f4"), bytearray(ONE_TWO)]
    assert mean_into(out, "F32", chunks)
    assert struct.unpack("<2f", out) == (2.5, 3.5)
    assert mean_into(out, "F32", chunks[:2], [3.0, 1.0])
    assert struct.unpack("<2f", out) == (2.0, 3.5)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_nothing_has_a_mean(dtype: str) -> None:
    assert mean_into(bytearray(), dtype, [b"", b""])


@given(st.lists(st.tuples(st.floats(width=16), st.floats(1e-2, 1e2)), min_size=1, max_size=9), st.booleans())
def test_a_half_precision_mean_is_an_fp32_mean_rounded_once(summands: list[tuple[float, float]], equal: bool) -> None:
    chunks = [np.array([value], "<f2") for value, _ in summands]
    weights = [1.0 if equal else weight for _, weight in summands]
    with np.errstate(all="ignore"):
        total = chunks[0].astype(np.float32) * np.float32(weights[0])
        for chunk, weight in zip(chunks[1:], weights[1:], strict=True):
            total = total + chunk.astype(np.float32) * np.float32(weight)
        expected = total / np.float32(sum(weights))
    out = np.empty(1, "<f2")
    assert mean_into(out, "F16", chunks, None if equal else weights) == np.isfinite(expected).all()
    if np.isfinite(expected).all():
        assert out.tobytes() == expected.astype("<f2").tobytes()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_mean_that_is_not_finite_is_reported(bad: float) -> None:
    assert not mean_into(bytearray(8), "F32", [ONE_TWO, struct.pack("<2f", 1.0, bad)])


def test_a_sum_beyond_fp32_is_reported() -> None:
    largest = (0x7F7F).to_bytes(2, "little")
    assert mean_into(bytearray(2), "BF16", [largest])
    assert not mean_into(bytearray(2), "BF16", [largest, largest])


@pytest.mark.parametrize(
    ("out", "dtype", "chunks", "weights", "message"),
    [
        (bytearray(8), "F64", [ONE_TWO], None, 'mean: dtype "F64" is not averaged; BF16, F16 and F32 are'),
        (bytearray(8), "F32", [], None, "mean: a mean needs at least one chunk"),
        (bytearray(8), "F32", [ONE_TWO], [1.0, 2.0], "mean: 2 weights for 1 chunks"),
        (bytearray(8), "F32", [ONE_TWO, b"1234"], None, "mean: chunk 1 has 4 bytes where the output has 8"),
        (bytearray(6), "F32", [bytes(6)], None, "mean: 6 bytes are not a whole number of F32 values"),
        (bytes(8), "F32", [ONE_TWO], None, "mean: the output must be writable and contiguous"),
        (np.empty(4, "<f4")[::2], "F32", [ONE_TWO], None, "mean: the output must be writable and contiguous"),
        (bytearray(8), "F32", [ONE_TWO, np.ones(4, "<f4")[::2]], None, "mean: chunk 1 is not contiguous"),
    ],
)
def test_wrong_calls_are_named(out: object, dtype: str, chunks: list[object], weights: object, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        mean_into(out, dtype, chunks, weights)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_an_output_within_a_chunk_is_refused() -> None:
    memory = np.ones(6, "<f4")
    for start in (0, 1, 3):
        with pytest.raises(UsageError, match="the output overlaps chunk 1"):
            mean_into(memory[2:5], "F32", [np.ones(3, "<f4"), memory[start : start + 3]])
    assert (memory == 1).all()
    assert mean_into(memory[:3], "F32", [memory[3:], memory[3:]])


def test_what_is_no_buffer_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        mean_into(bytearray(8), "F32", ["12345678"])  # type: ignore[list-item]
