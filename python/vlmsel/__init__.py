"""vlmsel: choose the image-text pairs worth training a vision-language model on.

The data half needs no torch. Names are resolved on first use, so that importing the package costs next to nothing. ``score``
and ``soup`` come with the distribution ``vlmsel-trainer``: ``pip install 'vlmsel[train]'``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from vlmsel._core import __version__ as __version__
    from vlmsel._sheet.sheet import Sheet as Sheet
    from vlmsel._sheet.sheet import sheet as sheet
    from vlmsel.deduplication import Deduplication as Deduplication
    from vlmsel.deduplication import dedup as dedup
    from vlmsel.doctoring import Diagnosis as Diagnosis
    from vlmsel.doctoring import doctor as doctor
    from vlmsel.indexing import Index as Index
    from vlmsel.indexing import index as index
    from vlmsel.outputs import Output as Output
    from vlmsel.outputs import Verification as Verification
    from vlmsel.outputs import fingerprint as fingerprint
    from vlmsel.outputs import read_manifest as read_manifest
    from vlmsel.outputs import verify as verify
    from vlmsel.selection import Selection as Selection
    from vlmsel.selection import select as select
    from vlmsel.sharding import Shards as Shards
    from vlmsel.sharding import shard as shard

    # Their types are vlmsel-trainer's, which this package must not know: `help(vlmsel.score)` has signature and words.
    score: Callable[..., Any]
    soup: Callable[..., Any]

_HOMES = {
    "Deduplication": "vlmsel.deduplication",
    "Diagnosis": "vlmsel.doctoring",
    "Index": "vlmsel.indexing",
    "Output": "vlmsel.outputs",
    "Selection": "vlmsel.selection",
    "Shards": "vlmsel.sharding",
    "Sheet": "vlmsel._sheet.sheet",
    "Verification": "vlmsel.outputs",
    "__version__": "vlmsel._core",
    "dedup": "vlmsel.deduplication",
    "doctor": "vlmsel.doctoring",
    "fingerprint": "vlmsel.outputs",
    "index": "vlmsel.indexing",
    "read_manifest": "vlmsel.outputs",
    "select": "vlmsel.selection",
    "shard": "vlmsel.sharding",
    "sheet": "vlmsel._sheet.sheet",
    "verify": "vlmsel.outputs",
}

# Found by name, as its commands are, because imports between the distributions point the other way.
_TRAINER = "vlmsel_trainer"
_OF_THE_TRAINER = ("score", "soup")

# Without the trainer's: `from vlmsel import *` has to work where it is not installed.
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _OF_THE_TRAINER:
        return getattr(_trainer_api(name), name)
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'vlmsel' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    from importlib.util import find_spec

    return sorted([*__all__, *(_OF_THE_TRAINER if find_spec(_TRAINER) else ())])


def _trainer_api(name: str) -> Any:
    try:
        return import_module(f"{_TRAINER}.api")
    except ModuleNotFoundError as error:
        if error.name != _TRAINER:
            raise
        from vlmsel.errors import NotInstalledError

        raise NotInstalledError(
            f"vlmsel.{name} comes with the distribution vlmsel-trainer, which is not installed: "
            "pip install 'vlmsel[train]'"
        ) from None
