"""``vlmsel dedup``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vlmsel.cli.help import Command
from vlmsel.cli.options import COUNT, Common, common_options
from vlmsel.cli.sources import image_root_option, named_option

if TYPE_CHECKING:
    from vlmsel.cli.report import Report
    from vlmsel.deduplication import Deduplication
    from vlmsel.types import PathLike

_EXACT = ("pair", "text", "image")


@click.command("dedup", cls=Command)
@click.option(
    "--index",
    "index_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of vlmsel index; index/ by default.",
)
@click.option(
    "--scores",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of vlmsel score, to choose keepers by one of its columns.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder to write; dedup/ in the workspace by default."
)
@click.option(
    "--exact",
    type=click.Choice(_EXACT),
    multiple=True,
    help="Samples whose images and text, text, or images are equal; pair where no kind is asked for. Repeatable.",
)
@click.option(
    "--near-text",
    multiple=True,
    metavar="JACCARD",
    help="Texts whose sets of words are as similar, such as 0.8: shared words over all words. In a caption of 8 words one other word gives 0.78. Repeatable.",
)
@click.option(
    "--near-image",
    multiple=True,
    metavar="RADIUS",
    help="Images whose codes of 64 bits differ in at most so many, such as 6. Alone, it drops other texts about the same picture. Repeatable.",
)
@click.option(
    "--near-pair",
    multiple=True,
    metavar="JACCARD:RADIUS",
    help="Same or near image and same or near text, such as 0.8:6: the near kind to begin with. Repeatable.",
)
@click.option(
    "--near-text-shingles",
    metavar="chars:N",
    help="Compare sets of N neighbouring characters in place of words.",
)
@click.option(
    "--image-hash",
    type=click.Choice(("phash", "dhash", "both")),
    default="phash",
    show_default=True,
    help="Which code of images is compared; both: within the radius on each.",
)
@click.option("--flips", is_flag=True, help="Mirrored images are near, too.")
@click.option(
    "--codes",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the images' codes, made where it is missing; beside the index by default.",
)
@named_option("Where a source lies now, if codes have to be made and it moved; repeatable.")
@image_root_option("Where the images of JSON records lie now.")
@click.option(
    "--confirm",
    type=click.Choice(("hash", "bytes")),
    default="hash",
    show_default=True,
    help="How equal images are told: by 128 bits and size, or by reading them again. Texts are told by their words.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="RULE",
    help="Which copy is the best: lowest:COLUMN, highest:COLUMN, source:NAME,NAME, largest or first; repeatable, the first rule first. lowest:ppl with scores, else largest.",
)
@click.option(
    "--chains",
    is_flag=True,
    help="Keep one sample of each chain of copies, however far its ends are, not one of each neighbourhood.",
)
@click.option(
    "--max-neighbours",
    type=COUNT,
    default=10_000,
    show_default=True,
    metavar="N",
    help="A content with more near ones is a hub, and named.",
)
@click.option(
    "--hubs",
    type=click.Choice(("keep-one", "leave")),
    default="keep-one",
    show_default=True,
    help="keep-one: one sample stands for all that is near a hub; leave: a hub has no neighbours.",
)
@click.option(
    "--max-removed",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    metavar="FRACTION",
    help="Part of its samples that a source may lose; more is exit code 3.",
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for scratch files; beside the output by default.",
)
@common_options
def command(
    common: Common,
    index_folder: Path | None,
    scores: Path | None,
    output: Path | None,
    exact: tuple[str, ...],
    near_text: tuple[str, ...],
    near_image: tuple[str, ...],
    near_pair: tuple[str, ...],
    near_text_shingles: str | None,
    image_hash: str,
    flips: bool,
    codes: Path | None,
    named: dict[str, PathLike],
    image_root: Path | None,
    confirm: str,
    keep: tuple[str, ...],
    chains: bool,
    max_neighbours: int,
    hubs: str,
    max_removed: float,
    scratch: Path | None,
) -> None:
    """Find copies, and choose which of them to keep.

    Who is like whom goes to <output>-edges, which does not depend on scores; another --keep uses it again. Every sample that goes
    is a direct neighbour of one that stays.
    """
    from vlmsel.cli.progress import Progress
    from vlmsel.cli.report import Report, fields_of
    from vlmsel.deduplication import dedup

    report = Report("dedup", as_json=common.json, quiet=common.quiet)
    with Progress("dedup", quiet=common.quiet, unit="rows") as progress:
        done = dedup(
            index_folder or common.place("index"),
            scores=scores,
            output=output or common.place("dedup"),
            exact=exact,  # type: ignore[arg-type]
            near_text=near_text,
            near_image=near_image,  # type: ignore[arg-type]
            near_pair=[_pair(words) for words in near_pair],  # type: ignore[misc]
            near_text_shingles=near_text_shingles,
            image_hash=image_hash,  # type: ignore[arg-type]
            flips=flips,
            codes=codes,
            named_sources=named,
            image_root=image_root,
            confirm=confirm,  # type: ignore[arg-type]
            keep=keep,
            chains=chains,
            max_neighbours=max_neighbours,
            hubs=hubs,  # type: ignore[arg-type]
            max_removed=max_removed,
            scratch=scratch,
            progress=progress.update,
            **common.run_options(),
        )
    _say(report, done)
    fields = fields_of(done)
    report.result(done.path, {**fields, "edges": str(done.edges)})


def _pair(words: str) -> tuple[str, str]:
    similarity, colon, radius = words.partition(":")
    if not colon:
        raise click.BadParameter(
            f"--near-pair {words}: it is a Jaccard similarity and a radius, such as 0.8:6", param_hint="'--near-pair'"
        )
    return similarity, radius


def _say(report: Report, done: Deduplication) -> None:
    from vlmsel.cli.progress import format_bytes

    if done.dry_run:
        report.say(f"would compare {done.input:,} samples and write {done.path}; at most, step by step:")
        for step in done.plan:
            memory, scratch = format_bytes(step["memory_bytes"]), format_bytes(step["scratch_bytes"])
            report.say(f"  {step['step']}: {step['entries']:,} records, {memory} of memory, {scratch} of scratch disk")
        return
    gone = done.input - done.kept
    size = f"{done.kept:,} of {done.input:,} samples are kept"
    if done.already_done:
        report.say(f"{done.path} is up to date: {size}; nothing was touched")
    else:
        again = " (edges were there already)" if done.edges_reused else ""
        report.say(f"{size}{again}; wrote {done.path}")
    if not gone:
        return
    for source, found in done.sources.items():
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in found["dropped"].items())
        lost = sum(found["dropped"].values())
        report.say(
            f"  {source}: {lost:,} of {found['input']:,} go ({lost / max(found['input'], 1):.1%}){': ' if kinds else ''}{kinds}"
        )
    if done.other_texts:
        report.warn(
            f"{done.other_texts:,} of them have another text than the sample that is kept for them: images alone were compared; "
            "--near-pair asks for both"
        )
    for hub in done.hubs[:3]:
        report.warn(
            f"a hub: {hub['neighbours']:,} contents are near {hub['record']['uid']} ({hub['kind']}); --hubs decides"
        )
    for group in done.groups[:3]:
        text = group["keeper"]["text"]
        shown = f" {text!r}" if text else ""
        report.say(f"  {group['dropped']:,} go for {group['keeper']['uid']}{shown}")
