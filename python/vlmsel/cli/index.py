"""``vlmsel index``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vlmsel.cli.help import Command
from vlmsel.cli.options import Common, common_options
from vlmsel.cli.sources import data_options

if TYPE_CHECKING:
    from vlmsel.types import PathLike


@click.command("index", cls=Command)
@data_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder to write; index/ in the workspace by default."
)
@click.option("--id-column", metavar="NAME", help="JSON field or Parquet column with ids of 32 hexadecimal characters.")
@common_options
def command(
    common: Common,
    src: tuple[str, ...],
    output: Path | None,
    named: dict[str, PathLike],
    image_root: Path | None,
    id_column: str | None,
) -> None:
    """List the pairs of tar and JSONL shards in index/.

    SRC is a WebDataset tar, a LLaVA or caption JSON(L) file, a folder, a pattern ('data/{00000..00099}.tar'), or @list.
    Run again with more shards, it reads only those.
    """
    from vlmsel.cli.progress import Progress
    from vlmsel.cli.report import Report, fields_of
    from vlmsel.indexing import index

    report = Report("index", as_json=common.json, quiet=common.quiet)
    with Progress("index", quiet=common.quiet, unit="pairs") as progress:
        done = index(
            src,
            output=output or common.place("index"),
            named_sources=named,
            image_root=image_root,
            id_column=id_column,
            progress=progress.update,
            **common.run_options(),
        )
    if done.dry_run:
        report.say(f"would index {done.shards:,} shards of {done.bytes:,} bytes into {done.path}")
    elif done.already_done:
        report.say(f"{done.path} is up to date: {done.ok:,} pairs of {done.shards:,} shards; nothing was touched")
    else:
        report.say(
            f"indexed {done.ok:,} pairs of {done.shards:,} shards ({done.shards_read:,} read now) into {done.path}"
        )
    if done.quarantined:
        kinds = ", ".join(f"{count:,} {reason}" for reason, count in sorted(done.reasons.items()))
        report.warn(f"{done.quarantined:,} of {done.input:,} records put aside: {kinds}")
    for line in done.damaged[:10]:
        report.warn(f"not read to its end: {line}")
    report.result(done.path, fields_of(done))
