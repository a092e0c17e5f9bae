"""Standard streams as every command may count on them: there, and never in the way of an exit code.

A caller may have closed one (``>&-``). Python then has None for it, and the next file that is opened gets its number: what is
written to the stream later, by Python or by a library, would end up in that file.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO


def open_standard_streams() -> None:
    """Put ``/dev/null`` where standard input, output or error is closed. Call it before any file is opened."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _put_null(number)
    # Where a stream is None although its number is open, another file has the number already: it is not written to.
    if sys.stdin is None:
        sys.stdin = _null("r")
    if sys.stdout is None:
        sys.stdout = _null("w")
    if sys.stderr is None:
        sys.stderr = _null("w")


def let_go_of_output() -> None:
    """Flush standard output and error; what nobody takes goes to ``/dev/null``.

    Python flushes once more when it ends. Where that fails, it complains and ends with a code of its own, 120.
    """
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError):
                _put_null(number)


def _put_null(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    # Programs that are started get it too, as they get any other stream.
    os.set_inheritable(number, True)


def _null(mode: str) -> TextIO:
    descriptor = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    # UTF-8 whatever the locale says: nobody reads it, and nothing may fail to be encoded. It stays open as long as we run.
    return open(descriptor, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # type: ignore[return-value]
