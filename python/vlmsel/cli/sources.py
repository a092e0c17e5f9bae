"""The arguments of commands that read data: SRC, ``--source`` and ``--image-root``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def _split(
    _context: click.Context, _option: click.Parameter, words: tuple[str, ...]
) -> dict[str, str | os.PathLike[str]]:
    """``NAME=PATH`` words as a mapping; a word without ``=`` is a usage error."""
    pairs: dict[str, str | os.PathLike[str]] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise click.UsageError(f"--source {word}: write NAME=PATH, for example laion=/data/laion")
        if name in pairs:
            raise click.UsageError(f"--source {name} is given twice")
        pairs[name] = path
    return pairs


def named_option(text: str) -> Callable[[Function], Function]:
    """``--source NAME=PATH``, repeatable; the command receives a mapping as ``named``."""
    return click.option("--source", "named", multiple=True, metavar="NAME=PATH", callback=_split, help=text)


def image_root_option(text: str) -> Callable[[Function], Function]:
    """``--image-root DIR``; the command receives ``image_root``, a path or None."""
    return click.option("--image-root", type=click.Path(path_type=Path), metavar="DIR", help=text)


def data_options(function: Function) -> Function:
    """SRC, ``--source``, ``--image-root`` and how to read, of a command that reads data for the first time."""
    function = click.option(
        "--key-until",
        type=click.Choice(["first-dot", "last-dot"]),
        default="first-dot",
        show_default=True,
        help="The dot of a tar member's name that its key ends at; WebDataset takes the first.",
    )(function)
    function = click.option(
        "--caption-column", metavar="NAME", help="Parquet column with the captions; caption or text by default."
    )(function)
    function = image_root_option("Folder that image paths in JSON records are relative to.")(function)
    function = named_option("A source with a name of your own; repeatable.")(function)
    return click.argument("src", nargs=-1)(function)
