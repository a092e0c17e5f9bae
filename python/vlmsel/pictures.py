"""Pictures of indexed samples, for people to look at: read by byte range, measured before they are decoded.

Made for contact sheets, not for models: a bad picture never raises, it becomes a `BadPicture` that says why. Only a good one
that does not fit the caller's memory limit raises, because a limit must not change what is shown.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vlmsel.errors import ResourceError
from vlmsel.files import NotPlainError, open_plain, path_below

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""What is decoded; Pillow's other readers stay shut, whatever a file calls itself."""

MAX_PIXELS = 64_000_000
MAX_BYTES = 256 << 20
# Pillow's own four bytes for a pixel of any mode, RGBA, and what resizing makes of that on the way.
_BYTES_PER_PIXEL = 12


@dataclass(frozen=True, slots=True)
class BadPicture:
    """Why a sample has no picture to show, in a few words."""

    reason: str


def picture_path(root: Mapping[str, Any], shard: str, file: str | None) -> Path | None:
    """Where the bytes of an image lie, below its root; None for a path that leaves it.

    `root` is an entry of the index manifest's `roots`; `file` is null where the bytes lie in the shard itself.
    """
    base, below = (root["path"], shard) if file is None else (root.get("image_root") or root["path"], file)
    if not below:
        return path_below("", base)
    if os.path.isabs(below) or "\0" in below or ".." in PurePosixPath(below).parts:
        return None
    path = path_below("", base)
    return path if path.is_file() and path.name == below else path_below(path, below)


def read_picture(
    root: Mapping[str, Any] | None, shard: str, image: Mapping[str, Any], side_px: int, memory_limit: int = 0
) -> Image.Image | BadPicture:
    """The image at its byte range as RGB on white, no larger than `side_px` on either side; small ones as they are.

    Raises ResourceError for one that takes more than `memory_limit` bytes to decode (0: no limit).
    """
    if root is None:
        return BadPicture("unknown source")
    path = picture_path(root, shard, image["file"])
    if path is None:
        return BadPicture("path leaves its root")
    size_bytes = image["size"]
    if size_bytes > MAX_BYTES:
        return BadPicture(f"too large: {size_bytes:,} bytes")
    _check_memory(size_bytes, memory_limit, f"{path}: a picture of {size_bytes:,} bytes")
    try:
        with open_plain(path) as file:
            file.seek(image["offset"])
            content = file.read(size_bytes)
    except NotPlainError as error:
        return BadPicture(f"is {error.kind}")
    except (OSError, OverflowError) as error:
        return BadPicture(getattr(error, "strerror", None) or "not readable")
    if len(content) < size_bytes:
        return BadPicture("file ends too early")
    try:
        return decode(content, side_px, memory_limit)
    except ResourceError as error:
        raise ResourceError(f"{path}, offset {image['offset']:,}: {error}") from None


def decode(content: bytes, side_px: int, memory_limit: int = 0) -> Image.Image | BadPicture:
    """`content` as an RGB picture of at most `side_px` squared, or the reason why not; ResourceError as `read_picture`."""
    from PIL import Image

    if not content:
        return BadPicture("zero bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    return BadPicture(f"too large: {opened.width:,} x {opened.height:,} px")
                opened.draft("RGB", (side_px, side_px))
                needed = len(content) + opened.width * opened.height * _BYTES_PER_PIXEL
                _check_memory(needed, memory_limit, f"a picture of {opened.width:,} x {opened.height:,} px")
                picture = _in_colour(opened)
        picture.thumbnail((side_px, side_px))
        picture = _on_white(picture)
    except ResourceError:
        raise
    except Image.DecompressionBombError:
        return BadPicture("too large to decode")
    except Exception as error:
        return BadPicture("truncated" if "truncated" in str(error) else "cannot be decoded")
    return picture


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
