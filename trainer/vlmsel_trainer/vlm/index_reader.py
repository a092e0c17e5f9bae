"""The index as scoring reads it: in units, fixed ranges of rows of its parts, named by what they hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vlmsel
import vlmsel.tables
from blake3 import blake3
from vlmsel.errors import UnreadableError
from vlmsel.files import check_plain
from vlmsel.images import ImageError, image_path

from vlmsel_trainer.vlm.records import Sample, Unit

# `uid`, `images` and the texts; `members` and `metadata` can be most of an index and no score needs them.
_COLUMNS = ["uid", "source", "shard", "images", "text", "conversations"]
# The first schema of manifests whose index has the column `class`.
_SCHEMA_OF_CLASSES = 2


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
            with contextlib.suppress(ImageError):
                if below:
                    found.append(image_path(self.roots.get(source), below, None))
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
        """The samples of ``units``, unit by unit; a part is compared with its checksum before the first of its units.

        Raises UnreadableError for a part that is damaged or gone.
        """
        checked: Path | None = None
        for unit in units:
            if checked != unit.part:
                self._check(unit.part)
                checked = unit.part
            yield unit, self._read_unit(unit)

    def _check(self, part: Path) -> None:
        # Parquet that vlmsel writes has no checksums of its own: a changed byte in a text would be scored as it is.
        files = [file for entry in self.manifest["parts"] for file in entry["files"]]
        recorded = {self.path / file["file"]: file["blake3"] for file in files}
        state = blake3()
        try:
            with part.open("rb") as content:
                while piece := content.read(1 << 20):
                    state.update(piece)
        except OSError as error:
            raise self._damaged(part, str(error.strerror)) from error
        if state.hexdigest() != recorded[part]:
            raise self._damaged(part, "its content is not what the index's manifest says")

    def _read_unit(self, unit: Unit) -> list[Sample]:
        try:
            columns = [*_COLUMNS, "class"] if self.manifest["schema"] >= _SCHEMA_OF_CLASSES else _COLUMNS
            rows = list(vlmsel.tables.rows(unit.part, columns, start=unit.start, stop=unit.stop))
        except UnreadableError as error:
            raise UnreadableError(f"{error}; run `vlmsel verify {self.path}`") from error
        if len(rows) != len(unit):
            raise self._damaged(unit.part, "it holds fewer rows than the index's manifest says")
        return [
            Sample(
                row["uid"],
                row["source"],
                row["shard"],
                tuple(row["images"] or ()),
                row["text"],
                row["conversations"],
                row.get("class"),
            )
            for row in rows
        ]

    def _damaged(self, part: Path, what: str) -> UnreadableError:
        return UnreadableError(f"{part}: {what}; run `vlmsel verify {self.path}`")
