"""``vlmsel doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vlmsel.cli.help import Command
from vlmsel.cli.options import Common, common_options
from vlmsel.cli.sources import data_options

if TYPE_CHECKING:
    from vlmsel.types import KeyUntil, PathLike


@click.command("doctor", cls=Command)
@data_options
@common_options
def command(
    common: Common,
    src: tuple[str, ...],
    named: dict[str, PathLike],
    image_root: Path | None,
    caption_column: str | None,
    key_until: KeyUntil,
) -> None:
    """Say what is wrong with a data set before a long run does.

    Reads every byte of SRC and writes nothing. Counts and examples per kind of trouble; under --strict any is exit 5.
    """
    from vlmsel.cli.progress import Progress, format_bytes
    from vlmsel.cli.report import Report
    from vlmsel.doctoring import doctor
    from vlmsel.errors import StrictError
    from vlmsel.findings import ADVICE, skipped_line

    report = Report("doctor", as_json=common.json, quiet=common.quiet)
    with Progress("doctor", quiet=common.quiet, unit="pairs") as progress:
        found = doctor(
            src,
            named_sources=named,
            image_root=image_root,
            caption_column=caption_column,
            key_until=key_until,
            threads=common.threads,
            memory_limit=common.memory_limit,
            dry_run=common.dry_run,
            progress=progress.update,
        )
    if common.json:
        report.result(None, {"input": found.records, **asdict(found)})
    elif common.dry_run:
        report.text(f"would read {found.files:,} files of {format_bytes(found.bytes)}")
    else:
        lines = [
            f"{found.records:,} records in {found.files:,} files of {format_bytes(found.bytes)}",
            f"{found.images:,} images, {found.texts:,} texts",
        ]
        for source, counts in sorted(found.classes.items()):
            lines.append(f"{source}: " + ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items())))
        if found.skipped.count:
            lines.append(skipped_line(found.skipped))
        for kind, finding in sorted(found.findings.items(), key=lambda item: (-item[1].count, item[0])):
            lines.append(f"{finding.count:>10,}  {kind}")
            if kind in ADVICE:
                lines.append(f"{'':12}({ADVICE[kind]})")
            lines.extend(f"{'':12}{example}" for example in finding.examples)
        if found.repeats_sampled > 1:
            lines.append(f"repeats were looked for among one in {found.repeats_sampled:,} pictures (memory limit)")
        if found.healthy:
            lines.append("nothing is wrong")
        # One finding is one line, whatever a file's name holds.
        report.text("\n".join(line.replace("\n", "\\n") for line in lines))
    if common.strict and not found.healthy:
        raise StrictError(f"{sum(f.count for f in found.findings.values()):,} findings of {len(found.findings)} kinds")
