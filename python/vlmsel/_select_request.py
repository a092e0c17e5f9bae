"""What ``vlmsel.select`` and its plan are asked, checked and as the extension module takes it."""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from vlmsel.errors import UsageError
from vlmsel.types import PathLike, Scores

DEFAULT_MEMORY_LIMIT = 4 << 30

Number: TypeAlias = float | str | Decimal
"""A number whose decimal digits count: 0.29 is 29 of 100, and no binary fraction knows that."""
Control: TypeAlias = Literal["random", "worst", "middle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectRequest:
    """The keywords of :func:`vlmsel.select`, which says what each means and has their defaults."""

    output: PathLike
    k: int | None
    fraction: Number | None
    threshold: float | None
    band: str | tuple[Number, Number] | None
    token_budget: int | None
    id_column: str
    score_column: str
    order: Literal["asc", "desc"]
    non_negative: bool
    min_tokens: int | None
    max_tokens: int | None
    include: PathLike | Iterable[PathLike] | None
    exclude: PathLike | Iterable[PathLike] | None
    allow_unmatched: bool
    dedup: PathLike | None
    repeats: Literal["drop", "keep"]
    keep_columns: str | Sequence[str]
    control: Control | Sequence[Control]
    seed: int
    mix_provenance: bool
    threads: int | None
    memory_limit: int | None
    strict: bool
    max_bad_fraction: float
    allow_bad_files: int
    overwrite: bool

    def encode(self, scores: Scores) -> tuple[str, list[tuple[str, Any]]]:
        """Options and paths as JSON, and the tables that are in memory. Raises UsageError for what no selection can mean."""
        paths, memory = _sources(scores)
        memory_limit = DEFAULT_MEMORY_LIMIT if self.memory_limit is None else self.memory_limit
        request = {
            "scores": paths,
            "output": os.fspath(self.output),
            "id_column": self.id_column,
            "score_column": self.score_column,
            "order": self.order,
            "size": self._size(),
            "non_negative": self.non_negative,
            "min_tokens": _whole("min_tokens", self.min_tokens),
            "max_tokens": _whole("max_tokens", self.max_tokens),
            "include": _paths(self.include),
            "exclude": _paths(self.exclude),
            "allow_unmatched": self.allow_unmatched,
            "dedup": None if self.dedup is None else os.fspath(self.dedup),
            "repeats": self.repeats,
            "keep_columns": _words(self.keep_columns),
            "controls": self._controls(),
            "threads": _whole("threads", self.threads) or os.cpu_count() or 1,
            "memory_limit": _whole("memory_limit", memory_limit),
            "strict": self.strict,
            "max_bad_fraction": _real("max_bad_fraction", self.max_bad_fraction),
            "allow_bad_files": _whole("allow_bad_files", self.allow_bad_files),
            "mix_provenance": self.mix_provenance,
            "overwrite": self.overwrite,
        }
        return json.dumps(request), memory

    def _size(self) -> dict[str, Any]:
        band = self.band
        if band is not None and not isinstance(band, str):
            if len(band) != 2:
                raise UsageError(f"band={band!r}: give two percentiles, such as (10, 30)")
            band = f"{band[0]}:{band[1]}"
        cut: float | str | None = None if self.threshold is None else _real("threshold", self.threshold)
        if cut in (math.inf, -math.inf):
            cut = str(cut)  # JSON has no infinities
        return {
            "k": _whole("k", self.k),
            "fraction": None if self.fraction is None else str(self.fraction),
            "threshold": cut,
            "band": band,
            "token_budget": _whole("token_budget", self.token_budget),
        }

    def _controls(self) -> list[tuple[str, int]]:
        seed = _whole("seed", self.seed) or 0
        return [(name, seed if name == "random" else 0) for name in _words(self.control)]


def _words(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _paths(value: PathLike | Iterable[PathLike] | None) -> list[str]:
    if value is None:
        return []
    if isinstance(value, (str, os.PathLike)):
        return [os.fspath(value)]
    return [os.fspath(item) for item in value]


def _sources(scores: Any) -> tuple[list[str], list[tuple[str, Any]]]:
    """Paths, and tables that are in memory with the names that messages use."""
    # A mapping, or a data frame without the Arrow protocol, would give its column names.
    whole = any(hasattr(scores, name) for name in ("__arrow_c_stream__", "__fspath__", "columns", "keys"))
    several = isinstance(scores, Iterable) and not whole and not isinstance(scores, (str, bytes))
    paths: list[str] = []
    memory: list[tuple[str, Any]] = []
    for item in scores if several else [scores]:
        if hasattr(item, "__arrow_c_stream__"):
            memory.append((f"table {len(memory) + 1} in memory", item))
        elif isinstance(item, (str, os.PathLike)):
            paths.append(os.fspath(item))
        else:
            hint = "; collect() it first" if hasattr(item, "collect") else ""
            raise UsageError(
                f"scores: a {type(item).__name__} is neither a path nor a table with __arrow_c_stream__{hint}"
            )
    if not paths and not memory:
        raise UsageError("scores: an empty list; give paths or tables")
    return paths, memory


def _whole(name: str, value: Any) -> int | None:
    """A count as the extension module takes it; numpy's integers are integers too."""
    if value is None:
        return None
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if isinstance(value, bool) or not 0 <= number < 1 << 64:
        raise UsageError(f"{name}={value!r}: give a whole number that is not negative and below 2^64")
    return number


def _real(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, str) or math.isnan(number):
        raise UsageError(f"{name}={value!r}: give a number")
    return number
