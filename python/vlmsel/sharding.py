"""``vlmsel.shard``: the selected samples as new tars."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmsel import _core
from vlmsel.indexing import PathLike, Watch, named, run_options


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
    threads: int | None = None,
    memory_limit: int | None = None,
    strict: bool = False,
    max_bad_fraction: float = 0.001,
    allow_bad_files: int = 0,
    overwrite: bool = False,
    dry_run: bool = False,
    watch: Watch | None = None,
) -> Shards:
    """Write the selected samples as WebDataset tars of ``samples_per_shard``, in the order of their ids or shuffled.

    ``selection`` is a selection folder, a DataComp subset file (``.npy`` of dtype ``u8,u8``, repeats meaning repeats) or a
    text file with one id of 32 hexadecimal characters a line. A sample's key in the new tars is its id; image bytes, text
    and metadata are those of the original, checked against the index on their way. Beside the tars lie
    ``NNNNNNNN_stats.json``, ``sizes.json``, ``meta.json`` and ``sample_ids.npy`` as DataComp's resharder leaves them.
    ``named_sources`` and ``image_root`` say where data lies now if it moved since it was indexed.

    Raises NotFoundError and UsageError for what cannot be asked, UnreadableError if more than ``max_bad_fraction`` of the
    ids are not in the index, ResourceError before anything is written if the disk cannot hold it, MismatchError if the
    data changed since it was indexed, LockedError.
    """
    options = {
        "selection": os.fspath(selection),
        "index": os.fspath(index),
        "output": os.fspath(output),
        "samples_per_shard": samples_per_shard,
        "shuffle": shuffle,
        "named_sources": named(named_sources),
        "image_root": None if image_root is None else os.fspath(image_root),
        "run": run_options(
            threads=threads,
            memory_limit=memory_limit,
            strict=strict,
            max_bad_fraction=max_bad_fraction,
            allow_bad_files=allow_bad_files,
            overwrite=overwrite,
            dry_run=dry_run,
        ),
    }
    summary: dict[str, Any] = json.loads(_core.shard(json.dumps(options), watch))
    return Shards(path=Path(summary.pop("output")), **summary)
