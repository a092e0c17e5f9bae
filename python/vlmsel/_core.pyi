"""The compiled half of vlmsel. Private: the modules of :mod:`vlmsel` give these names types and words."""

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TypeAlias, final

__all__ = ["Output", "__version__", "fingerprint", "verify"]

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
