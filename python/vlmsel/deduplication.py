"""``vlmsel.dedup``: which samples are copies of which, and which of them is kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vlmsel import _core
from vlmsel._requests import call, named_words, path_of
from vlmsel._select_request import Number
from vlmsel.types import PathLike, ProgressCallback

ExactKind = Literal["pair", "text", "image"]


@dataclass(frozen=True)
class Deduplication:
    """What dedup found: ``input == kept + sum(dropped.values())``."""

    path: Path
    edges: Path
    """The folder of who is like whom, from which other keepers can be chosen without comparing anything again."""
    input: int
    """Samples of the index."""
    kept: int
    dropped: Mapping[str, int]
    """Samples that go, by the kind of copy that they are."""
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The same for each source: ``input`` and ``dropped``."""
    groups: Sequence[Mapping[str, Any]] = ()
    """The keepers for which most others go, with the beginning of their texts."""
    hubs: Sequence[Mapping[str, Any]] = ()
    """The first hundred contents with more than ``max_neighbours`` near ones."""
    hub_count: int = 0
    """All of them."""
    other_texts: int | None = None
    """Where images alone were compared: samples that go for one with another text."""
    compared: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """For each kind that was asked for: classes of equal contents, the samples in them, and edges between classes."""
    plan: Sequence[Mapping[str, Any]] = ()
    """Of a dry run: what each step takes at most (``step``, ``entries``, ``memory_bytes``, ``scratch_bytes``)."""
    edges_reused: bool = False
    """Whether the edges were there already."""
    already_done: bool = False
    """Whether the result was there, of the same index and options; nothing was touched then."""
    dry_run: bool = False


def dedup(
    index: PathLike = "index",
    *,
    scores: PathLike | None = None,
    output: PathLike = "dedup",
    exact: Sequence[ExactKind] = (),
    near_text: Sequence[Number] = (),
    near_image: Sequence[int] = (),
    near_pair: Sequence[tuple[Number, int]] = (),
    near_text_shingles: str | None = None,
    image_hash: Literal["phash", "dhash", "both"] = "phash",
    flips: bool = False,
    codes: PathLike | None = None,
    named_sources: Mapping[str, PathLike] | None = None,
    image_root: PathLike | None = None,
    confirm: Literal["hash", "bytes"] = "hash",
    keep: Sequence[str] = (),
    chains: bool = False,
    max_neighbours: int = 10_000,
    hubs: Literal["keep-one", "leave"] = "keep-one",
    max_removed: float = 0.5,
    scratch: PathLike | None = None,
    threads: int | None = None,
    memory_limit: int | None = None,
    strict: bool = False,
    max_bad_fraction: float = 0.001,
    allow_bad_files: int = 0,
    overwrite: bool = False,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> Deduplication:
    """Find copies in an index and say of each sample whether it is kept.

    Args:
        index: The index.
        scores: Scores that `vlmsel.score` made of it, if keepers are chosen by one of their columns.
        output: The folder to write; who is like whom is written beside it, into ``<output>-edges``.
        exact: Fields that exact copies have in common: ``pair`` (images and text; what is meant where no kind is asked for),
            ``text`` or ``image``.
        near_text: Jaccard similarities (0.8) of word sets from which on two texts are near.
        near_image: Radii: bits of 64 in which the codes of near images may differ.
        near_pair: Both, as ``(0.8, 6)``: images that are equal or near and texts that are equal or near.
        near_text_shingles: ``chars:N``: compare sets of N neighbouring characters in place of words.
        image_hash: Which code is compared; ``both``: within the radius on each.
        flips: Mirrored images are near, too.
        codes: Folder of the images' codes, which is made where it is missing; None: beside the index.
        named_sources: Where sources lie now, by name, if codes have to be made and they moved since they were indexed.
        image_root: Where the images of JSON records lie now, if they moved.
        confirm: ``hash``: images are equal where 128 bits and their sizes are; ``bytes``: hits are confirmed by reading the
            images again. Texts are always confirmed by their words.
        keep: What makes a copy the best one, the first criterion first: ``lowest:COLUMN``, ``highest:COLUMN``,
            ``source:NAME,NAME``, ``largest`` (pixels, then text) or ``first``. Empty: ``lowest:ppl`` with scores, else ``largest``.
        chains: Keep one of each connected component, and not one of each neighbourhood: copies of copies go, too.
        max_neighbours: A content with more near ones is a hub.
        hubs: ``keep-one``: hubs are walked first, so that one sample stands for all that is near it; ``leave``: a hub has no
            neighbours, and only what equals it goes.
        max_removed: Part of its samples that a source may lose.
        scratch: Folder for scratch files; None: beside the output.
        threads: Threads to use; None: one per core.
        memory_limit: Bytes to stay under; None: 2 GiB.
        strict: Accept only an index that lost nothing.
        max_bad_fraction: Part of its records that the index may have lost.
        allow_bad_files: Files that the index may have gone without.
        overwrite: Replace what was made of another index or with other options.
        dry_run: Check everything, write nothing.
        progress: Called with the rows read so far, and all.

    Returns:
        The folder and what was found.

    Raises:
        NotFoundError, UsageError: What cannot be asked.
        UnreadableError: A source would lose more than `max_removed`, or the index lost more than is tolerated.
        MismatchError: The output is of another index or other options; scores of another index.
        LockedError: Another process writes the output.
        ResourceError: Memory or the disk do not suffice.
    """
    request = {
        "index": os.fspath(index),
        "scores": path_of(scores),
        "output": os.fspath(output),
        "kinds": [
            *(("exact", kind) for kind in exact),
            *(("near-text", str(similarity)) for similarity in near_text),
            *(("near-image", str(radius)) for radius in near_image),
            *(("near-pair", f"{similarity}:{radius}") for similarity, radius in near_pair),
        ],
        "near_text_sets": near_text_shingles or "words",
        "image_hash": image_hash,
        "flips": flips,
        "codes": path_of(codes),
        "named_sources": named_words(named_sources),
        "image_root": path_of(image_root),
        "confirm": confirm,
        "keep": list(keep),
        "chains": chains,
        "max_neighbours": max_neighbours,
        "hubs": hubs,
        "max_removed": max_removed,
        "scratch": path_of(scratch),
    }
    summary = call(
        _core.dedup,
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
    edges = Path(summary.pop("edges"))
    return Deduplication(path=Path(output), edges=edges, **summary)
