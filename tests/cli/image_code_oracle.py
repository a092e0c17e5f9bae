"""Codes of pictures as Python's ``imagehash`` defines them, of pictures as a person sees them: Pillow and NumPy alone.

Checked against imagehash 4.3.2 with scipy; answers of imagehash itself are the vectors in
rust/vlmsel-core/src/image_code/tests.rs.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

TIE = 1e-6
"""Coefficients nearer to the median lie on it: in imagehash a rounding error decides of such a bit, here it is 0."""


@dataclass(frozen=True)
class Codes:
    """Numbers whose hexadecimal digits are imagehash's, and a quality from 0 to 100."""

    phash: int
    dhash: int
    mirror: int
    quality: int


def seen(content: bytes) -> Image.Image:
    """A stored picture in grey: first frame, turned as its EXIF data say, on white."""
    picture = Image.open(io.BytesIO(content))
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")).convert(
            "RGB"
        )
    return picture.convert("L")


def phash(grey: Image.Image) -> int:
    """``imagehash.phash``: the lowest frequencies of a DCT of 32 x 32 pixels against their median."""
    pixels = np.asarray(grey.resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    waves = 2 * np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(32) + 1) / 64)
    low = waves @ pixels @ waves.T
    return _number(low > np.median(low) + TIE)


def dhash(grey: Image.Image) -> int:
    """``imagehash.dhash``: of 9 x 8 pixels, which are brighter than their left neighbour."""
    pixels = np.asarray(grey.resize((9, 8), Image.Resampling.LANCZOS))
    return _number(pixels[:, 1:] > pixels[:, :-1])


def quality(grey: Image.Image) -> int:
    """The sum of gradients at 32 x 32, after PDQ."""
    pixels = np.asarray(grey.resize((32, 32), Image.Resampling.LANCZOS)).astype(int)
    steps = [np.abs(np.diff(pixels, axis=axis)) * 100 // 255 for axis in (0, 1)]
    return min(100, int(steps[0].sum() + steps[1].sum()) // 45)


def codes(content: bytes) -> Codes:
    """All codes of a stored picture."""
    grey = seen(content)
    return Codes(phash(grey), dhash(grey), phash(ImageOps.mirror(grey)), quality(grey))


def _number(bits: np.ndarray) -> int:
    return int("".join("1" if bit else "0" for bit in bits.flatten()), 2)
