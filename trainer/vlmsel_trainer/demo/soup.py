"""`python -m vlmsel_trainer.demo.soup [WORKSPACE]`: three fine-tunes, three soups, and whether they were worth it.

The demo's scorer (trained first if it is not there) is fine-tuned on three styles of pictures, about a minute each. The
public commands average them. What is printed last is measured on faces that chose nothing.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import click
from vlmsel.cli.progress import Progress, watched

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
    accepted = {name: _score(folder / name, "accept") for name in tunes}
    scores_file = folder / "scores.json"
    scores_file.write_text(json.dumps(accepted, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    _say(f"\n3. Soups by the public commands. Scores of the three for choosing: {scores_file}")
    models = " ".join(shlex.quote(str(folder / name)) for name in tunes)
    where, program = shlex.quote(str(folder)), _program("accept")
    for command in (
        f"vlmsel soup average {models} -o {where}/average",
        f"vlmsel soup maximum {models} --top 2 --scores {where}/scores.json -o {where}/maximum",
        f"vlmsel soup greedy {models} --scores {where}/scores.json --eval {shlex.quote(program)} -o {where}/greedy",
    ):
        _type(f"{command} --overwrite")
    _report(workspace, folder, tunes)
    _say(
        f"\nDone in {time.monotonic() - begun:.0f} s. The greedy trials as a picture: {folder / 'greedy' / 'soup.svg'}"
    )
    click.echo(folder)


def _train(workspace: Path, folder: Path, base_steps: int, steps: int, seed: int) -> list[str]:
    _say("1. The demo's scorer, as `make demo` trains it.")
    with _show("training the scorer", "steps") as progress:
        progress.update(0, base_steps, note="loading torch")
        import torch

        from vlmsel_trainer.demo import styles
        from vlmsel_trainer.demo.train import TrainingPlan, available_threads, is_trained, train

        base_plan, base = TrainingPlan(n_steps=base_steps, seed=seed), workspace / "scorer"

        def show_base(step: int, loss: float) -> None:
            progress.update(step, base_steps, note=f"loss {loss:.2f} nats/token")

        if is_trained(base_plan, base):
            _say(f"   It is there already: {base}")
        else:
            train(base_plan, base, show_base)
    _say("2. Three fine-tunes of it, one for each style of picture; half of every batch stays plain.")
    torch.set_num_threads(available_threads())
    for style in styles.STYLES:
        plan = styles.FineTunePlan(style, n_steps=steps, seed=seed)
        with _show(f"fine-tuning: {style}", "steps") as progress:

            def show(step: int, loss: float, progress: Progress = progress) -> None:
                progress.update(step, steps, note=f"loss {loss:.2f} nats/token")

            styles.fine_tune(plan, base, base_plan, folder / style, show)
    return list(styles.STYLES)


def _report(workspace: Path, folder: Path, tunes: list[str]) -> None:
    from vlmsel_trainer.demo import styles

    places = {"scorer": workspace / "scorer", **{name: folder / name for name in (*tunes, *_SOUPS)}}
    scores = {name: _score(place, "report") for name, place in places.items()}
    (folder / "report.json").write_text(json.dumps(scores, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    columns = ["score", "plain", *styles.STYLES]
    _say(
        "\nHeld-out score: minus the mean NLL in nats per caption token, over all pictures and by style; larger is better.\n"
    )
    _say(f"{'':10}" + "".join(f"{column:>10}" for column in columns))
    for name, row in scores.items():
        _say(f"{name:10}" + "".join(f"{row[column]:10.3f}" for column in columns))
    single, soup = styles.best(scores, tunes), styles.best(scores, _SOUPS)
    gain = scores[soup]["score"] - scores[single]["score"]
    verdict = f"gains {gain:.3f} on" if gain > 0 else f"loses {-gain:.3f} to" if gain < 0 else "equals"
    _say(
        f"\nThe best soup ({soup}) {verdict} the best single fine-tune ({single}). One seed; small differences are noise."
    )


def _score(model: Path, split: str) -> dict[str, float]:
    from vlmsel_trainer.demo import styles

    return styles.score(model, split)


def _program(split: str) -> str:
    return f"{shlex.quote(sys.executable)} -m vlmsel_trainer.demo.soup_score --split {split} {{model}}"


def _say(text: str) -> None:
    click.echo(text, err=True)


def _show(title: str, unit: str) -> Progress:
    return Progress(title, unit=unit, interval_s=None if watched(sys.stderr) else 10.0)


def _type(command: str) -> None:
    """Run a command line as a user would type it; its result joins the talk on stderr. Ends the demo if it fails."""
    _say(f"\n$ {command}")
    program, *arguments = shlex.split(command)
    script = Path(sys.executable).with_name(program)
    words = [str(script)] if script.is_file() else [sys.executable, "-m", f"{program}.cli.main"]
    done = subprocess.run([*words, *arguments], stdout=sys.stderr, check=False)
    if done.returncode:
        _say(f"the command ended with exit code {done.returncode}; the demo stops here and can be run again")
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
