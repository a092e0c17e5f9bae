"""The mean of one chunk: widened, summed in a given order, divided, and rounded once to the stored dtype.

bf16 and fp16 are summed in fp32, fp32 in fp64, fp64 in the platform's long double. The first three are vlmsel's compiled
means, four to six times as fast as torch on one thread (benches/runs, soup-kernels.json); numpy is left with long double and
with numbers that are wide already (merged adapters).

Functions take chunks as 1-D arrays of the storage type (bf16 as uint16) and never modify their inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from vlmsel import averaging

Array = npt.NDArray[Any]

#: Storage type of each blended dtype; bf16 has none in numpy and travels as its bits.
STORAGE: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
#: The type that sums are kept in.
WIDE: dict[str, np.dtype[Any]] = {"BF16": np.dtype(np.float32), "F16": np.dtype(np.float32), "F32": np.dtype(np.float64),
        "F64": np.dtype(np.longdouble)}  # fmt: skip

#: Elements per pass: the accumulators of a block stay in the second-level cache.
_BLOCK = 1 << 16
_SHIFT = np.uint32(16)
_ONE = np.uint32(1)


class NonFiniteError(ArithmeticError):
    """A sum was NaN or infinite; the caller finds out whether an ingredient is to blame or the sum overflowed."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights in the order of the summands. ``None`` stands for equal weights: a plain sum, one division."""

    values: tuple[float, ...] | None
    count: int

    @property
    def total(self) -> float:
        """The divisor."""
        return float(self.count) if self.values is None else float(sum(self.values))

    def at(self, index: int) -> float:
        """The weight of summand ``index``."""
        return 1.0 if self.values is None else self.values[index]


def mean(dtype: str, chunks: Sequence[Array], weights: Weights) -> Array:
    """The weighted mean of equally long chunks stored as ``dtype``, summed in the order given.

    Falls back to long double where a finite sum overflows. Raises NonFiniteError if a chunk holds NaN or infinity.
    """
    if dtype in averaging.DTYPES:
        out = np.empty(chunks[0].size, STORAGE[dtype])
        if averaging.mean_into(out, dtype, chunks, weights.values):
            return out
        if any(count_nonfinite(dtype, chunk) for chunk in chunks):
            raise NonFiniteError
        # Finite values whose sum left fp32's range: bf16 reaches as far as fp32 does. The mean itself fits.
    return _mean_blocks(dtype, [(dtype, chunk) for chunk in chunks], weights, np.dtype(np.longdouble))


def mean_of_wide(dtype: str, chunks: Sequence[Array], weights: Weights) -> Array:
    """As :func:`mean` for chunks that are already in the wide type of ``dtype`` (merged adapters)."""
    return _mean_blocks(dtype, [("WIDE", chunk) for chunk in chunks], weights, WIDE[dtype])


def widen(dtype: str, chunk: Array) -> Array:
    """The chunk in the type sums are kept in."""
    out = np.empty(chunk.size, WIDE[dtype])
    _widen_into(dtype, chunk, out)
    return out


def round_to(dtype: str, wide: Array) -> Array:
    """Rounds to nearest, ties to even, once."""
    out = np.empty(wide.size, STORAGE[dtype])
    _round_into(dtype, wide, out)
    return out


#: Eight-bit floats are never averaged, only copied; bytes of each that are NaN or infinite, sign bit left out.
EIGHT_BIT_NONFINITE: dict[str, tuple[int, int]] = {
    "F8_E4M3": (0x7F, 0x7F),
    "F8_E5M2": (0x7C, 0x7F),
}


def count_nonfinite(dtype: str, chunk: Array) -> int:
    """How many elements are NaN or infinite. ``chunk`` is in the storage type; eight-bit floats are bytes."""
    if dtype in EIGHT_BIT_NONFINITE:
        low, high = EIGHT_BIT_NONFINITE[dtype]
        magnitude = chunk & np.uint8(0x7F)
        return int(np.count_nonzero((magnitude >= low) & (magnitude <= high)))
    if dtype == "BF16":
        return int(np.count_nonzero((chunk & np.uint16(0x7F80)) == np.uint16(0x7F80)))
    return int(chunk.size - np.count_nonzero(np.isfinite(chunk)))


def flushes_denormals() -> bool:
    """Whether this thread's floating-point unit drops denormals (a library may have switched that on)."""
    return bool(np.array([2.0**-140], np.float32) * np.float32(1.0) == 0.0)


def _mean_blocks(dtype: str, chunks: Sequence[tuple[str, Array]], weights: Weights, wide: np.dtype[Any]) -> Array:
    size = chunks[0][1].size
    out = np.empty(size, STORAGE[dtype])
    length = max(1, min(_BLOCK, size))
    total_block, term_block = np.empty(length, wide), np.empty(length, wide)
    divisor = wide.type(weights.total)
    for start in range(0, size, length):
        stop = min(start + length, size)
        total, term = total_block[: stop - start], term_block[: stop - start]
        with np.errstate(all="ignore"):
            for index, (kind, chunk) in enumerate(chunks):
                target = total if index == 0 else term
                _widen_into(kind, chunk[start:stop], target)
                if weights.values is not None:
                    np.multiply(target, wide.type(weights.at(index)), out=target)
                if index:
                    np.add(total, term, out=total)
            if len(chunks) > 1 or weights.values is not None:
                np.divide(total, divisor, out=total)
            if not np.isfinite(total).all():
                raise NonFiniteError
            _round_into(dtype, total, out[start:stop])
    return out


def _widen_into(dtype: str, chunk: Array, out: Array) -> None:
    if dtype != "BF16":
        np.copyto(out, chunk, casting="unsafe")
    elif out.dtype == np.float32:
        np.left_shift(chunk, _SHIFT, out=out.view(np.uint32), dtype=np.uint32)
    else:
        np.copyto(out, np.left_shift(chunk, _SHIFT, dtype=np.uint32).view(np.float32))


def _round_into(dtype: str, wide: Array, out: Array) -> None:
    if dtype != "BF16":
        np.copyto(out, wide, casting="unsafe")
        return
    # Only the overflow path comes here with more than fp32; rounding to odd on the way keeps it one rounding.
    bits = (wide.copy() if wide.dtype == np.float32 else _round_to_odd(wide)).view(np.uint32)
    # Adding half of what is dropped, less for even ones, makes the truncation a rounding to nearest even.
    bits += np.uint32(0x7FFF) + ((bits >> _SHIFT) & _ONE)
    np.copyto(out, bits >> _SHIFT, casting="unsafe")


def _round_to_odd(wide: Array) -> Array:
    """float32 values that round to bf16 as ``wide`` itself would: inexact ones get an odd last bit."""
    with np.errstate(all="ignore"):
        near = wide.astype(np.float32)
        # A mean of finite bf16 values stays below the largest of them, so `near` is finite.
        error = wide - near.astype(wide.dtype)
    bits = near.view(np.uint32)
    inexact, even = error != 0, (bits & _ONE) == 0
    # Toward zero when the rounding went outward, else the odd neighbour lies outward.
    outward = np.signbit(error) != np.signbit(wide)
    step = np.where(outward, -1, 1).astype(np.int64)
    adjusted = bits.astype(np.int64) + np.where(inexact & even, step, 0)
    result: Array = adjusted.astype(np.uint32).view(np.float32)
    return result
