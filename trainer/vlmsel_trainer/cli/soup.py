"""``vlmsel soup average|maximum|greedy MODEL... -o OUT``: the mean of fine-tunes.

Soups are arithmetic on files and need no torch at all; the engine is imported only inside a command's body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from vlmsel.cli.help import Command
from vlmsel.cli.options import SIZE, Common, common_options_without_records
from vlmsel.cli.report import Report

if TYPE_CHECKING:
    from vlmsel_trainer.soup import SoupPlan, SoupResult

Function = TypeVar("Function", bound=Callable[..., Any])


@click.group("soup", short_help="Average fine-tunes of one model into one.")
def command() -> None:
    """Average fine-tunes of one model into one: all of them, the best P, or greedily.

    MODELs are folders of safetensors (sharded or not) or LoRA adapters of one base. Keys, shapes, dtypes, tied weights,
    vocabularies and image sizes must match; the command names what does not. Sums are wider than the stored type and
    rounded once; the order of the arguments never changes a byte.
    """


def _common(function: Function) -> Function:
    options = [
        click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path)),
        click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the soup; soup/ in the workspace by default."),
        click.option("--keep", multiple=True, metavar="PATTERN",
                     help="Take tensors whose names match (* matches dots too) from one model, unblended. Repeatable."),
        click.option("--from", "keep_from", type=click.Path(path_type=Path), metavar="MODEL", help="The model --keep takes from."),
        click.option("--base", type=click.Path(path_type=Path), metavar="MODEL",
                     help="Base model of LoRA adapters, where their config names none on this machine."),
        click.option("--companions-from", type=click.Path(path_type=Path), metavar="MODEL",
                     help="Take config, tokenizer and processor from this model although the models differ."),
        click.option("--max-shard-size", type=SIZE, default="5GB", show_default=True, help="Largest weight file."),
        click.option("--report-eval", metavar="'PROGRAM ARGS {model}'",
                     help="Score the soup and the best single model on held-out data at the end."),
        click.option("--eval-timeout", default=86400.0, show_default=True, metavar="SECONDS", help="Limit of one evaluation."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return common_options_without_records(function)


def _scored(function: Function) -> Function:
    options = [
        click.option("--scores", type=click.Path(path_type=Path), metavar="FILE",
                     help="Scores of the models: JSON or CSV with model, score and benchmarks; larger is better."),
        click.option("--eval", "eval_program", metavar="'PROGRAM ARGS {model}'",
                     help="Program that scores a model folder: its last line is a number, or JSON with score. No shell."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@command.command("average", cls=Command)
@click.option("--weights", metavar="W1,W2,...", help="One weight per MODEL in the order given; equal without it.")
@_common
def average(models: tuple[Path, ...], weights: str | None, **options: Any) -> None:
    """The mean of all MODELs.

    \b
    vlmsel soup average sft-*/ -o soup
    vlmsel soup average a b --weights 0.3,0.7 -o soup
    vlmsel soup average a b c --keep 'vision_tower.*' --from a -o soup
    """
    _run("average", models, {"weights": _parse_weights(weights)}, options)


@command.command("maximum", cls=Command)
@click.option("--top", default=2, show_default=True, metavar="P", help="How many of the best models to average.")
@click.option("--weights", metavar="W1,W2,...", help="One weight per MODEL in the order given; equal without it.")
@_scored
@_common
def maximum(models: tuple[Path, ...], weights: str | None, top: int, **options: Any) -> None:
    """The mean of the P best MODELs by score.

    \b
    vlmsel soup maximum sft-*/ --scores scores.csv --top 3 -o soup
    """
    _run("maximum", models, {"weights": _parse_weights(weights), "top": top}, options)


@command.command("greedy", cls=Command)
@click.option(
    "--accept-margin", default=0.0, show_default=True, metavar="M", help="Gain that a model must bring to stay."
)
@_scored
@_common
def greedy(models: tuple[Path, ...], accept_margin: float, **options: Any) -> None:
    """Try MODELs from the best down and keep those that do not lower the score of the mean.

    Each trial is scored once by --eval; a killed run continues with the trials it has. Use --report-eval on data that
    --eval does not see: the accepted score is optimistic.

    \b
    vlmsel soup greedy sft-*/ --eval 'python eval.py --split dev {model}' --report-eval 'python eval.py --split test {model}' -o soup
    """
    _run("greedy", models, {"accept_margin": accept_margin}, options)


def _run(method: str, models: Sequence[Path], specific: dict[str, Any], options: dict[str, Any]) -> None:
    from vlmsel_trainer.soup import Soup, SoupOptions
    from vlmsel_trainer.soup.report.console import ConsoleReporter

    common: Common = options["common"]
    output: Path = options["output"] or common.place("soup")
    report = Report("soup", as_json=common.json, quiet=common.quiet)
    soup_options = SoupOptions(
        method=method,  # type: ignore[arg-type]
        models=tuple(models),
        output=output,
        keep=options["keep"],
        keep_from=options["keep_from"],
        base=options["base"],
        companions_from=options["companions_from"],
        scores=options.get("scores"),
        eval_program=options.get("eval_program"),
        report_program=options["report_eval"],
        eval_timeout_s=options["eval_timeout"],
        max_shard_bytes=options["max_shard_size"],
        threads=common.threads,
        memory_limit=common.memory_limit,
        overwrite=common.overwrite,
        **specific,
    )
    with Soup(soup_options, ConsoleReporter(report, common.quiet)) as soup:
        if common.dry_run:
            _show_plan(report, soup.plan(), common.json)
        else:
            _show_result(report, soup.make(), output)


def _show_plan(report: Report, plan: SoupPlan, as_json: bool) -> None:
    facts = {
        "dry_run": True,
        "models": list(plan.ingredients),
        "files": list(plan.shards),
        "read_bytes": plan.read_bytes,
        "write_bytes": plan.write_bytes,
        "buffer_bytes": plan.memory_bytes,
        "differences": list(plan.differences),
    }
    if as_json:
        report.result(None, facts)
    else:
        lines = [f"{key}: {', '.join(value) if isinstance(value, list) else value}" for key, value in facts.items()]
        report.text("\n".join(lines))


def _show_result(report: Report, result: SoupResult, output: Path) -> None:
    lineage = result.manifest["provenance"]
    members = [entry["label"] for entry in lineage["candidates"] if entry["in_soup"]]
    count = f"{len(members)} model{'s' if len(members) > 1 else ''}"
    done = "already made, nothing to do" if result.already_done else f"{count} in {result.wall_s:.1f} s"
    report.say(f"{lineage['method']} soup of {', '.join(members)}: {done}")
    for row in (lineage["report"] or {}).get("scores", []):
        report.say(f"held-out score of {row['label']}: {row['score']:.6g}")
    facts = {key: lineage[key] for key in ("method", "content_hash", "candidates", "trials", "tensors", "report")}
    counts = result.manifest["counts"]
    report.result(
        output, {**counts, "quarantined": 0, "fresh": not result.already_done, **facts, "peak_bytes": result.peak_bytes}
    )


def _parse_weights(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list of numbers like 0.3,0.7", param_hint="--weights") from error
