"""What index, shard and doctor share: how a run may behave, and how its options reach the extension module."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any, TypedDict

PathLike = str | os.PathLike[str]
#: ``watch(records, records_total, bytes, bytes_total)``; a total of 0 is unknown.
Watch = Callable[[int, int, int, int], None]


class RunOptions(TypedDict, total=False):
    """Keyword arguments of every function over shards; none of them decides what the output holds."""

    threads: int | None
    """None: as many as the machine has cores."""
    memory_limit: int | None
    """Bytes to stay under; None: no limit."""
    strict: bool
    """End at the first bad record or file."""
    max_bad_fraction: float
    """Quarantined records over input records, 0.001 unless given."""
    allow_bad_files: int
    """Files that may be unreadable, 0 unless given."""
    overwrite: bool
    """Replace a finished output of other inputs or options."""
    dry_run: bool
    """Check everything and count, write nothing."""


def call(
    function: Callable[[str, Watch | None], str], request: dict[str, Any], run: RunOptions, watch: Watch | None
) -> dict[str, Any]:
    """Ask the extension module; options and answer are JSON. Raises TypeError for an option that no run has."""
    unknown = run.keys() - RunOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"unexpected keyword argument(s): {', '.join(sorted(unknown))}")
    # The extension module's own defaults stand for what is not given.
    given = {name: value for name, value in run.items() if value is not None}
    answer: dict[str, Any] = json.loads(function(json.dumps({**request, "run": given}), watch))
    return answer


def data_of(
    sources: PathLike | Iterable[PathLike], named: dict[str, PathLike] | None, image_root: PathLike | None
) -> dict[str, Any]:
    """Which data to read, as the extension module takes it."""
    paths = [sources] if isinstance(sources, str | os.PathLike) else sources
    return {
        "sources": [os.fspath(path) for path in paths],
        "named": named_words(named),
        "image_root": path_of(image_root),
    }


def named_words(sources: dict[str, PathLike] | None) -> list[str]:
    """``{"laion": "/data/laion"}`` as ``NAME=PATH`` words."""
    return [f"{name}={os.fspath(path)}" for name, path in (sources or {}).items()]


def path_of(path: PathLike | None) -> str | None:
    """A path as text, or None."""
    return None if path is None else os.fspath(path)
