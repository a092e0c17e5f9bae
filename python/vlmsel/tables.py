"""Reading the tables of output folders without another Parquet library."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vlmsel import _core
from vlmsel.types import PathLike


def _arguments(paths: PathLike | Iterable[PathLike]) -> list[str]:
    return [os.fspath(paths)] if isinstance(paths, (str, os.PathLike)) else [os.fspath(path) for path in paths]


def read(paths: PathLike | Iterable[PathLike], columns: Sequence[str] = ()) -> _core.ArrowTable:
    """Columns (all if none are named) of Parquet tables as one table with ``__arrow_c_stream__``; held in memory."""
    return _core.read_table(_arguments(paths), list(columns))


def rows(
    paths: PathLike | Iterable[PathLike],
    columns: Sequence[str] = (),
    uids: Iterable[bytes | str] | None = None,
    *,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of Parquet tables as dictionaries, read as they are asked for: all, or those whose ``uid`` is in ``uids``.

    ``start`` and ``stop`` count the rows of all tables; row groups outside are passed over. What is held is a batch of a
    row group. With ``uids`` the other columns are decoded for these rows alone.
    """
    wanted = None if uids is None else [uid.encode() if isinstance(uid, str) else uid for uid in uids]
    return _core.read_rows(_arguments(paths), list(columns), wanted, start, stop)
