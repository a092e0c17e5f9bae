"""``vlmsel.index``: where every sample's bytes lie and what they hold."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vlmsel import _core
from vlmsel._requests import call, data_of, read_of
from vlmsel.files import path_below
from vlmsel.findings import Finding, Skipped
from vlmsel.types import KeyUntil, PathLike, ProgressCallback


@dataclass(frozen=True)
class ImageCodes:
    """Perceptual codes of the images of an index, in a folder beside it: ``images == ok + sum(reasons.values())``."""

    path: Path
    images: int
    ok: int
    reasons: dict[str, int]
    """Images without codes, by reason."""
    parts: int
    already_done: bool = False
    """Whether they were there; nothing was touched then."""
    dry_run: bool = False


@dataclass(frozen=True)
class Index:
    """A finished index folder and its counts: ``input == ok + quarantined``."""

    path: Path
    input: int
    ok: int
    quarantined: int
    reasons: dict[str, int]
    """Quarantined records by reason."""
    unsupported: int
    """Records indexed whose picture or other medium is of a kind that is not read; they count as bad."""
    classes: dict[str, dict[str, int]]
    """Samples by source and class: unsupported, conversation, multi-image, pair, text-only, image-only."""
    notes: dict[str, Finding]
    """What to know of the data although it can be read, by kind."""
    skipped: Skipped
    """Files in the folders that look like data and are not read."""
    shards: int
    shards_read: int
    """Shards that this call read; the others were in the index already."""
    bytes: int
    damaged: list[str] = field(default_factory=list)
    """Files that could not be read to their end, and why."""
    already_done: bool = False
    """Whether it was there, of the same shards and options; nothing was touched then."""
    dry_run: bool = False
    image_codes: ImageCodes | None = None
    """Codes of the images, where they were asked for."""


def index(
    sources: PathLike | Iterable[PathLike] = (),
    *,
    output: PathLike = "index",
    named_sources: Mapping[str, PathLike] | None = None,
    image_root: PathLike | None = None,
    id_column: str | None = None,
    caption_column: str | None = None,
    key_until: KeyUntil = "first-dot",
    image_codes: bool = False,
    threads: int | None = None,
    memory_limit: int | None = None,
    strict: bool = False,
    max_bad_fraction: float = 0.001,
    allow_bad_files: int = 0,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> Index:
    """Index WebDataset tars (with img2dataset's Parquet files beside them), JSON of many forms, and Parquet with images in it.

    A second call with more shards reads only those. One part per shard; a killed run goes on where it was. A Parquet file of
    img2dataset in a folder of tars whose tar is not there counts as a file that cannot be read.

    Args:
        sources: Files, folders, patterns, braces or ``@list`` files.
        output: The index folder to write.
        named_sources: Sources with names of one's own.
        image_root: The folder that image paths in JSON records are relative to; None: that of the JSON file.
        id_column: JSON field (or column of a table) with ids of 128 bits: 32 hexadecimal characters, or a UUID. A field ``uid``
            of that form is always kept.
        caption_column: Column of Parquet tables that holds the captions; None: ``caption``, else ``text``.
        key_until: The dot of a tar member's name that its key ends at: WebDataset's ``first-dot``, or ``last-dot``.
        image_codes: Also decode the images and leave two perceptual codes of each (those of Python's ``imagehash``: ``phash`` and
            ``dhash``) in ``codes/`` beside the index (``NAME-codes/`` beside an index that is not called ``index``).
        threads: Threads to use; None: one per core.
        memory_limit: Bytes to stay under; None: no limit.
        strict: End at the first bad record or file.
        max_bad_fraction: Part of the records that may be unreadable.
        allow_bad_files: Files that may be unreadable.
        overwrite: Replace an index that was made with other options.
        dry_run: Check everything and count, write nothing.
        progress: Called with the records and bytes read so far.

    Returns:
        The index and its counts.

    Raises:
        NotFoundError, UsageError: What cannot be asked.
        UnreadableError: More of the records or files cannot be used than is tolerated; or, with ``image_codes``, more of the
            images cannot be decoded.
        StrictError: The first of them, under ``strict``.
        MismatchError: A shard of the finished index changed or is gone.
        LockedError: Another process writes the index.
        ResourceError: Disk or memory ran out.
    """
    request = {
        "data": data_of(sources, named_sources, image_root),
        "read": read_of(id_column, caption_column, key_until),
        "output": os.fspath(output),
        "image_codes": image_codes,
    }
    summary = call(
        _core.index,
        request,
        {
            "threads": threads,
            "memory_limit": memory_limit,
            "strict": strict,
            "max_bad_fraction": max_bad_fraction,
            "allow_bad_files": allow_bad_files,
            "overwrite": overwrite,
            "dry_run": dry_run,
        },
        progress,
    )
    notes = {kind: Finding(**note) for kind, note in summary.pop("notes").items()}
    codes = summary.pop("image_codes")
    if codes is not None:
        codes = ImageCodes(
            path=path_below("", codes.pop("output")), already_done=codes.pop("already_finished"), **codes
        )
    skipped = Skipped(**summary.pop("skipped"))
    return Index(path=Path(output), notes=notes, skipped=skipped, image_codes=codes, **summary)


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
