"""``vlmsel score``: the perplexity of every pair of an index under a vision-language model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from vlmsel.cli.help import Command
from vlmsel.cli.options import COUNT, Common, common_options
from vlmsel.cli.progress import Progress as Bar
from vlmsel.cli.progress import format_bytes
from vlmsel.cli.report import Report

from vlmsel_trainer.scoring.options import ScoreOptions

if TYPE_CHECKING:
    from vlmsel_trainer.scoring.run import Plan, Progress, Summary

DEFAULTS = ScoreOptions()


@click.command("score", cls=Command, short_help="Score every pair by its perplexity under a vision-language model.")
@click.option("--model", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Local model folder.")
@click.option("--index", type=click.Path(path_type=Path), metavar="DIR", help="The index; index/ by default.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Where to write; scores/ by default."
)
@click.option("--prompt", default=DEFAULTS.prompt, show_default=True, help="What the user asks beside the image.")
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", show_default=True
)
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="cpu, cuda, cuda:1, ...")
@click.option("--image-backend", type=click.Choice(["auto", "pil", "torchvision"]), default="auto", show_default=True)
@click.option(
    "--batch-tokens",
    type=COUNT,
    default=DEFAULTS.batch_tokens,
    show_default=True,
    help="Most tokens in one batch, padding counted. Lower it for less memory; it does not change scores.",
)
@click.option("--max-pixels", type=COUNT, metavar="N", help="Shrink larger images to N pixels.")
@click.option(
    "--max-decode-pixels",
    type=COUNT,
    default=DEFAULTS.max_decode_pixels,
    show_default=True,
    metavar="N",
    help="Give up on images whose header claims more.",
)
@click.option(
    "--max-text-tokens",
    type=COUNT,
    default=DEFAULTS.max_text_tokens,
    show_default=True,
    metavar="N",
    help="Cut the end of longer texts; such rows say `truncated`.",
)
@click.option(
    "--end-token/--no-end-token", default=True, show_default=True, help="Score the token that closes an answer."
)
@click.option("--no-image-pass", is_flag=True, help="Score every text without its images too (nll_sum_no_image).")
@click.option("--compat", type=click.Choice(["wepoints"]), help="Tokenise answers as the filter released with POINTS.")
@click.option("--samples-per-unit", type=COUNT, default=DEFAULTS.samples_per_unit, show_default=True, metavar="N")
@click.option(
    "--workers", type=click.IntRange(0, 256), default=0, help="Threads that decode images; 0: one per core, at most 16."
)
@click.option("--limit", type=COUNT, metavar="N", help="Score only the first N rows.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that the model folder brings along.")
@common_options
def command(
    model: Path,
    index: Path | None,
    output: Path | None,
    prompt: str,
    dtype: str,
    device: str,
    image_backend: str,
    batch_tokens: int,
    max_pixels: int | None,
    max_decode_pixels: int,
    max_text_tokens: int,
    end_token: bool,
    no_image_pass: bool,
    compat: Literal["wepoints"] | None,
    samples_per_unit: int,
    workers: int,
    limit: int | None,
    trust_remote_code: bool,
    common: Common,
) -> None:
    """Score every pair of an index by its perplexity under a vision-language model.

    The model is a local folder as save_pretrained writes it (LLaVA, Idefics, Qwen-VL and others that AutoModelForImageTextToText
    loads). A run that was stopped goes on where it was; new shards of the index are added to a finished output.
    """
    report = Report("score", as_json=common.json, quiet=common.quiet)
    options = ScoreOptions(
        prompt=prompt,
        dtype=dtype,
        device=device,
        image_backend=image_backend,
        batch_tokens=batch_tokens,
        max_pixels=max_pixels,
        max_decode_pixels=max_decode_pixels,
        max_text_tokens=max_text_tokens,
        count_end_token=end_token,
        no_image_pass=no_image_pass,
        compat=compat,
        samples_per_unit=samples_per_unit,
        workers=workers,
        limit=limit,
        trust_remote_code=trust_remote_code,
    )
    index = index or common.place("index")
    output = output or common.place("scores")

    from vlmsel_trainer.scoring import run
    from vlmsel_trainer.scoring.threads import torch_threads

    with torch_threads(common.threads, on_gpu=run.on_gpu(options)):
        if common.dry_run:
            _show_plan(run.plan(model, index, options, common.memory_limit), output, report)
            return
        began_s = time.monotonic()
        with Bar("score", quiet=common.quiet, unit="pairs") as bar:

            def show(progress: Progress) -> None:
                rate = progress.tokens / max(time.monotonic() - began_s, 1e-9)
                bar.update(progress.rows, progress.total_rows, note=f"{rate:,.0f} tokens/s")

            summary = run.score(
                model,
                index=index,
                output=output,
                options=options,
                overwrite=common.overwrite,
                strict=common.strict,
                max_bad_fraction=common.max_bad_fraction,
                allow_bad_files=common.allow_bad_files,
                memory_limit=common.memory_limit,
                on_progress=show,
            )
    _say(summary, report)
    fields = {
        **summary.counts,
        "quarantined": 0,
        "failed": summary.failed,
        "scored": summary.scored_rows,
        "pairs_per_s": round(summary.scored_rows / summary.wall_s, 3),
        "tokens_per_s": round(summary.tokens / summary.wall_s, 3),
    }
    report.result(output, fields)


def _show_plan(planned: Plan, output: Path, report: Report) -> None:
    lines = {
        "rows": f"{planned.rows:,}",
        "units": f"{len(planned.units):,}",
        "model": f"{planned.config['architecture']}, {format_bytes(planned.model_bytes)}, {planned.config['dtype']}",
        "memory": f"{format_bytes(planned.memory.weight_bytes)} of weights, {format_bytes(planned.memory.prefetch_bytes)} of rows ahead, "
        f"{format_bytes(planned.memory.decode_bytes)} of pictures under way",
        "output": str(output),
    }
    report.say("\n".join(f"{name:>7}  {value}" for name, value in lines.items()))
    report.result(
        output,
        {"dry_run": True, "input": planned.rows, "units": len(planned.units), "model_bytes": planned.model_bytes},
    )


def _say(summary: Summary, report: Report) -> None:
    if summary.scored_rows == 0:
        report.say(f"nothing to do: {summary.path} has the scores of all {summary.counts['input']:,} rows")
        return
    rate, tokens = summary.scored_rows / summary.wall_s, summary.tokens / summary.wall_s
    report.say(f"{summary.scored_rows:,} pairs in {summary.wall_s:,.1f} s: {rate:,.1f} pairs/s, {tokens:,.0f} tokens/s")
    for status, count in summary.counts.items():
        if status not in ("input", "ok") and count:
            report.say(f"{count:,} rows not scored: {status}")
