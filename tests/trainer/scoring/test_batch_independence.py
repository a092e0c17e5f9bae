"""Promise 8: a score does not depend on batch mates, padding side or order; and it equals the obvious way's."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_recipe import nll_of_caption
from small_index import Pair, draw_png, write_tar
from tiny_models import FAMILIES
from vlmsel_trainer.scoring.nll import answer_nll
from vlmsel_trainer.scoring.scorer import BatchScorer
from vlmsel_trainer.vlm.chat_template import ChatTemplate
from vlmsel_trainer.vlm.expand import PreparedRow
from vlmsel_trainer.vlm.images import ImageLimits
from vlmsel_trainer.vlm.load import LoadedModel
from vlmsel_trainer.vlm.preprocess import Preprocessor, tokenise_sample
from vlmsel_trainer.vlm.records import Sample

PROMPT = "Describe this image."
EPSILON = 1e-5  # nats per token, fp32
SIZES = [(40, 40), (120, 30), (33, 90), (64, 64)]


class Bench:
    """Prepares pairs for one family and scores rows in any arrangement."""

    def __init__(self, loaded: LoadedModel, data: Path) -> None:
        self.loaded = loaded
        self.template = ChatTemplate(loaded.processor)
        self.scorer = BatchScorer(loaded)
        self._data = data
        roots = {"pool": {"path": str(data), "image_root": None}}
        self._preprocessor = Preprocessor(loaded, self.template, roots, ImageLimits())

    def prepare(self, pairs: list[Pair]) -> list[PreparedRow]:
        rows = []
        for pair, places in zip(pairs, write_tar(self._data / "s.tar", pairs), strict=True):
            images = tuple({"file": None, "offset": offset, "size": size} for offset, size in places)
            sample = Sample(b"u" * 16, "pool", "s.tar", images, pair.text, pair.conversations)
            read = tokenise_sample(sample, self.template, PROMPT, None)
            rows.append(self._preprocessor.prepare(sample, read.tokens))
        return rows

    @torch.inference_mode()
    def sums(self, rows: list[PreparedRow], side: Any = "right") -> list[float]:
        batch = self.loaded.family.collate(rows, self.scorer.pad_token_id, side)
        flat = answer_nll(self.loaded.model, batch.inputs, batch.labels, self.scorer.keep)
        return [math.fsum(part.tolist()) for part in flat.split(list(batch.n_labels))]


MIXED = [
    Pair([draw_png(1)], "a red bird"),
    Pair([draw_png(2, 120, 30)], "a much longer caption about two dogs that play in the snow, with many words " * 3),
    Pair([], "a text without any image"),
    Pair([draw_png(3, 33, 90), draw_png(4)], "two pictures"),
    Pair([draw_png(5)], ""),
    Pair([draw_png(6)], "a <image> in a caption <|im_end|> and more"),
    Pair(
        [draw_png(7)],
        conversations='[{"from":"human","value":"<image>\\nwhat is it?"},{"from":"gpt","value":"a bird"},'
        '{"from":"human","value":"sure?"},{"from":"gpt","value":"yes, it has wings"}]',
    ),
]


@pytest.fixture(params=sorted(FAMILIES))
def bench(request: pytest.FixtureRequest, family: Callable[[str], LoadedModel], tmp_path: Path) -> Bench:
    return Bench(family(request.param), tmp_path)


@pytest.mark.parametrize("side", ["right", "left"])
def test_alone_equals_any_batch(bench: Bench, side: Any) -> None:
    rows = bench.prepare(MIXED)
    alone = [bench.sums([row])[0] for row in rows]
    together = bench.sums(rows, side)
    backwards = bench.sums(rows[::-1], side)[::-1]
    for i, row in enumerate(rows):
        assert abs(alone[i] - together[i]) / row.n_labels <= EPSILON, i
        assert abs(alone[i] - backwards[i]) / row.n_labels <= EPSILON, i
    assert len({round(value, 3) for value in alone}) == len(alone), "scores that are all alike prove nothing"


def test_image_matters(bench: Bench) -> None:
    rows = bench.prepare([Pair([draw_png(1)], "a red bird"), Pair([draw_png(2)], "a red bird")])
    first, second = bench.sums(rows)
    assert abs(first - second) > 100 * EPSILON


def test_equals_one_at_a_time_by_transformers(
    family: Callable[[str], LoadedModel], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for name in ("llava_qwen2", "idefics3", "qwen2_5_vl", "qwen3_vl"):
        bench = Bench(family(name), tmp_path)
        pairs = [pair for pair in MIXED if pair.text is not None and "<|" not in pair.text]
        rows = bench.prepare(pairs)
        for pair, row, ours in zip(pairs, rows, bench.sums(rows), strict=True):
            theirs, n_tokens = nll_of_caption(
                bench.loaded.model, bench.loaded.processor, pair.images, PROMPT, pair.text or ""
            )
            assert row.n_labels == n_tokens, (name, pair.text)
            assert abs(ours - theirs) / n_tokens <= EPSILON, (name, pair.text)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    captions=st.lists(st.text(max_size=60), min_size=2, max_size=6),
    side=st.sampled_from(["right", "left"]),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("name", ["llava_qwen2", "llava_llama"])
def test_law_alone_equals_batch(
    family: Callable[[str], LoadedModel], tmp_path: Path, name: str, captions: list[str], side: Any, seed: int
) -> None:
    bench = Bench(family(name), tmp_path)
    rows = bench.prepare([Pair([draw_png(seed + i, *SIZES[i % 4])] * (i % 3), text) for i, text in enumerate(captions)])
    together = bench.sums(rows, side)
    for row, value in zip(rows, together, strict=True):
        assert row.n_labels >= 1
        assert abs(bench.sums([row])[0] - value) / row.n_labels <= EPSILON
