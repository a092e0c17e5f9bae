"""The header of one safetensors file, parsed and checked: which tensors it holds and where their bytes lie.

It is parsed here and not by a library because a soup must account for every byte of files it did not write: lengths,
overlaps, holes and doubled names are all errors that name the file.

Format: https://github.com/huggingface/safetensors (8 bytes little-endian header length, JSON header, tensor bytes).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmsel.errors import UnreadableError

from vlmsel_trainer.soup.weights.strict_json import parse_json

#: Bytes of one element by the format's dtype names.
ITEM_SIZE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
#: The dtypes that are averaged. All others must be equal in every ingredient.
BLENDED_DTYPES = frozenset({"F16", "BF16", "F32", "F64"})

#: The format allows 100 MB. Parsed, a header takes twenty times its bytes, which have to stay under a gigabyte; 25 MB
#: describe about 200,000 tensors, twice those of the largest models published.
MAX_HEADER_BYTES = 25_000_000
MAX_NAME_BYTES = 4096
MAX_DIMENSIONS = 64


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies: ``file`` is an index into :attr:`Checkpoint.files`, ``offset`` counts from its start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    offset: int
    size_bytes: int

    @property
    def n_elements(self) -> int:
        """Number of elements (1 for a scalar)."""
        return math.prod(self.shape)


def read_header(path: Path, descriptor: int, file_size_bytes: int, file: int) -> tuple[list[Tensor], dict[str, str]]:
    prefix = os.pread(descriptor, 8, 0)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length + 8 > file_size_bytes:
        raise UnreadableError(
            f"{path} is cut short: its header claims {length} bytes, the file has {file_size_bytes}; copy it again"
        )
    if length > MAX_HEADER_BYTES:
        raise UnreadableError(f"{path} has a header of {length} bytes; vlmsel reads headers up to {MAX_HEADER_BYTES}")
    document = parse_json(os.pread(descriptor, length, 8), path)
    if not isinstance(document, dict):
        raise UnreadableError(f"the header of {path} is not a JSON object")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnreadableError(f"__metadata__ in the header of {path} is not a map of strings")
    tensors = [_tensor(path, file, 8 + length, name, entry) for name, entry in document.items()]
    _check_cover(path, tensors, 8 + length, file_size_bytes)
    return tensors, metadata


def _tensor(path: Path, file: int, data_start: int, name: str, entry: Any) -> Tensor:
    where = f"tensor {name[:200]!r} in {path}"
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES or not name.isprintable():
        raise UnreadableError(f"{where} has a name that is too long or holds control characters")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise UnreadableError(f"{where} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE_BYTES:
        raise UnreadableError(f"{where} has dtype {dtype!r}, which vlmsel does not know")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(_is_count(n) for n in shape):
        raise UnreadableError(f"{where} has no valid shape")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(n) for n in offsets):
        raise UnreadableError(f"{where} has no valid data_offsets")
    begin, end = offsets
    size_bytes = math.prod(shape) * ITEM_SIZE_BYTES[dtype]
    if end - begin != size_bytes:
        raise UnreadableError(f"{where} occupies {end - begin} bytes, but {dtype} {shape} needs {size_bytes}")
    return Tensor(name, dtype, tuple(shape), file, data_start + begin, size_bytes)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _check_cover(path: Path, tensors: list[Tensor], data_start: int, file_size_bytes: int) -> None:
    """Every byte behind the header belongs to exactly one tensor; the format demands it and overlaps hide tricks."""
    at, before = data_start, "the header"
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.size_bytes)):
        if tensor.offset < at:
            raise UnreadableError(f"in {path} the bytes of {tensor.name!r} overlap those of {before}")
        if tensor.offset > at:
            raise UnreadableError(f"in {path} there are {tensor.offset - at} unclaimed bytes before {tensor.name!r}")
        at, before = tensor.offset + tensor.size_bytes, repr(tensor.name)
    if at > file_size_bytes:
        raise UnreadableError(
            f"{path} is cut short: {at} bytes are described, {file_size_bytes} are there; copy it again"
        )
    if at < file_size_bytes:
        raise UnreadableError(f"{path} has {file_size_bytes - at} bytes behind its last tensor")
