"""The models that go into a soup, and the proof that they may: the same tensors, to the name, shape and dtype."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from vlmsel.errors import UsageError

from vlmsel_trainer.soup.weights.checkpoint import Checkpoint
from vlmsel_trainer.soup.weights.header import BLENDED_DTYPES

if TYPE_CHECKING:
    from vlmsel_trainer.soup.adapters import Adapter

#: Differences listed by name before the rest is counted.
_SHOWN = 5
_COMPARED_BYTES = 1 << 20


@dataclass(slots=True)
class Ingredient:
    """One candidate: a full model, or a base model with an adapter merged into it while it is read.

    ``label`` is what reports and the manifest call it; ``weight`` is relative to the others.
    """

    label: str
    path: Path
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
            hint = "Soups need fine-tunes of one model saved the same way; save both with the same library version and dtype"
            tied = any(line.startswith("only in") and ("lm_head" in line or "embed" in line) for line in lines)
            if tied:
                hint += (
                    ". Where only lm_head or the embedding is missing, one was saved with tied weights and one without"
                )
            raise UsageError(
                "\n  ".join([f"{first.label} and {other.label} do not hold the same tensors:", *lines, hint])
            )
    if not expected:
        raise UsageError(f"{first.label} holds no tensors")
    doubles = [name for name, tensor in expected.items() if tensor.dtype == "F64"]
    if doubles and np.finfo(np.longdouble).nmant <= np.finfo(np.float64).nmant:
        raise UsageError(
            f"{doubles[0]} is float64 and this platform has no wider type to sum it in; store it as float32"
        )


def select_kept(
    patterns: Sequence[str], source: Checkpoint, ingredients: Sequence[Ingredient]
) -> dict[str, Checkpoint]:
    """Tensors that ``--keep`` takes from one model unblended, by name. Raises UsageError if a pattern matches nothing."""
    expected = ingredients[0].checkpoint.tensors
    kept: dict[str, Checkpoint] = {}
    for pattern in patterns:
        names = [name for name in expected if fnmatch.fnmatchcase(name, pattern)]
        if not names:
            example = next(iter(sorted(expected)))
            raise UsageError(
                f"--keep {pattern!r} matches no tensor; names look like {example!r}, and * matches dots too"
            )
        for name in names:
            stored = source.tensors.get(name)
            if stored is None or (stored.dtype, stored.shape) != (expected[name].dtype, expected[name].shape):
                what = "is missing" if stored is None else f"is {stored.dtype} {list(stored.shape)}"
                wanted = f"{expected[name].dtype} {list(expected[name].shape)}"
                raise UsageError(f"{name} {what} in {source.path} (--from), and the soup needs it as {wanted}")
            kept[name] = source
    return kept


def check_tied(ingredients: Sequence[Ingredient], kept: Collection[str]) -> None:
    """Raises UsageError where output head and input embedding are one tied tensor in one model and two in another."""
    tensors = ingredients[0].checkpoint.tensors
    for head, embedding in _tied_pairs(list(tensors)):
        if head in kept or embedding in kept or tensors[head].size_bytes != tensors[embedding].size_bytes:
            continue
        tied = {ingredient.label: _is_tied(ingredient, head, embedding) for ingredient in ingredients}
        if len(set(tied.values())) > 1:
            one = next(label for label, same in tied.items() if same)
            two = next(label for label, same in tied.items() if not same)
            raise UsageError(
                f"{head} and {embedding} are one tied tensor in {one} and two in {two}; their mean would be neither. "
                "Train or save both the same way"
            )


def _tied_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    heads = [name for name in names if name.rsplit(".", 2)[-2:] == ["lm_head", "weight"]]
    embeddings = [name for name in names if name.rsplit(".", 2)[-2:] in (["embed_tokens", "weight"], ["wte", "weight"])]
    return [(head, embedding) for head in heads for embedding in embeddings]


def _is_tied(ingredient: Ingredient, head: str, embedding: str) -> bool:
    """Compares bytes up to the first difference, which two trained tensors have in their first block."""
    checkpoint, adapter = ingredient.checkpoint, ingredient.adapter
    if adapter is not None and (adapter.touches(head) or adapter.touches(embedding)):
        return False
    a, b = checkpoint.tensors[head], checkpoint.tensors[embedding]
    buffers = (bytearray(_COMPARED_BYTES), bytearray(_COMPARED_BYTES))
    for start in range(0, a.size_bytes, _COMPARED_BYTES):
        length = min(_COMPARED_BYTES, a.size_bytes - start)
        views = [memoryview(buffer)[:length] for buffer in buffers]
        checkpoint.read_into(a, start, views[0])
        checkpoint.read_into(b, start, views[1])
        if views[0] != views[1]:
            return False
    return True


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
