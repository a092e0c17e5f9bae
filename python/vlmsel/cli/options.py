"""The flags that every command has, and the types of what people type: counts, sizes, fractions.

``vlmsel-trainer`` uses these for its commands too, so that one word means one thing everywhere::

    @click.command(cls=Command)
    @common_options
    def command(common: Common) -> None: ...
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vlmsel.cli.help import CommonOption

if TYPE_CHECKING:
    from vlmsel._requests import RunOptions

Function = TypeVar("Function", bound=Callable[..., Any])

WORKSPACE_KEY = "vlmsel.workspace"
"""Where ``vlmsel -w DIR COMMAND`` leaves DIR in click's context for the command."""

_NUMBER = r"[0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?|\.[0-9]+"
_COUNT = re.compile(rf"(?P<number>{_NUMBER})(?:e(?P<exponent>[0-9]{{1,2}}))?\s*(?P<unit>[kmgbt]?)", re.IGNORECASE)
_COUNT_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_SIZE = re.compile(rf"(?P<number>{_NUMBER})\s*(?P<unit>[a-z]*)", re.IGNORECASE)
_SIZE_UNITS = {
    "": 1,
    "B": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_MAX_COUNT = 2**64 - 1
_MAX_DIGITS = 18


def parse_count(text: str) -> int:
    """``1_000_000``, ``1M``, ``2.5k``, ``1e6``, ``3B`` (10^9) as a whole number. Raises ValueError."""
    found = _COUNT.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a count such as 1000000, 1_000_000, 2.5k or 1M")
    number = Decimal(found["number"].replace("_", "")).scaleb(int(found["exponent"] or 0))
    number *= _COUNT_UNITS[found["unit"].upper()]
    if number != number.to_integral_value():
        raise ValueError(f"{text!r} is not a whole number")
    if number > _MAX_COUNT:
        raise ValueError(f"{text!r} is above {_MAX_COUNT:,}")
    return int(number)


def parse_size(text: str) -> int:
    """``2GB``, ``512MiB``, ``1.5G``, ``4096`` in bytes, at least 1. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if not found or found["unit"].upper() not in _SIZE_UNITS:
        raise ValueError(f"{text!r} is not a size such as 512MiB, 2GB or 1.5GB")
    size_bytes = int(Decimal(found["number"].replace("_", "")) * _SIZE_UNITS[found["unit"].upper()])
    if not 1 <= size_bytes <= _MAX_COUNT:
        raise ValueError(f"{text!r} is not between one byte and {_MAX_COUNT:,} bytes")
    return size_bytes


def parse_fraction(text: str) -> str:
    """``0.2``, ``.5``, ``20%``, ``1e-3`` as the exact decimal between 0 and 1 that it says: ``"0.2"``. Raises ValueError.

    A string, because 0.29 of 100 records is 29 and no binary fraction knows that.
    """
    clean = text.strip()
    percent = clean.endswith("%")
    try:
        number = Decimal(clean.removesuffix("%").rstrip())
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise ValueError(f"{text!r} is not a fraction such as 0.2 or 20%")
    if percent:
        number = number.scaleb(-2)
    if not 0 <= number <= 1:
        raise ValueError(f"{text!r} is not between 0 and 1 (0% and 100%)")
    plain = format(number.normalize(), "f")
    if len(plain.partition(".")[2]) > _MAX_DIGITS:
        raise ValueError(f"{text!r} has more than {_MAX_DIGITS} digits behind the point")
    return plain


if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # Generic in click's types, in older versions not at run time.


class Parsed(ParamType):
    """A parameter whose text one of the functions above reads."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The parsed value; a value that is no text (a default) stays."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


COUNT = Parsed("count", parse_count)
SIZE = Parsed("size", parse_size)
FRACTION = Parsed("fraction", parse_fraction)


@dataclass(frozen=True, slots=True)
class Common:
    """The flags of every command, resolved."""

    workspace: Path = Path()
    json: bool = False
    dry_run: bool = False
    threads: int | None = None
    """None: as many as the machine has cores."""
    memory_limit: int | None = None
    """Bytes; None: the command's own default."""
    strict: bool = False
    max_bad_fraction: float = 0.001
    allow_bad_files: int = 0
    overwrite: bool = False
    quiet: bool = False

    def run_options(self) -> RunOptions:
        """What the functions over shards take as keywords."""
        return {
            "threads": self.threads,
            "memory_limit": self.memory_limit,
            "strict": self.strict,
            "max_bad_fraction": self.max_bad_fraction,
            "allow_bad_files": self.allow_bad_files,
            "overwrite": self.overwrite,
            "dry_run": self.dry_run,
        }

    def place(self, folder: str) -> Path:
        """The folder of that name in the workspace, as the user would type it (``scores``, not ``./scores``)."""
        return self.workspace / folder


_FLAGS = tuple(field.name for field in fields(Common) if field.name != "workspace")

_option = functools.partial(click.option, cls=CommonOption)

_RECORD_OPTIONS = [
    _option("--strict", is_flag=True, help="Fail at the first bad record or file."),
    _option(
        "--max-bad-fraction",
        type=FRACTION,
        default="0.001",
        show_default=True,
        metavar="F",
        help="Fail, and commit nothing, if more than this part of the records is unreadable.",
    ),
    _option(
        "--allow-bad-files",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        metavar="N",
        help="Go on without up to N files that cannot be read; they are listed.",
    ),
]

_OPTIONS = [
    _option(
        "-w", "--workspace", type=click.Path(path_type=Path), metavar="DIR", help="Folder of index/ scores/ selection/ shards/; here by default."
    ),
    _option("--json", "json", is_flag=True, help="Print one JSON object on stdout in place of the path."),
    _option("--dry-run", is_flag=True, help="Check everything, print the plan, write nothing."),
    _option("--threads", type=click.IntRange(1, 4096), metavar="N", help="Threads to use; one per core by default. Never changes the result."),
    _option("--memory-limit", type=SIZE, metavar="SIZE", help="Memory to stay under, such as 2GB or 512MiB. Never changes the result."),
    *_RECORD_OPTIONS,
    _option("--overwrite", is_flag=True, help="Replace an output that vlmsel made of other inputs or options."),
    _option("-q", "--quiet", is_flag=True, help="Only warnings and errors on stderr."),
]  # fmt: skip


def common_options(function: Function) -> Function:
    """Give a command the common flags; it receives them as ``common``, a :class:`Common`."""
    return _with_options(function, _OPTIONS)


def common_options_without_records(function: Function) -> Function:
    """As :func:`common_options`, for a command that reads no records: without the flags that say how many may be bad."""
    return _with_options(function, [option for option in _OPTIONS if option not in _RECORD_OPTIONS])


def _with_options(function: Function, options: Sequence[Callable[[Any], Any]]) -> Function:
    @functools.wraps(function)
    def with_common(*args: Any, **kwargs: Any) -> Any:
        found = {name: kwargs.pop(name) for name in _FLAGS if name in kwargs}
        if "max_bad_fraction" in found:
            found["max_bad_fraction"] = float(found["max_bad_fraction"])
        workspace = kwargs.pop("workspace") or _workspace_of_group() or Path()
        return function(*args, common=Common(workspace=workspace, **found), **kwargs)

    decorated: Any = with_common
    for option in reversed(options):
        decorated = option(decorated)
    result: Function = decorated
    return result


def _workspace_of_group() -> Path | None:
    workspace: Path | None = click.get_current_context().meta.get(WORKSPACE_KEY)
    return workspace
