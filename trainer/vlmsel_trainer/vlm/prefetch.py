"""Units made ready ahead of the model: tokens in this thread, images in workers, a bounded number of bytes waiting.

What is ready ahead crosses the border of units, so the model never waits at one; what is batched together never does.
"""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

from vlmsel.errors import ResourceError

from vlmsel_trainer.vlm.chat_template import ChatTemplate
from vlmsel_trainer.vlm.collate import plan_batches
from vlmsel_trainer.vlm.expand import PreparedRow
from vlmsel_trainer.vlm.memory import DEFAULT_BYTES
from vlmsel_trainer.vlm.preprocess import ImageCost, Preprocessor, TokenisedRow, tokenise_sample
from vlmsel_trainer.vlm.records import RowError, Sample, Score, Unit

# No image takes this long; a file system that hangs must not hang the run.
ROW_TIMEOUT_S = 600.0
# Of an image that no processor takes: its row will fail, and weighs nothing until then.
_NO_COST = ImageCost(1, 0)


@dataclass(frozen=True)
class TokenRules:
    """How samples become tokens: the same for every row of a run."""

    template: ChatTemplate
    prompt: str
    max_text_tokens: int | None
    batch_tokens: int
    with_no_image: bool


@dataclass
class PlannedUnit:
    """A unit under way: a score per row (filled as they come) and the batches not yet scored."""

    unit: Unit
    samples: list[Sample]
    scores: list[Score]
    batches: list[list[int]] = field(default_factory=list)
    n_bytes: dict[int, int] = field(default_factory=dict)
    """What each readable row will take on the host once it is prepared."""


@dataclass
class ReadyBatch:
    """Rows of one unit, prepared; ``rows`` are indices into the unit. The last batch of a unit says so."""

    planned: PlannedUnit
    rows: list[int]
    prepared: list[PreparedRow]
    prepared_no_image: list[PreparedRow]
    is_last: bool


@dataclass(frozen=True)
class _Waiting:
    """A batch under way: its rows' futures, and the bytes that they come to."""

    planned: PlannedUnit
    rows: list[int]
    futures: list[concurrent.futures.Future[Any]]
    is_last: bool
    n_bytes: int


class Prefetch:
    """Turns units into ready batches, in order, with ``n_workers`` threads decoding ahead.

    What waits is bounded by ``prefetch_bytes``, but for the batch that the model takes next.
    """

    def __init__(
        self, preprocessor: Preprocessor, rules: TokenRules, n_workers: int, prefetch_bytes: int = DEFAULT_BYTES
    ) -> None:
        self._preprocessor = preprocessor
        self._rules = rules
        self._n_workers = n_workers
        self._prefetch_bytes = prefetch_bytes
        self._cost_by_size: dict[tuple[int, int], ImageCost] = {}
        self._fixed_cost = self._find_fixed_cost()

    def run(self, units: Iterable[tuple[Unit, list[Sample]]]) -> Generator[ReadyBatch, None, None]:
        """Every unit yields at least one batch (perhaps empty), so that each can be committed."""
        pool = concurrent.futures.ThreadPoolExecutor(self._n_workers, thread_name_prefix="decode")
        waiting: deque[_Waiting] = deque()
        try:
            for unit, samples in units:
                planned, tokenised = self._plan(unit, samples)
                for number, rows in enumerate(planned.batches):
                    n_bytes = sum(planned.n_bytes[i] for i in rows)
                    while waiting and sum(batch.n_bytes for batch in waiting) + n_bytes > self._prefetch_bytes:
                        yield _collect(waiting.popleft())
                    futures = [pool.submit(self._prepare, samples[i], tokenised[i]) for i in rows]
                    waiting.append(_Waiting(planned, rows, futures, number == len(planned.batches) - 1, n_bytes))
                    # Two batches ahead, or more where they are small: enough to keep every worker busy.
                    while len(waiting) > 2 and sum(len(batch.rows) for batch in waiting) > 2 * self._n_workers + len(
                        waiting[0].rows
                    ):
                        yield _collect(waiting.popleft())
            while waiting:
                yield _collect(waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _plan(self, unit: Unit, samples: list[Sample]) -> tuple[PlannedUnit, dict[int, TokenisedRow]]:
        planned = PlannedUnit(unit, samples, [Score() for _ in samples])
        tokenised: dict[int, TokenisedRow] = {}
        lengths: list[int] = []
        for i, sample in enumerate(samples):
            try:
                tokenised[i] = tokenise_sample(
                    sample,
                    self._rules.template,
                    self._rules.prompt,
                    self._rules.max_text_tokens,
                    with_no_image=self._rules.with_no_image,
                )
            except RowError as error:
                planned.scores[i] = Score(error.status)
                continue
            costs = [self._estimate(image) for image in sample.images]
            lengths.append(len(tokenised[i].tokens.ids) + sum(cost.n_tokens for cost in costs))
            planned.n_bytes[i] = sum(cost.n_bytes for cost in costs)
        readable = list(tokenised)
        planned.batches = [[readable[i] for i in rows] for rows in plan_batches(lengths, self._rules.batch_tokens)] or [
            []
        ]
        return planned, tokenised

    def _prepare(self, sample: Sample, row: TokenisedRow) -> tuple[PreparedRow, PreparedRow | None] | RowError:
        try:
            with_images = self._preprocessor.prepare(sample, row.tokens)
            no_image = None
            if row.tokens_no_image is not None:
                no_image = self._preprocessor.prepare(sample, row.tokens_no_image)
            return with_images, no_image
        except RowError as error:
            return error

    def _estimate(self, image: dict[str, Any]) -> ImageCost:
        """What the image will take; a wrong header only makes a batch less well filled."""
        if self._fixed_cost is not None:
            return self._fixed_cost
        # Sides in steps of 28 pixels (Qwen's cell) keep the number of sizes, and so of trials, small.
        size = tuple(min(4096, max(28, (int(image[side] or 336) + 14) // 28 * 28)) for side in ("width", "height"))
        key = (size[0], size[1])
        if key not in self._cost_by_size:
            try:
                self._cost_by_size[key] = self._preprocessor.measure(*key)
            except RowError:
                self._cost_by_size[key] = _NO_COST
        return self._cost_by_size[key]

    def _find_fixed_cost(self) -> ImageCost | None:
        costs = set()
        for size in ((64, 64), (640, 480), (300, 900), (1400, 1400)):
            try:
                costs.add(self._preprocessor.measure(*size))
            except RowError:
                return None
        return costs.pop() if len(costs) == 1 else None


def _collect(batch: _Waiting) -> ReadyBatch:
    planned = batch.planned
    ready = ReadyBatch(planned, [], [], [], batch.is_last)
    for i, future in zip(batch.rows, batch.futures, strict=True):
        try:
            result = future.result(timeout=ROW_TIMEOUT_S)
        except concurrent.futures.TimeoutError as error:
            raise ResourceError(
                f"reading the images of row {planned.unit.start + i} of {planned.unit.part} took over "
                f"{ROW_TIMEOUT_S:.0f} s; is the file system that holds them alive?"
            ) from error
        if isinstance(result, RowError):
            planned.scores[i] = Score(result.status)
            continue
        with_images, no_image = result
        planned.scores[i].n_image_tokens = with_images.n_image_tokens
        planned.scores[i].n_tokens = with_images.n_labels
        planned.scores[i].truncated = with_images.truncated
        ready.rows.append(i)
        ready.prepared.append(with_images)
        if no_image is not None:
            ready.prepared_no_image.append(no_image)
    return ready
