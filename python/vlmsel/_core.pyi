"""The compiled half of vlmsel. Private: the modules of :mod:`vlmsel` give these names types and words."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias, final

__all__ = [
    "ArrowTable",
    "Output",
    "__version__",
    "fingerprint",
    "plan_select",
    "read_rows",
    "read_subset",
    "read_table",
    "select",
    "verify",
]

_Path: TypeAlias = str | PathLike[str]
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
        guarded: list[_Path],
        overwrite: bool,
        extend: bool,
        resume: bool,
    ) -> Output: ...
    @property
    def finished(self) -> bool: ...
    @property
    def path(self) -> Path: ...
    @property
    def staging(self) -> Path: ...
    def scratch(self) -> Path: ...
    def committed(self) -> str: ...
    def temporary(self, name: str) -> Path: ...
    def commit(self, unit: str, names: list[str], rows: int, counts: str, detail: str) -> None: ...
    def finish(self, counts: str, roots: str, provenance: str, run: str) -> str: ...
    def manifest(self) -> str | None: ...
    def close(self) -> None: ...

def fingerprint(path: _Path, name: str) -> tuple[str, int, str]: ...
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
def read_rows(
    paths: Sequence[str], columns: Sequence[str] = ..., uids: Sequence[bytes] | None = None
) -> list[dict[str, Any]]: ...
def read_subset(path: _Path) -> list[str]: ...
