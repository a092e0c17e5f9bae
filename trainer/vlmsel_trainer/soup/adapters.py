"""LoRA adapters (peft folders) as ingredients: merged into their base while both are read, in fp32 or wider.

Merged weight = W + scale * B A (LoRA, arXiv 2106.09685, section 4.1), computed for the rows a chunk covers. The product is
taken in fp64 and rounded to fp32, so that the number of BLAS threads cannot show in the result; the sum is rounded to the
stored dtype only once, after the ingredients were averaged. Variants that need more than this (DoRA, LoRA on convolutions,
trained biases, initial weights that change the base) are refused by name rather than merged wrongly, and so is any option
that is switched on and not known here.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from vlmsel.errors import UnreadableError, UsageError
from vlmsel.files import read_plain

from vlmsel_trainer.soup import arithmetic
from vlmsel_trainer.soup.arithmetic import Array
from vlmsel_trainer.soup.weights.checkpoint import Checkpoint
from vlmsel_trainer.soup.weights.content_hash import hash_checkpoint
from vlmsel_trainer.soup.weights.header import BLENDED_DTYPES, Tensor
from vlmsel_trainer.soup.weights.strict_json import parse_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"^(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.[^.]+)?(?:\.weight)?$")
_PLAIN_PATTERN = re.compile(r"\^?[A-Za-z0-9_.\\-]+\$?")
_MAX_CONFIG_BYTES = 16 << 20
#: Options that leave the merge as it is, or that the merge follows.
_KNOWN = frozenset(
    {
        "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
        "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out", "lora_dropout",
        "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern",
        "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size",
        "runtime_config",
    }
)  # fmt: skip
#: Values of all other options that mean "off".
_OFF: tuple[Any, ...] = (None, False, "none", "", [], {})
#: Ways to begin a training that leave the base as it was. PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA take from the base what
#: they give to the adapter, so that the adapter fits only the base that is left.
_NEUTRAL_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
_N_CACHED = 2


@dataclass(frozen=True, slots=True)
class _Replacement:
    """A tensor that was trained whole and stands for the base's."""

    tensor: Tensor


@dataclass(frozen=True, slots=True)
class _LowRank:
    """Stored factors ``A`` (rank, columns) and ``B`` (rows, rank), swapped and transposed where ``is_transposed``."""

    a: Tensor
    b: Tensor
    is_transposed: bool
    scale: float


_Change = _Replacement | _LowRank


class Adapter:
    """An adapter matched to its base: which stored tensors it changes and by how much.

    Holds no tensor but the factors of the last few that were merged; ``stored`` stays open for as long as it is used.
    """

    def __init__(
        self, stored: Checkpoint, changes: Mapping[str, _Change], content_hash: str, options: Mapping[str, Any]
    ) -> None:
        self.content_hash = content_hash
        self._stored = stored
        self._changes = dict(changes)
        self._options = dict(options)
        self._factors: dict[str, tuple[Array, Array]] = {}
        self._lock = threading.Lock()

    def touches(self, name: str) -> bool:
        """Whether the stored tensor ``name`` is changed."""
        return name in self._changes

    def describe(self) -> dict[str, Any]:
        """The options that decide the merge."""
        return dict(self._options)

    def check_unchanged(self) -> None:
        """Raises UnreadableError if the adapter's file was written to since it was opened."""
        self._stored.check_unchanged()

    def merge_into(self, wide: Array, tensor: Tensor, begin: int) -> None:
        """Adds the change to ``wide``: elements ``begin ..`` of the flattened base tensor, in the wide type.

        Safe to call from many threads.
        """
        change = self._changes.get(tensor.name)
        if change is None:
            return
        if isinstance(change, _Replacement):
            values = _read(self._stored, change.tensor, begin, wide.size)
            wide[:] = arithmetic.widen(change.tensor.dtype, values)
            return
        b, a = self._load(tensor.name, change)
        columns = a.shape[1]
        first, last = begin // columns, -(-(begin + wide.size) // columns)
        product = (b[first:last] @ a) * change.scale
        offset = begin - first * columns
        wide += product.reshape(-1)[offset : offset + wide.size].astype(np.float32).astype(wide.dtype)

    def _load(self, name: str, change: _LowRank) -> tuple[Array, Array]:
        """``B`` and ``A`` in fp64. A tensor's leaves come one after another, so few factors are wanted at a time."""
        with self._lock:
            if name not in self._factors:
                a, b = (
                    arithmetic.widen(t.dtype, _read(self._stored, t, 0, t.n_elements))
                    .astype(np.float64)
                    .reshape(t.shape)
                    for t in (change.a, change.b)
                )
                if change.is_transposed:
                    a, b = np.ascontiguousarray(b.T), np.ascontiguousarray(a.T)
                while len(self._factors) >= _N_CACHED:
                    del self._factors[next(iter(self._factors))]
                self._factors[name] = (b, a)
            return self._factors[name]


