"""How many rows may fail before a run ends: counted over all units of an output, those of earlier runs among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from vlmsel.errors import StrictError, UnreadableError
from vlmsel.outputs import exceeds

from vlmsel_trainer.vlm.records import OK

# Rows that are in order but hold nothing to score; they never count as bad.
EMPTY_STATUSES = frozenset({"no_text", "too_long"})
LOST_FILE_STATUSES = frozenset({"image_missing", "image_unreadable"})
"""Statuses of rows whose shard is gone or shorter than the index says."""
_HARMLESS = EMPTY_STATUSES | {OK, "input"}


@dataclass(frozen=True)
class Tolerance:
    """What a run puts up with: no bad row at all (``strict``), a fraction of the rows, all lost rows of some shards."""

    strict: bool = False
    max_bad_fraction: float = 0.001
    allow_bad_files: int = 0


@dataclass
class Failures:
    """Rows by status, and whether they are too many of ``n_rows`` for ``tolerance``."""

    tolerance: Tolerance
    n_rows: int
    counts: Counter[str] = field(default_factory=Counter)
    _lost_in: set[str] = field(default_factory=set)

    def add(self, unit: str, counts: Mapping[str, int]) -> None:
        """Counts a unit's rows; ``counts`` has ``input`` beside the statuses."""
        self.counts.update(counts)
        if not LOST_FILE_STATUSES.isdisjoint(status for status, n in counts.items() if n):
            # A unit is called after the index's part, and a part is one shard.
            self._lost_in.add(unit.rsplit("-", 1)[0])

    def is_bad(self, status: str) -> bool:
        """Whether a row of this status counts as failed, as far as shards were counted."""
        excused = LOST_FILE_STATUSES if len(self._lost_in) <= self.tolerance.allow_bad_files else frozenset()
        return status not in _HARMLESS and status not in excused

    def check(self) -> None:
        """Raises UnreadableError where too many rows failed, StrictError under ``strict`` where one did."""
        bad = {status: n for status, n in sorted(self.counts.items()) if n and self.is_bad(status)}
        statuses = ", ".join(f"{n} {status}" for status, n in bad.items())
        # Shards whose files are gone count by their rows: those of the allowed ones are not bad.
        excess = exceeds(
            self.n_rows,
            sum(bad.values()),
            0,
            max_bad_fraction=self.tolerance.max_bad_fraction,
            strict=self.tolerance.strict,
        )
        if excess == "any":
            raise StrictError(
                f"{sum(bad.values())} of {self.n_rows} rows could not be scored ({statuses}); "
                "without --strict they stay as rows with this status"
            )
        if excess == "records":
            raise UnreadableError(
                f"{sum(bad.values())} of {self.n_rows} rows could not be scored ({statuses}), more than --max-bad-fraction "
                f"{self.tolerance.max_bad_fraction}; `vlmsel doctor` says what is wrong with the data, and with a larger "
                "fraction the same command goes on from here"
            )
