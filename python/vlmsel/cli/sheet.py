"""``vlmsel sheet``: a contact sheet of a selection or of scores."""

from __future__ import annotations

from pathlib import Path

import click

from vlmsel.cli.help import Command
from vlmsel.cli.options import Common, common_options


@click.command("sheet", cls=Command, short_help="Draw contact sheets: the best, the cut, the worst.")
@click.argument("target", required=False, type=click.Path(path_type=Path), metavar="[SELECTION|SCORES]")
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
@click.option("--columns", type=int, default=8, show_default=True, help="Cells in a row.")
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
    common: Common,
) -> None:
    """Draw a contact sheet, because people look before they trust.

    It shows the best, a random draw, those around the cut and the worst, with captions and scores. SELECTION or SCORES is a
    finished folder: by default selection/, or scores/ where there is no selection. Green frames were kept, red ones were not;
    a picture that cannot be shown is a marked cell (under --strict, an error).
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
            "bands": [{"title": band.title, "cells": len(band.cells)} for band in drawn.bands],
            "width": drawn.width_px,
            "height": drawn.height_px,
            "bad_pictures": drawn.bad_pictures,
            "quarantined": 0,
        },
    )
