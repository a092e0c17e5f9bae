"""vlmsel: choose the image-text pairs worth training a vision-language model on.

The data half needs no torch. Names are resolved on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmsel._core import __version__ as __version__
    from vlmsel._sheet.sheet import Sheet as Sheet
    from vlmsel._sheet.sheet import sheet as sheet
    from vlmsel.doctoring import Diagnosis as Diagnosis
    from vlmsel.doctoring import doctor as doctor
    from vlmsel.indexing import Index as Index
    from vlmsel.indexing import index as index
    from vlmsel.outputs import Output as Output
    from vlmsel.outputs import fingerprint as fingerprint
    from vlmsel.outputs import read_manifest as read_manifest
    from vlmsel.outputs import verify as verify
    from vlmsel.selection import Selection as Selection
    from vlmsel.selection import select as select
    from vlmsel.sharding import Shards as Shards
    from vlmsel.sharding import shard as shard

_HOMES = {
    "Diagnosis": "vlmsel.doctoring",
    "Index": "vlmsel.indexing",
    "Output": "vlmsel.outputs",
    "Selection": "vlmsel.selection",
    "Shards": "vlmsel.sharding",
    "Sheet": "vlmsel._sheet.sheet",
    "__version__": "vlmsel._core",
    "doctor": "vlmsel.doctoring",
    "fingerprint": "vlmsel.outputs",
    "index": "vlmsel.indexing",
    "read_manifest": "vlmsel.outputs",
    "select": "vlmsel.selection",
    "shard": "vlmsel.sharding",
    "sheet": "vlmsel._sheet.sheet",
    "verify": "vlmsel.outputs",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'vlmsel' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
