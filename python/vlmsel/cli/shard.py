"""``vlmsel shard``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vlmsel.cli.help import Command
from vlmsel.cli.options import COUNT, Common, common_options
from vlmsel.cli.sources import image_root_option, named_option

if TYPE_CHECKING:
    from vlmsel.types import PathLike


@click.command("shard", cls=Command)
@click.option(
    "--selection",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Selection folder, DataComp .npy, Parquet table or text file of ids or keys; selection/ by default.",
)
@click.option(
    "--index",
    "index_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of vlmsel index; index/ by default.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder to write; shards/ in the workspace by default."
)
@click.option(
    "--samples-per-shard",
    type=COUNT,
    default=10_000,
    show_default=True,
    metavar="N",
    help="Samples in each tar but the last.",
)
@click.option(
    "--shuffle",
    type=click.IntRange(0, 2**64 - 1),
    metavar="SEED",
    help="Shuffle by this seed; in the order of ids by default.",
)
@named_option("Where a source lies now, if it moved; repeatable.")
@image_root_option("Where the images of JSON records lie now.")
@common_options
def command(
    common: Common,
    selection: Path | None,
    index_folder: Path | None,
    output: Path | None,
    samples_per_shard: int,
    shuffle: int | None,
    named: dict[str, PathLike],
    image_root: Path | None,
) -> None:
    """Copy the selected pairs into new tar shards, byte for byte."""
    from vlmsel.cli.progress import Progress
    from vlmsel.cli.report import Report, fields_of
    from vlmsel.sharding import shard

    report = Report("shard", as_json=common.json, quiet=common.quiet)
    with Progress("shard", quiet=common.quiet, unit="pairs") as progress:
        done = shard(
            selection or common.place("selection"),
            index=index_folder or common.place("index"),
            output=output or common.place("shards"),
            samples_per_shard=samples_per_shard,
            shuffle=shuffle,
            named_sources=named,
            image_root=image_root,
            progress=progress.update,
            **common.run_options(),
        )
    size = f"{done.written:,} pairs in {done.shards:,} tars of {done.bytes:,} bytes"
    if done.dry_run:
        report.say(f"would write {size} into {done.path}")
    elif done.already_done:
        report.say(f"{done.path} is up to date: {size}; nothing was touched")
    else:
        report.say(f"wrote {size} into {done.path}")
    if done.quarantined:
        report.warn(f"{done.quarantined:,} of {done.input:,} ids are not in the index")
    report.result(done.path, fields_of(done))
