"""The slow, obvious selection that the fast one must equal: read everything, sort, take."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any


@dataclass
class Row:
    """One input row; ``id`` and ``score`` None are nulls."""

    id: Any
    score: Any
    source: str | None = None
    kept: tuple[Any, ...] = ()
    n_tokens: int | None = None


@dataclass
class Expected:
    """What a selection must come to: ids in order, and every row in one class."""

    rows: list[Row]
    rejected: dict[str, int] = field(default_factory=dict)


def _null_first(value: Any) -> tuple[int, Any]:
    if isinstance(value, str):
        value = value.encode()
    return (0, 0) if value is None else (1, value)


def order_key(row: Row, descending: bool) -> tuple[Any, ...]:
    """(score, id, source, kept, tokens); exact: floats become fractions. Tokens tell rows apart where a budget counts them."""
    score = Fraction(row.score)
    row_id = row.id.encode() if isinstance(row.id, str) else row.id
    kept = tuple(_null_first(k) for k in row.kept)
    return (-score if descending else score, row_id, _null_first(row.source), kept, row.n_tokens or 0)


def classify(
    row: Row,
    *,
    non_negative: bool,
    min_tokens: int | None,
    max_tokens: int | None,
    include: set[Any] | None,
    exclude: set[Any],
) -> str | None:
    """The reason of rejection by precedence, or None."""
    needs_tokens = min_tokens is not None or max_tokens is not None
    if row.id is None or row.score is None or (needs_tokens and row.n_tokens is None):
        return "missing"
    if isinstance(row.score, float) and math.isnan(row.score):
        return "nan"
    if isinstance(row.score, float) and math.isinf(row.score):
        return "infinite"
    if non_negative and row.score < 0:
        return "negative"
    if (include is not None and row.id not in include) or row.id in exclude:
        return "excluded"
    if min_tokens is not None and row.n_tokens is not None and row.n_tokens < min_tokens:
        return "too_short"
    if max_tokens is not None and row.n_tokens is not None and row.n_tokens > max_tokens:
        return "too_long"
    return None


def select(
    rows: list[Row],
    *,
    k: int | None = None,
    fraction: str | None = None,
    threshold: float | None = None,
    band: tuple[str, str] | None = None,
    token_budget: int | None = None,
    descending: bool = False,
    repeats: str = "drop",
    non_negative: bool = False,
    min_tokens: int | None = None,
    max_tokens: int | None = None,
    include: set[Any] | None = None,
    exclude: set[Any] | None = None,
) -> Expected:
    """Sort and take; the keywords are those of ``vlmsel.select``."""
    rejected: dict[str, int] = {}
    eligible = []
    for row in rows:
        if token_budget is not None and row.n_tokens is None and row.id is not None and row.score is not None:
            reason: str | None = "missing"
        else:
            reason = classify(
                row,
                non_negative=non_negative,
                min_tokens=min_tokens,
                max_tokens=max_tokens,
                include=include,
                exclude=exclude or set(),
            )
        if reason is None:
            eligible.append(row)
        else:
            rejected[reason] = rejected.get(reason, 0) + 1
    eligible.sort(key=lambda row: (*order_key(row, descending), row.n_tokens or 0))
    n = len(eligible)
    start, end, limit = 0, n, n
    if k is not None:
        limit = k
    elif fraction is not None:
        limit = math.floor(Fraction(fraction) * n)
    elif band is not None:
        start, end = (math.floor(Fraction(edge) * n / 100) for edge in band)
    elif threshold is not None:
        within = [
            row
            for row in eligible
            if (
                Fraction(row.score) >= _exact(threshold, row.score)
                if descending
                else Fraction(row.score) <= _exact(threshold, row.score)
            )
        ]
        end = len(within)
    left = token_budget
    taken: set[Any] = set()
    chosen: list[Row] = []
    repeated = waiting = 0
    for row in eligible[start:end]:
        if len(chosen) >= limit:
            break
        if repeats == "drop" and row.id in taken:
            waiting += 1
            continue
        if left is not None:
            if (row.n_tokens or 0) > left:
                break
            left -= row.n_tokens or 0
        taken.add(row.id)
        chosen.append(row)
        repeated, waiting = repeated + waiting, 0
    if repeated:
        rejected["repeated"] = repeated
    if n - len(chosen) - repeated:
        rejected["outranked"] = n - len(chosen) - repeated
    return Expected(chosen, rejected)


def _exact(threshold: float, score: Any) -> Any:
    """By value; beside decimals as it is written."""
    if math.isinf(threshold):
        return threshold
    return Fraction(repr(threshold)) if isinstance(score, Decimal) else Fraction(threshold)
