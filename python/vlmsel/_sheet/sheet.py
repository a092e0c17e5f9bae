"""Contact sheets: the best, the worst and those around the cut, or what dedup drops, because people look before they trust.

A sheet is a PNG of bands. Each cell shows a sample's picture, its score and its caption. Memory does not grow with the tables:
rows are found by streaming, pictures decoded one at a time. The same tables, options and version of Pillow give the same bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmsel._sheet import destination as places
from vlmsel._sheet.bands import Reading
from vlmsel._sheet.cells import Band, ClusterBand, all_cells
from vlmsel._sheet.contents import moved_roots, read_contents
from vlmsel._sheet.dedup_bands import KEEP_BITS, edges_folder, kind_of_unit, kinds_of
from vlmsel._sheet.layout import Layout
from vlmsel.errors import StrictError, UsageError
from vlmsel.outputs import accept_losses, read_manifest
from vlmsel.types import PathLike, ProgressCallback

_MISSING = os.strerror(errno.ENOENT)


@dataclass(frozen=True, slots=True)
class Sheet:
    """What was drawn: the picture's place and size, and what it shows."""

    path: Path
    width_px: int
    height_px: int
    bands: tuple[Band | ClusterBand, ...]
    bad_pictures: dict[str, str]
    """Why a picture cannot be shown, by the sample's id in hexadecimal."""
    notes: tuple[str, ...]
    """What the user should know, in words."""


