"""What became of the planted junk: how much of each kind the selection kept, next to a random control of the same size."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlmsel.outputs import part_files, read_manifest

from vlmsel_trainer.demo.corpus import KIND_MEANINGS

Rows = Callable[..., Iterable[dict[str, Any]]]
"""`vlmsel.tables.rows`: the rows of Parquet files as dictionaries."""


@dataclass(frozen=True, slots=True)
class KindReport:
    """Counts of one kind: pairs in the pool, and of these removed as copies, in the selection and in the random control."""

    kind: str
    n_pool: int
    n_removed: int
    n_selected: int
    n_random: int


def count_kinds(
    index: Path, dedup: Path, selection: Path, control: Path, rows: Rows, planted: Mapping[str, int] | None = None
) -> list[KindReport]:
    """Join what dedup removed, the selection and its control with the index by uid; `good` first, then the planted kinds.

    A pair's kind is what its own `json` member says, which the index keeps as metadata. `planted` are the pool's true
    counts, for kinds that the index may have quarantined in part.
    """
    kinds = {
        row["uid"]: str(json.loads(row["metadata"])["kind"])
        for row in rows(part_files(index, read_manifest(index)), ["uid", "metadata"])
    }
    pool = Counter(planted or kinds.values())
    selected, drawn = (
        Counter(kinds[row["uid"]] for row in rows(part_files(folder, read_manifest(folder)), ["uid"]))
        for folder in (selection, control)
    )
    tables = [path for path in part_files(dedup, read_manifest(dedup)) if path.suffix == ".parquet"]
    removed = Counter(kinds[row["uid"]] for row in rows(tables, ["uid", "keep"]) if not row["keep"])
    return [KindReport(kind, pool[kind], removed[kind], selected[kind], drawn[kind]) for kind in KIND_MEANINGS]


def render(reports: list[KindReport]) -> str:
    """The report as lines of text: what share of each kind was removed as copies, and what share was kept."""
    names = ("copies removed", "selection kept", "random kept")
    lines = [f"{'kind':<17}{'in the pool':>12}{''.join(f'{name:>20}' for name in names)}   meaning"]
    counts = [(r.kind, r.n_pool, (r.n_removed, r.n_selected, r.n_random)) for r in reports]
    sums = tuple(sum(column) for column in zip(*(found for _, _, found in counts), strict=True))
    for kind, n_pool, found in [*counts, ("all", sum(n_pool for _, n_pool, _ in counts), sums)]:
        shares = "".join(f"{_share(part, n_pool):>20}" for part in found)
        lines.append(f"{kind:<17}{n_pool:>12,}{shares}   {KIND_MEANINGS.get(kind, '')}".rstrip())
    return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    return f"{part:,} = {100 * part / whole:5.1f} %" if whole else "-"


def write(reports: list[KindReport], folder: Path) -> Path:
    """Write `report.txt` and `report.json` to `folder`; return the former."""
    document = {"schema": 1, "kinds": [asdict(report) for report in reports]}
    (folder / "report.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = folder / "report.txt"
    text.write_text(render(reports) + "\n", encoding="utf-8")
    return text
