"""Negative log-likelihood of the answer tokens, in fp32, with the vocabulary's logits only where a token is scored.

Letters in shapes: B rows, S positions, N scored tokens of the whole batch, V vocabulary.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import Tensor

# fp32 logits of one chunk: 64 MiB.
_CHUNK_ELEMENTS = 1 << 24

KeepForm = Literal["mask", "positions", "all"]


def answer_nll(model: Any, inputs: dict[str, Tensor], labels: Tensor, keep: KeepForm) -> Tensor:
    """NLL in nats of every scored token, fp32 (N,), rows one after the other, tokens in order.

    ``labels`` (B, S) bool marks the scored tokens; none may stand at a row's first position. Token p is predicted at p - 1,
    so only these positions go through the head (``keep``, see `find_keep_form`). No probability tensor is kept.
    """
    predicting = torch.zeros_like(labels)
    predicting[:, :-1] = labels[:, 1:]
    targets = inputs["input_ids"][labels]
    if keep == "mask":
        logits = model(**inputs, logits_to_keep=predicting, use_cache=False).logits
    elif keep == "positions":
        positions = predicting.any(dim=0).nonzero()[:, 0]
        logits = model(**inputs, logits_to_keep=positions, use_cache=False).logits[predicting[:, positions]]
    else:
        logits = model(**inputs, use_cache=False).logits[predicting]
    if logits.shape[0] != targets.shape[0]:
        raise ValueError(f"the model gave {tuple(logits.shape)} logits for {targets.shape[0]} scored tokens")
    return nll_of(logits, targets)


def nll_of(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[targets] in fp32: logits (N, V) of any float type, targets (N,) -> (N,)."""
    n_tokens, n_vocabulary = logits.shape
    chunk = max(1, _CHUNK_ELEMENTS // n_vocabulary)
    losses = torch.empty(n_tokens, dtype=torch.float32, device=logits.device)
    for start in range(0, n_tokens, chunk):
        part = logits[start : start + chunk].float()
        target = part.gather(1, targets[start : start + chunk, None])[:, 0]
        losses[start : start + chunk] = torch.logsumexp(part, dim=1) - target
    return losses


@torch.inference_mode()
def find_keep_form(model: Any) -> KeepForm:
    """Which form of ``logits_to_keep`` this model understands, found by asking it.

    ``mask``: a (B, S) bool mask, logits come out flat (N, V). ``positions``: one list of positions for all rows. ``all``:
    none, every position goes through the head.
    """
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return "all"
    ids = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]], device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    full = model(**inputs, use_cache=False).logits
    mask = torch.tensor([[True, False, True, False], [False, False, False, True]], device=model.device)
    if _agrees(model, inputs, mask, full[mask]):
        return "mask"
    positions = torch.tensor([1, 3], device=model.device)
    return "positions" if _agrees(model, inputs, positions, full[:, positions]) else "all"


def _agrees(model: Any, inputs: dict[str, Tensor], keep: Tensor, expected: Tensor) -> bool:
    try:
        logits = model(**inputs, logits_to_keep=keep, use_cache=False).logits
    except (IndexError, RuntimeError, TypeError, ValueError):
        return False
    # A head over fewer rows may round otherwise; a wrong position is off by far more.
    return logits.shape == expected.shape and torch.allclose(logits.float(), expected.float(), rtol=2e-2, atol=2e-2)
