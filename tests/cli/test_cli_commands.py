"""Every command that ``vlmsel --help`` lists exists, has help and the common flags, which its help shows last."""

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


def assert_common_options_stand_last(shown: str, command: click.Command) -> None:
    """What the command is about, its own options, the common ones: nothing of one group under another's heading."""
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    common = [flag for option in options if option.name in COMMON for flag in option.opts]
    own = [flag for option in options if option.name not in COMMON and not option.hidden for flag in option.opts]
    about, _, rest = shown.partition("\nOptions:\n") if own else shown.partition("\nCommon options:\n")
    assert (command.help or "").split("\n")[0].split()[:4] == about.split("\n\n")[1].split()[:4]
    of_its_own, _, shared = rest.partition("\nCommon options:\n") if own else ("", "", rest)

    def flags_in(text: str) -> list[str]:
        rows = [line.strip() for line in text.splitlines() if line.startswith("  -")]
        return [word.strip(",") for row in rows for word in row.split("  ")[0].split() if word.startswith("-")]

    assert flags_in(shared) == [*common, "-h", "--help"]
    assert set(own) <= set(flags_in(of_its_own))
    assert not set(flags_in(of_its_own)) & {*common, "--help"}
    # After the common options nothing comes.
    assert "\n\n" not in shared.rstrip("\n")


@pytest.mark.parametrize("name", BUILT_IN)
def test_help_shows_the_common_options_last(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert_common_options_stand_last(capsys.readouterr().out, import_module(f"vlmsel.cli.{name}").command)


@pytest.mark.parametrize("words", [["score"], ["soup", "average"], ["soup", "maximum"], ["soup", "greedy"]])
def test_the_trainers_help_shows_them_last_too(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    points = {point.name: point for point in entry_points(group=GROUP)}
    if words[0] not in points:
        pytest.skip("vlmsel-trainer is not installed")
    command = points[words[0]].load()
    for word in words[1:]:
        command = command.commands[word]
    assert run([*words, "--help"]) == 0
    assert_common_options_stand_last(capsys.readouterr().out, command)
