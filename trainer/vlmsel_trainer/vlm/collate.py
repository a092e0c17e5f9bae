"""Which rows go through the model together, and how they are laid side by side.

Rows are sorted by length and cut under a budget of padded tokens, so that little is padding. A plan is a pure function of
its rows: what was scored before, and in which run, never changes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from vlmsel_trainer.vlm.expand import PreparedRow

PaddingSide: TypeAlias = Literal["right", "left"]
BATCH_TOKENS = 16_384
MAX_BATCH_ROWS = 512


@dataclass(frozen=True)
class Batch:
    """Model inputs with B rows and S positions; ``labels`` (B, S) marks the scored tokens."""

    inputs: dict[str, Tensor]
    labels: Tensor
    n_labels: tuple[int, ...]

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``; to a GPU without waiting for it."""
        if device.type == "cpu":
            return self
        inputs = {key: value.pin_memory().to(device, non_blocking=True) for key, value in self.inputs.items()}
        return Batch(inputs, self.labels.pin_memory().to(device, non_blocking=True), self.n_labels)


def plan_batches(lengths: Sequence[int], batch_tokens: int = BATCH_TOKENS) -> list[list[int]]:
    """Indices into ``lengths`` by batch: longest rows first, padded size at most ``batch_tokens`` or one row.

    The longest first, so that a batch too large for the memory shows at once and not after an hour.
    """
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        current = batches[-1] if batches else None
        if current and len(current) < MAX_BATCH_ROWS and lengths[current[0]] * (len(current) + 1) <= batch_tokens:
            current.append(i)
        else:
            batches.append([i])
    return batches


def padded_tokens(rows: Sequence[PreparedRow]) -> int:
    """The number of positions that these rows take side by side."""
    return max(len(row) for row in rows) * len(rows)


def collate(rows: Sequence[PreparedRow], pad_token_id: int, padding_side: PaddingSide = "right") -> Batch:
    """Lays rows side by side, without positions (`count_positions`).

    Right padding by default: under a causal mask no real token sees it. Image features are joined along their first axis, image by image, smaller ones filled up with zeros, which is
    how the families that tile (LLaVA-NeXT, Idefics) mark absent tiles.
    """
    n_positions = max(len(row) for row in rows)

    def pad(values: Sequence[Tensor], filler: int) -> Tensor:
        whole = torch.full((len(values), n_positions), filler, dtype=values[0].dtype)
        for line, value in zip(whole, values, strict=True):
            line[slice(0, len(value)) if padding_side == "right" else slice(n_positions - len(value), None)] = value
        return whole

    inputs = {
        "input_ids": pad([row.ids for row in rows], pad_token_id),
        "attention_mask": pad([torch.ones_like(row.ids) for row in rows], 0),
    }
    keys = sorted({key for row in rows for key in row.token_extras})
    for key in keys:
        inputs[key] = pad([row.token_extras.get(key, torch.zeros_like(row.ids)) for row in rows], 0)
    images = [features for row in rows for features in row.features]
    for key in sorted({key for features in images for key in features}):
        inputs[key] = _join([features[key] for features in images])
    labels = pad([row.labels for row in rows], 0)
    return Batch(inputs, labels, tuple(row.n_labels for row in rows))


def count_positions(inputs: Mapping[str, Tensor], padding_side: PaddingSide) -> dict[str, Tensor]:
    """The inputs that tell a model its positions: ``position_ids`` (B, S) or nothing.

    With right padding positions count from 0 by themselves. With left padding they are given where the model has one for each
    token; models with several axes say so by ``mm_token_type_ids`` and derive theirs from the mask.
    """
    if padding_side == "right" or "mm_token_type_ids" in inputs:
        return {}
    return {"position_ids": (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)}


def _join(values: Sequence[Tensor]) -> Tensor:
    """Concatenates along axis 0, other axes filled with zeros to the largest."""
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    if all(list(value.shape[1:]) == shape for value in values):
        return torch.cat(list(values))
    whole = values[0].new_zeros((sum(len(value) for value in values), *shape))
    start = 0
    for value in values:
        whole[(slice(start, start + len(value)), *(slice(0, size) for size in value.shape[1:]))] = value
        start += len(value)
    return whole
