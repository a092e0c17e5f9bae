"""Every command that ``vlmsel --help`` lists exists, has help and the common flags."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

import click
import pytest
from vlmsel.cli.main import BUILT_IN, GROUP, run
from vlmsel.cli.options import common_options

COMMON = {parameter.name for parameter in click.command()(common_options(lambda: None)).params}


def leaves(command: click.Command) -> list[click.Command]:
    """The command itself, or those of a group."""
    return (
        [leaf for sub in command.commands.values() for leaf in leaves(sub)]
        if isinstance(command, click.Group)
        else [command]
    )


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_command_has_the_common_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = import_module(f"vlmsel.cli.{name}").command
    assert command.name == name
    assert {parameter.name for parameter in command.params} >= COMMON
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"Usage: vlmsel {name}")
    assert shown.err == ""


def test_the_trainers_commands_join() -> None:
    """With vlmsel-trainer installed, its entry points load, without torch, and take the common flags too."""
    points = [point for point in entry_points(group=GROUP) if point.value.startswith("vlmsel_trainer.")]
    if not points:
        pytest.skip("vlmsel-trainer is not installed")
    for point in points:
        for leaf in leaves(point.load()):
            assert {parameter.name for parameter in leaf.params} >= {"json", "dry_run", "overwrite", "quiet"}, leaf.name
