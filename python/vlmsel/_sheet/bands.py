"""Which samples a contact sheet shows: bands of a selection or of scores, found in one or two passes over the tables.

Rust reads the tables (`_core.pick_rows`); what is held here are the few rows that are shown, however many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmsel import _core, tables
from vlmsel._sheet.cells import Band, Cell, uid_bytes
from vlmsel.errors import UsageError
from vlmsel.outputs import part_files, read_manifest
from vlmsel.types import PathLike, ProgressCallback

_Pick = tuple[str, int, int, tuple[float, bytes] | None]


@dataclass(frozen=True, slots=True)
class Reading:
    """How tables are read: `cells` in each band, the `seed` of the random draw, threads (0: one per core), bytes (0: any)."""

    cells: int
    seed: int = 0
    threads: int = 0
    memory_limit: int = 0
    progress: ProgressCallback | None = field(default=None, repr=False)

    def pick(self, kind: str, n: int | None = None, cut: tuple[float, bytes] | None = None) -> _Pick:
        """A pick of `_core.pick_rows`; as many rows as a band has cells unless `n` says otherwise."""
        return (kind, self.cells if n is None else n, self.seed % 2**64, cut)

    def pick_rows(
        self, files: Sequence[Path], columns: list[str], order: str, picks: Sequence[_Pick], **how: Any
    ) -> tuple[int, list[list[dict[str, Any]]]]:
        """How many rows rank by the column `order`, and the rows of each pick."""
        paths = [str(file) for file in files]
        limits = {"threads": self.threads, "memory_limit": self.memory_limit, "watch": self.progress}
        return _core.pick_rows(paths, columns, order, picks, **how, **limits)  # type: ignore[arg-type]


def choose_bands(
    target: PathLike, manifest: Mapping[str, Any], scores: PathLike | None, reading: Reading
) -> tuple[list[Band], list[str]]:
    """The bands of `target`, whose manifest is given, and notes for the user; their samples are not looked up yet."""
    if manifest["command"] == "score":
        return _bands_of_scores(part_files(target, manifest), reading), []
    if manifest["command"] != "select":
        raise UsageError(
            f"{target} was written by `vlmsel {manifest['command']}`; a sheet shows a selection, scores or copies"
        )
    return _bands_of_selection(target, manifest, scores, reading)


def _bands_of_selection(
    target: PathLike, manifest: Mapping[str, Any], scores: PathLike | None, reading: Reading
) -> tuple[list[Band], list[str]]:
    picks = [reading.pick("first"), reading.pick("drawn"), reading.pick("last")]
    columns = ["uid", "rank", "score"]
    n_kept, found = reading.pick_rows(part_files(target, manifest), columns, "rank", picks)
    best, drawn, last = (
        tuple(Cell(row["uid"], row["score"], row["rank"], kept=True) for row in rows) for rows in found
    )
    bands = [
        Band(f"best of {n_kept:,} kept", best),
        Band(f"drawn at random from {n_kept:,} kept (seed {reading.seed})", drawn),
    ]
    # A control (random, worst, middle) was not cut off at a score.
    if scores is None or not last or manifest["config"].get("control"):
        bands.append(Band("last of those kept", last))
        return bands, []
    files = _score_files(scores)
    descending = manifest["config"].get("order") == "desc"
    cut = (float(last[-1].score or 0), _id_bytes(last[-1].uid))
    half = reading.cells // 2
    n_scored, (behind, worst) = reading.pick_rows(
        files,
        ["uid", "ppl"],
        "ppl",
        [reading.pick("behind", reading.cells - half, cut), reading.pick("last")],
        descending=descending,
        perplexities=True,
    )

    def left_out(row: dict[str, Any]) -> Cell:
        sign = -1 if descending else 1
        is_behind = (sign * row["ppl"], row["uid"]) > (sign * cut[0], cut[1])
        return Cell(row["uid"], row["ppl"], kept=False if is_behind else None)

    around = (*last[max(0, len(last) - half) :], *map(left_out, behind))
    bands.append(Band("around the cut: last kept, then first left out", around))
    bands.append(Band(f"worst of {n_scored:,} scored", tuple(map(left_out, worst))))
    return bands, _notes_on_scores(scores, files, (*best, *last))


def _notes_on_scores(scores: PathLike, files: Sequence[Path], shown: Sequence[Cell]) -> list[str]:
    selected = {_id_bytes(cell.uid): cell.score for cell in shown}
    for row in tables.rows(files, ["uid", "ppl"], uids=selected) if files else ():
        if selected[row["uid"]] != row["ppl"]:
            return [f"{scores} gives other scores than the selection has: it was made from another table"]
    return []


def _bands_of_scores(files: Sequence[Path], reading: Reading) -> list[Band]:
    def find(*picks: _Pick) -> tuple[int, list[tuple[Cell, ...]]]:
        n_scored, found = reading.pick_rows(files, ["uid", "ppl"], "ppl", picks, perplexities=True)
        return n_scored, [tuple(Cell(row["uid"], row["ppl"]) for row in rows) for rows in found]

    n_scored, (best, drawn, worst, median) = find(*map(reading.pick, ("first", "drawn", "last", "median")))
    around: tuple[Cell, ...] = ()
    if median:
        cut = (float(median[0].score or 0), _id_bytes(median[0].uid))
        half = reading.cells // 2
        _, (under, over) = find(reading.pick("before", half, cut), reading.pick("from", reading.cells - half, cut))
        around = (*under, *over)
    return [
        Band(f"best of {n_scored:,} scored", best),
        Band(f"drawn at random from {n_scored:,} scored (seed {reading.seed})", drawn),
        Band("around the middle", around),
        Band(f"worst of {n_scored:,} scored", worst),
    ]


def _score_files(folder: PathLike) -> list[Path]:
    manifest = read_manifest(folder)
    if manifest["command"] != "score":
        raise UsageError(f"{folder} was written by `vlmsel {manifest['command']}`, not by `vlmsel score`")
    return part_files(folder, manifest)


def _id_bytes(uid: Any) -> bytes:
    # A foreign table's own id is shown, though no index knows it.
    return uid_bytes(uid) or (uid if isinstance(uid, bytes) else str(uid).encode("utf-8", "surrogatepass"))
