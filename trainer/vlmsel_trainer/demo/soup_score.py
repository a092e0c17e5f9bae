"""`python -m vlmsel_trainer.demo.soup_score --split accept MODEL`: the program that the soup demo gives to `--eval`."""

from __future__ import annotations

import json
from pathlib import Path

import click
from vlmsel.cli.main import main as end_with


@click.command(help=__doc__)
@click.option("--split", type=click.Choice(["accept", "report"]), default="accept", show_default=True)
@click.argument("model", type=click.Path(path_type=Path, exists=True))
def main(split: str, model: Path) -> None:
    import torch

    from vlmsel_trainer.demo import styles

    torch.set_num_threads(1)
    click.echo(json.dumps(styles.score(model, split)))


if __name__ == "__main__":
    end_with(main, "python -m vlmsel_trainer.demo.soup_score")