def is_adapter(folder: Path) -> bool:
    """Whether the folder is a peft adapter."""
    return os.path.lexists(folder / CONFIG_FILE)


def base_of(folder: Path) -> str:
    """What the adapter's config names as its base model (a folder or a hub name)."""
    return str(_read_config(folder).get("base_model_name_or_path") or "")


def open_weights(folder: Path) -> Checkpoint:
    """Opens the adapter's own tensors, for :func:`read_adapter`."""
    return Checkpoint(folder, single_file=WEIGHTS_FILE)


def read_adapter(stored: Checkpoint, base: Checkpoint) -> Adapter:
    """Matches each of an adapter's tensors to one of ``base``.

    Raises:
        UsageError: the adapter uses an option that cannot be merged here, or does not fit the base.
        UnreadableError: a file of it is damaged.
    """
    folder = stored.path
    config = _read_config(folder)
    if str(config.get("peft_type", "")).upper() != "LORA":
        raise UsageError(f"{folder} is a {config.get('peft_type')!r} adapter; only LORA can be merged into its base")
    for option, value in sorted(config.items()):
        if option == "init_lora_weights":
            is_mergeable = value in _NEUTRAL_STARTS
        else:
            is_mergeable = option in _KNOWN or value in _OFF
        if not is_mergeable:
            raise UsageError(
                f"{folder} sets {option}={value!r}, which vlmsel does not merge; merge it with peft's "
                "merge_and_unload(), save the model and give that folder"
            )
    changes = _match(folder, stored, base, config)
    options = {key: config.get(key) for key in _deciding_keys(config)}
    return Adapter(stored, changes, hash_checkpoint(stored), options)


def _deciding_keys(config: Mapping[str, Any]) -> list[str]:
    wanted = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")
    return [key for key in wanted if key in config]


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    document = parse_json(read_plain(path, _MAX_CONFIG_BYTES), path)
    if not isinstance(document, dict):
        raise UnreadableError(f"{path} is not a JSON object")
    return document


def _match(folder: Path, stored: Checkpoint, base: Checkpoint, config: Mapping[str, Any]) -> dict[str, _Change]:
    factors: dict[tuple[str, bool], dict[str, Tensor]] = {}
    changes: dict[str, _Change] = {}
    by_parts = _index_by_parts(base)
    for name, tensor in stored.tensors.items():
        if tensor.dtype not in BLENDED_DTYPES:
            raise UsageError(f"{name} in {folder} is {tensor.dtype}; adapters are stored in floating point")
        matched = _FACTOR.match(name)
        if matched:
            module = matched["module"].removeprefix(_PREFIX)
            factors.setdefault((module, bool(matched["embedding"])), {})[matched["side"]] = tensor
        elif ".lora_" in name or "lora_magnitude" in name:
            raise UsageError(
                f"{name} in {folder} is a kind of LoRA tensor that vlmsel does not merge; merge it with peft"
            )
        else:
            plain = name.removeprefix(_PREFIX).replace(".modules_to_save.default", "").replace(".base_layer", "")
            target = _find(plain, by_parts, base, folder)
            if target.shape != tensor.shape:
                raise UsageError(f"{name} in {folder} is {list(tensor.shape)}, the base has {list(target.shape)}")
            changes[target.name] = _Replacement(tensor)
    for (module, is_embedding), sides in factors.items():
        if set(sides) != {"A", "B"}:
            raise UsageError(f"{folder} has only one of lora_A and lora_B for {module}; the adapter is incomplete")
        target = _find(f"{module}.weight", by_parts, base, folder)
        changes[target.name] = _low_rank(folder, module, is_embedding, sides, target, config)
    if not changes:
        raise UsageError(f"{folder} holds no LoRA tensors")
    return changes


