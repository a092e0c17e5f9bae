"""What `--memory-limit` means for scoring: how much of the host's memory may hold weights, pictures and rows made ready ahead.

The limit is for what grows with the model, the data and the number of workers. Beside it stand the program itself (torch takes
some 0.6 GB) and the activations of one batch, which `--batch-tokens` bounds. It decides how far decoding runs ahead, never a score.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from vlmsel.errors import ResourceError, UsageError

# Without a limit: enough to keep any GPU busy, and sixteen workers with a gigapixel each cannot end the run.
DEFAULT_BYTES = 2 << 30
# Less than this is no room to decode a photograph in.
MIN_BYTES = 64 << 20


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes for the weights on the host, for image files in memory, for their pixels, and for rows that wait for the model."""

    weight_bytes: int
    read_bytes: int
    decode_bytes: int
    prefetch_bytes: int


def plan_memory(limit: int | None, weight_bytes: int) -> MemoryPlan:
    """Shares out ``limit`` bytes (None: no limit); raises `ResourceError` where the weights leave too little."""
    if limit is None:
        return MemoryPlan(weight_bytes, DEFAULT_BYTES, DEFAULT_BYTES, DEFAULT_BYTES)
    left = limit - weight_bytes
    if left < MIN_BYTES:
        raise ResourceError(
            f"the model's weights take {weight_bytes:,} bytes, --memory-limit {limit:,} leaves {max(left, 0):,} for pictures; "
            f"give {weight_bytes + MIN_BYTES:,} or more, or a --dtype of fewer bytes"
        )
    return MemoryPlan(weight_bytes, left // 4, left // 4, left // 2)


def count_weight_bytes(model: Path, dtype: torch.dtype) -> int:
    """Bytes of the folder's tensors once they are loaded as ``dtype``, from the headers of its safetensors files."""
    total = 0
    for path in sorted(model.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  # it is no mapping
                    tensor: Any = file.get_slice(name)
                    kind = str(tensor.get_dtype())
                    bits = dtype.itemsize * 8 if "F" in kind else int("".join(filter(str.isdigit, kind)) or 8)
                    total += math.prod(tensor.get_shape()) * bits // 8
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"{path} is no safetensors file that can be read ({error}); copy the model again"
            ) from error
    return total


class ByteBudget:
    """Bytes that threads share: each waits until what it needs is free. Who needs more than all of it goes alone."""

    def __init__(self, total_bytes: int = DEFAULT_BYTES) -> None:
        self._total = total_bytes
        self._held = 0
        self._changed = threading.Condition()
        _budgets.add(self)

    @contextmanager
    def hold(self, size_bytes: int) -> Iterator[None]:
        """Holds ``size_bytes`` inside. A thread must not hold one budget twice: two that each wait for more wait for ever."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + size_bytes <= self._total)
            self._held += size_bytes
        try:
            yield
        finally:
            with self._changed:
                self._held = max(self._held - size_bytes, 0)
                self._changed.notify_all()


_budgets: weakref.WeakSet[ByteBudget] = weakref.WeakSet()


def _after_fork() -> None:
    # What other threads held, and waited for, they hold in the parent: they are not in the child.
    for budget in _budgets:
        budget._held, budget._changed = 0, threading.Condition()


os.register_at_fork(after_in_child=_after_fork)
