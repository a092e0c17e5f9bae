"""Contact sheets: the best, the worst and those around the cut, because people look before they trust.

A sheet is a PNG of bands. Each cell shows a sample's picture, its score and its caption. Tables are read as streams; what is
held are the few rows that are shown. The same tables, options and version of Pillow give the same bytes.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmsel.errors import NotFoundError, ResourceError, StrictError, UsageError
from vlmsel.outputs import PathLike, read_manifest

Rows = Callable[..., Iterable[dict[str, Any]]]
"""`rows(paths, columns, uids=None)`: the rows of Parquet files as dictionaries, of some uids or of all."""

_INDEX_COLUMNS = ["uid", "source", "shard", "images", "text", "conversations"]
_MEDIAN_SAMPLE = 65_536


@dataclass(frozen=True, slots=True)
class Layout:
    """`rows` by `columns` cells in each band, each with a picture of up to `cell_px` squared and `caption_lines` of text."""

    rows: int = 2
    columns: int = 8
    cell_px: int = 128
    caption_lines: int = 3

    def __post_init__(self) -> None:
        limits = {"rows": (1, 100), "columns": (1, 100), "cell_px": (32, 1024)}
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise UsageError(
                    f"--{name.removesuffix('_px')} must be from {least} to {most}, not {getattr(self, name)}"
                )

    @property
    def cells(self) -> int:
        """Cells of one band."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample on the sheet. `kept` says whether the selection holds it; None where there is no selection."""

    uid: Any
    score: float | int | None
    rank: int | None = None
    kept: bool | None = None


@dataclass(frozen=True, slots=True)
class Band:
    """Cells that belong together, under a title."""

    title: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """What was drawn: the picture's place and size, its bands, the uids that could not be shown, and what to tell the user."""

    path: Path
    width_px: int
    height_px: int
    bands: tuple[Band, ...]
    bad_pictures: dict[str, str]
    notes: tuple[str, ...]


class _Shown:
    """The `n` entries with the smallest keys among those offered; the largest under `largest`."""

    def __init__(self, n: int, *, largest: bool = False) -> None:
        self._n, self._largest = n, largest
        self._pairs: list[tuple[Any, Entry]] = []

    def offer(self, key: Any, entry: Entry) -> None:
        if self._n == 0:
            return
        full = len(self._pairs) == self._n
        if full and (key <= self._pairs[0][0] if self._largest else key >= self._pairs[-1][0]):
            return
        bisect.insort(self._pairs, (key, entry), key=lambda pair: pair[0])
        if full:
            self._pairs.pop(0 if self._largest else -1)

    def entries(self) -> tuple[Entry, ...]:
        return tuple(entry for _, entry in self._pairs)


def sheet(
    target: PathLike,
    output: PathLike = "sheet.png",
    *,
    index: PathLike = "index",
    scores: PathLike | None = None,
    layout: Layout | None = None,
    seed: int = 0,
    font: str | None = None,
    overwrite: bool = False,
    strict: bool = False,
    rows: Rows | None = None,
) -> Sheet:
    """Draw the contact sheet of `target`, a finished selection or scores folder, to the PNG `output`.

    A selection is shown with its best, a random draw (`seed`) and its last; where `scores` is given, also with those that it
    just left out and the worst. Scores alone are shown with the best, a draw, the middle and the worst. `rows` reads tables;
    the default is vlmsel's own reader.

    Raises NotFoundError for a missing folder, MismatchError for an unfinished one, UsageError for an `output` that exists
    (unless `overwrite`) or lies inside an input, ResourceError where it cannot be written. A picture that cannot be shown is a
    marked cell; under `strict` it is a StrictError and nothing is written.
    """
    from vlmsel import sheet_drawing

    read = rows or _own_rows()
    layout = layout or Layout()
    folders = [Path(folder) for folder in (target, index, scores) if folder is not None]
    destination = _guard(Path(output), folders, overwrite=overwrite)
    target_manifest, index_manifest = read_manifest(target), read_manifest(index)
    lettering = sheet_drawing.letterings(layout, font)
    bands, notes = choose_bands(target, target_manifest, scores, layout.cells, seed, read)
    uids = {uid for band in bands for entry in band.entries if (uid := uid_bytes(entry.uid)) is not None}
    samples = {row["uid"]: row for row in read(part_files(index, index_manifest), _INDEX_COLUMNS, uids=uids)}
    for sample in samples.values():
        _guard_sources(destination, index_manifest["roots"], sample)
    drawing = sheet_drawing.draw(bands, samples, index_manifest["roots"], layout, lettering)
    if strict and drawing.bad_pictures:
        first, reason = next(iter(drawing.bad_pictures.items()))
        raise StrictError(f"{first}: {reason}; without --strict it would be a marked cell")
    if any(face.escaped for face in lettering):
        notes.append("characters that the font lacks are shown as \\u{...}; --font FILE takes another font")
    _commit(destination, drawing.image.save, overwrite=overwrite)
    return Sheet(destination, *drawing.image.size, tuple(bands), drawing.bad_pictures, tuple(notes))


