"""Commands and plug-ins to hang on the group for one test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from vlmsel.cli.main import commands


@pytest.fixture
def hang() -> Iterator[Callable[[click.Command], click.Command]]:
    """Adds a command to the group for the time of the test."""
    names: list[str] = []

    def add(command: click.Command) -> click.Command:
        assert command.name
        commands.add_command(command)
        names.append(command.name)
        return command

    yield add
    for name in names:
        commands.commands.pop(name)


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Installs a distribution with one entry point: ``(name, source of its module)``."""
    modules: list[str] = []

    def install(name: str, source: str) -> None:
        module = f"planted_{name}"
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(source)
        metadata = tmp_path / f"{module}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[vlmsel.commands]\n{name} = {module}:command\n")

    monkeypatch.syspath_prepend(tmp_path)
    yield install
    for module in modules:
        sys.modules.pop(module, None)
