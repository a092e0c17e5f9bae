"""``vlmsel.index``: where every sample's bytes lie and what they hold."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from vlmsel import _core
from vlmsel.running import PathLike, RunOptions, Watch, call, data_of


@dataclass(frozen=True)
class Index:
    """A finished index folder and its counts: ``input == ok + quarantined``."""

    path: Path
    input: int
    ok: int
    quarantined: int
    reasons: dict[str, int]
    """Quarantined records by reason."""
    shards: int
    shards_read: int
    """Shards that this call read; the others were in the index already."""
    bytes: int
    damaged: list[str] = field(default_factory=list)
    """Files that could not be read to their end, and why."""
    already_finished: bool = False
    dry_run: bool = False


def index(
    sources: PathLike | Iterable[PathLike] = (),
    *,
    output: PathLike = "index",
    named_sources: dict[str, PathLike] | None = None,
    image_root: PathLike | None = None,
    id_column: str | None = None,
    watch: Watch | None = None,
    **run: Unpack[RunOptions],
) -> Index:
    """Index WebDataset tars (with img2dataset's Parquet files beside them) and LLaVA or caption JSON.

    ``sources`` are files, folders, patterns, braces or ``@list`` files; ``named_sources`` gives sources a name of one's
    own. A Parquet file of img2dataset in a folder of tars whose tar is not there counts as a file that cannot be read. ``image_root`` is the folder that image paths in JSON records are relative to (by default that of the JSON file).
    ``id_column`` names the JSON field (or img2dataset column) that holds an id of 32 hexadecimal characters; a field
    ``uid`` of that form is always kept.

    A second call with more shards reads only those. One part per shard; a killed run goes on where it was. ``run`` takes
    :class:`vlmsel.running.RunOptions`.

    Raises NotFoundError and UsageError for what cannot be asked, UnreadableError if more than ``max_bad_fraction`` of the
    records or more than ``allow_bad_files`` files cannot be used, StrictError at the first one under ``strict``,
    MismatchError if a shard of the finished index changed or is gone, LockedError, ResourceError.
    """
    request = {
        "data": data_of(sources, named_sources, image_root),
        "id_column": id_column,
        "output": os.fspath(output),
    }
    summary = call(_core.index, request, run, watch)
    summary.pop("output")  # Text; a path is bytes.
    return Index(path=Path(output), **summary)


@dataclass(frozen=True)
class TarMember:
    """One member of a tar; ``kind`` is ``file``, ``folder`` or the reason why it is no part of a data set."""

    name: str
    header_offset: int
    offset: int
    size_bytes: int
    kind: str


def tar_members(path: PathLike) -> tuple[list[TarMember], str, int]:
    """Members of a tar as the index sees them, how it ended, and where.

    It ended in ``end``, ``trailing_garbage``, or damage: ``truncated``, ``bad_checksum``, ``bad_number``,
    ``bad_extended_header``, ``second_archive``, ``not_a_tar``.
    """
    members, (ended, offset) = _core.tar_members(os.fspath(path))
    return [TarMember(*member) for member in members], ended, offset
