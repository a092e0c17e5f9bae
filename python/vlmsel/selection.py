"""``vlmsel.select``: the k best rows of score tables, exactly.

POINTS (arXiv 2409.04828), section 3.2, keeps the 20 % of pairs with the lowest perplexity (5 M -> 1 M); any other score,
ascending or descending, is selected the same way. Ties at the cut are settled by id, so the result has exactly k samples
and does not depend on the order of files or the number of threads.
"""

from __future__ import annotations

import json
import math
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmsel import _core
from vlmsel.errors import UsageError
from vlmsel.files import check_plain

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PathLike = str | os.PathLike[str]
#: ``watch(records, records_total, bytes, bytes_total)``; a total of 0 is unknown.
Watch = Callable[[int, int, int, int], None]

DEFAULT_MEMORY_LIMIT = 4 << 30
DEFAULT_OUTPUT = "selection"


@dataclass(frozen=True)
class Selection:
    """A committed selection folder and its counts.

    Every input row is in exactly one class: ``input == selected + sum(rejected.values()) + quarantined``.
    """

    path: Path
    input: int
    selected: int
    rejected: dict[str, int]
    quarantined: int
    threshold: float | int | str | None
    already_done: bool = False
    bad_files: list[str] = field(default_factory=list)
    controls: dict[str, Selection] = field(default_factory=dict)
    sample: list[float] = field(default_factory=list, repr=False)

    def table(self) -> _core.ArrowTable:
        """``selection.parquet`` as a table with ``__arrow_c_stream__``: ``pyarrow.table(selection.table())``."""
        return _core.read_table([os.fspath(self.path / "selection.parquet")])

    def uids(self) -> npt.NDArray[np.void]:
        """128-bit ids, sorted, as DataComp's subset dtype ``"u8,u8"``; the file is mapped, not copied.

        Raises UsageError if the ids are not 128 bits wide.
        """
        import numpy as np

        path = self.path / "uids.npy"
        if not path.exists():
            raise UsageError(f"{self.path}: these ids are not 128 bits wide; read the uid column of table() instead")
        check_plain(path)
        ids: npt.NDArray[np.void] = np.load(path, mmap_mode="r" if self.selected else None, allow_pickle=False)
        return ids

    def __repr__(self) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.rejected.items())
        return (
            f"Selection({os.fspath(self.path)!r}: {self.selected:,} of {self.input:,}, threshold {self.threshold}"
            + (f"; {reasons}" if reasons else "")
            + (f"; {self.quarantined:,} quarantined" if self.quarantined else "")
            + ")"
        )


def _paths(value: PathLike | Iterable[PathLike] | None) -> list[str]:
    if value is None:
        return []
    if isinstance(value, (str, os.PathLike)):
        return [os.fspath(value)]
    return [os.fspath(item) for item in value]


def _decimal_text(value: float | str | Decimal) -> str:
    """A decimal as it was written: 0.29 is 29 of 100, which binary floating point would make 28."""
    return value if isinstance(value, str) else str(value)


def _controls(controls: str | Sequence[str], seed: int) -> list[tuple[str, int]]:
    names = [controls] if isinstance(controls, str) else list(controls)
    return [(name, seed if name == "random" else 0) for name in names]


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


