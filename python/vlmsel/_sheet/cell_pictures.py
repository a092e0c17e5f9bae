"""The pictures of cells, decoded when they are asked for, so that no more than one is held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmsel._sheet.cells import Cell, uid_bytes
from vlmsel.pictures import BadPicture, read_picture

if TYPE_CHECKING:
    from PIL import Image


class CellPictures:
    """Reads the first picture of a cell's sample, no larger than `side_px` on either side, and remembers the bad ones.

    `memory_limit` is what decoding one may take, in bytes (0: no limit).
    """

    def __init__(self, side_px: int, memory_limit: int = 0) -> None:
        self.bad: dict[str, str] = {}
        """Why a picture cannot be shown, by uid in hexadecimal, for samples that the index has."""
        self._side_px = side_px
        self._memory_limit = memory_limit

    def read(self, cell: Cell) -> Image.Image | BadPicture | None:
        """The picture as RGB, why there is none to show, or None for a sample without pictures.

        Raises ResourceError for a picture that takes more than the memory limit to decode.
        """
        sample = cell.sample
        if sample is None:
            return BadPicture("not in the index")
        if not sample.images:
            return None
        shown = read_picture(sample.root, sample.shard, sample.images[0], self._side_px, self._memory_limit)
        uid = uid_bytes(cell.uid)
        if isinstance(shown, BadPicture) and uid is not None:
            self.bad[uid.hex()] = shown.reason
        return shown
