"""What a scoring run reads and writes, row by row: units and samples of the index, and scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OK = "ok"


class RowError(Exception):
    """A row that cannot be scored; ``status`` is what its row will say."""

    def __init__(self, status: str, detail: str = "") -> None:
        super().__init__(f"{status}: {detail}" if detail else status)
        self.status = status


@dataclass(frozen=True)
class Unit:
    """Rows ``start`` to ``stop`` of one index part; ``name`` is made of the part's name and ``start``."""

    part: Path
    name: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Sample:
    """One row of the index as scoring needs it."""

    uid: bytes
    source: str
    shard: str
    images: tuple[dict[str, Any], ...]
    text: str | None
    conversations: str | None
    sample_class: str | None = None
    """What the index says it is; None in an index of the first schema."""


@dataclass
class Score:
    """The score of one sample; sums are in nats. Only rows of status ``ok`` carry them."""

    status: str = OK
    nll_sum: float | None = None
    n_tokens: int = 0
    n_image_tokens: int = 0
    truncated: bool = False
    nll_sum_no_image: float | None = None

    @property
    def perplexity(self) -> float | None:
        """exp of the mean NLL (POINTS, arXiv 2409.04828, section 3.2); inf where a float64 cannot hold it."""
        if self.status != OK or self.nll_sum is None:
            return None
        try:
            return math.exp(self.nll_sum / self.n_tokens)
        except OverflowError:
            return math.inf
