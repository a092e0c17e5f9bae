"""The errors of vlmsel: one family, each with the exit code that the command line ends with.

Rust decides class and message where an error arises and raises these by name; Python code raises them itself. A message
says what happened, where, and what to try. Codes: ARCHITECTURE.md, "Errors and exit codes".
"""

from __future__ import annotations

import errno
from typing import ClassVar

__all__ = [
    "LockedError",
    "MismatchError",
    "NotFoundError",
    "NotInstalledError",
    "ResourceError",
    "StrictError",
    "UnreadableError",
    "UsageError",
    "VlmselError",
]


class VlmselError(Exception):
    """Base of the family. Raised itself only for a bug in vlmsel."""

    exit_code: ClassVar[int] = 1


class UsageError(VlmselError, ValueError):
    """An option, a column or a type that cannot be: change the call."""

    exit_code: ClassVar[int] = 2


class NotFoundError(VlmselError, FileNotFoundError):
    """A file or folder that is not there."""

    exit_code: ClassVar[int] = 2


class UnreadableError(VlmselError):
    """Too much of the input cannot be read; nothing was committed."""

    exit_code: ClassVar[int] = 3


class LockedError(VlmselError):
    """Another process is writing the output; the message names it."""

    exit_code: ClassVar[int] = 4


class StrictError(VlmselError):
    """A bad record or file under ``strict``."""

    exit_code: ClassVar[int] = 5


class ResourceError(VlmselError, OSError):
    """Disk, memory or open files ran out. The old output is intact and the same call resumes."""

    exit_code: ClassVar[int] = 6


class MismatchError(VlmselError):
    """Other inputs or options than those of the run it would resume, an unfinished input, or mixed provenance."""

    exit_code: ClassVar[int] = 7


class NotInstalledError(VlmselError, AttributeError):
    """A function of a distribution that is not installed. An AttributeError, so that ``hasattr(vlmsel, "score")`` tells."""

    exit_code: ClassVar[int] = 2


def is_memory_shortage(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, also where the loader of libraries or torch's allocator says it in words."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # CPython's compiler forgets the MemoryError where it gets no memory in its midst.
    if isinstance(error, SystemError):
        return "returned NULL without setting an exception" in str(error)
    words = ("failed to map segment", "cannot allocate memory", "can't allocate memory")
    return isinstance(error, ImportError | OSError | RuntimeError) and any(word in str(error).lower() for word in words)
