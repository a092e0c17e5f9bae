"""What a contact sheet shows of a dedup: pairs on both sides of each threshold, and the largest groups.

Rust finds the pairs that are farthest apart in one pass for each kind (`_core.pick_rows`); pairs just beyond a threshold and the
groups were noted by dedup itself. What is held are the rows that are shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmsel import tables
from vlmsel._sheet.bands import Reading
from vlmsel._sheet.cells import Cell, Cluster, ClusterBand, Copy
from vlmsel.errors import MismatchError, UnreadableError
from vlmsel.files import read_plain, real_place
from vlmsel.outputs import part_files, read_manifest
from vlmsel.types import PathLike

KEEP_BITS = "keep.bits"
"""A file that every dedup has."""

_PAIR, _GROUP = 2, 4
_MAX_SUMMARY_BYTES = 1 << 26
# Kinds by which a dropped sample equals its keeper in what another kind compares.
_EQUAL = {
    "near-text": {"exact-pair", "exact-text", "near-text"},
    "near-image": {"exact-pair", "exact-image", "near-image"},
    "near-pair": {"exact-pair", "near-pair"},
}

Manifest = Mapping[str, Any]


def edges_folder(target: PathLike) -> Path:
    """Where `vlmsel dedup` put who is like whom: beside its output."""
    place = real_place(target)
    return place.with_name(f"{place.name}-edges")


def kind_of_unit(unit: str) -> str:
    """``near-text-0.8`` was asked for as ``near-text``."""
    return "-".join(unit.split("-")[:2])


def kinds_of(manifest: Manifest) -> list[str]:
    """The kinds that a dedup was asked for, each once, in their order."""
    kinds = [kind_of_unit(unit) for unit in manifest["config"]["kinds"]]
    found = [name.removeprefix("dropped.") for name in manifest["counts"] if name.startswith("dropped.")]
    return list(dict.fromkeys([*kinds, *found]))


def bands_of_dedup(target: PathLike, manifest: Manifest, reading: Reading) -> tuple[list[ClusterBand], list[str]]:
    """The bands of the dedup in `target`, whose manifest is given, and notes for the user; samples are not looked up yet."""
    files = part_files(target, manifest)
    bands: list[ClusterBand] = []
    notes: list[str] = []
    units, edges = list(manifest["config"]["kinds"]), _edges_of(target, manifest, notes)
    for kind in kinds_of(manifest):
        bands.append(_inside(files, kind, manifest["counts"].get(f"dropped.{kind}", 0), reading))
        for unit in units:
            if edges is not None and kind_of_unit(unit) == kind and kind in _EQUAL:
                bands.append(_outside(_Rows(target, manifest), edges, unit, reading, notes))
    bands.append(_largest(target, reading))
    return bands, notes


def _inside(files: list[Path], kind: str, dropped: int, reading: Reading) -> ClusterBand:
    """Samples that go, beside their keepers: those at the greatest distance, the greatest first."""
    title = f"{kind}: {dropped:,} go"
    if not dropped:
        return ClusterBand(title, (), _PAIR)
    columns = ["uid", "keeper", "distance", "against"]
    pick = reading.pick("last", max(1, reading.cells // _PAIR))
    n_known, (rows,) = reading.pick_rows(files, columns, "distance", [pick], only=("kind", kind))
    clusters = tuple(map(_pair_of(kind), reversed(rows)))
    if kind.startswith("near-"):
        title += "; just inside, the farthest from those that stay"
    if n_known < dropped:
        title += f" ({dropped - n_known:,} at distances that are not known)"
    return ClusterBand(title, clusters, _PAIR)


def _pair_of(kind: str) -> Any:
    def pair(row: Mapping[str, Any]) -> Cluster:
        copy = Copy(kind, row["distance"], row["against"])
        gone = Cell(row["uid"], None, kept=False, copy=copy)
        keeper = () if row["keeper"] is None else (Cell(row["keeper"], None, kept=True),)
        return Cluster((*keeper, gone), copy)

    return pair


def _edges_of(target: PathLike, manifest: Manifest, notes: list[str]) -> Path | None:
    """The edges that the result was made from, if they are there."""
    folder = edges_folder(target)
    if not any(kind_of_unit(unit) in _EQUAL for unit in manifest["config"]["kinds"]):
        return None
    known = [entry["fingerprint"] for entry in manifest["inputs"] if entry["name"] == "edges"]
    try:
        found = read_manifest(folder).get("checksum")
    except (MismatchError, OSError):
        found = None
    if found in known:
        return folder
    state = "is not there" if found is None else "is of another run"
    notes.append(f"pairs just outside the threshold are not shown: {folder} {state}; `vlmsel dedup` makes it")
    return None


def _outside(rows: _Rows, edges: Path, unit: str, reading: Reading, notes: list[str]) -> ClusterBand:
    """Pairs of samples that stay, the nearest first, found by dedup in a sample of the index."""
    kind = kind_of_unit(unit)
    part: Manifest = next((part for part in read_manifest(edges)["parts"] if part["unit"] == unit), {})
    known = (part.get("detail") or {}).get("outside") or {}
    if known.get("given_up"):
        notes.append(f"pairs just outside {unit} were not looked for to the end: {known['given_up']}")
    clusters: list[Cluster] = []
    n_other = 0
    for pair in tables.rows(edges / f"{unit}.outside.parquet", ["a", "b", "distance"]):
        first, second = (rows.kept_for(pair[end], kind) for end in ("a", "b"))
        if first is None or second is None or first == second:
            n_other += 1
        elif len(clusters) < max(1, reading.cells // _PAIR):
            cells = (Cell(first, None, kept=True), Cell(second, None, kept=True))
            clusters.append(Cluster(cells, Copy(kind, pair["distance"])))
    sampled, total = known.get("sampled", 0), rows.count
    of = "" if sampled >= total else f", of {sampled:,} samples that were compared"
    title = f"{unit}: just outside, the nearest pairs of which both stay{of}"
    if n_other:
        title += f" ({n_other:,} more where one goes for another reason)"
    return ClusterBand(title, tuple(clusters), _PAIR)


class _Rows:
    """Rows of the dedup table by their number, which is that of the index's rows."""

    def __init__(self, target: PathLike, manifest: Manifest) -> None:
        self._parts: list[tuple[Path, int, int]] = []
        self.count = 0
        for part in manifest["parts"]:
            for file in part["files"]:
                if file["file"].endswith(".parquet"):
                    self._parts.append((Path(target) / file["file"], self.count, part["rows"]))
                    self.count += part["rows"]

    def kept_for(self, number: int, kind: str) -> bytes | None:
        """The sample in this row, or what is kept for it and equal to it as far as `kind` looks; None where there is none."""
        row = self._read(number)
        if row["keep"]:
            return bytes(row["uid"])
        is_equal = row["distance"] == 0 and row["kind"] in _EQUAL[kind]
        return bytes(row["keeper"]) if is_equal and row["keeper"] is not None else None

    def _read(self, number: int) -> dict[str, Any]:
        for file, first, count in self._parts:
            if first <= number < first + count:
                at = number - first
                columns = ["uid", "keeper", "keep", "kind", "distance"]
                found = next(tables.rows(file, columns, start=at, stop=at + 1), None)
                if found is not None:
                    return found
        raise UnreadableError(f"the edges name row {number:,} of {self.count:,}; run `vlmsel dedup --overwrite`")


def _largest(target: PathLike, reading: Reading) -> ClusterBand:
    """Keepers for which most others go, with the first of these."""
    groups = list(_groups_of(Path(target) / "summary.json"))[: max(1, reading.cells // _GROUP)]
    title = "largest groups: what stays, and some of those that go for it" if groups else "no groups: nothing goes"
    return ClusterBand(title, tuple(groups), _GROUP)


def _groups_of(summary: Path) -> Iterator[Cluster]:
    try:
        found = json.loads(read_plain(summary, _MAX_SUMMARY_BYTES))
        for group in found["groups"]:
            keeper = Cell(bytes.fromhex(group["keeper"]["uid"]), None, kept=True)
            yield Cluster((keeper, *_members_of(group["members"])), dropped=int(group["dropped"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError(f"{summary}: not a summary that vlmsel wrote ({error!r:.100})") from None


def _members_of(members: Iterable[Mapping[str, Any]]) -> Iterator[Cell]:
    for member in members:
        copy = Copy(member["kind"], member["distance"])
        yield Cell(bytes.fromhex(member["uid"]), None, kept=False, copy=copy)
