"""Where a contact sheet is written to: checked before anything is read, and written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vlmsel._sheet.cells import Sample
from vlmsel.errors import NotFoundError, ResourceError, UsageError
from vlmsel.files import IMPOSSIBLE_PATH_ERRNOS, explain, kind_of, real_place, shortened
from vlmsel.images import ImageError, image_path
from vlmsel.types import PathLike


def place_to_report(output: PathLike) -> Path:
    """The picture's path as the user gave it, unless it goes back by ``..``: that may lead nowhere but for us."""
    path = Path(output)
    return real_place(path.parent) / path.name if ".." in path.parts else path


def guard(output: Path, folders: Sequence[Path], *, overwrite: bool) -> Path:
    """The place to write to, its folder resolved: what is checked here is what is written to, whatever links are on the way.

    Raises UsageError for what is there already (a plain file is let pass under `overwrite`), lies in one of `folders` or cannot
    be, and NotFoundError where its folder is not there.
    """
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


def guard_sources(destination: Path, samples: Iterable[Sample | None]) -> None:
    """Raises UsageError where `destination` is a file that a sample on the sheet comes from, under whatever name."""
    if not destination.exists():
        return
    for sample in samples:
        if sample is None or sample.root is None:
            continue
        for file in {None, *(image["file"] for image in sample.images)}:
            try:
                path = image_path(sample.root, sample.shard, file)
            except ImageError:
                continue  # Nothing is read there, and the sheet's own path is no such.
            if path.is_file() and destination.samefile(path):
                raise UsageError(f"{destination} is one of the indexed files; choose another place with -o")


def commit(destination: Path, save: Callable[..., None], *, overwrite: bool) -> None:
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
