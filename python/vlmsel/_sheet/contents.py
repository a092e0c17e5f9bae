"""The contents of a contact sheet: the rows of its bands joined with the index. No picture is opened here.

Memory does not grow with the tables: rows are found by streaming (`bands`), and of the index those are held that are shown.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vlmsel import tables
from vlmsel._sheet.bands import Reading, choose_bands
from vlmsel._sheet.cells import Band, Cell, ClusterBand, Contents, Sample, all_cells, uid_bytes
from vlmsel._sheet.dedup_bands import bands_of_dedup
from vlmsel.errors import UsageError
from vlmsel.outputs import part_files
from vlmsel.types import PathLike

_INDEX_COLUMNS = ["uid", "source", "shard", "images", "text", "conversations"]

Manifest = Mapping[str, Any]


def read_contents(
    target: PathLike,
    target_manifest: Manifest,
    index: PathLike,
    index_manifest: Manifest,
    scores: PathLike | None,
    reading: Reading,
    roots: Mapping[str, Mapping[str, Any]] | None = None,
) -> Contents:
    """The bands of `target`, the folder of a selection, of scores or of a dedup, with what `index` knows of each sample.

    `scores` is the folder that a selection was chosen from, or None; `roots` is where sources lie now, None for where the index
    says. Raises UsageError for a folder of another kind and what
    reading tables raises.
    """
    bands: Sequence[Band | ClusterBand]
    if target_manifest["command"] == "dedup":
        bands, notes = bands_of_dedup(target, target_manifest, reading)
    else:
        bands, notes = choose_bands(target, target_manifest, scores, reading)
    uids = {uid for cell in all_cells(bands) if (uid := uid_bytes(cell.uid)) is not None}
    files = part_files(index, index_manifest)
    roots = index_manifest["roots"] if roots is None else roots
    rows = tables.rows(files, _INDEX_COLUMNS, uids=uids) if files else ()
    samples = {row["uid"]: _sample_of(row, roots) for row in rows}
    return Contents(tuple(_with_samples(band, samples) for band in bands), tuple(notes))


def moved_roots(
    roots: Mapping[str, Mapping[str, Any]], named_sources: Mapping[str, PathLike], image_root: PathLike | None
) -> dict[str, Mapping[str, Any]]:
    """An index manifest's `roots` with the places that sources have now; images that lay with a source go with it.

    Raises UsageError for a source that the index does not have.
    """

    def text(path: PathLike) -> str:
        # As an index writes paths whose bytes are no UTF-8.
        raw = os.fsencode(path)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw.replace(b"\\", b"\\x5c").decode("utf-8", "backslashreplace")

    now = dict(roots)
    for name, place in named_sources.items():
        if name not in roots:
            raise UsageError(f"--source {name}={place}: the index has no source {name!r}, only {', '.join(roots)}")
        own = roots[name].get("image_root")
        moved = text(place) if own in (None, roots[name]["path"]) else own
        now[name] = {**roots[name], "path": text(place), "image_root": moved}
    if image_root is not None:
        now = {name: {**root, "image_root": text(image_root)} for name, root in now.items()}
    return now


def _with_samples(band: Band | ClusterBand, samples: Mapping[bytes, Sample]) -> Band | ClusterBand:
    def look_up(cells: Sequence[Cell]) -> tuple[Cell, ...]:
        known = [(cell, uid_bytes(cell.uid)) for cell in cells]
        return tuple(replace(cell, sample=None if uid is None else samples.get(uid)) for cell, uid in known)

    if isinstance(band, ClusterBand):
        clusters = (replace(cluster, members=look_up(cluster.members)) for cluster in band.clusters)
        return replace(band, clusters=tuple(clusters))
    return replace(band, cells=look_up(band.cells))


def _sample_of(row: Mapping[str, Any], roots: Mapping[str, Mapping[str, Any]]) -> Sample:
    return Sample(
        source=row["source"],
        shard=row["shard"],
        root=roots.get(row["source"]),
        images=tuple(row["images"] or ()),
        caption=caption_of(row["text"], row["conversations"]),
    )


def caption_of(text: str | None, conversations: str | None) -> str | None:
    """What stands under a sample's picture: its text, or the turns of its conversation (JSON); None where it has neither."""
    if text is not None:
        return str(text)
    if conversations is None:
        return None
    try:
        turns: Sequence[Any] = json.loads(conversations)
        words = [turn.get("value", turn.get("content", "")) for turn in turns]
        return " | ".join(word if isinstance(word, str) else json.dumps(word, ensure_ascii=False) for word in words)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return str(conversations)
