"""Scores prepared rows batch by batch, and never loses a row because of its batch.

Out of memory: the batch is halved and tried again, down to one row. Any other failure of a batch: its rows are tried one
by one, and only the row that fails alone is given a status.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from vlmsel.errors import ResourceError

from vlmsel_trainer.scoring.nll import KeepForm, answer_nll, find_keep_form
from vlmsel_trainer.vlm.collate import padded_tokens
from vlmsel_trainer.vlm.expand import PreparedRow
from vlmsel_trainer.vlm.load import LoadedModel

_log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What became of one row: the sum of its NLL in nats, or a status that says why there is none."""

    status: str
    nll_sum: float | None = None


@dataclass
class BatchScorer:
    """Runs batches through one model. GPU results are fetched late, so that the next batch is under way meanwhile."""

    loaded: LoadedModel
    keep: KeepForm = field(init=False)
    pad_token_id: int = field(init=False)
    _too_large_tokens: int | None = None

    def __post_init__(self) -> None:
        self.keep = find_keep_form(self.loaded.model)
        self.pad_token_id = self.loaded.family.pad_token_id(self.loaded.processor)

    def begin_unit(self) -> None:
        """Forgets what ran out of memory before: a unit's batches must not depend on other units."""
        self._too_large_tokens = None

    def score(self, rows: Sequence[PreparedRow]) -> list[PendingRows]:
        """Launches ``rows``; the pieces of the answer together hold every row once, `PendingRows.fetch` waits for one."""
        waiting: list[list[int]] = [list(range(len(rows)))]
        done: list[PendingRows] = []
        while waiting:
            indices = waiting.pop()
            chosen = [rows[i] for i in indices]
            if (
                len(indices) > 1
                and self._too_large_tokens is not None
                and padded_tokens(chosen) >= self._too_large_tokens
            ):
                waiting += _halves(indices)
                continue
            problem: Exception | None = None
            try:
                done.append(PendingRows(indices, *self._launch(chosen)))
            except Exception as error:
                if isinstance(error, getattr(torch, "AcceleratorError", ())) and not is_out_of_memory(error):
                    raise ResourceError(f"the device failed and cannot go on: {error}") from error
                problem = error
            if problem is None:
                continue
            # Outside the except clause: a live traceback would keep the failed batch's tensors.
            out_of_memory, message = is_out_of_memory(problem), f"{type(problem).__name__}: {problem}"
            del problem
            if self.loaded.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(indices) == 1:
                status = "out_of_memory" if out_of_memory else "model_error"
                _log.warning("a row could not be scored (%s): %s", status, message)
                done.append(PendingRows(indices, None, (), status))
            elif out_of_memory:
                size = padded_tokens(chosen)
                self._too_large_tokens = min(size, self._too_large_tokens or size)
                _log.info("out of memory with %d rows of %d padded tokens; halving", len(indices), size)
                waiting += _halves(indices)
            else:
                _log.warning("a batch of %d rows failed (%s); trying its rows one by one", len(indices), message)
                waiting += [[i] for i in reversed(indices)]
        return done

    @torch.inference_mode()
    def _launch(self, rows: Sequence[PreparedRow]) -> tuple[Tensor, tuple[int, ...]]:
        batch = self.loaded.family.collate(rows, self.pad_token_id).to(self.loaded.device)
        return answer_nll(self.loaded.model, batch.inputs, batch.labels, self.keep), batch.n_labels


@dataclass
class PendingRows:
    """Rows on their way: ``indices`` into what was given to `BatchScorer.score`, their NLL one token after the other."""

    indices: list[int]
    nll: Tensor | None
    n_labels: tuple[int, ...]
    status: str = "ok"

    def fetch(self) -> list[tuple[int, Outcome]]:
        """Waits for the device; sums exactly (fsum), so that the order of tokens and rows cannot matter."""
        if self.nll is None:
            return [(i, Outcome(self.status)) for i in self.indices]
        values = self.nll.tolist()
        outcomes, start = [], 0
        for i, n_labels in zip(self.indices, self.n_labels, strict=True):
            part = values[start : start + n_labels]
            start += n_labels
            if all(map(math.isfinite, part)):
                outcomes.append((i, Outcome("ok", math.fsum(part))))
            else:
                outcomes.append((i, Outcome("not_finite")))
        return outcomes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a device or the host had no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    )


def _halves(indices: list[int]) -> list[list[int]]:
    middle = len(indices) // 2
    # The stack is popped from its end: the first half is tried first.
    return [indices[middle:], indices[:middle]]
