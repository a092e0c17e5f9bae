"""NLL by chunks, forms of logits_to_keep, and batch plans."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vlmsel_trainer.scoring import nll
from vlmsel_trainer.vlm.collate import MAX_BATCH_ROWS, plan_batches
from vlmsel_trainer.vlm.load import LoadedModel
from vlmsel_trainer.vlm.records import Score


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(2, 50), st.integers(1, 200), st.integers(0, 999))
def test_law_chunked_nll_is_cross_entropy(n_tokens: int, n_vocabulary: int, chunk_elements: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n_tokens, n_vocabulary, generator=generator) * 10
    targets = torch.randint(n_vocabulary, (n_tokens,), generator=generator)
    before, nll._CHUNK_ELEMENTS = nll._CHUNK_ELEMENTS, chunk_elements
    try:
        ours = nll.nll_of(logits, targets)
    finally:
        nll._CHUNK_ELEMENTS = before
    truth = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-5)


def test_bf16_logits_are_summed_in_fp32() -> None:
    logits = torch.full((1, 100_000), 3.0, dtype=torch.bfloat16)
    assert nll.nll_of(logits, torch.tensor([5])).item() == pytest.approx(math.log(100_000), rel=1e-6)


def test_three_forms_of_keeping_logits_agree(family: Callable[[str], LoadedModel]) -> None:
    model = family("llava_qwen2").model
    ids = torch.randint(5, 200, (3, 9), generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(3, 9, dtype=torch.bool)
    labels[0, 4:7] = labels[1, 8] = labels[2, 2:] = True
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode():
        every = [nll.answer_nll(model, inputs, labels, form) for form in ("mask", "positions", "all")]
    assert len(every[0]) == int(labels.sum())
    for other in every[1:]:
        torch.testing.assert_close(other, every[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["mask", "positions", "all"])
def test_form_is_found_by_asking_the_model(family: Callable[[str], LoadedModel], form: str) -> None:
    model = family("llava_qwen2").model

    class Older:
        """The same model behind the signature of an older release."""

        device = model.device

        def forward(self, input_ids: Any, attention_mask: Any, use_cache: bool, logits_to_keep: Any = 0) -> Any:
            if form == "positions" and isinstance(logits_to_keep, torch.Tensor) and logits_to_keep.dim() == 2:
                raise IndexError("too many indices")
            return model(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache, logits_to_keep=logits_to_keep
            )

        def __call__(self, **inputs: Any) -> Any:
            return self.forward(**inputs)

    class Oldest(Older):
        def forward(self, input_ids: Any, attention_mask: Any, use_cache: bool) -> Any:  # type: ignore[override]
            return model(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    assert nll.find_keep_form(Oldest() if form == "all" else Older()) == form


@given(st.lists(st.integers(1, 500), max_size=200), st.integers(1, 2000))
def test_law_plan_holds_every_row_once_and_its_budget(lengths: list[int], batch_tokens: int) -> None:
    batches = plan_batches(lengths, batch_tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= batch_tokens
        assert len(batch) <= MAX_BATCH_ROWS
    assert batches == plan_batches(lengths, batch_tokens)
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_perplexity_beyond_a_float_is_infinite() -> None:
    assert Score(nll_sum=1e9, n_tokens=1).perplexity == math.inf
    assert Score(status="model_error").perplexity is None
