"""Output folders: committed part by part, published whole, verified byte by byte.

A stage written in Python uses :class:`Output` as the Rust stages do; ARCHITECTURE.md, "Output folders", has the contract.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from vlmsel import _core
from vlmsel.errors import MismatchError, NotFoundError
from vlmsel.files import check_folder, read_plain
from vlmsel.types import PathLike, ProgressCallback

# A manifest has a line for every file of an output; ten million shards fit.
_MAX_MANIFEST_BYTES = 4 << 30


class UnitOfWork(Protocol):
    """A unit as the manifest and other processes know it: `vlmsel.stage.Unit`."""

    @property
    def command(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> Sequence[str]: ...
    @property
    def range(self) -> tuple[int, int] | None: ...


def _unit(unit: UnitOfWork) -> dict[str, Any]:
    rows = None if unit.range is None else {"start": unit.range[0], "end": unit.range[1]}
    return {"command": unit.command, "name": unit.name, "inputs": list(unit.inputs), "range": rows}


class Output:
    """An output folder being written. A context manager; leaving it without :meth:`finish` keeps the committed parts.

    >>> with Output.begin("scores", command="score", config={}, inputs=[]) as output:  # doctest: +SKIP
    ...     path = output.temporary("a.parquet")
    ...     output.commit("a", ["a.parquet"], rows=10, counts={"ok": 10})
    ...     output.finish(counts={"ok": 10})
    """

    def __init__(self, inner: _core.Output) -> None:
        self._inner = inner

    @classmethod
    def begin(
        cls,
        path: PathLike,
        *,
        command: str,
        config: Mapping[str, Any],
        inputs: Sequence[Mapping[str, Any]],
        units: Sequence[UnitOfWork] = (),
        guarded: Sequence[PathLike] = (),
        overwrite: bool = False,
        extend: bool = False,
        resume: bool = True,
    ) -> Output:
        """Lock an output folder and find out what is left to do.

        Args:
            path: The folder.
            command: The command whose output it is.
            config: What decides the content, as JSON can say it.
            inputs: Records of :func:`fingerprint`.
            units: What is to be done; :meth:`left` says what is left of it. See :mod:`vlmsel.stage`.
            guarded: Paths that the output must not touch.
            overwrite: Replace an output of another configuration or other inputs.
            extend: More inputs than those of a finished output are added to it.
            resume: Go on with what an unfinished run left; without, it is begun anew.

        Raises:
            LockedError: Another run holds the folder.
            MismatchError: Another configuration was begun or finished there.
            UsageError: A foreign folder, or one that is, holds or lies inside a guarded path.
        """
        inner = _core.Output.begin(
            os.fspath(path),
            command,
            json.dumps(config),
            json.dumps(list(inputs)),
            json.dumps([_unit(unit) for unit in units]),
            [os.fspath(p) for p in guarded],
            overwrite,
            extend,
            resume,
        )
        return cls(inner)

    @property
    def finished(self) -> bool:
        """Whether the folder is complete: found so by :meth:`begin`, or made so by :meth:`finish`."""
        return self._inner.finished

    @property
    def path(self) -> Path:
        """The folder's final place."""
        return Path(os.fsdecode(self._inner.path))

    @property
    def staging(self) -> Path:
        """The folder that parts are written to."""
        return Path(os.fsdecode(self._inner.staging))

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of a finished folder."""
        text = self._inner.manifest()
        if text is None:
            raise MismatchError(f"{self.path} is not finished")
        manifest: dict[str, Any] = json.loads(text)
        return manifest

    def scratch(self) -> Path:
        """A folder for scratch files; it goes when the output is published."""
        return Path(os.fsdecode(self._inner.scratch()))

    def committed(self) -> dict[str, dict[str, Any]]:
        """The committed units and their part records."""
        parts: dict[str, dict[str, Any]] = json.loads(self._inner.committed())
        return parts

    def left(self) -> set[str]:
        """Names of the units that are left to do, of those that it was begun with."""
        return {unit["name"] for unit in json.loads(self._inner.left())}

    def temporary(self, name: str) -> Path:
        """Where to write the file that :meth:`commit` will name ``name`` (a relative path)."""
        return Path(os.fsdecode(self._inner.temporary(name)))

    def commit(
        self,
        unit: str,
        names: Sequence[str],
        *,
        rows: int,
        counts: Mapping[str, int] | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Commit a unit whose files lie at their :meth:`temporary` places: fsync, hash, rename, record.

        Args:
            unit: Its name, by which a resumed run knows it.
            names: Its files, below the output.
            rows: How many rows it has.
            counts: Rows by class.
            detail: What else its record in the manifest says.
        """
        self._inner.commit(unit, list(names), rows, json.dumps(dict(counts or {})), json.dumps(dict(detail or {})))

    def finish(
        self,
        *,
        counts: Mapping[str, int],
        roots: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        run: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write the manifest and put the folder in its place.

        Args:
            counts: Rows by class, ``input`` among them.
            roots: Where sources lie.
            provenance: What made the content, beyond the configuration.
            run: What differs from run to run; it goes to ``run.json``, outside the checksums.

        Returns:
            The manifest.
        """
        text = self._inner.finish(
            json.dumps(dict(counts)),
            json.dumps(dict(roots or {})),
            json.dumps(dict(provenance or {})),
            json.dumps(dict(run or {})),
        )
        manifest: dict[str, Any] = json.loads(text)
        return manifest

    def close(self) -> None:
        """Release the lock; committed parts stay for the next run."""
        self._inner.close()

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found: files and bytes re-read, and each problem in words."""

    command: str
    files: int
    bytes: int
    problems: list[str]


def verify(folder: PathLike, *, progress: ProgressCallback | None = None) -> Verification:
    """Re-read every byte of an output folder against its manifest.

    Args:
        folder: The folder.
        progress: Called with the files and bytes read so far.

    Returns:
        What was read, and each problem; damage is no error.

    Raises:
        NotFoundError: The folder is not there.
        MismatchError: vlmsel did not finish it.
    """
    return Verification(*_core.verify(os.fspath(folder), progress))


def fingerprint(path: PathLike, name: str | None = None) -> dict[str, Any]:
    """What an output notes of an input; a small part of it is read.

    Args:
        path: A file, or a finished output folder.
        name: What to call it; None: its file name.

    Returns:
        ``{"name", "bytes", "fingerprint"}``.
    """
    name, size_bytes, mark = _core.fingerprint(os.fspath(path), Path(path).name if name is None else name)
    return {"name": name, "bytes": size_bytes, "fingerprint": mark}


def read_manifest(folder: PathLike) -> dict[str, Any]:
    """The manifest of a finished output folder.

    Raises:
        NotFoundError: The folder is not there.
        MismatchError: vlmsel did not finish it.
        UsageError: What lies in the manifest's place is no plain file.
    """
    path = Path(folder)
    check_folder(path)
    place = path / "manifest.json"
    try:
        text = read_plain(place, _MAX_MANIFEST_BYTES)
    except NotFoundError:
        raise MismatchError(
            f"{path} has no manifest.json: vlmsel did not finish it; run the command that makes it"
        ) from None
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MismatchError(f"{place}: not a manifest that vlmsel wrote ({error})") from None
    if not isinstance(manifest, dict):
        raise MismatchError(f"{place}: not a manifest that vlmsel wrote (it is no JSON object)")
    return manifest


def part_files(folder: PathLike, manifest: Mapping[str, Any]) -> list[Path]:
    """The Parquet files of a finished output folder, in the order of its ``manifest``."""
    names = [file["file"] for part in manifest["parts"] for file in part["files"]]
    return [Path(folder) / name for name in names if name.endswith(".parquet")]


def exceeds(
    count: int, bad: int, files: int, *, max_bad_fraction: float = 0.001, allow_bad_files: int = 0, strict: bool = False
) -> str | None:
    """Whether ``bad`` of ``count`` records and so many bad files are more than is put up with: the policy of every command.

    Returns ``"any"`` (under ``strict`` nothing may be bad), ``"files"``, ``"records"``, or None where it is not too much.
    """
    return _core.exceeds(count, bad, files, max_bad_fraction, allow_bad_files, strict)


def accept_losses(
    folder: PathLike, *, max_bad_fraction: float = 0.001, allow_bad_files: int = 0, strict: bool = False
) -> None:
    """Refuse a folder whose run went without more of its input than is tolerated, for whoever reads it.

    Args:
        folder: A finished output folder.
        max_bad_fraction: Part of its records that it may have lost.
        allow_bad_files: Files that it may have gone without.
        strict: Refuse any loss.

    Raises:
        UnreadableError: It lost more; the message says what to accept it with.
        StrictError: It lost anything, under ``strict``.
    """
    if read_manifest(folder).get("losses"):
        _core.accept_losses(os.fspath(folder), max_bad_fraction, allow_bad_files, strict)
