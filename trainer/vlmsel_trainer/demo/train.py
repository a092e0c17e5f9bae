"""Train the demo's scorer: about two minutes on two CPU cores, in fp32, on pictures that the pool does not contain.

The loss is the mean NLL, in nats, of the caption's tokens and the token that ends the turn, given the picture: what
`vlmsel score` then measures. Pictures are kept as ink masks and coloured batch by batch.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, LlavaProcessor
from transformers.utils import logging

from vlmsel_trainer.demo import glyphs
from vlmsel_trainer.demo import model as scorer
from vlmsel_trainer.scoring.options import PROMPT
from vlmsel_trainer.vlm.chat_template import ChatTemplate
from vlmsel_trainer.vlm.conversations import caption_turns

_RECORD = "training.json"


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What is trained on, and for how long. `views` pictures are drawn of every glyph of every training face."""

    n_steps: int = 1400
    batch_size: int = 64
    views: int = 5
    n_names: int | None = None
    learning_rate: float = 2e-3
    n_warmup_steps: int = 100
    constant_until: float = 0.4
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """The learning rate of `step`: warmed up, constant to 40 % of the steps, then linear to 0."""
        decay_from = self.constant_until * self.n_steps
        warm = min(1.0, (step + 1) / max(1, self.n_warmup_steps))
        cold = min(1.0, (self.n_steps - step) / max(1.0, self.n_steps - decay_from))
        return self.learning_rate * min(warm, cold)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Legend: N pictures, H height, W width, P palettes.

    masks [N, H, W] uint8, the ink of each picture; names [N] int64, index into the captions;
    inks, grounds [P, 3] float in 0 to 1.
    """

    masks: Tensor
    names: Tensor
    inks: Tensor
    grounds: Tensor

    def batch(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Pixel values [B, 3, H, W] as the image processor would give them, each picture in colours of its own."""
        palettes = torch.randint(len(self.inks), (len(rows),), generator=generator)
        ink, ground = self.inks[palettes, :, None, None], self.grounds[palettes, :, None, None]
        coloured = torch.lerp(ground, ink, self.masks[rows, None].float() / 255)
        return (coloured - scorer.PIXEL_MEAN) / scorer.PIXEL_STD


def captions(plan: TrainingPlan) -> list[str]:
    """The names that the scorer learns: the first `n_names` of a shuffled list, or all of them."""
    names = [name for _, name in glyphs.named_characters()]
    if plan.n_names is not None:
        names = random.Random(plan.seed).sample(names, plan.n_names)
    return names


def draw_pictures(plan: TrainingPlan, names: list[str]) -> Pictures:
    """Draw every training picture, at the size that the model sees."""
    rng = random.Random(f"{plan.seed}/training")
    index = {name: number for number, name in enumerate(names)}
    side = (scorer.IMAGE_SIDE_PX, scorer.IMAGE_SIDE_PX)
    masks, labels = [], []
    for face in glyphs.TRAINING_FACES:
        drawable = glyphs.charmap(face)
        for character, name in glyphs.named_characters():
            if ord(character) not in drawable or name not in index:
                continue
            for _ in range(plan.views):
                # Bicubic is what the image processor shrinks the pool's pictures with.
                masks.append(np.asarray(glyphs.draw_view(character, face, rng).resize(side, Image.Resampling.BICUBIC)))
                labels.append(index[name])
    palettes = [glyphs.pick_colours(glyphs.TRAINING_HUES, rng) for _ in range(4096)]
    return Pictures(
        masks=torch.from_numpy(np.stack(masks)),
        names=torch.tensor(labels),
        inks=torch.tensor([colours.ink for colours in palettes]) / 255,
        grounds=torch.tensor([colours.ground for colours in palettes]) / 255,
    )


@dataclass(frozen=True, slots=True)
class Texts:
    """The conversations, tokenised. ids, mask, answer: [names, L]; `answer` marks caption tokens and the end token."""

    ids: Tensor
    mask: Tensor
    answer: Tensor


def tokenise(processor: LlavaProcessor, names: list[str]) -> Texts:
    """Tokenise each name as the caption of one image, by the template, the prompt and the answer span of `vlmsel score`."""
    template = ChatTemplate(processor)
    rows: list[tuple[list[int], list[bool]]] = []
    for name in names:
        tokens = template.tokenise(caption_turns(PROMPT, name, 1))
        widths = [scorer.IMAGE_TOKENS if i in tokens.image_positions else 1 for i in range(len(tokens.ids))]
        ids = [token for token, width in zip(tokens.ids, widths, strict=True) for _ in range(width)]
        answer = [label for label, width in zip(tokens.labels, widths, strict=True) for _ in range(width)]
        rows.append((ids, answer))
    length = max(len(ids) for ids, _ in rows)
    padding = [length - len(ids) for ids, _ in rows]
    pad = processor.tokenizer.pad_token_id
    return Texts(
        ids=torch.tensor([ids + [pad] * n for (ids, _), n in zip(rows, padding, strict=True)]),
        mask=torch.tensor([[1] * len(ids) + [0] * n for (ids, _), n in zip(rows, padding, strict=True)]),
        answer=torch.tensor([answer + [False] * n for (_, answer), n in zip(rows, padding, strict=True)]),
    )


