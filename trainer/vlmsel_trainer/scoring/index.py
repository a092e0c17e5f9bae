"""The index as scoring reads it: in units, fixed ranges of rows of its parts, named by what they hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import vlmsel
from vlmsel.errors import UnreadableError
from vlmsel.files import check_plain

from vlmsel_trainer.scoring.records import Sample, Unit

# `uid`, `images` and the texts; `members` and `metadata` can be most of an index and no score needs them.
_COLUMNS = ["uid", "source", "shard", "images", "text", "conversations"]


@dataclass(frozen=True)
class Index:
    """A finished index folder: its parts in the manifest's order, and where its sources lie."""

    path: Path
    manifest: dict[str, Any]

    @property
    def roots(self) -> dict[str, dict[str, str | None]]:
        roots = self.manifest["roots"]
        return {str(source): dict(root) for source, root in roots.items()}

    @property
    def n_rows(self) -> int:
        return sum(int(part["rows"]) for part in self.manifest["parts"])

    def inputs(self) -> list[dict[str, Any]]:
        """Fingerprints of the parts as they lie there now. Raises UsageError for a part that is no plain file."""
        names = [file["file"] for part in self.manifest["parts"] for file in part["files"]]
        tables = [name for name in names if name.endswith(".parquet")]
        for name in tables:
            # One that is missing is told better by whoever reads it.
            with contextlib.suppress(FileNotFoundError):
                check_plain(self.path / name)
        return [vlmsel.fingerprint(self.path / name, name) for name in tables]

    def shards(self) -> list[Path]:
        """The shards that hold the images, as far as they are there: none of them may be written into."""
        found = []
        for part in self.manifest["parts"]:
            source, _, below = str(part["unit"]).partition("/")
            root = self.roots.get(source, {}).get("path")
            if root is not None and below:
                place = Path(root)
                found.append(place if place.is_file() else place / below)
        return [place for place in found if place.exists()]

    def units(self, samples_per_unit: int) -> list[Unit]:
        """Every unit, in the order of the manifest; an empty part has none."""
        units = []
        for part in self.manifest["parts"]:
            for file in part["files"]:
                if not file["file"].endswith(".parquet"):
                    continue
                n_rows = int(part["rows"])
                stem = file["file"].removesuffix(".parquet").replace("/", "-")
                for start in range(0, n_rows, samples_per_unit):
                    stop = min(start + samples_per_unit, n_rows)
                    units.append(Unit(self.path / file["file"], f"{stem}-{start:09d}", start, stop))
        return units

    def read(self, units: list[Unit]) -> Iterator[tuple[Unit, list[Sample]]]:
        """The samples of ``units``, unit by unit; each part's file is opened once and row groups outside are skipped."""
        file: pq.ParquetFile | None = None
        opened: Path | None = None
        for unit in units:
            if opened != unit.part or file is None:
                file, opened = pq.ParquetFile(unit.part, memory_map=False), unit.part
            yield unit, _read_rows(file, unit)


def _read_rows(file: pq.ParquetFile, unit: Unit) -> list[Sample]:
    tables, first, base = [], None, 0
    for group in range(file.metadata.num_row_groups):
        n_rows = file.metadata.row_group(group).num_rows
        if base < unit.stop and base + n_rows > unit.start:
            first = base if first is None else first
            tables.append(file.read_row_group(group, columns=_COLUMNS))
        base += n_rows
    table = pa.concat_tables(tables).slice(unit.start - (first or 0), len(unit))
    if table.num_rows != len(unit):
        raise UnreadableError(
            f"{unit.part} holds fewer rows than its manifest says; run `vlmsel verify {unit.part.parent}`"
        )
    return [
        Sample(row["uid"], row["source"], row["shard"], tuple(row["images"] or ()), row["text"], row["conversations"])
        for row in table.to_pylist()
    ]
