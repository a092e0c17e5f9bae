"""The mean of stored numbers, chunk by chunk: what a soup of models is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from vlmsel import _core

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Buffer

Chunk: TypeAlias = "Buffer | npt.NDArray[Any]"
"""Anything contiguous with the buffer protocol."""

DTYPES: Final = frozenset({"BF16", "F16", "F32"})
"""The types that are averaged, named as in safetensors."""


def mean_into(out: Chunk, dtype: str, chunks: Sequence[Chunk], weights: Sequence[float] | None = None) -> bool:
    """Write the mean of equally long chunks of stored numbers, chunk by chunk.

    BF16 and F16 are summed in fp32, F32 in fp64: values times weights in the order given, divided once by the sum of the
    weights and rounded once, to nearest, ties to even. The GIL is released: let no other thread write to ``chunks`` or use
    ``out`` meanwhile.

    Args:
        out: Where the means go, as long as each chunk and apart from all.
        dtype: One of :data:`DTYPES`.
        chunks: One or more, little-endian as in files.
        weights: One for each chunk; None: a plain sum.

    Returns:
        Whether all means were finite. If not, a chunk holds NaN or infinity or a sum was too large for the wider type, and
        ``out`` means nothing.

    Raises:
        UsageError: Another dtype, no chunks, other lengths, or buffers that are not contiguous or overlap ``out``.
    """
    return _core.mean_into(out, dtype, chunks, [1.0] * len(chunks) if weights is None else weights)
