"""Contact sheets: the best, the worst and those around the cut, because people look before they trust.

A sheet is a PNG of bands. Each cell shows a sample's picture, its score and its caption. Memory does not grow with the tables:
rows are found by streaming (`vlmsel.sheet_bands`), pictures decoded one at a time. The same tables, options and version of
Pillow give the same bytes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmsel import tables
from vlmsel.errors import NotFoundError, ResourceError, StrictError, UsageError
from vlmsel.files import IMPOSSIBLE_PATH_ERRNOS, explain, kind_of, real_place, shortened
from vlmsel.outputs import PathLike, read_manifest
from vlmsel.sheet_bands import Band, Reading, Watch, choose_bands, part_files, uid_bytes
from vlmsel.sheet_layout import Layout

_INDEX_COLUMNS = ["uid", "source", "shard", "images", "text", "conversations"]


@dataclass(frozen=True, slots=True)
class Sheet:
    """What was drawn: the picture's place and size, its bands, the uids that could not be shown, and what to tell the user."""

    path: Path
    width_px: int
    height_px: int
    bands: tuple[Band, ...]
    bad_pictures: dict[str, str]
    notes: tuple[str, ...]


def sheet(
    target: PathLike,
    output: PathLike = "sheet.png",
    *,
    index: PathLike = "index",
    scores: PathLike | None = None,
    layout: Layout | None = None,
    seed: int = 0,
    font: str | None = None,
    threads: int = 0,
    memory_limit: int = 0,
    overwrite: bool = False,
    strict: bool = False,
    watch: Watch | None = None,
) -> Sheet:
    """Draw the contact sheet of `target`, a finished selection or scores folder, to the PNG `output`.

    A selection is shown with its best, a random draw (`seed`) and its last; where `scores` is given, also with those that it
    just left out and the worst. Scores alone are shown with the best, a draw, the middle and the worst.

    `memory_limit` in bytes (0: none) is for what the sheet holds beside the program itself: threads that read tables, the
    picture that is being decoded, the sheet. What needs more is a ResourceError: a limit never changes what is shown.
    `watch(rows, ...)` is called while tables are read.

    Raises NotFoundError for a missing folder, MismatchError for an unfinished one, UsageError for an `output` that exists
    (unless `overwrite`), lies inside an input or is a link, a pipe or the like, ResourceError where it cannot be written. A picture that cannot be shown is a
    marked cell; under `strict` it is a StrictError and nothing is written.
    """
    from vlmsel import sheet_drawing

    layout = layout or Layout()
    folders = [Path(folder) for folder in (target, index, scores) if folder is not None]
    destination = _guard(Path(output), folders, overwrite=overwrite)
    target_manifest, index_manifest = read_manifest(target), read_manifest(index)
    lettering = sheet_drawing.letterings(layout, font)
    if font is not None and destination.exists() and destination.samefile(font):
        raise UsageError(f"{output} is the font; choose another place with -o")
    reading = Reading(layout.cells, seed, threads, memory_limit, watch)
    bands, notes = choose_bands(target, target_manifest, scores, reading)
    uids = {uid for band in bands for entry in band.entries if (uid := uid_bytes(entry.uid)) is not None}
    index_files = part_files(index, index_manifest)
    samples = {row["uid"]: row for row in tables.rows(index_files, _INDEX_COLUMNS, uids=uids)} if index_files else {}
    for sample in samples.values():
        _guard_sources(destination, index_manifest["roots"], sample)
    drawing = sheet_drawing.draw(bands, samples, index_manifest["roots"], layout, lettering, memory_limit)
    if strict and drawing.bad_pictures:
        first, reason = next(iter(drawing.bad_pictures.items()))
        raise StrictError(f"{first}: {reason}; without --strict it would be a marked cell")
    if any(face.escaped for face in lettering):
        notes.append("characters that the font lacks are shown as \\u{...}; --font FILE takes another font")
    _commit(destination, drawing.image.save, overwrite=overwrite)
    return Sheet(place_to_report(output), *drawing.image.size, tuple(bands), drawing.bad_pictures, tuple(notes))


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


def place_to_report(output: PathLike) -> Path:
    """The picture's path as the user gave it, unless it goes back by ``..``: that may lead nowhere but for us."""
    path = Path(output)
    return real_place(path.parent) / path.name if ".." in path.parts else path


def _guard(output: Path, folders: Sequence[Path], *, overwrite: bool) -> Path:
    """The place to write to, its folder resolved: what is checked here is what is written to, whatever links are on the way."""
    parent, name = os.path.split(os.fspath(output))
    if name in ("", ".", ".."):
        raise UsageError(f"{output} is a folder; -o wants the name of a picture, such as sheet.png")
    destination = real_place(parent) / name
    kind = _kind_at(destination, output)
    if kind == "a folder":
        raise UsageError(f"{output} is a folder; -o wants the name of a picture, such as sheet.png")
    if kind not in (None, "a plain file"):
        raise UsageError(f"{shortened(output)} is {kind}; -o wants the name of a new picture, such as sheet.png")
    if not destination.parent.is_dir():
        raise NotFoundError(f"{destination.parent}: no such folder to write {name} in")
    for folder in folders:
        if destination.is_relative_to(real_place(folder)):
            raise UsageError(f"{output} lies inside the input {folder}; choose another place with -o")
    if kind and not overwrite:
        raise UsageError(f"{output} exists; --overwrite replaces it")
    return destination


def _kind_at(destination: Path, output: Path) -> str | None:
    """What lies at the picture's place, a link not followed; None for nothing."""
    try:
        return kind_of(destination.lstat().st_mode)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explain(error, output) from error


def _guard_sources(destination: Path, roots: Mapping[str, Any], sample: Mapping[str, Any]) -> None:
    from vlmsel.images import ImageError, image_path

    if not destination.exists() or sample["source"] not in roots:
        return
    for file in {None, *(image["file"] for image in sample["images"] or ())}:
        try:
            path = image_path(roots[sample["source"]], sample["shard"], file)
        except ImageError:
            continue  # Nothing is read there, and the sheet's own path is no such.
        if path.is_file() and destination.samefile(path):
            raise UsageError(f"{destination} is one of the indexed files; choose another place with -o")


def _commit(destination: Path, save: Callable[..., None], *, overwrite: bool) -> None:
    """Write beside the destination and rename: the old picture or the new one, never a part of one."""
    try:
        # A random name, opened only if it is new; short, because the picture's own may be as long as names can be.
        handle, name = tempfile.mkstemp(prefix=".vlmsel-sheet-", suffix=".partial", dir=destination.parent)
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
        if error.errno in IMPOSSIBLE_PATH_ERRNOS:
            raise explain(error, destination) from error
        raise ResourceError(f"{destination}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)
