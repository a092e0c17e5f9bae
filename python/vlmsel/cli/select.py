"""``vlmsel select``: options in, selection folder out, and a picture of the cut on stderr."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from vlmsel.cli.help import Command
from vlmsel.cli.options import COUNT, FRACTION, Common, common_options
from vlmsel.cli.progress import Progress, format_bytes
from vlmsel.cli.report import Report
from vlmsel.errors import NotFoundError

SIZES = ("k", "fraction", "threshold", "band", "token_budget")


@click.command("select", cls=Command)
@click.argument("scores", nargs=-1)
@click.option(
    "-k", "--k", type=COUNT, metavar="N", help="Keep the N best distinct samples; 1_000_000 and 1M are N too."
)
@click.option("--fraction", type=FRACTION, metavar="F", help="Keep this part of the eligible rows: 0.2 or 20%.")
@click.option("--threshold", type=float, metavar="T", help="Keep scores up to T (down to T under --order desc).")
@click.option(
    "--band", metavar="LO:HI", help="Keep the rows between two percentiles of rank, such as 10:30; 0 is best."
)
@click.option(
    "--token-budget", type=COUNT, metavar="N", help="Keep the best rows until the next one's n_tokens do not fit in N."
)
@click.option("-o", "--output", metavar="DIR", help="Where the selection goes.  [default: selection/ of the workspace]")
@click.option("--id-column", default="uid", show_default=True, metavar="NAME", help="Column with the ids.")
@click.option(
    "--score-column", default="ppl", show_default=True, metavar="NAME", help="Column with the scores; any numeric type."
)
@click.option(
    "--order",
    type=click.Choice(["asc", "desc"]),
    default="asc",
    show_default=True,
    help="Whether low or high scores are best.",
)
@click.option("--non-negative", is_flag=True, help="Scores below zero are bad (always so for the column ppl).")
@click.option("--min-tokens", type=COUNT, metavar="N", help="Reject rows whose n_tokens is lower.")
@click.option("--max-tokens", type=COUNT, metavar="N", help="Reject rows whose n_tokens is higher.")
@click.option(
    "--include", multiple=True, metavar="IDS", help="Only these ids: text, a table, or DataComp's .npy. Repeatable."
)
@click.option("--exclude", multiple=True, metavar="IDS", help="None of these ids. Repeatable.")
@click.option(
    "--dedup",
    type=click.Path(),
    metavar="DIR",
    help="Folder of vlmsel dedup: copies are no candidates and count as duplicate.",
)
@click.option("--allow-unmatched", is_flag=True, help="Go on though no row has any id of --include or --exclude.")
@click.option(
    "--repeats",
    type=click.Choice(["drop", "keep"]),
    default="drop",
    show_default=True,
    help="Whether an id counts once or each time.",
)
@click.option("--keep-columns", multiple=True, metavar="A,B", help="Columns to carry into the selection. Repeatable.")
@click.option(
    "--control", "controls", type=click.Choice(["random", "worst", "middle"]), multiple=True,
    help="Write a comparison set of the same size beside the selection. Repeatable.",
)  # fmt: skip
@click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    show_default=True,
    metavar="S",
    help="Seed of --control random.",
)
@click.option(
    "--mix-provenance", is_flag=True, help="Rank scores that different models, prompts or dtypes made together."
)
@common_options
def command(scores: tuple[str, ...], common: Common, **flags: Any) -> None:
    """Choose the best pairs by score: exactly k of them, reproducibly.

    SCORES are files, folders, globs, {braces} and @lists of Parquet, JSON lines or CSV tables; without any, scores/ of the
    workspace is read. Low scores are best unless --order desc says otherwise. The output folder has selection.parquet,
    uids.npy (DataComp's subset format, where ids are 128 bits wide) and manifest.json.

    \b
    vlmsel select --k 1M
    vlmsel select meta/*.parquet --score-column clip_l14_similarity_score --order desc --fraction 0.3
    """
    report = Report("select", as_json=common.json, quiet=common.quiet)
    given = [name for name in SIZES if flags[name] is not None]
    if len(given) != 1:
        names = ", ".join("--" + name.replace("_", "-") for name in (given or SIZES))
        what = f"{names} exclude each other" if given else f"how many? Give one of {names}"
        raise click.UsageError(what)
    keywords = _keywords(common, flags)
    sources = list(scores) or [str(_workspace_scores(common))]
    if common.dry_run:
        _show_plan(report, sources, keywords)
        return
    from vlmsel.selection import select

    with Progress("select", quiet=common.quiet, unit="rows") as progress:
        selection = select(sources, progress=progress.update, **keywords)
    for made in [selection, *selection.controls.values()]:
        _explain(report, made)
        _warn(report, made)
    for option, listed in selection.lists.items():
        if listed.unmatched:
            report.warn(f"--{option}: {listed.unmatched:,} of {listed.ids:,} listed ids met no row")
    if not common.quiet and selection.sample:
        report.say(histogram(selection.sample, selection.threshold, flags["order"] == "desc"))
    for name in selection.bad_files:
        report.warn(f"left out: {name} cannot be read")
    fields: dict[str, Any] = _fields(selection)
    if selection.controls:
        fields["controls"] = [
            {"control": name, "output": str(made.path), **_fields(made)} for name, made in selection.controls.items()
        ]
    report.result(keywords["output"], fields)


def _workspace_scores(common: Common) -> Path:
    place = common.place("scores")
    if not place.exists() and not place.with_name(f"{place.name}.partial").exists():
        raise NotFoundError(f"{place}: no such folder; name the tables of scores, or make it with `vlmsel score`")
    return place


def _keywords(common: Common, flags: dict[str, Any]) -> dict[str, Any]:
    keywords = dict(flags)
    keywords["control"] = list(keywords.pop("controls"))
    keywords["output"] = flags["output"] or str(common.place("selection"))
    kept = [name.strip() for names in flags["keep_columns"] for name in names.split(",")]
    keywords["keep_columns"] = [name for name in kept if name]
    keywords.update(
        threads=common.threads,
        strict=common.strict,
        max_bad_fraction=common.max_bad_fraction,
        allow_bad_files=common.allow_bad_files,
        overwrite=common.overwrite,
        memory_limit=common.memory_limit,
    )
    return keywords


def _fields(selection: Any) -> dict[str, Any]:
    lists: dict[str, int] = {}
    for option, listed in selection.lists.items():
        lists |= {f"{option}_listed": listed.ids, f"{option}_unmatched": listed.unmatched}
    return {
        "input": selection.input,
        "selected": selection.selected,
        "short_by": selection.short_by,
        "repeated_across_sources": selection.repeated_across_sources,
        "threshold": selection.threshold,
        "rejected": selection.rejected,
        "quarantined": selection.quarantined,
        **lists,
        "already_done": selection.already_done,
    }


def _warn(report: Report, selection: Any) -> None:
    if selection.selected == 0:
        report.warn("nothing was selected")
    if selection.repeated_across_sources:
        report.warn(
            f"{selection.path}: {selection.repeated_across_sources:,} rows were left out as repeated though they are of another "
            "source than the row that has their id; if ids are unique within a source only, make them unique, or pass --repeats keep"
        )
    if selection.short_by:
        wanted = selection.selected + selection.short_by
        report.warn(f"{selection.path}: {selection.selected:,} rows, not {wanted:,}: no more of them rank")


def _explain(report: Report, selection: Any) -> None:
    if selection.already_done:
        report.say(f"{selection.path}: already there, made from the same inputs with the same options; nothing to do")
        return
    report.say(
        f"{selection.path}: {selection.selected:,} of {selection.input:,} rows, last score {selection.threshold}"
    )
    for reason, count in sorted(selection.rejected.items(), key=lambda item: -item[1]):
        report.say(f"  {count:>14,} {reason}")
    if selection.quarantined:
        report.say(f"  {selection.quarantined:>14,} could not be read: {selection.path}/quarantine.jsonl")


def _show_plan(report: Report, sources: list[str], keywords: dict[str, Any]) -> None:
    from vlmsel.selection import plan

    planned = plan(sources, **keywords)
    rows = f"{planned['rows']:,} rows" if planned["rows"] else "rows unknown before reading"
    report.say(
        f"would read {planned['files']:,} tables, {rows}, {format_bytes(planned['bytes'])}\n"
        f"would need about {format_bytes(planned['memory_bytes'])} of memory and {format_bytes(planned['scratch_bytes'])} of scratch disk\n"
        f"would write {', '.join(planned['outputs'])}"
    )
    report.result(None, {"dry_run": True, **planned})


def histogram(sample: list[float], threshold: Any, descending: bool, *, bins: int = 20, width: int = 48) -> str:
    """A text histogram of ascending scores between their 0.5 and 99.5 percentiles, with the cut marked.

    Where positive scores span more than three decades, as perplexities of junk do, the bins are even in the logarithm.
    """
    low, high = sample[int(len(sample) * 0.005)], sample[min(int(len(sample) * 0.995), len(sample) - 1)]
    if not low < high:
        return f"scores: all of a sample of {len(sample):,} are {low:g}"
    logarithmic = low > 0 and high / low > 1000

    def place(score: float) -> int:
        if logarithmic:
            share = math.log(max(score, low) / low) / math.log(high / low)
        else:
            share = (score - low) / (high - low)
        return min(max(int(share * bins), 0), bins - 1)

    counts = [0] * bins
    for score in sample:
        counts[place(score)] += 1
    try:
        cut = None if threshold is None else place(float(threshold))
    except ValueError:
        cut = None
    lines = [f"scores (a sample of {len(sample):,}; the ends hold what lies beyond):"]
    for at, count in enumerate(counts):
        edge = low * (high / low) ** (at / bins) if logarithmic else low + (high - low) * at / bins
        kept = cut is not None and (at >= cut if descending else at <= cut)
        bar = ("#" if kept else "-") * round(count / max(counts) * width)
        mark = "  <- the cut" if at == cut else ""
        lines.append(f"  {edge:>12.5g} |{bar}{mark}")
    return "\n".join(lines)
