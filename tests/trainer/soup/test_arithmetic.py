"""The mean of a chunk against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vlmsel_trainer.soup import arithmetic
from vlmsel_trainer.soup.arithmetic import NonFiniteError, Weights, mean


def all_finite(dtype: str) -> np.ndarray:
    """Every finite value of a 16-bit format, both zeros and all subnormals included, as stored."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    exponent = np.uint16(0x7F80 if dtype == "BF16" else 0x7C00)
    bits = bits[(bits & exponent) != exponent]
    return bits if dtype == "BF16" else bits.view(np.float16)


def to_torch(dtype: str, chunk: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(chunk.view(np.int16)).view(torch.bfloat16 if dtype == "BF16" else torch.float16)


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 10])
def test_mean_of_copies_is_the_copy(dtype: str, count: int) -> None:
    values = all_finite(dtype)
    assert mean(dtype, [values] * count, Weights(None, count)).tobytes() == values.tobytes()
    weights = Weights(tuple(0.1 * (n + 1) for n in range(count)), count)
    assert mean(dtype, [values] * count, weights).tobytes() == values.tobytes()


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_sixteen_bit_means_equal_torch_in_fp32(dtype: str, count: int) -> None:
    rng = np.random.default_rng(count)
    values = all_finite(dtype)
    if dtype == "BF16":  # sums that leave fp32's range have their own test
        values = values[np.abs(to_torch(dtype, values).float().numpy()) < 1e37]
        values = values[: values.size // 2 * 2]
    chunks = [rng.permutation(values) for _ in range(count)]
    total = to_torch(dtype, chunks[0]).float()
    for chunk in chunks[1:]:
        total += to_torch(dtype, chunk).float()
    expected = (total / count).to(torch.bfloat16 if dtype == "BF16" else torch.float16)
    found = to_torch(dtype, mean(dtype, chunks, Weights(None, count)))
    assert torch.equal(found.view(torch.int16), expected.view(torch.int16))


def test_odd_lengths_change_nothing() -> None:
    rng = np.random.default_rng(0)
    for dtype in ("BF16", "F16"):
        chunks = [rng.permutation(all_finite(dtype))[:4097] for _ in range(3)]
        odd = mean(dtype, chunks, Weights(None, 3))
        even = mean(dtype, [chunk[:4096] for chunk in chunks], Weights(None, 3))
        assert odd[:4096].tobytes() == even.tobytes()


def test_largest_bf16_values_do_not_overflow() -> None:
    largest = np.full(6, 0x7F7F, np.uint16)
    near = np.full(6, 0x7F7E, np.uint16)
    assert (mean("BF16", [largest, largest, largest], Weights(None, 3)) == 0x7F7F).all()
    # Between two neighbours lies a tie: it goes to the even one.
    assert (mean("BF16", [largest, near], Weights(None, 2)) == 0x7F7E).all()
    assert (mean("BF16", [largest, largest, near], Weights(None, 3)) == 0x7F7F).all()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, 6])
def test_nan_and_infinity_are_found_wherever_they_are(dtype: str, bad: float, place: int) -> None:
    def store(values: np.ndarray) -> np.ndarray:
        if dtype == "BF16":
            return torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
        return values.astype(arithmetic.STORAGE[dtype])

    good, spoilt = np.ones(8), np.ones(8)
    spoilt[place] = bad
    for chunks in ([store(good), store(spoilt)], [store(spoilt), store(-spoilt)]):
        with pytest.raises(NonFiniteError):
            mean(dtype, chunks, Weights(None, 2))
    assert arithmetic.count_nonfinite(dtype, store(spoilt)) == 1
    assert arithmetic.count_nonfinite(dtype, store(good)) == 0


floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.lists(floats32, min_size=3, max_size=3), min_size=1, max_size=9))
def test_fp32_means_are_exact_sums_rounded_once(rows: list[list[float]]) -> None:
    chunks = [np.array(row, np.float32) for row in rows]
    found = mean("F32", chunks, Weights(None, len(chunks)))
    for column, value in enumerate(found):
        exact = sum((Fraction(float(chunk[column])) for chunk in chunks), Fraction(0)) / len(chunks)
        largest = max(abs(Fraction(float(chunk[column]))) for chunk in chunks)
        slack = len(chunks) * largest / 2**52
        half = max(abs(exact) / 2**24, Fraction(1, 2**150))
        assert abs(Fraction(float(value)) - exact) <= half + slack


@given(
    st.lists(floats32, min_size=1, max_size=5),
    st.integers(1, 9),
    st.lists(st.floats(1e-3, 1e3), min_size=9, max_size=9),
)
@settings(max_examples=200)
def test_weighted_mean_of_copies_is_the_copy(values: list[float], count: int, weights: list[float]) -> None:
    chunk = np.array(values, np.float32)
    found = mean("F32", [chunk] * count, Weights(tuple(weights[:count]), count))
    assert found.tobytes() == chunk.tobytes()


def test_inputs_are_left_alone() -> None:
    for dtype in ("BF16", "F16"):
        chunks = [all_finite(dtype)[:4096].copy() for _ in range(2)]
        before = [chunk.tobytes() for chunk in chunks]
        mean(dtype, chunks, Weights(None, 2))
        mean(dtype, chunks, Weights((1.0, 2.0), 2))
        assert [chunk.tobytes() for chunk in chunks] == before
