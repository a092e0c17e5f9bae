"""Streams the mean of many models into safetensors files without ever holding a model.

Each job reads one leaf (1 MiB) of one tensor from every source, hashes it, averages, and writes the mean to its place.
Within a leaf the ingredients are summed in the order of the leaf's own content hashes. That makes the result independent
of the order of arguments, as ordering by the hash of whole models would, without a reading pass only to find the order;
leaves with equal hashes are equal bytes, so ties cannot matter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from vlmsel.errors import ResourceError, UnreadableError, UsageError

from vlmsel_trainer.soup import arithmetic
from vlmsel_trainer.soup.arithmetic import Array, NonFiniteError, Weights
from vlmsel_trainer.soup.ingredient import Ingredient, is_blended
from vlmsel_trainer.soup.weights.checkpoint import Checkpoint
from vlmsel_trainer.soup.weights.content_hash import (
    DIGEST_BYTES,
    LEAF_BYTES,
    count_leaves,
    hash_adapter,
    hash_leaf,
    hash_model,
    hash_tensor,
)
from vlmsel_trainer.soup.weights.header import Tensor
from vlmsel_trainer.soup.weights.streaming import stream
from vlmsel_trainer.soup.weights.weight_shards import Shard
from vlmsel_trainer.soup.weights.write_behind import WriteBehind

#: Leaves that the kernel is told of ahead of the reads.
_N_AHEAD = 24
#: What the buffers may hold unless ``--memory-limit`` says otherwise; with the interpreter it stays under 1 GB.
DEFAULT_MEMORY_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class _Job:
    tensor: Tensor
    start: int
    stop: int


class Blender:
    """Averages ``ingredients``; tensors named in ``kept`` are copied from the checkpoint given there.

    After every shard was written (or restored from the record of an earlier run) the content hashes are known.
    """

    def __init__(
        self,
        ingredients: Sequence[Ingredient],
        kept: Mapping[str, Checkpoint] | None = None,
        n_threads: int = 3,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        if arithmetic.flushes_denormals():
            raise UsageError("a library has switched this process to flush denormals to zero; blend in a fresh process")
        self.ingredients = list(ingredients)
        self.kept = dict(kept or {})
        self.sources = _distinct([i.checkpoint for i in self.ingredients])
        self._n_ingredient_sources = len(self.sources)
        self.sources = _distinct([*self.sources, *self.kept.values()])
        self._source_of = [_position(self.sources, i.checkpoint) for i in self.ingredients]
        self._kept_source = {name: _position(self.sources, source) for name, source in self.kept.items()}
        weights = [i.weight for i in self.ingredients]
        self._equal_weights = len(set(weights)) == 1
        self.on_progress = on_progress
        has_adapters = any(i.adapter for i in self.ingredients)
        # A leaf merged with its adapter takes twice its bytes for each ingredient, and eight times for the one at work.
        leaf_cost = LEAF_BYTES * (len(self.sources) + 4 + (2 * len(self.ingredients) + 8 if has_adapters else 0))
        self.n_threads = max(1, min(n_threads, memory_bytes // leaf_cost))
        if memory_bytes < leaf_cost:
            raise ResourceError(
                f"blending {len(self.ingredients)} models needs {leaf_cost} bytes of buffers, the limit is {memory_bytes}; "
                "raise --memory-limit"
            )
        #: What the buffers of all threads hold.
        self.memory_bytes = self.n_threads * leaf_cost
        #: Tensor hashes by source and name; the last entry is the soup itself.
        self.tensor_hashes: list[dict[str, str]] = [{} for _ in range(len(self.sources) + 1)]

    def write(self, shard: Shard, path: Path) -> dict[str, Any]:
        """Writes one output file and returns its record: for each tensor how it came to be and its hashes."""
        leaves: dict[tuple[int, str], bytearray] = {}
        differs: dict[str, bool] = {}
        for tensor in shard.tensors:
            for source in [*self._sources_for(tensor.name), len(self.sources)]:
                leaves[source, tensor.name] = bytearray(count_leaves(tensor.size_bytes) * DIGEST_BYTES)
        with WriteBehind(path, shard.size_bytes) as output:
            output.write(shard.header, 0)

            def work(job: _Job, buffers: list[memoryview]) -> int:
                return self._blend(job, buffers, leaves, differs, output, shard.places[job.tensor.name])

            stream(self._jobs(shard), work, self._buffers, self.n_threads, self.on_progress, self._advise, _N_AHEAD)
        for checkpoint in self.sources:
            checkpoint.check_unchanged()
        for ingredient in self.ingredients:
            if ingredient.adapter is not None:
                ingredient.adapter.check_unchanged()
        record: dict[str, Any] = {}
        for tensor in shard.tensors:
            name = tensor.name
            hashes = {
                source: hash_tensor(name, tensor.dtype, tensor.shape, bytes(leaves[source, name]))
                for source in [*self._sources_for(name), len(self.sources)]
            }
            how = "kept" if name in self.kept else "mean" if differs.get(name) else "equal"
            record[name] = {
                "dtype": tensor.dtype,
                "hash": hashes[len(self.sources)],
                "how": how,
                "of": [hashes.get(source) for source in range(len(self.sources))],
                "shape": list(tensor.shape),
            }
        self.restore(record)
        return record

    def restore(self, record: Mapping[str, Any]) -> None:
        """Takes over the record of a shard that an earlier run committed."""
        for name, entry in record.items():
            for source, value in enumerate([*entry["of"], entry["hash"]]):
                if value is not None:
                    self.tensor_hashes[source][name] = value

    def content_hashes(self) -> list[str]:
        """The ingredients' content hashes, in their order. Every shard must have been written or restored."""
        found = []
        for ingredient, source in zip(self.ingredients, self._source_of, strict=True):
            value = hash_model(self.tensor_hashes[source])
            if ingredient.adapter is not None:
                value = hash_adapter(value, ingredient.adapter.content_hash, ingredient.adapter.describe())
            found.append(value)
        return found

    def soup_hash(self) -> str:
        """The content hash of the soup. Every shard must have been written or restored."""
        return hash_model(self.tensor_hashes[-1])

    def _sources_for(self, name: str) -> list[int]:
        wanted = list(range(self._n_ingredient_sources))
        extra = self._kept_source.get(name)
        return wanted if extra is None or extra in wanted else [*wanted, extra]

    def _jobs(self, shard: Shard) -> Iterator[_Job]:
        for tensor in shard.tensors:
            for start in range(0, tensor.size_bytes, LEAF_BYTES):
                yield _Job(tensor, start, min(start + LEAF_BYTES, tensor.size_bytes))

    def _buffers(self) -> list[memoryview]:
        return [memoryview(bytearray(LEAF_BYTES)) for _ in self.sources]

    def _advise(self, job: _Job) -> None:
        for source in self._sources_for(job.tensor.name):
            checkpoint = self.sources[source]
            checkpoint.advise(checkpoint.tensors[job.tensor.name], job.start, job.stop - job.start)

    def _blend(
        self,
        job: _Job,
        buffers: list[memoryview],
        leaves: dict[tuple[int, str], bytearray],
        differs: dict[str, bool],
        output: WriteBehind,
        place: int,
    ) -> int:
        name, length = job.tensor.name, job.stop - job.start
        sources = self._sources_for(name)
        cell = slice(job.start // LEAF_BYTES * DIGEST_BYTES, (job.start // LEAF_BYTES + 1) * DIGEST_BYTES)
        raw: dict[int, memoryview] = {}
        keys: dict[int, bytes] = {}
        for source in sources:
            checkpoint = self.sources[source]
            raw[source] = buffers[source][:length]
            checkpoint.read_into(checkpoint.tensors[name], job.start, raw[source])
            # Hashed at once, while the leaf is still in the core's own cache.
            keys[source] = leaves[source, name][cell] = hash_leaf(raw[source])
        kept = self._kept_source.get(name)
        if kept is not None:
            self._check_finite(job.tensor, raw[kept], str(self.sources[kept].path))
            blended, key = raw[kept], keys[kept]
        else:
            mean = self._blend_leaf(job, raw, keys)
            if mean is None:
                blended, key = raw[self._source_of[0]], keys[self._source_of[0]]
            else:
                blended = mean.data.cast("B")
                key = hash_leaf(blended)
                differs[name] = True
        leaves[len(self.sources), name][cell] = key
        output.write(blended, place + job.start)
        return length * len(sources)

    def _blend_leaf(self, job: _Job, raw: Mapping[int, memoryview], keys: Mapping[int, bytes]) -> Array | None:
        """The leaf's mean; ``None`` where all ingredients hold the same bytes, which are their own mean."""
        tensor = job.tensor
        if any(i.adapter is not None and i.adapter.touches(tensor.name) for i in self.ingredients):
            return self._blend_adapted(tensor, job.start, raw)
        first = self._source_of[0]
        if len({keys[source] for source in self._source_of}) == 1:
            self._check_finite(tensor, raw[first], self.ingredients[0].label)
            return None
        if not is_blended(tensor.dtype):
            other = next(n for n, source in enumerate(self._source_of) if keys[source] != keys[first])
            raise UsageError(
                f"{tensor.name} is {tensor.dtype}, which is not averaged, and differs between {self.ingredients[0].label} "
                f"and {self.ingredients[other].label}; take it from one model with --keep {tensor.name} --from MODEL"
            )
        order = sorted(
            range(len(self.ingredients)), key=lambda n: (keys[self._source_of[n]], self.ingredients[n].weight)
        )
        storage = arithmetic.STORAGE[tensor.dtype]
        chunks = [np.frombuffer(raw[self._source_of[n]], storage) for n in order]
        try:
            return arithmetic.mean(tensor.dtype, chunks, self._weights(order))
        except NonFiniteError:
            for ingredient, source in zip(self.ingredients, self._source_of, strict=True):
                self._check_finite(tensor, raw[source], ingredient.label)
            raise UnreadableError(f"the mean of {tensor.name} overflows; are the weights sane?") from None

    def _blend_adapted(self, tensor: Tensor, start: int, raw: Mapping[int, memoryview]) -> Array:
        storage = arithmetic.STORAGE[tensor.dtype]
        begin = start // storage.itemsize
        merged: list[Array] = []
        for ingredient, source in zip(self.ingredients, self._source_of, strict=True):
            wide = arithmetic.widen(tensor.dtype, np.frombuffer(raw[source], storage))
            if ingredient.adapter is not None:
                ingredient.adapter.merge_into(wide, tensor, begin)
            if not np.isfinite(wide).all():
                raise UnreadableError(f"{tensor.name} of {ingredient.label} holds NaN or infinity")
            merged.append(wide)
        keys = [hash_leaf(wide.data.cast("B")) for wide in merged]
        if len(set(keys)) == 1:
            return arithmetic.round_to(tensor.dtype, merged[0])
        order = sorted(range(len(merged)), key=lambda n: (keys[n], self.ingredients[n].weight))
        return arithmetic.mean_of_wide(tensor.dtype, [merged[n] for n in order], self._weights(order))

    def _weights(self, order: Sequence[int]) -> Weights:
        if self._equal_weights:
            return Weights(None, len(order))
        return Weights(tuple(self.ingredients[n].weight for n in order), len(order))

    def _check_finite(self, tensor: Tensor, raw: memoryview, label: str) -> None:
        storage = arithmetic.STORAGE.get(tensor.dtype, np.dtype(np.uint8))
        if not is_blended(tensor.dtype) and tensor.dtype not in arithmetic.EIGHT_BIT_NONFINITE:
            return
        count = arithmetic.count_nonfinite(tensor.dtype, np.frombuffer(raw, storage))
        if count:
            raise UnreadableError(
                f"{tensor.name} of {label} holds {count} or more NaN or infinite values: leave that model out"
            )


def _distinct(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    found: list[Checkpoint] = []
    for checkpoint in checkpoints:
        if _find(found, checkpoint) is None:
            found.append(checkpoint)
    return found


def _find(checkpoints: Sequence[Checkpoint], wanted: Checkpoint) -> int | None:
    place = os.path.realpath(wanted.path)
    for index, checkpoint in enumerate(checkpoints):
        if os.path.realpath(checkpoint.path) == place:
            return index
    return None


def _position(checkpoints: Sequence[Checkpoint], wanted: Checkpoint) -> int:
    index = _find(checkpoints, wanted)
    if index is None:
        raise LookupError(f"{wanted.path} is not among the sources")
    return index
