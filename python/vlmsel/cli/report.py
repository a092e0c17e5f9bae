"""What a command says: the result on stdout, everything else on stderr.

stdout carries one result and nothing else, so that ``$(vlmsel select ...)`` and ``vlmsel ... --json | jq`` work. Names and
captions come from untrusted data; :func:`printable` keeps them from steering the terminal that shows them.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCHEMA = 1
"""Version of the JSON object; it grows when a key changes its meaning or goes."""

_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


def printable(text: object, *, newlines: bool = False) -> str:
    r"""``text`` with everything that is not plain printable text as an escape: ``\x1b``, ``\u202e``, ``\udcff``.

    Covers control characters, invisible and direction-changing ones, and lone surrogates (bytes that are no UTF-8 in a
    file name). ``newlines`` lets ``\n`` through, for texts of several lines.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or (newlines and character == "\n")
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def peak_bytes() -> int:
    """The largest resident memory that this process has had, in bytes.

    Linux counts it per program (VmHWM); elsewhere the system's figure includes what a parent had when it forked.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT_BYTES


class Report:
    """The one result of one command, and its notes.

    Make it when the command begins (its age is ``wall_s``), write notes with :meth:`say` and :meth:`warn`, and the result
    with :meth:`result`.
    """

    def __init__(self, command: str, *, as_json: bool = False, quiet: bool = False) -> None:
        self.command = command
        self._as_json = as_json
        self._quiet = quiet
        self._began_s = time.monotonic()
        self._given = False

    @property
    def wall_s(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._began_s

    def say(self, text: str) -> None:
        """A note on stderr; silent under ``-q``. Untrusted parts are escaped."""
        if not self._quiet:
            _talk(printable(text, newlines=True))

    def warn(self, text: str) -> None:
        """A warning on stderr, under ``-q`` too."""
        _talk(f"warning: {printable(text, newlines=True)}")

    def result(self, output: str | os.PathLike[str] | None, fields: Mapping[str, Any] | None = None) -> None:
        """Write the result: the path alone, or one JSON object of ``fields`` with ``wall_s`` and ``peak_bytes``.

        ``fields`` may name its own ``wall_s`` and ``peak_bytes``. A number that JSON does not have (NaN, infinity) becomes
        null. ``output`` is None for a command that leaves nothing behind; it then prints only under ``--json``.

        Raises RuntimeError for a second result: two would be no JSON document.
        """
        if self._given:
            raise RuntimeError(f"{self.command} has already written its result")
        self._given = True
        if self._as_json:
            record = {
                "schema": SCHEMA,
                "command": self.command,
                "output": None if output is None else os.fspath(output),
                **(fields or {}),
            }
            record.setdefault("wall_s", round(self.wall_s, 3))
            record.setdefault("peak_bytes", peak_bytes())
            _write(json.dumps(_plain(record), allow_nan=False))
        elif output is not None:
            # A script gets the path as it is, whatever its bytes; a person's terminal gets it escaped.
            path = os.fspath(output)
            _write(printable(path) if sys.stdout.isatty() else path)

    def text(self, text: str) -> None:
        """Write a result for people in place of the path (a dry run's plan, a doctor's findings); counts as the result."""
        if self._given:
            raise RuntimeError(f"{self.command} has already written its result")
        self._given = True
        _write(printable(text, newlines=True))


def fields_of(done: DataclassInstance) -> dict[str, Any]:
    """What index and shard leave behind as the fields of a result, in order and without the path.

    The key ``already_finished`` is older than the attribute ``already_done``; scripts read the key.
    """
    names = {"already_done": "already_finished"}
    return {names.get(name, name): value for name, value in asdict(done).items() if name != "path"}


def _talk(line: str) -> None:
    # Where nobody can take what is said, the work and its result go on.
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _write(line: str) -> None:
    data = _encoded(line) + b"\n"
    stdout = getattr(sys.stdout, "buffer", None)
    if stdout is None:
        sys.stdout.write(data.decode("utf-8", "backslashreplace"))
    else:
        sys.stdout.flush()
        stdout.write(data)
    sys.stdout.flush()


def _encoded(line: str) -> bytes:
    """A line as the locale has it: paths as their bytes, characters that it lacks as escapes."""
    try:
        return os.fsencode(line)
    except UnicodeEncodeError:
        return b"".join(_encoded_character(character) for character in line)


def _encoded_character(character: str) -> bytes:
    try:
        return os.fsencode(character)
    except UnicodeEncodeError:
        return character.encode("ascii", "backslashreplace")


def _plain(value: Any) -> Any:
    """``value`` as JSON can say it: paths as text, numbers that JSON lacks as null, numpy scalars as numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return os.fspath(value)
    if value is None or isinstance(value, str | int):
        return value
    item = getattr(value, "item", None)
    return _plain(item()) if callable(item) else str(value)
