"""What a contact sheet shows, as plain data: bands of cells, and what the index knows of the sample in each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample as the index has it; the pictures themselves are not read."""

    source: str
    shard: str
    """Path of the shard below the source's root."""
    root: Mapping[str, Any] | None
    """Where the source lies: `{"path", "image_root"}`, an entry of the index manifest's `roots`; None for an unknown source."""
    images: tuple[Mapping[str, Any], ...]
    """Where its pictures lie, entries of the index's `images` with at least `file`, `offset` and `size`; the first is shown."""
    caption: str | None
    """What stands under the picture; None where the sample has no text."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of a selection, of scores or of what dedup found. `kept` says whether it stays; None where nobody decided."""

    uid: Any
    """The id as the table has it; `uid_bytes` says what the index knows it by."""
    score: float | int | None
    rank: int | None = None
    kept: bool | None = None
    sample: Sample | None = None
    """None for an id that the index does not have."""
    copy: Copy | None = None
    """What it goes for, where dedup dropped it."""


@dataclass(frozen=True, slots=True)
class Copy:
    """How two samples are alike: a kind of dedup, and how far they are by it (None where that is not known)."""

    kind: str
    distance: float | None
    against: str | None = None
    """The item that a sample must not be like, where it goes for that."""


@dataclass(frozen=True, slots=True)
class Band:
    """Cells that belong together, under a title."""

    title: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Cells that are compared with each other, the first of them kept: a pair, or a keeper and some of what goes for it."""

    members: tuple[Cell, ...]
    copy: Copy | None = None
    """How a pair is alike."""
    dropped: int | None = None
    """How many samples go for the first, where that is told."""


@dataclass(frozen=True, slots=True)
class ClusterBand:
    """Clusters of up to `span` cells under a title."""

    title: str
    clusters: tuple[Cluster, ...]
    span: int

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, cluster by cluster."""
        return tuple(cell for cluster in self.clusters for cell in cluster.members)


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a sheet shows, from the top down, and notes for the user."""

    bands: tuple[Band | ClusterBand, ...]
    notes: tuple[str, ...] = ()


def all_cells(bands: Iterable[Band | ClusterBand]) -> Iterator[Cell]:
    """The cells of all bands, from the top down."""
    for band in bands:
        yield from band.cells


def uid_bytes(uid: Any) -> bytes | None:
    """A table's id as the 16 bytes that the index knows, or None for an id that is no uid."""
    if isinstance(uid, bytes):
        return uid if len(uid) == 16 else None
    try:
        return UUID(uid.strip()).bytes if isinstance(uid, str) else None
    except ValueError:
        return None
