"""`python -m vlmsel_trainer.demo [WORKSPACE]`: the whole way on made-up web data, in under six minutes on two cores.

Draws a pool with planted junk, trains a small scorer, and then types the public commands: index, doctor, dedup, score, select,
shard, sheet. Everything stays in the workspace (`DEMO_WORKSPACE`, by default `demo-workspace/`); a second run finds it finished.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from pathlib import Path

import click
from vlmsel.cli.main import main as end_with

from vlmsel_trainer.demo.stage import say, show, type_command

# Before torch is loaded: a second thread that waits by spinning costs more than it brings when another program runs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_CANNOT_SHOW = """\
What this demo cannot show, because perplexity alone does not do it:
  * Copies score alike: an exact copy of a good pair has the score of a good pair. That is why dedup comes first.
  * What the scorer never saw goes: names and phrasings that it was not trained on are dropped as if they were wrong.
  * Templates win: captions that follow a pattern ("box drawings ...") are kept more often than rarer, equally true ones.
The scorer is small and the pictures are simple; the commands are the same for a real model and real pairs."""


@click.command(help=__doc__)
@click.argument("workspace", envvar="DEMO_WORKSPACE", default="demo-workspace", type=click.Path(path_type=Path))
@click.option("--pairs", default=8000, show_default=True, help="Pairs in the pool.")
@click.option("--steps", default=1400, show_default=True, help="Training steps of the scorer.")
@click.option("--seed", default=0, show_default=True, help="Seed of the pool and of the training.")
def main(workspace: Path, pairs: int, steps: int, seed: int) -> None:
    begun = time.monotonic()
    _make_pool(workspace, pairs, seed)
    _train_scorer(workspace, steps, seed)
    where = shlex.quote(str(workspace))
    type_command(f"vlmsel index {where}/pool -w {where}")
    type_command(f"vlmsel doctor {where}/pool")
    # The planted broken pictures are five per cent; without this flag the commands would rather fail than go on with the rest.
    type_command(f"vlmsel dedup --near-pair 0.8:6 --max-bad-fraction 0.06 -w {where}")
    type_command(f"vlmsel score --model {where}/scorer --max-bad-fraction 0.06 -w {where}")
    type_command(f"vlmsel select --fraction 0.5 --dedup {where}/dedup --control random -w {where}")
    type_command(f"vlmsel shard --samples-per-shard 1000 -w {where}")
    type_command(f"vlmsel sheet -w {where} --overwrite -o {where}/sheet.png")
    _report(workspace)
    say(f"\nDone in {time.monotonic() - begun:.0f} s; everything is in {where}/. Try there:\n")
    for command in (
        f"vlmsel select --fraction 0.33 -w {where} -o {where}/third",
        f"vlmsel sheet {where}/third -w {where} -o {where}/third.png --rows 4",
        f"vlmsel verify {where}/shards",
        f"vlmsel doctor {where}/pool --json",
    ):
        say(f"  {command}")
    say(f"\n{_CANNOT_SHOW}")
    click.echo(workspace)


def _make_pool(workspace: Path, pairs: int, seed: int) -> None:
    from vlmsel_trainer.demo.corpus import CorpusPlan, write_pool

    plan = CorpusPlan(n_pairs=pairs, seed=seed)
    junk = ", ".join(f"{n:,} {kind}" for kind, n in plan.counts().items())
    say(f"1. A pool of {pairs:,} captioned pictures of Unicode characters: {junk}.")
    with show("drawing", "pairs") as progress:
        write_pool(plan, workspace, lambda n_pairs: progress.update(n_pairs, pairs))


def _train_scorer(workspace: Path, steps: int, seed: int) -> None:
    say("2. A LLaVA of 1.3 million parameters learns the names, from faces and colours that the pool does not contain.")
    with show("training", "steps") as progress:
        progress.update(0, steps, note="loading torch, drawing")
        from vlmsel_trainer.demo.train import TrainingPlan, is_trained, train

        plan, folder = TrainingPlan(n_steps=steps, seed=seed), workspace / "scorer"
        if is_trained(plan, folder):
            say(f"   It is there already: {folder}")
            return
        # Saving loads DeepSpeed where it is installed, which talks on stdout; that belongs to the result.
        with contextlib.redirect_stdout(sys.stderr):
            train(plan, folder, lambda step, loss: progress.update(step, steps, note=f"loss {loss:.2f} nats/token"))


def _report(workspace: Path) -> None:
    import json

    from vlmsel import tables

    from vlmsel_trainer.demo import report

    planted = json.loads((workspace / "corpus.json").read_text(encoding="utf-8"))["counts"]
    control = workspace / "selection-random-s0"
    index, dedup, selection = (workspace / name for name in ("index", "dedup", "selection"))
    kinds = report.count_kinds(index, dedup, selection, control, tables.rows, planted)
    text = report.write(kinds, workspace)
    say(f"\nWhat became of each kind ({text}):\n\n{report.render(kinds)}")
    say(f"\nLook at {workspace / 'sheet.png'}: the best, a random draw, those around the cut and the worst.")


if __name__ == "__main__":
    end_with(main, "python -m vlmsel_trainer.demo")
