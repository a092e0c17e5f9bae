"""`python -m vlmsel_trainer.demo.soup [WORKSPACE]`: three fine-tunes, three soups, and whether they were worth it.

The demo's scorer (trained first if it is not there) is fine-tuned on three styles of pictures, about a minute each. The
public commands average them. What is printed last is measured on faces that chose nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
from pathlib import Path

import click
from vlmsel.cli.main import main as end_with
from vlmsel.cli.progress import Progress

from vlmsel_trainer.demo.stage import say, show, type_command

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_SOUPS = ("average", "maximum", "greedy")


@click.command(help=__doc__)
@click.argument("workspace", envvar="DEMO_WORKSPACE", default="demo-workspace", type=click.Path(path_type=Path))
@click.option("--base-steps", default=1400, show_default=True, help="Training steps of the scorer, if it is not there.")
@click.option("--steps", default=300, show_default=True, help="Steps of each fine-tune.")
@click.option("--seed", default=0, show_default=True, help="Seed of the trainings.")
def main(workspace: Path, base_steps: int, steps: int, seed: int) -> None:
    begun = time.monotonic()
    folder = workspace / "soups"
    tunes = _train(workspace, folder, base_steps, steps, seed)

    from vlmsel_trainer.demo import styles

    accepted = {name: styles.score(folder / name, "accept") for name in tunes}
    scores_file = folder / "scores.json"
    scores_file.write_text(json.dumps(accepted, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    say(f"\n3. Soups by the public commands. Scores of the three for choosing: {scores_file}")
    models = " ".join(shlex.quote(str(folder / name)) for name in tunes)
    where = shlex.quote(str(folder))
    choice, held_out = (shlex.quote(_program(split)) for split in ("accept", "report"))
    scored = f"--scores {where}/scores.json --report-eval {held_out}"
    for command in (
        f"vlmsel soup average {models} -o {where}/average",
        f"vlmsel soup maximum {models} --top 2 {scored} -o {where}/maximum",
        f"vlmsel soup greedy {models} {scored} --eval {choice} -o {where}/greedy",
    ):
        type_command(f"{command} --overwrite")
    _report(workspace, folder, tunes, styles.best(accepted, tunes))
    say(f"\nDone in {time.monotonic() - begun:.0f} s. The greedy trials as a picture: {folder / 'greedy' / 'soup.svg'}")
    click.echo(folder)


def _train(workspace: Path, folder: Path, base_steps: int, steps: int, seed: int) -> list[str]:
    say("1. The demo's scorer, as `make demo` trains it.")
    with show("training the scorer", "steps") as progress:
        progress.update(0, base_steps, note="loading torch")
        import torch

        from vlmsel_trainer.demo import styles
        from vlmsel_trainer.demo.train import TrainingPlan, available_threads, is_trained, train

        base_plan, base = TrainingPlan(n_steps=base_steps, seed=seed), workspace / "scorer"

        def show_base(step: int, loss: float) -> None:
            progress.update(step, base_steps, note=f"loss {loss:.2f} nats/token")

        if is_trained(base_plan, base):
            say(f"   It is there already: {base}")
        else:
            # Saving loads DeepSpeed where it is installed, which talks on stdout; that belongs to the result.
            with contextlib.redirect_stdout(sys.stderr):
                train(base_plan, base, show_base)
    say("2. Three fine-tunes of it, one for each style of picture; half of every batch stays plain.")
    torch.set_num_threads(available_threads())
    for style in styles.STYLES:
        plan = styles.FineTunePlan(style, n_steps=steps, seed=seed)
        with show(f"fine-tuning: {style}", "steps") as progress:

            def show_step(step: int, loss: float, progress: Progress = progress) -> None:
                progress.update(step, steps, note=f"loss {loss:.2f} nats/token")

            with contextlib.redirect_stdout(sys.stderr):
                styles.fine_tune(plan, base, base_plan, folder / style, show_step)
    return list(styles.STYLES)


def _report(workspace: Path, folder: Path, tunes: list[str], single: str) -> None:
    from vlmsel_trainer.demo import styles

    places = {"scorer": workspace / "scorer", **{name: folder / name for name in (*tunes, *_SOUPS)}}
    scores = {name: styles.score(place, "report") for name, place in places.items()}
    (folder / "report.json").write_text(json.dumps(scores, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    columns = ["score", "plain", *styles.STYLES]
    say(
        "\nHeld-out score: minus the mean NLL in nats per caption token, over all pictures and by style; larger is better.\n"
    )
    say(f"{'':10}" + "".join(f"{column:>10}" for column in columns))
    for name, row in scores.items():
        say(f"{name:10}" + "".join(f"{row[column]:10.3f}" for column in columns))
    gains = ", ".join(f"{soup} {scores[soup]['score'] - scores[single]['score']:+.3f}" for soup in _SOUPS)
    say(f"\nAgainst {single}, the single fine-tune that the choosing scores put first: {gains}.")
    say("One seed; differences of a hundredth are noise.")


def _program(split: str) -> str:
    return f"{shlex.quote(sys.executable)} -m vlmsel_trainer.demo.soup_score --split {split} {{model}}"


if __name__ == "__main__":
    end_with(main, "python -m vlmsel_trainer.demo.soup")
