"""Models on disk for the soup's tests, and the slow obvious mean that the fast one must equal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
#: Integer types to compare bits in: a mean that loses the sign of zero is a different mean.
BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}

State = dict[str, torch.Tensor]


def write_model(
    folder: Path, state: Mapping[str, torch.Tensor], n_shards: int = 1, files: Mapping[str, str] | None = None
) -> Path:
    """Saves ``state`` in one file, or dealt out over ``n_shards`` with an index, beside companion ``files``."""
    folder.mkdir(parents=True)
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    if n_shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        weight_map = {}
        for number in range(n_shards):
            name = f"model-{number + 1:05d}-of-{n_shards:05d}.safetensors"
            part = {key: value for n, (key, value) in enumerate(tensors.items()) if n % n_shards == number}
            save_file(part, folder / name, metadata={"format": "pt"})
            weight_map.update(dict.fromkeys(part, name))
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for name, text in (files or {"config.json": '{"hidden_size": 8}'}).items():
        (folder / name).write_text(text)
    return folder


def read_model(folder: Path) -> State:
    """All tensors of a saved model, over its index if it has one, as transformers would find them."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors")
    weight_map = json.loads(index.read_text())["weight_map"]
    state: State = {}
    for name in sorted(set(weight_map.values())):
        part = load_file(folder / name)
        assert all(weight_map[key] == name for key in part)
        state.update(part)
    assert state.keys() == weight_map.keys()
    return state


def random_state(seed: int, layout: Mapping[str, tuple[torch.dtype, Sequence[int]]], spread: float = 1.0) -> State:
    """Normal numbers of the given shapes and dtypes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(tuple(shape), generator=generator, dtype=torch.float64) * spread).to(dtype)
        for name, (dtype, shape) in layout.items()
    }


def oracle_mean(states: Sequence[State], weights: Sequence[float] | None = None) -> dict[str, np.ndarray]:
    """The exact-enough mean: long double sums of all ingredients, not rounded."""
    numbers = [1.0] * len(states) if weights is None else list(weights)
    means = {}
    for name in states[0]:
        wide = [state[name].to(torch.float64).numpy().astype(np.longdouble) for state in states]
        means[name] = sum(np.longdouble(w) * x for w, x in zip(numbers, wide, strict=True)) / np.longdouble(
            sum(numbers)
        )
    return means


def assert_rounded(name: str, found: torch.Tensor, exact: np.ndarray, n_terms: int, largest: np.ndarray) -> None:
    """``found`` is ``exact`` rounded to its dtype, up to what summing ``n_terms`` in the wider type may move it.

    ``largest`` is the largest magnitude among the summands, which bounds the sum's own rounding.
    """
    digits = {torch.bfloat16: (8, 24), torch.float16: (11, 24), torch.float32: (24, 53), torch.float64: (53, 64)}
    stored, wide = digits[found.dtype]
    value = found.to(torch.float64).numpy().astype(np.longdouble)
    tiny = {torch.bfloat16: 2.0**-133, torch.float16: 2.0**-24, torch.float32: 2.0**-149, torch.float64: 2.0**-1074}
    half_unit = np.maximum(np.abs(exact) * np.longdouble(2.0) ** -stored, np.longdouble(tiny[found.dtype]) / 2)
    slack = (n_terms + 2) * largest.astype(np.longdouble) * np.longdouble(2.0) ** -wide
    assert (np.abs(value - exact) <= half_unit * (1 + 1e-9) + slack).all(), name


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal shapes, dtypes and bits."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    bits = BITS.get(a.dtype)
    return torch.equal(a, b) if bits is None else torch.equal(a.view(bits), b.view(bits))


def same_state(a: State, b: State) -> bool:
    """The same tensors, at least one, bit by bit."""
    return bool(a) and a.keys() == b.keys() and all(same_bits(a[name], b[name]) for name in a)


def same_folder(a: Path, b: Path) -> bool:
    """Equal names and bytes of everything that is checksummed."""
    names = [
        sorted(p.relative_to(f).as_posix() for p in f.rglob("*") if p.is_file() and p.name != "run.json")
        for f in (a, b)
    ]
    return names[0] == names[1] and all((a / name).read_bytes() == (b / name).read_bytes() for name in names[0])
