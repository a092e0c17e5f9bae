"""How the options of index, shard and doctor reach the extension module: as JSON, and so does its answer come back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

from vlmsel.types import KeyUntil, PathLike, ProgressCallback


class RunOptions(TypedDict, total=False):
    """How a run may behave; none of it decides what the output holds. What is None or left out is the extension module's default."""

    threads: int | None
    memory_limit: int | None
    strict: bool
    max_bad_fraction: float
    allow_bad_files: int
    overwrite: bool
    dry_run: bool


def call(
    function: Callable[[str, ProgressCallback | None], str],
    request: Mapping[str, Any],
    run: RunOptions,
    progress: ProgressCallback | None,
) -> dict[str, Any]:
    """The answer of one of the extension module's functions, without the output's place: that is text, and a path is bytes."""
    given = {name: value for name, value in run.items() if value is not None}
    answer: dict[str, Any] = json.loads(function(json.dumps({**request, "run": given}), progress))
    answer.pop("output", None)
    if "already_finished" in answer:
        answer["already_done"] = answer.pop("already_finished")
    return answer


def data_of(
    sources: PathLike | Iterable[PathLike], named: Mapping[str, PathLike] | None, image_root: PathLike | None
) -> dict[str, Any]:
    """Which data to read, as the extension module takes it."""
    paths = [sources] if isinstance(sources, str | os.PathLike) else sources
    return {
        "sources": [os.fspath(path) for path in paths],
        "named": named_words(named),
        "image_root": path_of(image_root),
    }


def read_of(id_column: str | None, caption_column: str | None, key_until: KeyUntil) -> dict[str, Any]:
    """How to read data, as the extension module takes it."""
    return {"id_column": id_column, "caption_column": caption_column, "key_until": key_until}


def named_words(sources: Mapping[str, PathLike] | None) -> list[str]:
    """``{"laion": "/data/laion"}`` as ``NAME=PATH`` words."""
    return [f"{name}={os.fspath(path)}" for name, path in (sources or {}).items()]


def path_of(path: PathLike | None) -> str | None:
    """A path as text, or None."""
    return None if path is None else os.fspath(path)
