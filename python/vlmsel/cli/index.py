"""``vlmsel index``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from vlmsel.cli.options import Common, common_options


def split_sources(words: tuple[str, ...]) -> dict[str, str]:
    """``NAME=PATH`` words as a mapping; a word without ``=`` is a usage error."""
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise click.UsageError(f"--source {word}: write NAME=PATH, for example laion=/data/laion")
        if name in pairs:
            raise click.UsageError(f"--source {name} is given twice")
        pairs[name] = path
    return pairs


@click.command("index")
@click.argument("src", nargs=-1)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder to write; index/ in the workspace by default."
)
@click.option(
    "--source", "named", multiple=True, metavar="NAME=PATH", help="A source with a name of your own; repeatable."
)
@click.option(
    "--image-root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder that image paths in JSON records are relative to.",
)
@click.option("--id-column", metavar="NAME", help="JSON field or Parquet column with ids of 32 hexadecimal characters.")
@common_options
def command(
    common: Common,
    src: tuple[str, ...],
    output: Path | None,
    named: tuple[str, ...],
    image_root: Path | None,
    id_column: str | None,
) -> None:
    """List the pairs of tar and JSONL shards in index/.

    SRC is a WebDataset tar, a LLaVA or caption JSON(L) file, a folder, a pattern ('data/{00000..00099}.tar'), or @list.
    Run again with more shards, it reads only those.
    """
    from vlmsel.cli.progress import Progress
    from vlmsel.cli.report import Report
    from vlmsel.indexing import index

    report = Report("index", as_json=common.json, quiet=common.quiet)
    with Progress("index", quiet=common.quiet, unit="pairs") as progress:
        done = index(
            src,
            output=output or common.place("index"),
            named_sources=dict(split_sources(named)),
            image_root=image_root,
            id_column=id_column,
            threads=common.threads,
            memory_limit=common.memory_limit,
            strict=common.strict,
            max_bad_fraction=common.max_bad_fraction,
            allow_bad_files=common.allow_bad_files,
            overwrite=common.overwrite,
            dry_run=common.dry_run,
            watch=progress.update,
        )
    if done.dry_run:
        report.say(f"would index {done.shards:,} shards of {done.bytes:,} bytes into {done.path}")
    elif done.already_finished:
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
    report.result(done.path, {key: value for key, value in asdict(done).items() if key != "path"})
