"""``vlmsel index``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vlmsel.cli.help import Command
from vlmsel.cli.options import Common, common_options
from vlmsel.cli.sources import data_options

if TYPE_CHECKING:
    from vlmsel.types import KeyUntil, PathLike


@click.command("index", cls=Command)
@data_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder to write; index/ in the workspace by default."
)
@click.option(
    "--id-column",
    metavar="NAME",
    help="JSON field or Parquet column with ids of 128 bits: 32 hexadecimal characters, or UUIDs.",
)
@click.option(
    "--image-codes",
    is_flag=True,
    help="Also decode the images and leave two perceptual codes of each in codes/ beside the index, for dedup.",
)
@common_options
def command(
    common: Common,
    src: tuple[str, ...],
    output: Path | None,
    named: dict[str, PathLike],
    image_root: Path | None,
    id_column: str | None,
    caption_column: str | None,
    key_until: KeyUntil,
    image_codes: bool,
) -> None:
    """List the samples of tar, JSON(L) and Parquet shards in index/.

    SRC is a WebDataset tar, a JSON(L) file (LLaVA, messages, captions), Parquet with images in it, a folder, a pattern
    ('data/{00000..00099}.tar'), or @list.
    Run again with more shards, it reads only those.
    """
    from vlmsel.cli.progress import Progress
    from vlmsel.cli.report import Report, fields_of
    from vlmsel.findings import skipped_line, told
    from vlmsel.indexing import index

    report = Report("index", as_json=common.json, quiet=common.quiet)
    with Progress("index", quiet=common.quiet, unit="pairs") as progress:
        done = index(
            src,
            output=output or common.place("index"),
            named_sources=named,
            image_root=image_root,
            id_column=id_column,
            caption_column=caption_column,
            key_until=key_until,
            image_codes=image_codes,
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
    if not done.dry_run:
        report.say(_by_class(done.classes))
    if done.image_codes:
        made = done.image_codes
        report.say(f"{made.ok:,} of {made.images:,} images have codes in {made.path}")
        if made.reasons:
            report.warn(f"no codes: {', '.join(f'{count:,} {name}' for name, count in sorted(made.reasons.items()))}")
    if done.quarantined:
        kinds = ", ".join(f"{count:,} {reason}" for reason, count in sorted(done.reasons.items()))
        report.warn(f"{done.quarantined:,} of {done.input:,} records put aside: {kinds}")
    for kind, note in sorted(done.notes.items()):
        report.warn(told(kind, note))
    if done.skipped.count:
        report.warn(skipped_line(done.skipped))
    for line in done.damaged[:10]:
        report.warn(f"not read to its end: {line}")
    report.result(done.path, fields_of(done))


def _by_class(classes: dict[str, dict[str, int]]) -> str:
    """Samples by class, over all sources where there is one, else for each."""
    lines = []
    for source, counts in sorted(classes.items()):
        shown = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()) if count) or "no samples"
        lines.append(f"{source}: {shown}")
    return "\n".join(lines)
