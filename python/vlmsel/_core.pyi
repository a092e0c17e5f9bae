"""The compiled half of vlmsel. Private: the modules of :mod:`vlmsel` give these names types and words."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, TypeAlias, final

import numpy.typing as npt
from typing_extensions import Buffer

__all__ = [
    "ArrowTable",
    "Output",
    "Rows",
    "TableReader",
    "__version__",
    "accept_losses",
    "dedup",
    "doctor",
    "exceeds",
    "fingerprint",
    "image_hash",
    "index",
    "mean_into",
    "path_below",
    "pick_rows",
    "plan_select",
    "read_rows",
    "read_table",
    "real_place",
    "select",
    "shard",
    "tar_members",
    "verify",
]

_Path: TypeAlias = str | PathLike[str]
# numpy's types say that arrays are buffers only from Python 3.12 on.
_Buffer: TypeAlias = Buffer | npt.NDArray[Any]
# Called with records, records in all, bytes, bytes in all; 0 in all is unknown. Raising in it stops the run.
_Watch: TypeAlias = Callable[[int, int, int, int], object]

__version__: str

@final
class Output:
    @staticmethod
    def begin(
        path: _Path,
        command: str,
        config: str,
        inputs: str,
        units: str,
        guarded: list[_Path],
        overwrite: bool,
        extend: bool,
        resume: bool,
    ) -> Output: ...
    @property
    def finished(self) -> bool: ...
    @property
    def path(self) -> bytes: ...
    @property
    def staging(self) -> bytes: ...
    def scratch(self) -> bytes: ...
    def committed(self) -> str: ...
    def left(self) -> str: ...
    def temporary(self, name: str) -> bytes: ...
    def commit(self, unit: str, names: list[str], rows: int, counts: str, detail: str) -> None: ...
    def finish(self, counts: str, roots: str, provenance: str, run: str) -> str: ...
    def manifest(self) -> str | None: ...
    def close(self) -> None: ...

def fingerprint(path: _Path, name: str) -> tuple[str, int, str]: ...
def image_hash(data: bytes) -> bytes: ...
def real_place(path: _Path) -> bytes: ...
def path_below(root: _Path, text: str) -> bytes: ...
def accept_losses(folder: _Path, max_bad_fraction: float, allow_bad_files: int, strict: bool) -> None: ...
def exceeds(
    count: int, bad: int, files: int, max_bad_fraction: float, allow_bad_files: int, strict: bool
) -> str | None: ...
def verify(path: _Path, watch: _Watch | None = None) -> tuple[str, int, int, list[str]]: ...

@final
class ArrowTable:
    @property
    def num_rows(self) -> int: ...
    @property
    def column_names(self) -> list[str]: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> Any: ...

# Options and reports are JSON; `memory` names objects that have __arrow_c_stream__.
def select(options: str, memory: Sequence[tuple[str, Any]], watch: _Watch | None = None) -> str: ...
def plan_select(options: str, memory: Sequence[tuple[str, Any]]) -> str: ...
def read_table(paths: Sequence[str], columns: Sequence[str] = ...) -> ArrowTable: ...

# The bytes of an image in a table's cell; `item` where the cell is a list. Raises the family of vlmsel.errors.
@final
class TableReader:
    def __new__(cls) -> TableReader: ...
    def read(self, path: _Path, row: int, item: int | None = None) -> bytes: ...

@final
class Rows:
    def __iter__(self) -> Rows: ...
    def __next__(self) -> dict[str, Any]: ...

def read_rows(
    paths: Sequence[str],
    columns: Sequence[str] = ...,
    uids: Sequence[bytes] | None = None,
    start: int = 0,
    stop: int | None = None,
) -> Rows: ...

# A pick is (kind, rows at most, seed, (score, bytes of an id)); kinds are first, last, drawn, median, and before, from, behind a cut.
def pick_rows(
    paths: Sequence[str],
    columns: Sequence[str],
    score_column: str,
    picks: Sequence[tuple[str, int, int, tuple[float, bytes] | None]],
    *,
    descending: bool = False,
    perplexities: bool = False,
    threads: int = 0,
    memory_limit: int = 0,
    watch: _Watch | None = None,
) -> tuple[int, list[list[dict[str, Any]]]]: ...

# Index, dedup, shard and doctor: options and summaries are JSON.
def index(options: str, watch: _Watch | None = None) -> str: ...
def dedup(options: str, watch: _Watch | None = None) -> str: ...
def shard(options: str, watch: _Watch | None = None) -> str: ...
def doctor(options: str, watch: _Watch | None = None) -> str: ...
def tar_members(path: _Path) -> tuple[list[tuple[str, int, int, int, str]], tuple[str, int]]: ...

# Whether every mean was finite.
def mean_into(out: _Buffer, dtype: str, chunks: Sequence[_Buffer], weights: Sequence[float]) -> bool: ...
