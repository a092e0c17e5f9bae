"""``vlmsel.select``: the k best rows of score tables, exactly.

POINTS (arXiv 2409.04828), section 3.2, keeps the 20 % of pairs with the lowest perplexity (5 M -> 1 M); any other score,
ascending or descending, is selected the same way. Ties at the cut are settled by id, so the result has exactly k samples
and does not depend on the order of files or the number of threads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlmsel import _core
from vlmsel._select_request import Control, Number, SelectRequest
from vlmsel.errors import UsageError
from vlmsel.files import check_plain
from vlmsel.types import PathLike, ProgressCallback, Scores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class ListedIds:
    """How many distinct ids the lists of ``include`` or ``exclude`` have, and how many of them no table has."""

    ids: int
    unmatched: int


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
    """Whether it was there, of the same inputs and options; nothing was touched then."""
    bad_files: list[str] = field(default_factory=list)
    controls: dict[str, Selection] = field(default_factory=dict)
    sample: list[float] = field(default_factory=list, repr=False)
    short_by: int = 0
    """How many rows fewer than ``k`` there were to select; for a control, fewer than the selection has."""
    repeated_across_sources: int = 0
    """Rows counted as ``repeated`` though they are of another source than the row that has their id; about so many where rows
    had to be set aside, and 0 where the selection was there already."""
    lists: dict[str, ListedIds] = field(default_factory=dict)
    """What became of the ids in ``include`` and ``exclude``, where given."""

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


def select(
    scores: Scores,
    *,
    output: PathLike = "selection",
    k: int | None = None,
    fraction: Number | None = None,
    threshold: float | None = None,
    band: str | tuple[Number, Number] | None = None,
    token_budget: int | None = None,
    id_column: str = "uid",
    score_column: str = "ppl",
    order: Literal["asc", "desc"] = "asc",
    non_negative: bool = False,
    min_tokens: int | None = None,
    max_tokens: int | None = None,
    include: PathLike | Iterable[PathLike] | None = None,
    exclude: PathLike | Iterable[PathLike] | None = None,
    allow_unmatched: bool = False,
    dedup: PathLike | None = None,
    repeats: Literal["drop", "keep"] = "drop",
    keep_columns: str | Sequence[str] = (),
    control: Control | Sequence[Control] = (),
    seed: int = 0,
    mix_provenance: bool = False,
    threads: int | None = None,
    memory_limit: int | None = None,
    strict: bool = False,
    max_bad_fraction: float = 0.001,
    allow_bad_files: int = 0,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Selection:
    """Select the best rows of score tables, and write them to a folder.

    Exactly one of ``k``, ``fraction``, ``threshold``, ``band`` and ``token_budget`` says how many.

    Args:
        scores: A path, a list of paths (files, folders, globs, braces, ``@list``; Parquet, JSON lines, CSV), anything with
            ``__arrow_c_stream__`` (pyarrow, Polars, DuckDB), or a list of these.
        output: The selection folder to write.
        k: Keep so many distinct samples.
        fraction: Keep this part of the eligible rows, from 0 to 1; a string or a Decimal is taken as it is written.
        threshold: Keep scores up to this one (under ``order="desc"``, down to it).
        band: Keep the rows between two percentiles of rank, ``(10, 30)`` or ``"10:30"``; 0 is best.
        token_budget: Keep the best rows until the ``n_tokens`` of the next one do not fit in.
        id_column: Column with the ids.
        score_column: Column with the scores, of any numeric type.
        order: Whether low (``"asc"``) or high scores are best.
        non_negative: Scores below zero are bad; always so for the column ``ppl``.
        min_tokens: Reject rows whose ``n_tokens`` is lower.
        max_tokens: Reject rows whose ``n_tokens`` is higher.
        include: Only these ids: text files, tables, or DataComp's ``.npy``. An id of 128 bits is the same in every
            spelling (hexadecimal, UUID) and type (string, bytes, pairs of integers).
        exclude: None of these ids.
        allow_unmatched: Whether a list may have no id that any table has; else that is a UsageError.
        dedup: What `vlmsel.dedup` wrote: copies are rejected as ``duplicate``. In scores of the same index rows are known by their
            place, in all other tables by their ids.
        repeats: Whether an id counts once (``"drop"``) or each time.
        keep_columns: Columns to carry into the selection.
        control: Comparison sets of the same size to write beside the selection.
        seed: Seed of the control ``"random"``.
        mix_provenance: Rank scores that different models, prompts or dtypes made together.
        threads: Threads to use; None: one per core. Never changes the result.
        memory_limit: Bytes to stay under; None: 4 GiB. Never changes the result.
        strict: End at the first bad record or file.
        max_bad_fraction: Part of the records that may be unreadable.
        allow_bad_files: Files that may be unreadable; they are left out and listed.
        overwrite: Replace a selection that was made of other inputs or options.
        progress: Called with the rows and bytes read so far.

    Returns:
        The committed folder and its counts, and those of its controls.

    Raises:
        UsageError: An option, a column or a type that cannot be (a ValueError).
        NotFoundError: A table that is not there (a FileNotFoundError).
        UnreadableError: More is unreadable than is tolerated; nothing is committed, here and below.
        StrictError: The first that is unreadable, under ``strict``.
        LockedError: Another process writes the selection.
        MismatchError: The folder holds a selection of other inputs or options; or provenance is mixed.
        ResourceError: Disk or memory ran out.
    """
    request = SelectRequest(
        output=output,
        k=k,
        fraction=fraction,
        threshold=threshold,
        band=band,
        token_budget=token_budget,
        id_column=id_column,
        score_column=score_column,
        order=order,
        non_negative=non_negative,
        min_tokens=min_tokens,
        max_tokens=max_tokens,
        include=include,
        exclude=exclude,
        allow_unmatched=allow_unmatched,
        dedup=dedup,
        repeats=repeats,
        keep_columns=keep_columns,
        control=control,
        seed=seed,
        mix_provenance=mix_provenance,
        threads=threads,
        memory_limit=memory_limit,
        strict=strict,
        max_bad_fraction=max_bad_fraction,
        allow_bad_files=allow_bad_files,
        overwrite=overwrite,
    )
    options, memory = request.encode(scores)
    found = json.loads(_core.select(options, memory, progress))
    # Not from the report, which is text: a path is bytes.
    path = Path(output)
    if not path.name or path.name == "..":
        path = path.resolve()
    controls = {
        entry["control"]: _selection(path.with_name(f"{path.name}-{entry['control']}"), entry)
        for entry in found["controls"]
    }
    return _selection(path, found["selection"], controls)


def plan(
    scores: Scores,
    *,
    output: PathLike = "selection",
    k: int | None = None,
    fraction: Number | None = None,
    threshold: float | None = None,
    band: str | tuple[Number, Number] | None = None,
    token_budget: int | None = None,
    id_column: str = "uid",
    score_column: str = "ppl",
    order: Literal["asc", "desc"] = "asc",
    non_negative: bool = False,
    min_tokens: int | None = None,
    max_tokens: int | None = None,
    include: PathLike | Iterable[PathLike] | None = None,
    exclude: PathLike | Iterable[PathLike] | None = None,
    allow_unmatched: bool = False,
    dedup: PathLike | None = None,
    repeats: Literal["drop", "keep"] = "drop",
    keep_columns: str | Sequence[str] = (),
    control: Control | Sequence[Control] = (),
    seed: int = 0,
    mix_provenance: bool = False,
    threads: int | None = None,
    memory_limit: int | None = None,
    strict: bool = False,
    max_bad_fraction: float = 0.001,
    allow_bad_files: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """What :func:`select` would read and need, without doing it. The arguments are those of :func:`select`.

    Returns:
        ``files``, ``rows`` (None where only reading tells), ``bytes``, ``memory_bytes``, ``scratch_bytes`` and ``outputs``.

    Raises:
        VlmselError: What :func:`select` raises before any work.
    """
    request = SelectRequest(
        output=output,
        k=k,
        fraction=fraction,
        threshold=threshold,
        band=band,
        token_budget=token_budget,
        id_column=id_column,
        score_column=score_column,
        order=order,
        non_negative=non_negative,
        min_tokens=min_tokens,
        max_tokens=max_tokens,
        include=include,
        exclude=exclude,
        allow_unmatched=allow_unmatched,
        dedup=dedup,
        repeats=repeats,
        keep_columns=keep_columns,
        control=control,
        seed=seed,
        mix_provenance=mix_provenance,
        threads=threads,
        memory_limit=memory_limit,
        strict=strict,
        max_bad_fraction=max_bad_fraction,
        allow_bad_files=allow_bad_files,
        overwrite=overwrite,
    )
    options, memory = request.encode(scores)
    planned: dict[str, Any] = json.loads(_core.plan_select(options, memory))
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
        short_by=entry["short_by"],
        repeated_across_sources=entry["repeated_across_sources"],
        lists={option: ListedIds(**counts) for option, counts in entry["lists"].items()},
    )
