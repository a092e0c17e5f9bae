"""The models that go into a soup, and the proof that they may: the same tensors, to the name, shape and dtype."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vlmsel.errors import UsageError

from .checkpoint import BLENDED_DTYPES, Checkpoint

if TYPE_CHECKING:
    from .adapters import Adapter

#: Differences listed by name before the rest is counted.
_SHOWN = 5


@dataclass(slots=True)
class Ingredient:
    """One candidate: a full model, or a base model with an adapter merged into it while it is read.

    ``label`` is what reports and the manifest call it; ``weight`` is relative to the others.
    """

    label: str
    checkpoint: Checkpoint
    fingerprint: str
    adapter: Adapter | None = None
    weight: float = 1.0
    content_hash: str | None = None
    datasets: tuple[str, ...] = field(default=())


def check_agreement(ingredients: Sequence[Ingredient]) -> None:
    """Raises UsageError naming what differs unless all ingredients store the same tensors."""
    first = ingredients[0]
    expected = first.checkpoint.tensors
    for other in ingredients[1:]:
        found = other.checkpoint.tensors
        lines = [
            *_list(f"only in {first.label}", sorted(expected.keys() - found.keys())),
            *_list(f"only in {other.label}", sorted(found.keys() - expected.keys())),
            *_list(
                "of another shape or dtype",
                [
                    f"{name} ({_describe(first, name)} in {first.label}, {_describe(other, name)} in {other.label})"
                    for name in sorted(expected.keys() & found.keys())
                    if (expected[name].dtype, expected[name].shape) != (found[name].dtype, found[name].shape)
                ],
            ),
        ]
        if lines:
            hint = (
                "Soups need fine-tunes of one model saved the same way; save both with the same library version and dtype"
            )
            tied = any("lm_head" in line or "embed" in line for line in lines)
            if tied:
                hint += ". Where only lm_head or the embedding is missing, one was saved with tied weights and one without"
            raise UsageError("\n  ".join([f"{first.label} and {other.label} do not hold the same tensors:", *lines, hint]))
    if not expected:
        raise UsageError(f"{first.label} holds no tensors")
    doubles = [name for name, tensor in expected.items() if tensor.dtype == "F64"]
    if doubles and np.finfo(np.longdouble).nmant <= np.finfo(np.float64).nmant:
        raise UsageError(f"{doubles[0]} is float64 and this platform has no wider type to sum it in; store it as float32")


def select_kept(patterns: Sequence[str], source: Checkpoint, ingredients: Sequence[Ingredient]) -> dict[str, Checkpoint]:
    """Tensors that ``--keep`` takes from one model unblended, by name. Raises UsageError if a pattern matches nothing."""
    expected = ingredients[0].checkpoint.tensors
    kept: dict[str, Checkpoint] = {}
    for pattern in patterns:
        names = [name for name in expected if fnmatch.fnmatchcase(name, pattern)]
        if not names:
            example = next(iter(sorted(expected)))
            raise UsageError(f"--keep {pattern!r} matches no tensor; names look like {example!r}, and * matches dots too")
        for name in names:
            stored = source.tensors.get(name)
            if stored is None or (stored.dtype, stored.shape) != (expected[name].dtype, expected[name].shape):
                what = "is missing" if stored is None else f"is {stored.dtype} {list(stored.shape)}"
                wanted = f"{expected[name].dtype} {list(expected[name].shape)}"
                raise UsageError(f"{name} {what} in {source.path} (--from), and the soup needs it as {wanted}")
            kept[name] = source
    return kept


def tied_pairs(tensors: Sequence[str]) -> list[tuple[str, str]]:
    """(output head, input embedding) pairs among the names, where a model stores both."""
    heads = [name for name in tensors if name.rsplit(".", 2)[-2:] == ["lm_head", "weight"]]
    embeddings = [name for name in tensors if name.rsplit(".", 2)[-2:] in (["embed_tokens", "weight"], ["wte", "weight"])]
    return [(head, embedding) for head in heads for embedding in embeddings]


def is_blended(dtype: str) -> bool:
    """Whether tensors of this dtype are averaged; all others must be equal."""
    return dtype in BLENDED_DTYPES


def _describe(ingredient: Ingredient, name: str) -> str:
    tensor = ingredient.checkpoint.tensors[name]
    return f"{tensor.dtype} {list(tensor.shape)}"


def _list(title: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{title}: {', '.join(names[:_SHOWN])}{more}"]
