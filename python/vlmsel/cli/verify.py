"""``vlmsel verify``: an output folder against its manifest."""

from __future__ import annotations

from pathlib import Path

import click

from vlmsel.cli.help import Command
from vlmsel.cli.options import Common, common_options
from vlmsel.cli.progress import Progress, format_bytes
from vlmsel.cli.report import Report
from vlmsel.errors import UnreadableError


@click.command("verify", cls=Command)
@click.argument("folder", type=click.Path(path_type=Path))
@common_options
def command(folder: Path, common: Common) -> None:
    """Re-read every byte of an output folder against its manifest.

    Exit 0 if all is as it was written, 3 with the list of what is not, 7 if vlmsel did not finish the folder.
    """
    from vlmsel.outputs import verify

    report = Report("verify", as_json=common.json, quiet=common.quiet)
    with Progress("verify", quiet=common.quiet, unit="files") as progress:
        found = verify(folder, progress=progress.update)
    for problem in found.problems[:50]:
        report.warn(problem)
    if found.problems:
        raise UnreadableError(
            f"{folder}: {len(found.problems)} problems in {found.files} files; make the folder again from its inputs"
        )
    report.say(
        f"{folder}: {found.files} files, {format_bytes(found.bytes)}, all as `vlmsel {found.command}` wrote them"
    )
    report.result(folder, {"made_by": found.command, "files": found.files, "bytes": found.bytes, "problems": []})