def answer_nll(
    model: LlavaForConditionalGeneration, pixels: Tensor, ids: Tensor, mask: Tensor, answer: Tensor
) -> Tensor:
    """NLL in nats of every answer token of the batch, flat; only the positions that predict one pass the head."""
    hidden = model.model(input_ids=ids, attention_mask=mask, pixel_values=pixels, use_cache=False).last_hidden_state
    predicts = answer[:, 1:]
    logits = model.lm_head(hidden[:, :-1][predicts]).float()
    return functional.cross_entropy(logits, ids[:, 1:][predicts], reduction="none")


def train(plan: TrainingPlan, folder: Path, report: Callable[[int, float], None] | None = None) -> Path:
    """Train a scorer by `plan` and save model and processor to `folder`, which appears whole or not at all.

    A finished folder of the same plan is left alone. `report` is called after every step with the number of steps done and
    the running mean of the loss in nats per token.
    """
    description = json.dumps(asdict(plan), indent=1, sort_keys=True) + "\n"
    if is_trained(plan, folder):
        return folder
    names = captions(plan)
    processor = scorer.build_processor([*names, *[PROMPT] * len(names)])
    model = scorer.build_model(processor, plan.seed)
    _optimise(model, draw_pictures(plan, names), tokenise(processor, names), plan, report)
    folder.parent.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the one shard is written in an instant
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.train(False).save_pretrained(partial)
    processor.save_pretrained(partial)
    (partial / _RECORD).write_text(description, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(partial, folder)
    return folder


def is_trained(plan: TrainingPlan, folder: Path) -> bool:
    """Whether `folder` holds a scorer that `train` finished by this plan."""
    record = folder / _RECORD
    return record.is_file() and json.loads(record.read_text(encoding="utf-8")) == asdict(plan)


def _optimise(
    model: LlavaForConditionalGeneration,
    pictures: Pictures,
    texts: Texts,
    plan: TrainingPlan,
    report: Callable[[int, float], None] | None,
) -> None:
    numbers = torch.Generator().manual_seed(plan.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    threads = ThreadTrial(available_threads())
    batches = _batches(len(pictures.names), plan.batch_size, numbers)
    running: float | None = None
    for step in range(plan.n_steps):
        with threads.step():
            rows = next(batches)
            names = pictures.names[rows]
            length = int(texts.mask[names].sum(1).max())
            ids, mask, answer = (part[names, :length] for part in (texts.ids, texts.mask, texts.answer))
            optimizer.param_groups[0]["lr"] = plan.rate_at(step)
            optimizer.zero_grad(set_to_none=True)
            loss = answer_nll(model, pictures.batch(rows, numbers), ids, mask, answer).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            value = loss.item()
        running = value if running is None else 0.98 * running + 0.02 * value
        if report is not None:
            report(step + 1, running)


def _batches(n_rows: int, batch_size: int, numbers: torch.Generator) -> Iterator[Tensor]:
    """Row numbers [batch_size], every row once in each epoch but for the last incomplete batch."""
    while True:
        order = torch.randperm(n_rows, generator=numbers)
        for first in range(0, max(1, n_rows - batch_size + 1), batch_size):
            yield order[first : first + batch_size]


def available_threads() -> int:
    """Torch threads worth trying: the cores that this process may use, two at most; so small a model gains nothing from more."""
    return min(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class ThreadTrial:
    """Takes the first steps with the most threads and with one, and goes on with whichever was faster.

    On an idle machine two threads win; beside other work they wait for each other and can be ten times slower than one.
    """

    _STEPS_EACH = 6

    def __init__(self, most: int) -> None:
        self._seconds: dict[int, list[float]] = {most: [], 1: []}
        self._chosen: int | None = most if most == 1 else None

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Run one step inside: with the threads under trial, or those chosen."""
        if self._chosen is not None:
            torch.set_num_threads(self._chosen)
            yield
            return
        threads = next(count for count, seconds in self._seconds.items() if len(seconds) < self._STEPS_EACH)
        torch.set_num_threads(threads)
        begun = time.perf_counter()
        yield
        self._seconds[threads].append(time.perf_counter() - begun)
        if all(len(seconds) == self._STEPS_EACH for seconds in self._seconds.values()):
            self._chosen = min(self._seconds, key=lambda count: statistics.median(self._seconds[count]))
