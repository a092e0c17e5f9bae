"""What stands under the pictures of a contact sheet, in words."""

from __future__ import annotations

import math

from vlmsel._sheet.cells import Cell, Cluster, Copy

_CODE_BITS = 64
_MOST_BITS = 16  # No radius is larger.


def describe(cell: Cell) -> str:
    """A cell of a selection or of scores: score, rank, and how many pictures are not shown."""
    score = (
        "no score" if cell.score is None else f"{cell.score:,}" if isinstance(cell.score, int) else f"{cell.score:.4g}"
    )
    rank = "" if cell.rank is None else f" (rank {cell.rank:,})"
    return f"{score}{rank}{_more_images(cell)}"


def describe_copy(copy: Copy) -> str:
    """How two samples are alike: the kind and its distance, in bits of the images' codes or as similarity of the texts.

    A near pair has one distance, the greater of both. Where it is no number of bits that codes may differ in, it is that of the
    texts; else it may be either's.
    """
    if copy.against is not None:
        return f"{copy.kind} {copy.against}"
    if copy.distance is None:
        return f"{copy.kind}, distance not known"
    similarity = f"{1 - copy.distance:.3g}"
    if copy.kind == "near-image":
        return f"{copy.kind}, {_bits(round(copy.distance))}"
    if copy.kind == "near-text":
        return f"{copy.kind}, similarity {similarity}"
    if copy.kind == "near-pair" and copy.distance:
        bits = copy.distance * _CODE_BITS
        if bits > _MOST_BITS or bits != math.floor(bits):
            return f"{copy.kind}, texts {similarity}, images nearer"
        return f"{copy.kind}, images {_bits(int(bits))}, texts {similarity} or more"
    return f"{copy.kind}, equal" if copy.distance == 0 else f"{copy.kind}, distance {copy.distance:.3g}"


def describe_cluster(cluster: Cluster) -> str:
    """The line over a cluster: how a pair is alike, or how many go for a keeper."""
    if cluster.dropped is not None:
        return f"{cluster.dropped:,} go for this one"
    return "" if cluster.copy is None else describe_copy(cluster.copy)


def describe_member(cell: Cell) -> list[str]:
    """The lines under a cell of a cluster: whether it stays, by what it goes, and its source."""
    state = "KEEP" if cell.kept else "DROP"
    source = "not in the index" if cell.sample is None else cell.sample.source
    return [f"{state}{_more_images(cell)}", source]


def _bits(count: int) -> str:
    return f"{count} bit" if count == 1 else f"{count} bits"


def _more_images(cell: Cell) -> str:
    n_more = 0 if cell.sample is None else max(0, len(cell.sample.images) - 1)
    return f", {n_more} more images" if n_more else ""
