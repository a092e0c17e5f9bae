"""``vlmsel sheet``: a contact sheet of a selection, of scores or of a dedup."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlmsel.cli.help import Command
from vlmsel.cli.options import Common, common_options
from vlmsel.cli.sources import image_root_option, named_option

if TYPE_CHECKING:
    from vlmsel._sheet.cells import Band, Cell, ClusterBand
    from vlmsel.types import PathLike


@click.command(
    "sheet", cls=Command, short_help="Draw contact sheets: the best, the cut, the worst; copies before they go."
)
@click.argument("target", required=False, type=click.Path(path_type=Path), metavar="[SELECTION|SCORES|DEDUP]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="The PNG to write; sheet.png by default."
)
@click.option(
    "--index", type=click.Path(path_type=Path), metavar="DIR", help="Where the pictures are listed; index/ by default."
)
@click.option(
    "--scores",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Beside a selection: what it was chosen from, to show what was left out; scores/ by default, where it exists.",
)
@click.option("--rows", type=int, default=2, show_default=True, help="Rows of cells in each band.")
@click.option(
    "--columns",
    type=int,
    default=8,
    show_default=True,
    help="Cells in a row; a pair of copies takes two, a group four.",
)
@click.option(
    "--cell", type=int, default=128, show_default=True, metavar="PX", help="Side of a picture on the sheet, in pixels."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the band that is drawn at random.")
@click.option(
    "--font",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TrueType or OpenType font for captions. The default has Latin letters; what a font lacks is shown as \\u{...}.",
)
@named_option("Where a source lies now, if it moved; repeatable.")
@image_root_option("Where the images of JSON records lie now.")
@common_options
def command(
    target: Path | None,
    output: Path | None,
    index: Path | None,
    scores: Path | None,
    rows: int,
    columns: int,
    cell: int,
    seed: int,
    font: Path | None,
    named: dict[str, PathLike],
    image_root: Path | None,
    common: Common,
) -> None:
    """Draw a contact sheet, because people look before they trust.

    It shows the best, a random draw, those around the cut and the worst, with captions and scores. SELECTION or SCORES is a
    finished folder: by default selection/, or scores/ where there is no selection. Of DEDUP, a folder of vlmsel dedup, it shows
    for each kind of copy what goes at the greatest distance from what stays, pairs just outside the threshold, which both stay,
    and the largest groups. Green frames were kept, red ones were not; a picture that cannot be shown is a marked cell (under
    --strict, an error).
    """
    from vlmsel._sheet.destination import place_to_report
    from vlmsel._sheet.sheet import plan_sheet, sheet
    from vlmsel.cli.progress import Progress
    from vlmsel.cli.report import Report

    report = Report("sheet", as_json=common.json, quiet=common.quiet)
    if target is None:
        target = common.place("selection")
        target = target if target.is_dir() or not common.place("scores").is_dir() else common.place("scores")
    index = index or common.place("index")
    output = output or common.place("sheet.png")
    if scores is None and common.place("scores").is_dir():
        scores = common.place("scores")
    if common.dry_run:
        plan = plan_sheet(
            target,
            output=output,
            index=index,
            scores=scores,
            rows=rows,
            columns=columns,
            cell_px=cell,
            named_sources=named,
            image_root=image_root,
            strict=common.strict,
            max_bad_fraction=common.max_bad_fraction,
            allow_bad_files=common.allow_bad_files,
            overwrite=common.overwrite,
        )
        if common.json:
            report.result(place_to_report(output), {"dry_run": True, **plan})
        else:
            report.text(
                f"would read {plan['rows_read']:,} rows of scores and look up {plan['cells']:,} of {plan['index_rows']:,} samples\n"
                f"would draw {plan['bands']} bands of {rows} x {columns} cells into {output}"
            )
        return
    with Progress("sheet", quiet=common.quiet, unit="rows") as progress:
        drawn = sheet(
            target,
            output=output,
            index=index,
            scores=scores,
            rows=rows,
            columns=columns,
            cell_px=cell,
            seed=seed,
            font=font,
            named_sources=named,
            image_root=image_root,
            threads=common.threads,
            memory_limit=common.memory_limit,
            strict=common.strict,
            max_bad_fraction=common.max_bad_fraction,
            allow_bad_files=common.allow_bad_files,
            overwrite=common.overwrite,
            progress=progress.update,
        )
    for note in drawn.notes:
        report.warn(note)
    if drawn.bad_pictures:
        reasons = ", ".join(sorted(set(drawn.bad_pictures.values())))
        report.say(f"{len(drawn.bad_pictures):,} of the pictures cannot be shown: {reasons}")
    report.result(
        drawn.path,
        {
            "input": sum(len(band.cells) for band in drawn.bands),
            "bands": [_shown(band) for band in drawn.bands],
            "width": drawn.width_px,
            "height": drawn.height_px,
            "bad_pictures": drawn.bad_pictures,
            "quarantined": 0,
        },
    )


def _shown(band: Band | ClusterBand) -> Mapping[str, Any]:
    """What a band shows: how many cells, and of copies each one."""
    from vlmsel._sheet.cells import ClusterBand

    shown: dict[str, Any] = {"title": band.title, "cells": len(band.cells)}
    if isinstance(band, ClusterBand):
        shown["clusters"] = [
            {
                **({} if cluster.copy is None else {"kind": cluster.copy.kind, "distance": cluster.copy.distance}),
                **({} if cluster.dropped is None else {"dropped": cluster.dropped}),
                "members": [_member(cell) for cell in cluster.members],
            }
            for cluster in band.clusters
        ]
    return shown


def _member(cell: Cell) -> dict[str, Any]:
    copy = cell.copy
    return {
        "uid": cell.uid.hex(),
        "source": None if cell.sample is None else cell.sample.source,
        "kept": cell.kept,
        "kind": None if copy is None else copy.kind,
        "distance": None if copy is None else copy.distance,
        **({} if copy is None or copy.against is None else {"against": copy.against}),
    }
