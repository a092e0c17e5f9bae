"""``vlmsel.shard``: the selected samples as new tars."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlmsel import _core
from vlmsel._requests import call, named_words, path_of
from vlmsel.types import PathLike, ProgressCallback


@dataclass(frozen=True)
class Shards:
    """A finished folder of tars and its counts: ``input == written + quarantined``."""

    path: Path
    input: int
    """Ids in the selection, repeats included."""
    written: int
    quarantined: int
    """Ids that the index does not have."""
    shards: int
    shards_written: int
    """Tars that this call wrote; the others were there already."""
    bytes: int
    already_done: bool = False
    """Whether they were there, of the same selection and options; nothing was touched then."""
    dry_run: bool = False


def shard(
    selection: PathLike = "selection",
    *,
    index: PathLike = "index",
    output: PathLike = "shards",
    samples_per_shard: int = 10_000,
    shuffle: int | None = None,
    named_sources: Mapping[str, PathLike] | None = None,
    image_root: PathLike | None = None,
    threads: int | None = None,
    memory_limit: int | None = None,
    strict: bool = False,
    max_bad_fraction: float = 0.001,
    allow_bad_files: int = 0,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> Shards:
    """Write the selected samples as WebDataset tars.

    A sample's key in the new tars is its id; image bytes, text and metadata are those of the original, checked against the
    index on their way. Beside the tars lie ``NNNNNNNN_stats.json``, ``sizes.json``, ``meta.json`` and ``sample_ids.npy`` as
    DataComp's resharder leaves them.

    Args:
        selection: A selection folder, a DataComp subset file (``.npy`` of dtype ``u8,u8``, repeats meaning repeats), a Parquet
            table with a column ``uid``, or a text file of one id a line. Ids of 128 bits may be spelled in any way; where none
            has 128 bits, they are keys of the index, each of which must name one sample.
        index: The index that says where the samples lie.
        output: The folder of tars to write.
        samples_per_shard: Samples in each tar but the last.
        shuffle: Seed of the order; None: in the order of ids.
        named_sources: Where sources lie now, by name, if they moved since they were indexed.
        image_root: Where the images of JSON records lie now, if they moved.
        threads: Threads to use; None: one per core.
        memory_limit: Bytes to stay under; None: no limit.
        strict: End at the first id that the index does not have.
        max_bad_fraction: Part of the ids that may be missing from the index.
        allow_bad_files: Files that the index may have gone without.
        overwrite: Replace shards that were made of other inputs or options.
        dry_run: Check everything and count, write nothing.
        progress: Called with the samples and bytes written so far.

    Returns:
        The folder and its counts.

    Raises:
        NotFoundError, UsageError: What cannot be asked.
        UnreadableError: More is missing than is tolerated.
        StrictError: The first that is missing, under ``strict``.
        MismatchError: The data changed since it was indexed.
        LockedError: Another process writes the shards.
        ResourceError: The disk cannot hold them, found out before anything is written; or memory ran out.
    """
    request = {
        "selection": os.fspath(selection),
        "index": os.fspath(index),
        "output": os.fspath(output),
        "samples_per_shard": samples_per_shard,
        "shuffle": shuffle,
        "named_sources": named_words(named_sources),
        "image_root": path_of(image_root),
    }
    summary = call(
        _core.shard,
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
    return Shards(path=Path(output), **summary)
