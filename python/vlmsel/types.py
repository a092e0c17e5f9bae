"""Types that the public functions share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Literal, Protocol, TypeAlias

PathLike: TypeAlias = str | os.PathLike[str]

ProgressCallback: TypeAlias = Callable[[int, int, int, int], object]
"""``progress(records, records_total, bytes, bytes_total)``, called now and then while work goes on.

A total of 0 is unknown. An exception that it raises ends the run; what was finished is kept.
"""


class ArrowStream(Protocol):
    """A table of any library that speaks Arrow's C stream: pyarrow, Polars, DuckDB and others."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The table as a capsule named ``arrow_array_stream``."""


Scores: TypeAlias = PathLike | ArrowStream | Iterable[PathLike | ArrowStream]
"""Tables of scores: a path (file, folder, glob, braces, ``@list``), a table in memory, or several of either."""

KeyUntil = Literal["first-dot", "last-dot"]
"""The dot of a tar member's name that its key ends at."""
