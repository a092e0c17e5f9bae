"""How the soup's tensors are laid out over output files: decided by names, dtypes and shapes alone.

Files are filled in name order up to ``--max-shard-size``; within a file wide dtypes come first, so that every tensor is
aligned to its element, as the safetensors library writes them. Names and index are those that transformers looks for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmsel_trainer.soup.weights.checkpoint import INDEX_FILE, SINGLE_FILE
from vlmsel_trainer.soup.weights.header import ITEM_SIZE_BYTES, Tensor

_HEADER_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class Shard:
    """One output file: ``places`` maps a tensor's name to the offset of its first byte in the file."""

    file_name: str
    header: bytes
    tensors: tuple[Tensor, ...]
    places: Mapping[str, int]
    size_bytes: int

    @property
    def data_bytes(self) -> int:
        """Bytes behind the header."""
        return self.size_bytes - len(self.header)


def plan_shards(tensors: Sequence[Tensor], max_shard_bytes: int, metadata: Mapping[str, str]) -> list[Shard]:
    """The output files in order. A tensor larger than ``max_shard_bytes`` gets a file of its own."""
    groups: list[list[Tensor]] = [[]]
    filled_bytes = 0
    for tensor in sorted(tensors, key=lambda t: t.name.encode("utf-8", "surrogatepass")):
        if groups[-1] and filled_bytes + tensor.size_bytes > max_shard_bytes:
            groups.append([])
            filled_bytes = 0
        groups[-1].append(tensor)
        filled_bytes += tensor.size_bytes
    if len(groups) == 1:
        return [_plan_shard(SINGLE_FILE, groups[0], metadata)]
    count = len(groups)
    return [
        _plan_shard(f"model-{number:05d}-of-{count:05d}.safetensors", group, metadata)
        for number, group in enumerate(groups, start=1)
    ]


def index_json(shards: Sequence[Shard]) -> bytes | None:
    """The content of ``model.safetensors.index.json``; ``None`` where one file needs no index."""
    if len(shards) == 1 and shards[0].file_name == SINGLE_FILE:
        return None
    weight_map = {tensor.name: shard.file_name for shard in shards for tensor in shard.tensors}
    tensors = [tensor for shard in shards for tensor in shard.tensors]
    document = {
        "metadata": {
            "total_parameters": sum(tensor.n_elements for tensor in tensors),
            "total_size": sum(tensor.size_bytes for tensor in tensors),
        },
        "weight_map": dict(sorted(weight_map.items())),
    }
    return (json.dumps(document, indent=2, ensure_ascii=True) + "\n").encode()


def names_written(shards: Sequence[Shard]) -> list[str]:
    """Names of the weight files and, where there is one, of the index."""
    names = [shard.file_name for shard in shards]
    return names if index_json(shards) is None else [*names, INDEX_FILE]


def _plan_shard(file_name: str, tensors: Sequence[Tensor], metadata: Mapping[str, str]) -> Shard:
    ordered = sorted(tensors, key=lambda t: (-ITEM_SIZE_BYTES[t.dtype], t.name.encode("utf-8", "surrogatepass")))
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    offsets: dict[str, int] = {}
    at = 0
    for tensor in ordered:
        end = at + tensor.size_bytes
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, end]}
        offsets[tensor.name] = at
        at = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    places = {name: len(header) + offset for name, offset in offsets.items()}
    return Shard(file_name, header, tuple(ordered), places, len(header) + at)
