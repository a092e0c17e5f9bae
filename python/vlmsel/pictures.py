"""Pictures of indexed samples, for people to look at: measured before they are decoded (`vlmsel.images` reads them).

Made for contact sheets, not for models: a bad picture never raises, it becomes a `BadPicture` that says why. Only a good one
that does not fit the caller's memory limit raises, because a limit must not change what is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmsel.errors import ResourceError
from vlmsel.images import MAX_DECODE_PIXELS, ImageError, check_size, locate, open_image, read_image

if TYPE_CHECKING:
    from PIL import Image

# Pillow's own four bytes for a pixel of any mode, RGBA, and what resizing makes of that on the way.
_BYTES_PER_PIXEL = 12


@dataclass(frozen=True, slots=True)
class BadPicture:
    """Why a sample has no picture to show, in a few words."""

    reason: str


def read_picture(
    root: Mapping[str, Any] | None, shard: str, image: Mapping[str, Any], side_px: int, memory_limit: int = 0
) -> Image.Image | BadPicture:
    """An entry of the index's ``images`` as RGB on white, no larger than `side_px` on either side; small ones as they are.

    What lies there now is shown, also where it is not what was indexed: that is for people to see. Raises ResourceError for
    one that takes more than `memory_limit` bytes to decode (0: no limit).
    """
    try:
        location = locate(root, shard, image)
        size_bytes = location.size or 0
        check_size(size_bytes, location)
        _check_memory(size_bytes, memory_limit, f"{location.path}: a picture of {size_bytes:,} bytes")
        content = read_image(location, check=False)
    except ImageError as error:
        return BadPicture(error.reason)
    try:
        return decode(content, side_px, memory_limit)
    except ResourceError as error:
        raise ResourceError(f"{location}: {error}") from None


def decode(
    content: bytes, side_px: int, memory_limit: int = 0, max_decode_pixels: int = MAX_DECODE_PIXELS
) -> Image.Image | BadPicture:
    """`content` as an RGB picture of at most `side_px` squared, or the reason why not; ResourceError as `read_picture`."""
    try:
        with open_image(content, max_decode_pixels) as opened:
            opened.draft("RGB", (side_px, side_px))
            needed = len(content) + opened.width * opened.height * _BYTES_PER_PIXEL
            _check_memory(needed, memory_limit, f"a picture of {opened.width:,} x {opened.height:,} px")
            picture = _in_colour(opened)
            picture.thumbnail((side_px, side_px))
            return _on_white(picture)
    except ImageError as error:
        return BadPicture(error.reason)


def _check_memory(needed_bytes: int, memory_limit: int, what: str) -> None:
    if memory_limit and needed_bytes > memory_limit:
        raise ResourceError(
            f"{what} takes {needed_bytes:,} bytes to decode, --memory-limit is {memory_limit:,}; raise the limit"
        )


def _in_colour(picture: Image.Image) -> Image.Image:
    transparent = picture.info.get("transparency")
    if picture.mode == "RGB" and transparent is None:
        return picture.convert("RGB")
    if picture.mode.startswith("I"):
        return _in_eight_bits(picture, transparent)
    return picture.convert("RGBA")


def _in_eight_bits(picture: Image.Image, transparent: int | None) -> Image.Image:
    """Grey of 16 bits (`I;16`, in older Pillows `I`): Pillow would cut it off at 255, and of the transparent grey too."""
    wide = picture.convert("I")
    grey = wide.point([value // 257 for value in range(1 << 16)], "L")
    grey.info.pop("transparency", None)
    if transparent is None:
        del wide  # Four bytes for a pixel: one copy at a time is what the caller's limit allows for.
        return grey.convert("RGBA")
    alpha = wide.point([0 if value == transparent else 255 for value in range(1 << 16)], "L")
    del wide
    coloured = grey.convert("RGBA")
    coloured.putalpha(alpha)
    return coloured


def _on_white(picture: Image.Image) -> Image.Image:
    from PIL import Image

    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
