"""``vlmsel.doctor``: what is wrong with a data set, before anyone pays for GPUs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vlmsel import _core
from vlmsel.indexing import PathLike, Watch, named, paths_of, run_options


@dataclass(frozen=True)
class Finding:
    """One kind of trouble: how often, and where for the first few."""

    count: int
    examples: list[str]


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`doctor` found."""

    files: int
    bytes: int
    records: int
    images: int
    texts: int
    findings: dict[str, Finding]
    repeats_sampled: int
    """Repeats were looked for among one in so many distinct pictures; 1 means all."""
    healthy: bool


def doctor(
    sources: PathLike | Iterable[PathLike] = (),
    *,
    named_sources: dict[str, PathLike] | None = None,
    image_root: PathLike | None = None,
    threads: int | None = None,
    memory_limit: int | None = None,
    dry_run: bool = False,
    watch: Watch | None = None,
) -> Diagnosis:
    """Read every byte of the sources and count what is wrong, with examples; nothing is written.

    Kinds, among others: ``row_without_member``, ``repeated_key`` (a key that comes back: its members are not adjacent),
    ``truncated_tar``, ``bad_checksum``, ``empty_image``, ``truncated_image``, ``tiny_image``, ``empty_caption``,
    ``one_image_many_captions``, ``repeated_pair``. Images are checked for completeness, not decoded.

    Raises NotFoundError and UsageError; damage in the data is a finding, not an error.
    """
    options = {
        "sources": paths_of(sources),
        "named_sources": named(named_sources),
        "image_root": None if image_root is None else os.fspath(image_root),
        "run": run_options(
            threads=threads,
            memory_limit=memory_limit,
            strict=False,
            max_bad_fraction=1.0,
            allow_bad_files=0,
            dry_run=dry_run,
        ),
    }
    found: dict[str, Any] = json.loads(_core.doctor(json.dumps(options), watch))
    findings = {kind: Finding(**finding) for kind, finding in found.pop("findings").items()}
    return Diagnosis(findings=findings, **found)