def options(
    scores: Any,
    *,
    output: PathLike = DEFAULT_OUTPUT,
    k: int | None = None,
    fraction: float | str | Decimal | None = None,
    threshold: float | None = None,
    band: str | tuple[Any, Any] | None = None,
    token_budget: int | None = None,
    id_column: str = "uid",
    score_column: str = "ppl",
    order: str = "asc",
    non_negative: bool = False,
    min_tokens: int | None = None,
    max_tokens: int | None = None,
    include: PathLike | Iterable[PathLike] | None = None,
    exclude: PathLike | Iterable[PathLike] | None = None,
    repeats: str = "drop",
    keep_columns: Sequence[str] = (),
    control: str | Sequence[str] = (),
    seed: int = 0,
    threads: int | None = None,
    memory_limit: int = DEFAULT_MEMORY_LIMIT,
    strict: bool = False,
    max_bad_fraction: float = 0.001,
    allow_bad_files: int = 0,
    mix_provenance: bool = False,
    overwrite: bool = False,
) -> tuple[str, list[tuple[str, Any]]]:
    """The request as the extension module takes it: options as JSON, and the tables that are in memory."""
    paths, memory = _sources(scores)
    if band is not None and not isinstance(band, str):
        if len(band) != 2:
            raise UsageError(f"band={band!r}: give two percentiles, such as (10, 30)")
        band = f"{_decimal_text(band[0])}:{_decimal_text(band[1])}"
    cut: float | str | None = None if threshold is None else _real("threshold", threshold)
    if cut in (math.inf, -math.inf):
        cut = str(cut)  # JSON has no infinities
    size: dict[str, Any] = {
        "k": _whole("k", k),
        "fraction": None if fraction is None else _decimal_text(fraction),
        "threshold": cut,
        "band": band,
        "token_budget": _whole("token_budget", token_budget),
    }
    request = {
        "scores": paths,
        "output": os.fspath(output),
        "id_column": id_column,
        "score_column": score_column,
        "order": order,
        "size": size,
        "non_negative": non_negative,
        "min_tokens": _whole("min_tokens", min_tokens),
        "max_tokens": _whole("max_tokens", max_tokens),
        "include": _paths(include),
        "exclude": _paths(exclude),
        "repeats": repeats,
        "keep_columns": [keep_columns] if isinstance(keep_columns, str) else list(keep_columns),
        "controls": _controls(control, _whole("seed", seed) or 0),
        "threads": _whole("threads", threads) or os.cpu_count() or 1,
        "memory_limit": _whole("memory_limit", memory_limit),
        "strict": strict,
        "max_bad_fraction": _real("max_bad_fraction", max_bad_fraction),
        "allow_bad_files": _whole("allow_bad_files", allow_bad_files),
        "mix_provenance": mix_provenance,
        "overwrite": overwrite,
    }
    return json.dumps(request), memory


def select(scores: Any, *, progress: Watch | None = None, **keywords: Any) -> Selection:
    """Select the best rows of ``scores`` and write them to a folder.

    ``scores`` is a path, a list of paths (files, folders, globs, braces, ``@list``; Parquet, JSON lines, CSV), or anything
    with ``__arrow_c_stream__`` (pyarrow, Polars, DuckDB), or a list of these. Exactly one of ``k``, ``fraction``,
    ``threshold``, ``band`` and ``token_budget`` says how many. The keywords are those of :func:`options`, which are the
    flags of ``vlmsel select``.

    Raises UsageError (a ValueError) for wrong options, columns and types, NotFoundError (a FileNotFoundError),
    UnreadableError, StrictError, LockedError, MismatchError and ResourceError; nothing is committed then.
    """
    request, memory = options(scores, **keywords)
    found = json.loads(_core.select(request, memory, progress))
    # Not from the report, which is text: a path is bytes.
    path = Path(keywords.get("output", DEFAULT_OUTPUT))
    if not path.name or path.name == "..":
        path = path.resolve()
    controls = {
        entry["control"]: _selection(path.with_name(f"{path.name}-{entry['control']}"), entry)
        for entry in found["controls"]
    }
    return _selection(path, found["selection"], controls)


def plan(scores: Any, **keywords: Any) -> dict[str, Any]:
    """What :func:`select` would read and need, without doing it; the same errors before any work."""
    request, memory = options(scores, **keywords)
    planned: dict[str, Any] = json.loads(_core.plan_select(request, memory))
    return planned


def _selection(path: Path, entry: dict[str, Any], controls: dict[str, Selection] | None = None) -> Selection:
    return Selection(
        path=path,
        input=entry["input"],
        selected=entry["selected"],
        rejected=entry["rejected"],
        quarantined=entry["quarantined"],
        threshold=entry["threshold"],
        already_done=entry["already_done"],
        bad_files=entry["bad_files"],
        controls=controls or {},
        sample=entry["sample"],
    )