def sheet(
    target: PathLike = "selection",
    *,
    output: PathLike = "sheet.png",
    index: PathLike = "index",
    scores: PathLike | None = None,
    rows: int = 2,
    columns: int = 8,
    cell_px: int = 128,
    caption_lines: int = 3,
    seed: int = 0,
    font: PathLike | None = None,
    named_sources: Mapping[str, PathLike] | None = None,
    image_root: PathLike | None = None,
    threads: int | None = None,
    memory_limit: int | None = None,
    strict: bool = False,
    max_bad_fraction: float = 0.001,
    allow_bad_files: int = 0,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Sheet:
    """Draw the contact sheet of a selection, of scores or of a dedup, a PNG.

    A selection is shown with its best, a random draw and its last; where ``scores`` is given, also with those that it just
    left out and the worst. Scores alone are shown with the best, a draw, the middle and the worst. A dedup is shown, for each
    kind of copy, with the samples that go at the greatest distance from what stays for them, and with pairs just beyond the
    threshold, and at the end with the largest groups.

    Args:
        target: A finished folder of ``select``, ``score`` or ``dedup``; beside the latter lie its edges.
        output: The PNG to write, in a folder that is there and outside the inputs.
        index: The index that says where the pictures lie.
        scores: Beside a selection, the scores it was chosen from.
        rows: Rows of cells in each band, from 1 to 100.
        columns: Cells in a row, from 1 to 100; a pair of copies takes two, a group four.
        cell_px: Side of a picture on the sheet, from 32 to 1024 pixels.
        caption_lines: Lines of caption under each picture; copies get three more.
        seed: Seed of the random draw.
        font: TrueType or OpenType file for captions; the default is the face that Pillow carries.
        named_sources: Where sources lie now, by name, if they moved since they were indexed.
        image_root: Where the images of JSON records lie now, if they moved.
        threads: Threads that read tables; None: one per core.
        memory_limit: Bytes for what the sheet holds beside the program itself: threads that read tables, the picture that is
            being decoded, the sheet; None: no limit. A limit never changes what is shown: what needs more is an error.
        strict: End at the first picture that cannot be shown, and refuse folders that lost any record.
        max_bad_fraction: Part of its records that a folder may have lost.
        allow_bad_files: Files that a folder may have gone without.
        overwrite: Replace a picture that is there.
        progress: Called with the rows read so far, while tables are read.

    Returns:
        What was drawn. A picture that cannot be shown is a marked cell, and listed.

    Raises:
        NotFoundError: A folder or the font is not there.
        MismatchError: A folder is unfinished.
        UsageError: ``output`` is there already, lies inside an input, or is a link, a pipe or the like; a number is out of range.
        UnreadableError: A folder lost more than is tolerated, or a table cannot be read.
        StrictError: Under ``strict``, a picture that cannot be shown, or a loss; nothing is written.
        ResourceError: The memory limit is too low, or the picture cannot be written.
    """
    from vlmsel._sheet import drawing

    folders = _folders(target, index, scores)
    _accept_losses(folders, strict=strict, max_bad_fraction=max_bad_fraction, allow_bad_files=allow_bad_files)
    layout = Layout(rows, columns, cell_px, caption_lines)
    destination = places.guard(Path(output), [*folders, *_edges_of(target)], overwrite=overwrite)
    target_manifest, index_manifest = read_manifest(target), read_manifest(index)
    lettering = drawing.letterings(layout, None if font is None else os.fspath(font))
    if font is not None and destination.exists() and destination.samefile(font):
        raise UsageError(f"{output} is the font; choose another place with -o")
    reading = Reading(layout.cells, seed, threads or 0, memory_limit or 0, progress)
    roots = moved_roots(index_manifest["roots"], named_sources or {}, image_root)
    contents = read_contents(target, target_manifest, index, index_manifest, scores, reading, roots)
    places.guard_sources(destination, (cell.sample for cell in all_cells(contents.bands)))
    drawn = drawing.draw(contents.bands, layout, lettering, memory_limit or 0)
    if strict and drawn.bad_pictures:
        first, reason = next(iter(drawn.bad_pictures.items()))
        raise StrictError(f"{first}: {reason}; without --strict it would be a marked cell")
    notes = contents.notes + _notes_on_pictures(drawn.bad_pictures)
    if any(face.escaped for face in lettering):
        notes += ("characters that the font lacks are shown as \\u{...}; --font FILE takes another font",)
    places.commit(destination, drawn.image.save, overwrite=overwrite)
    width_px, height_px = drawn.image.size
    return Sheet(places.place_to_report(output), width_px, height_px, contents.bands, drawn.bad_pictures, notes)


def plan_sheet(
    target: PathLike = "selection",
    *,
    output: PathLike = "sheet.png",
    index: PathLike = "index",
    scores: PathLike | None = None,
    rows: int = 2,
    columns: int = 8,
    cell_px: int = 128,
    named_sources: Mapping[str, PathLike] | None = None,
    image_root: PathLike | None = None,
    strict: bool = False,
    max_bad_fraction: float = 0.001,
    allow_bad_files: int = 0,
    overwrite: bool = False,
) -> dict[str, int]:
    """What :func:`sheet` would read and draw, from manifests alone.

    Args:
        target: As for :func:`sheet`, like all others.
        output: The PNG to write.
        index: The index that says where the pictures lie.
        scores: Beside a selection, the scores it was chosen from.
        rows: Rows of cells in each band.
        columns: Cells in a row.
        cell_px: Side of a picture on the sheet, in pixels.
        named_sources: Where sources lie now, by name.
        image_root: Where the images of JSON records lie now.
        strict: Refuse folders that lost any record.
        max_bad_fraction: Part of its records that a folder may have lost.
        allow_bad_files: Files that a folder may have gone without.
        overwrite: Replace a picture that is there.

    Returns:
        ``rows_read``, ``index_rows``, ``bands``, and ``cells`` at most.

    Raises:
        VlmselError: What :func:`sheet` raises before it reads a table.
    """
    folders = _folders(target, index, scores)
    _accept_losses(folders, strict=strict, max_bad_fraction=max_bad_fraction, allow_bad_files=allow_bad_files)
    layout = Layout(rows, columns, cell_px)
    places.guard(Path(output), [*folders, *_edges_of(target)], overwrite=overwrite)
    manifest, index_manifest = read_manifest(target), read_manifest(index)
    moved_roots(index_manifest["roots"], named_sources or {}, image_root)
    if manifest["command"] == "dedup":
        return _plan_dedup(manifest, index_manifest, layout)
    is_selection = manifest["command"] == "select"
    # Scores alone are read twice: once for their ends, once around the middle that the first reading finds.
    passes = [manifest] if is_selection else [manifest, manifest]
    if is_selection and scores is not None:
        passes.append(read_manifest(scores))
    n_bands = 4 if scores is not None or not is_selection else 3
    return {
        "rows_read": sum(part["rows"] for read in passes for part in read["parts"]),
        "index_rows": sum(part["rows"] for part in index_manifest["parts"]),
        "bands": n_bands,
        "cells": n_bands * layout.cells,
    }


def _plan_dedup(manifest: Mapping[str, Any], index_manifest: Mapping[str, Any], layout: Layout) -> dict[str, int]:
    kinds = kinds_of(manifest)
    n_read = sum(manifest["counts"].get(f"dropped.{kind}", 0) > 0 for kind in kinds)
    n_near = sum(kind_of_unit(unit).startswith("near-") for unit in manifest["config"]["kinds"])
    n_bands = len(kinds) + n_near + 1
    return {
        "rows_read": n_read * sum(part["rows"] for part in manifest["parts"]),
        "index_rows": sum(part["rows"] for part in index_manifest["parts"]),
        "bands": n_bands,
        "cells": n_bands * layout.cells,
    }


def _notes_on_pictures(bad_pictures: Mapping[str, str]) -> tuple[str, ...]:
    n_missing = sum(reason == _MISSING for reason in bad_pictures.values())
    if not n_missing:
        return ()
    note = (
        f"{n_missing:,} of the pictures are not where the index says; if their source moved, say where it lies now with "
        "--source NAME=PATH, or --image-root DIR for the images of JSON records"
    )
    return (note,)


def _folders(*paths: PathLike | None) -> list[Path]:
    return [Path(path) for path in paths if path is not None]


def _edges_of(target: PathLike) -> list[Path]:
    """The folder beside a dedup, into which no sheet is written either."""
    return [edges_folder(target)] if (Path(target) / KEEP_BITS).is_file() else []


def _accept_losses(folders: Iterable[Path], *, strict: bool, max_bad_fraction: float, allow_bad_files: int) -> None:
    for folder in folders:
        if folder.is_dir():  # What is not there is found out below, in the order of the guards.
            accept_losses(folder, max_bad_fraction=max_bad_fraction, allow_bad_files=allow_bad_files, strict=strict)
