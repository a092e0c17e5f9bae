"""The soup demo's styles: ways of spoiling pictures, fine-tunes of the scorer on them, and held-out scores over all.

A fine-tune on one style gets better at it and forgets a little of the others; the mean of several is to be good at all, as
with the data sets of POINTS (arXiv 2409.04828, section 3.3). The styles are of like difficulty for the scorer. That decides
the outcome: with pale ink on dark ground among them, which costs ten times as much as the others, the fine-tune on it beats
every soup, because a mean only dilutes it.
"""

from __future__ import annotations

import functools
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoProcessor, LlavaForConditionalGeneration
from transformers.utils import logging

from vlmsel_trainer.demo import glyphs
from vlmsel_trainer.demo import model as scorer
from vlmsel_trainer.demo.train import Pictures, Texts, TrainingPlan, answer_nll, captions, draw_pictures, tokenise

_RECORD = "training.json"
_BLUR = (1.0, 4.0, 6.0, 4.0, 1.0)
_N_BLURS = 6
_SPECKLED = 0.25
_TURN_RADIANS = math.radians(30)
#: Faces that no training uses; one part chooses the members of a soup, the other part is reported.
SPLITS = {"accept": glyphs.POOL_FACES[:3], "report": glyphs.POOL_FACES[3:]}


def turn(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Turned by up to 30 degrees to either side. `pixels` [B, 3, H, W] as the model takes them, here and below."""
    angles = (2 * torch.rand(len(pixels), generator=generator) - 1) * _TURN_RADIANS
    cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    rotations = torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(rotations, list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def speckle(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Every fourth pixel replaced by a random grey."""
    batch, _, height, width = pixels.shape
    hit = torch.rand((batch, 1, height, width), generator=generator) < _SPECKLED
    grey = torch.rand((batch, 1, height, width), generator=generator)
    return torch.where(hit, (grey - scorer.PIXEL_MEAN) / scorer.PIXEL_STD, pixels)


def blur(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """A binomial filter of five pixels, six times."""
    del generator
    line = torch.tensor(_BLUR) / sum(_BLUR)
    kernel = torch.outer(line, line).expand(3, 1, 5, 5)
    for _ in range(_N_BLURS):
        pixels = functional.conv2d(functional.pad(pixels, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
    return pixels


STYLES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "turned": turn,
    "speckled": speckle,
    "blurred": blur,
}


@dataclass(frozen=True, slots=True)
class FineTunePlan:
    """One fine-tune of the demo's scorer on one style; half of each batch stays as the scorer knows it."""

    style: str
    n_steps: int = 300
    batch_size: int = 64
    learning_rate: float = 5e-4
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Warmed up over a tenth of the steps, then linear to 0."""
        return self.learning_rate * min((step + 1) / max(1.0, 0.1 * self.n_steps), 1 - step / self.n_steps)


def fine_tune(
    plan: FineTunePlan, base: Path, base_plan: TrainingPlan, folder: Path, report: Callable[[int, float], None]
) -> None:
    """Train a copy of the scorer in `base` and save it to `folder`, which appears whole or not at all.

    A finished folder of the same plans is left alone. `report` gets the steps done and the loss in nats per token.
    """
    record = json.dumps({"base": asdict(base_plan), **asdict(plan)}, indent=1, sort_keys=True) + "\n"
    if (folder / _RECORD).is_file() and (folder / _RECORD).read_text(encoding="utf-8") == record:
        return
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    processor = AutoProcessor.from_pretrained(base, backend="pil")  # type: ignore[no-untyped-call]
    model = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32).train()
    pictures, texts = _training_pictures(base_plan), tokenise(processor, captions(base_plan))
    numbers = torch.Generator().manual_seed(plan.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    running: float | None = None
    for step in range(plan.n_steps):
        rows = torch.randint(len(pictures.names), (plan.batch_size,), generator=numbers)
        pixels = pictures.batch(rows, numbers)
        half = plan.batch_size // 2
        pixels = torch.cat([STYLES[plan.style](pixels[:half], numbers), pixels[half:]])
        optimizer.param_groups[0]["lr"] = plan.rate_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss = answer_nll(model, pixels, *_rows_of(texts, pictures.names[rows])).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
        report(step + 1, running)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.train(False).save_pretrained(partial)
    processor.save_pretrained(partial)
    (partial / "README.md").write_text(f"---\ndatasets:\n- demo glyphs, {plan.style}\n---\n", encoding="utf-8")
    (partial / _RECORD).write_text(record, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(partial, folder)


@functools.lru_cache(maxsize=1)
def _training_pictures(base_plan: TrainingPlan) -> Pictures:
    """What the scorer saw, drawn once for all fine-tunes."""
    return draw_pictures(base_plan, captions(base_plan))


def score(folder: Path, split: str, views: int = 1, batch_size: int = 64) -> dict[str, float]:
    """Minus the mean NLL, in nats per caption token, of held-out pictures by style and over all; larger is better."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    processor = AutoProcessor.from_pretrained(folder, backend="pil")  # type: ignore[no-untyped-call]
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).train(False)
    pictures, names = _held_out(split, views)
    texts = tokenise(processor, names)
    scores = {}
    for style, spoil in {"plain": _leave, **STYLES}.items():
        numbers = torch.Generator().manual_seed(7)
        losses = []
        with torch.inference_mode():
            for rows in torch.split(torch.arange(len(pictures.names)), batch_size):
                pixels = spoil(pictures.batch(rows, numbers), numbers)
                losses.append(answer_nll(model, pixels, *_rows_of(texts, pictures.names[rows])))
        scores[style] = -float(torch.cat(losses).double().mean())
    return {"score": sum(scores.values()) / len(scores), **scores}


def _leave(pixels: Tensor, generator: torch.Generator) -> Tensor:
    del generator
    return pixels


def _rows_of(texts: Texts, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    length = int(texts.mask[rows].sum(1).max())
    return texts.ids[rows, :length], texts.mask[rows, :length], texts.answer[rows, :length]


def _held_out(split: str, views: int) -> tuple[Pictures, list[str]]:
    """Every fourth named character in the split's faces, in hues that no training uses: seconds for each evaluation."""
    rng = random.Random(f"soup/{split}")
    chosen = glyphs.named_characters()[::4]
    masks, labels = [], []
    side = (scorer.IMAGE_SIDE_PX, scorer.IMAGE_SIDE_PX)
    for face in SPLITS[split]:
        drawable = glyphs.charmap(face)
        for number, (character, _) in enumerate(chosen):
            if ord(character) in drawable:
                for _ in range(views):
                    view = glyphs.draw_view(character, face, rng).resize(side, Image.Resampling.BICUBIC)
                    masks.append(np.asarray(view))
                    labels.append(number)
    palettes = [glyphs.pick_colours(glyphs.POOL_HUES, rng) for _ in range(1024)]
    pictures = Pictures(
        masks=torch.from_numpy(np.stack(masks)),
        names=torch.tensor(labels),
        inks=torch.tensor([colours.ink for colours in palettes]) / 255,
        grounds=torch.tensor([colours.ground for colours in palettes]) / 255,
    )
    return pictures, [name for _, name in chosen]


def best(scores: dict[str, dict[str, float]], among: Sequence[str]) -> str:
    """The name with the highest score among some."""
    return max(among, key=lambda name: (scores[name]["score"], name))
