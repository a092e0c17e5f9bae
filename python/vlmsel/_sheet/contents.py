"""The contents of a contact sheet: the rows of its bands joined with the index. No picture is opened here.

Memory does not grow with the tables: rows are found by streaming (`bands`), and of the index those are held that are shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vlmsel import tables
from vlmsel._sheet.bands import Reading, choose_bands
from vlmsel._sheet.cells import Band, Contents, Sample, uid_bytes
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
) -> Contents:
    """The bands of `target`, a selection or scores folder, with what `index` knows of each sample.

    `scores` is the folder that a selection was chosen from, or None. Raises UsageError for a folder of another kind and what
    reading tables raises.
    """
    bands, notes = choose_bands(target, target_manifest, scores, reading)
    uids = {uid for band in bands for cell in band.cells if (uid := uid_bytes(cell.uid)) is not None}
    files = part_files(index, index_manifest)
    roots = index_manifest["roots"]
    rows = tables.rows(files, _INDEX_COLUMNS, uids=uids) if files else ()
    samples = {row["uid"]: _sample_of(row, roots) for row in rows}
    return Contents(tuple(_with_samples(band, samples) for band in bands), tuple(notes))


def _with_samples(band: Band, samples: Mapping[bytes, Sample]) -> Band:
    def find(uid: Any) -> Sample | None:
        known = uid_bytes(uid)
        return None if known is None else samples.get(known)

    return Band(band.title, tuple(replace(cell, sample=find(cell.uid)) for cell in band.cells))


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