def _low_rank(
    folder: Path,
    module: str,
    is_embedding: bool,
    sides: Mapping[str, Tensor],
    target: Tensor,
    config: Mapping[str, Any],
) -> _LowRank:
    if any(len(tensor.shape) != 2 for tensor in sides.values()) or len(target.shape) != 2:
        raise UsageError(f"{folder} adapts {module}, which is not a matrix; merge the adapter with peft and give that")
    a, b = sides["A"], sides["B"]
    rank = a.shape[0]
    if b.shape[1] != rank:
        raise UsageError(f"lora_A and lora_B of {module} in {folder} have ranks {rank} and {b.shape[1]}")
    is_transposed = is_embedding or bool(config.get("fan_in_fan_out"))
    product = (a.shape[1], b.shape[0]) if is_transposed else (b.shape[0], a.shape[1])
    if product != target.shape:
        raise UsageError(
            f"lora_B A of {module} in {folder} is {list(product)}, but {target.name} of the base is "
            f"{list(target.shape)}: is this the right base? Give it with --base"
        )
    alpha = float(_pattern(config, "alpha_pattern", module, config.get("lora_alpha", rank)))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if not math.isfinite(scale):
        raise UnreadableError(f"the adapter {folder} scales {module} by {scale}")
    return _LowRank(a, b, is_transposed, scale)


def _pattern(config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """peft's rule: the first pattern that matches the end of the module's name decides."""
    for pattern, value in (config.get(key) or {}).items():
        # A pattern comes from the adapter's author; one that can backtrack without end is not run.
        if not _PLAIN_PATTERN.fullmatch(pattern):
            raise UsageError(
                f"{key} of the adapter holds the expression {pattern!r}; merge the adapter with peft instead"
            )
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _index_by_parts(base: Checkpoint) -> dict[tuple[str, ...], list[Tensor]]:
    found: dict[tuple[str, ...], list[Tensor]] = {}
    for tensor in base.tensors.values():
        found.setdefault(tuple(sorted(tensor.name.split("."))), []).append(tensor)
    return found


def _find(name: str, by_parts: Mapping[tuple[str, ...], list[Tensor]], base: Checkpoint, folder: Path) -> Tensor:
    """The base tensor that a module path means.

    Checkpoints keep the names a model was first published with while adapters name modules as they are in memory
    (``language_model.model.layers.0`` on disk, ``model.language_model.layers.0`` in memory), so the same words in
    another order are accepted where exactly one stored tensor has them.
    """
    exact = base.tensors.get(name)
    if exact is not None:
        return exact
    parts = name.split(".")
    for candidate in (parts, parts[1:] if parts[0] == "model" else ["model", *parts]):
        matches = by_parts.get(tuple(sorted(candidate)), [])
        if len(matches) == 1:
            return matches[0]
    raise UsageError(
        f"{folder} adapts {name!r}, and {base.path} stores no such tensor: is this the right base? Give it with --base"
    )


def _read(checkpoint: Checkpoint, tensor: Tensor, begin: int, count: int) -> Array:
    storage = arithmetic.STORAGE[tensor.dtype]
    buffer = bytearray(count * storage.itemsize)
    checkpoint.read_into(tensor, begin * storage.itemsize, memoryview(buffer))
    values: Array = np.frombuffer(buffer, storage)
    return values