def plan_sheet(
    target: PathLike,
    output: PathLike = "sheet.png",
    *,
    index: PathLike = "index",
    scores: PathLike | None = None,
    layout: Layout | None = None,
    overwrite: bool = False,
) -> dict[str, int]:
    """What `sheet` would read and draw, from manifests alone: `rows_read`, `index_rows`, `bands`, `cells` at most.

    Raises what `sheet` raises before it reads a table.
    """
    layout = layout or Layout()
    folders = [Path(folder) for folder in (target, index, scores) if folder is not None]
    _guard(Path(output), folders, overwrite=overwrite)
    manifest = read_manifest(target)
    is_selection = manifest["command"] == "select"
    # Scores alone are read twice: once for their ends, once around the middle that the first reading finds.
    passes = [manifest] if is_selection else [manifest, manifest]
    if is_selection and scores is not None:
        passes.append(read_manifest(scores))
    n_bands = 4 if scores is not None or not is_selection else 3
    return {
        "rows_read": sum(part["rows"] for read in passes for part in read["parts"]),
        "index_rows": sum(part["rows"] for part in read_manifest(index)["parts"]),
        "bands": n_bands,
        "cells": n_bands * layout.cells,
    }


def choose_bands(
    target: PathLike, manifest: Mapping[str, Any], scores: PathLike | None, cells: int, seed: int, rows: Rows
) -> tuple[list[Band], list[str]]:
    """The bands of `target`, whose manifest is given, and notes for the user; see `sheet`."""
    if manifest["command"] == "score":
        return _bands_of_scores(part_files(target, manifest), cells, seed, rows), []
    if manifest["command"] != "select":
        raise UsageError(f"{target} was written by `vlmsel {manifest['command']}`; a sheet shows a selection or scores")
    return _bands_of_selection(target, manifest, scores, cells, seed, rows)


def _bands_of_selection(
    target: PathLike, manifest: Mapping[str, Any], scores: PathLike | None, cells: int, seed: int, rows: Rows
) -> tuple[list[Band], list[str]]:
    best, drawn, last = _Shown(cells), _Shown(cells), _Shown(cells, largest=True)
    n_kept = 0
    for row in rows(part_files(target, manifest), ["uid", "rank", "score"]):
        entry = Entry(row["uid"], row["score"], row["rank"], kept=True)
        best.offer(entry.rank, entry)
        last.offer(entry.rank, entry)
        drawn.offer(_lot(seed, entry.uid), entry)
        n_kept += 1
    bands = [
        Band(f"best of {n_kept:,} kept", best.entries()),
        Band(f"drawn at random from {n_kept:,} kept (seed {seed})", drawn.entries()),
    ]
    if scores is None or n_kept == 0:
        bands.append(Band("last of those kept", last.entries()))
        return bands, []
    # The cut as the scores have it: a selection is in order of rank, whichever way its scores run.
    first_score, cut = best.entries()[0].score, last.entries()[-1]
    sign = -1 if cut.score is not None and first_score is not None and cut.score < first_score else 1
    half = cells // 2
    below, worst = _Shown(cells - half), _Shown(cells, largest=True)
    shown = {_identity(entry.uid): entry.score for entry in (*best.entries(), *last.entries())}
    n_scored = n_differing = 0
    cut_key = _order(sign, cut.score, cut.uid)
    for entry in _scored(scores, rows):
        key = _order(sign, entry.score, entry.uid)
        n_scored += 1
        n_differing += shown.get(_identity(entry.uid), entry.score) != entry.score
        entry = replace(entry, kept=None if key <= cut_key else False)
        worst.offer(key, entry)
        if key > cut_key:
            below.offer(key, entry)
    last_kept = last.entries()[max(0, len(last.entries()) - half) :]
    bands.append(Band("around the cut: last kept, then first left out", (*last_kept, *below.entries())))
    bands.append(Band(f"worst of {n_scored:,} scored", worst.entries()))
    notes = (
        [f"{scores} gives other scores than the selection has: it was made from another table"] if n_differing else []
    )
    return bands, notes


