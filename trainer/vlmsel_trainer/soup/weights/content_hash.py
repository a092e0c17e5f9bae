"""Hashes of tensors and models that do not depend on how the tensors are spread over files.

A tensor's bytes are hashed in leaves of 1 MiB (BLAKE3), so that a reader that streams chunks in any order gets the same
hash. A tensor's hash covers its name, dtype, shape and leaves; a model's hash covers its tensors' hashes in name order.
Metadata and file layout are left out: re-sharding a model does not change what it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from blake3 import blake3

from vlmsel_trainer.soup.weights.checkpoint import Checkpoint
from vlmsel_trainer.soup.weights.header import Tensor
from vlmsel_trainer.soup.weights.streaming import stream

#: The grid on which tensors are hashed and blended. Part of the hash's definition: never change it.
LEAF_BYTES = 1 << 20
DIGEST_BYTES = 32


def hash_leaf(data: memoryview | bytes) -> bytes:
    """The hash of one leaf's bytes (32 bytes)."""
    return blake3(data).digest()


def count_leaves(size_bytes: int) -> int:
    """How many leaves a tensor of that size has (an empty tensor has none)."""
    return -(-size_bytes // LEAF_BYTES)


def hash_tensor(name: str, dtype: str, shape: Iterable[int], leaves: bytes) -> str:
    """The hash of one tensor, in hex; ``leaves`` are the leaf digests joined in order."""
    label = json.dumps(["vlmsel tensor 1", name, dtype, list(shape)], ensure_ascii=True).encode()
    return blake3(len(label).to_bytes(8, "little") + label + leaves).hexdigest()


def hash_model(tensor_hashes: Mapping[str, str]) -> str:
    """The hash of a model, in hex, from its tensors' hashes by name."""
    names = sorted(tensor_hashes, key=lambda name: name.encode("utf-8", "surrogatepass"))
    return blake3(b"vlmsel model 1" + b"".join(bytes.fromhex(tensor_hashes[name]) for name in names)).hexdigest()


def hash_adapter(base_hash: str, adapter_hash: str, config: Mapping[str, Any]) -> str:
    """The hash of a base model with an adapter merged into it, in hex; ``config`` is what decides the merge."""
    label = json.dumps(["vlmsel adapter 1", base_hash, adapter_hash, dict(config)], sort_keys=True).encode()
    return blake3(label).hexdigest()


def hash_checkpoint(
    checkpoint: Checkpoint, n_threads: int = 2, on_progress: Callable[[int], None] | None = None
) -> str:
    """Reads every tensor once and returns the model's content hash, in hex."""
    leaves = {name: bytearray(count_leaves(t.size_bytes) * DIGEST_BYTES) for name, t in checkpoint.tensors.items()}
    step = 4 * LEAF_BYTES

    def jobs() -> Iterable[tuple[Tensor, int, int]]:
        for tensor in sorted(checkpoint.tensors.values(), key=lambda t: (t.file, t.offset)):
            for start in range(0, tensor.size_bytes, step):
                yield tensor, start, min(start + step, tensor.size_bytes)

    def work(job: tuple[Tensor, int, int], buffer: memoryview) -> int:
        tensor, start, stop = job
        view = buffer[: stop - start]
        checkpoint.read_into(tensor, start, view)
        for at in range(0, len(view), LEAF_BYTES):
            index = (start + at) // LEAF_BYTES
            leaves[tensor.name][index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES] = hash_leaf(
                view[at : at + LEAF_BYTES]
            )
        return stop - start

    stream(jobs(), work, lambda: memoryview(bytearray(step)), n_threads, on_progress)
    checkpoint.check_unchanged()
    tensors = checkpoint.tensors
    return hash_model({n: hash_tensor(n, t.dtype, t.shape, bytes(leaves[n])) for n, t in tensors.items()})


def fingerprint(checkpoint: Checkpoint) -> str:
    """A quick identity, in hex: names, dtypes, shapes and one 4 KiB block of every tensor.

    It tells apart models that differ anywhere a training step has been, without reading them whole. It does not replace
    the content hash: the blend computes that and compares.
    """
    state = blake3(b"vlmsel fingerprint 1")
    for name in sorted(checkpoint.tensors, key=lambda n: n.encode("utf-8", "surrogatepass")):
        tensor = checkpoint.tensors[name]
        size = min(4096, tensor.size_bytes)
        block = bytearray(size)
        checkpoint.read_into(tensor, (tensor.size_bytes - size) // 2, memoryview(block))
        state.update(json.dumps([name, tensor.dtype, tensor.shape]).encode() + bytes(block))
    return state.hexdigest()
