"""Images in token sequences: the run of tokens that stands for an image, its features, and the row that they make.

This is the general way, by asking the processor; `vlmsel_trainer.vlm.family` is where a family of models does otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlmsel_trainer.vlm.chat_template import Tokens
from vlmsel_trainer.vlm.records import RowError

# One number for each token, beside the ids.
_TOKEN_KEYS = ("token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class ImageTokens:
    """What stands for one image: L ids, per-token extras of L numbers each, and features as the model takes them.

    Features of the images of a batch are joined along their first axis.
    """

    ids: list[int]
    extras: dict[str, list[int]]
    features: dict[str, Tensor]


@dataclass(frozen=True)
class PreparedRow:
    """A row as the model takes it: ids (S,), labels (S,), per-token extras (S,) and the features of its images."""

    ids: Tensor
    labels: Tensor
    token_extras: dict[str, Tensor]
    features: tuple[dict[str, Tensor], ...]
    n_image_tokens: int
    truncated: bool

    @property
    def n_labels(self) -> int:
        return int(self.labels.sum())

    def __len__(self) -> int:
        return len(self.ids)


def expand_image(processor: Any, image_token: str, picture: Image.Image, dtype: torch.dtype) -> ImageTokens:
    """The run that ``processor`` writes for a text of one placeholder, and its features, floats as ``dtype``.

    Raises `RowError` ``image_unusable`` where it refuses the picture.
    """
    try:
        batch = processor(images=[picture], text=[image_token], return_tensors="pt", add_special_tokens=False)
    except Exception as error:
        # Processors refuse shapes that they cannot tile, such as 3,000 x 1, with whatever their authors chose. One row must
        # not end a run; if all fail so, --max-bad-fraction does.
        detail = f"{picture.width}x{picture.height}: {type(error).__name__}: {error}"
        raise RowError("image_unusable", detail) from error
    ids = batch.pop("input_ids")[0].tolist()
    batch.pop("attention_mask", None)
    extras = {key: batch.pop(key)[0].tolist() for key in _TOKEN_KEYS if key in batch}
    features = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in batch.items()
        if isinstance(value, Tensor)
    }
    return ImageTokens(ids, extras, features)


def insert_images(tokens: Tokens, images: Sequence[ImageTokens], image_token_id: int) -> PreparedRow:
    """The sequence of a sample: each placeholder of ``tokens`` replaced by the run of its image, which is never scored."""
    keys = {key for image in images for key in image.extras}
    ids: list[int] = []
    labels: list[bool] = []
    extras: dict[str, list[int]] = {key: [] for key in keys}
    position = 0
    for i, place in enumerate([*tokens.image_positions, len(tokens.ids)]):
        ids += tokens.ids[position:place]
        labels += tokens.labels[position:place]
        for key in keys:
            extras[key] += [0] * (place - position)
        if i < len(images):
            image = images[i]
            ids += image.ids
            labels += [False] * len(image.ids)
            for key in keys:
                extras[key] += image.extras.get(key, [0] * len(image.ids))
        position = place + 1
    return PreparedRow(
        ids=torch.tensor(ids, dtype=torch.long),
        labels=torch.tensor(labels, dtype=torch.bool),
        token_extras={key: torch.tensor(value, dtype=torch.long) for key, value in extras.items()},
        features=tuple(image.features for image in images),
        n_image_tokens=sum(image.ids.count(image_token_id) for image in images),
        truncated=tokens.truncated,
    )