def _bands_of_scores(files: Sequence[Path], cells: int, seed: int, rows: Rows) -> list[Band]:
    best, drawn, worst = _Shown(cells), _Shown(cells), _Shown(cells, largest=True)
    sample = _Shown(_MEDIAN_SAMPLE)
    n_scored = 0
    for entry in _scored_files(files, rows):
        key = _order(1, entry.score, entry.uid)
        best.offer(key, entry)
        worst.offer(key, entry)
        lot = _lot(seed, entry.uid)
        drawn.offer(lot, entry)
        sample.offer(lot, entry)
        n_scored += 1
    keys = sorted(_order(1, entry.score, entry.uid) for entry in sample.entries())
    under, over = _Shown(cells // 2, largest=True), _Shown(cells - cells // 2)
    for entry in _scored_files(files, rows) if keys else ():
        key = _order(1, entry.score, entry.uid)
        (under if key < keys[len(keys) // 2] else over).offer(key, entry)
    return [
        Band(f"best of {n_scored:,} scored", best.entries()),
        Band(f"drawn at random from {n_scored:,} scored (seed {seed})", drawn.entries()),
        Band("around the middle", (*under.entries(), *over.entries())),
        Band(f"worst of {n_scored:,} scored", worst.entries()),
    ]


def _scored(folder: PathLike, rows: Rows) -> Iterator[Entry]:
    manifest = read_manifest(folder)
    if manifest["command"] != "score":
        raise UsageError(f"{folder} was written by `vlmsel {manifest['command']}`, not by `vlmsel score`")
    return _scored_files(part_files(folder, manifest), rows)


def _scored_files(files: Sequence[Path], rows: Rows) -> Iterator[Entry]:
    for row in rows(files, ["uid", "ppl", "status"]):
        score = row["ppl"]
        if row["status"] == "ok" and score is not None and math.isfinite(score) and score >= 0:
            yield Entry(row["uid"], score)


def _order(sign: int, score: Any, uid: Any) -> tuple[Any, bytes]:
    # `sign` turns the score, never the ties: ARCHITECTURE.md, "Order and ties".
    return (math.inf if score is None else sign * score, _identity(uid))


def _identity(uid: Any) -> bytes:
    return uid_bytes(uid) or (uid if isinstance(uid, bytes) else str(uid).encode("utf-8", "surrogatepass"))


def _lot(seed: int, uid: Any) -> bytes:
    key = seed.to_bytes(16, "little", signed=True)
    return hashlib.blake2b(_identity(uid), digest_size=16, key=key).digest()


def uid_bytes(uid: Any) -> bytes | None:
    """A table's id as the 16 bytes that the index knows, or None for an id that is no uid."""
    if isinstance(uid, bytes):
        return uid if len(uid) == 16 else None
    try:
        return bytes.fromhex(uid) if isinstance(uid, str) and len(uid) == 32 else None
    except ValueError:
        return None


def part_files(folder: PathLike, manifest: Mapping[str, Any]) -> list[Path]:
    """The Parquet files that a manifest names, in its order."""
    names = [file["file"] for part in manifest["parts"] for file in part["files"]]
    return [Path(folder) / name for name in names if name.endswith(".parquet")]


def caption_of(sample: Mapping[str, Any]) -> str | None:
    """What stands under a sample's picture: its text, or the turns of its conversation; None where it has neither."""
    if sample["text"] is not None:
        return str(sample["text"])
    if sample["conversations"] is None:
        return None
    try:
        turns = json.loads(sample["conversations"])
        words = [turn.get("value", turn.get("content", "")) for turn in turns]
        return " | ".join(word if isinstance(word, str) else json.dumps(word, ensure_ascii=False) for word in words)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return str(sample["conversations"])


def _own_rows() -> Rows:
    from vlmsel import tables

    def rows(
        paths: Iterable[Path], columns: Sequence[str], uids: Iterable[bytes] | None = None
    ) -> Iterator[dict[str, Any]]:
        # Part by part: what is held at a time is one part of a table, not the table.
        for path in paths:
            yield from tables.rows(path, columns, uids)

    return rows


def _guard(destination: Path, folders: Sequence[Path], *, overwrite: bool) -> Path:
    if destination.is_dir():
        raise UsageError(f"{destination} is a folder; -o wants the name of a picture, such as sheet.png")
    if not destination.parent.is_dir():
        raise NotFoundError(f"{destination.parent}: no such folder to write {destination.name} in")
    place = destination.resolve()
    for folder in folders:
        if place.is_relative_to(folder.resolve()):
            raise UsageError(f"{destination} lies inside the input {folder}; choose another place with -o")
    if destination.exists() and not overwrite:
        raise UsageError(f"{destination} exists; --overwrite replaces it")
    return destination


def _guard_sources(destination: Path, roots: Mapping[str, Any], sample: Mapping[str, Any]) -> None:
    from vlmsel.pictures import picture_path

    if not destination.exists() or sample["source"] not in roots:
        return
    for file in {None, *(image["file"] for image in sample["images"] or ())}:
        path = picture_path(roots[sample["source"]], sample["shard"], file)
        if path is not None and path.is_file() and destination.samefile(path):
            raise UsageError(f"{destination} is one of the indexed files; choose another place with -o")


def _commit(destination: Path, save: Callable[..., None], *, overwrite: bool) -> None:
    """Write beside the destination and rename: the old picture or the new one, never a part of one."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{destination.name}.", suffix=".partial", dir=destination.parent)
    except OSError as error:
        raise ResourceError(f"{destination.parent}: cannot write here ({error.strerror})") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            save(file, "PNG")
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(destination)
        else:
            # A link fails where a name exists, also one that has come into being since the guard looked.
            os.link(temporary, destination)
    except FileExistsError:
        raise UsageError(f"{destination} exists; --overwrite replaces it") from None
    except OSError as error:
        raise ResourceError(f"{destination}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)
