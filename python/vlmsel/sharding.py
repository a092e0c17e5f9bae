"""``vlmsel.shard``: the selected samples as new tars."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from vlmsel import _core
from vlmsel.running import PathLike, RunOptions, Watch, call, named_words, path_of


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
    already_finished: bool = False
    dry_run: bool = False


def shard(
    selection: PathLike = "selection",
    *,
    index: PathLike = "index",
    output: PathLike = "shards",
    samples_per_shard: int = 10_000,
    shuffle: int | None = None,
    named_sources: dict[str, PathLike] | None = None,
    image_root: PathLike | None = None,
    watch: Watch | None = None,
    **run: Unpack[RunOptions],
) -> Shards:
    """Write the selected samples as WebDataset tars of ``samples_per_shard``, in the order of their ids or shuffled.

    ``selection`` is a selection folder, a DataComp subset file (``.npy`` of dtype ``u8,u8``, repeats meaning repeats) or a
    text file with one id of 32 hexadecimal characters a line. A sample's key in the new tars is its id; image bytes, text
    and metadata are those of the original, checked against the index on their way. Beside the tars lie
    ``NNNNNNNN_stats.json``, ``sizes.json``, ``meta.json`` and ``sample_ids.npy`` as DataComp's resharder leaves them.
    ``named_sources`` and ``image_root`` say where data lies now if it moved since it was indexed. ``run`` takes
    :class:`vlmsel.running.RunOptions`.

    Raises NotFoundError and UsageError for what cannot be asked, UnreadableError if more than ``max_bad_fraction`` of the
    ids are not in the index, ResourceError before anything is written if the disk cannot hold it, MismatchError if the
    data changed since it was indexed, LockedError.
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
    summary = call(_core.shard, request, run, watch)
    summary.pop("output")  # Text; a path is bytes.
    return Shards(path=Path(output), **summary)
