"""Images of samples as pictures for a model: measured before they are decoded, failures named.

`vlmsel.images` reads their bytes and opens them. Whatever is wrong with an image is its `ImageError`, whose status the sample's
row gets.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from PIL import Image, ImageOps
from vlmsel.images import MAX_DECODE_PIXELS, open_image

from vlmsel_trainer.vlm.memory import ByteBudget

# Pillow keeps four bytes for a pixel: as decoded, turned, and in RGB.
_BYTES_PER_PIXEL = 12


@dataclass(frozen=True)
class ImageLimits:
    """``max_decode_pixels``: a header that claims more is refused; ``max_pixels``: a larger picture is shrunk to it."""

    max_decode_pixels: int = MAX_DECODE_PIXELS
    max_pixels: int | None = None


def decode(data: bytes, limits: ImageLimits, decoding: ByteBudget | None = None) -> Image.Image:
    """A picture in RGB, turned as its EXIF orientation says, no larger than ``limits.max_pixels``.

    Its pixels are held in ``decoding`` while they are. Raises `vlmsel.images.ImageError`: ``image_too_large`` from the header
    alone, ``image_undecodable`` for everything else.
    """
    with open_image(data, limits.max_decode_pixels) as picture:
        width, height = picture.size
        if limits.max_pixels is not None and width * height > limits.max_pixels:
            picture.draft("RGB", shrunk_size(width, height, limits.max_pixels))
        needed = picture.width * picture.height * _BYTES_PER_PIXEL
        with contextlib.nullcontext() if decoding is None else decoding.hold(needed):
            return _in_rgb(picture, limits.max_pixels)


def _in_rgb(picture: Image.Image, max_pixels: int | None) -> Image.Image:
    picture.load()
    turned = ImageOps.exif_transpose(picture)
    if turned.mode.startswith("I"):  # `I;16`; in older Pillows `I`
        # Pillow cuts 16 bits off at 255, which is white; the upper 8 are the picture.
        turned = turned.convert("I").point(lambda value: value / 257).convert("L")
    colour = turned.convert("RGB")
    if max_pixels is not None and colour.width * colour.height > max_pixels:
        colour = colour.resize(shrunk_size(colour.width, colour.height, max_pixels), Image.Resampling.BICUBIC)
    return colour


def shrunk_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """The size with the same shape and at most ``max_pixels`` pixels, sides at least 1."""
    if width * height <= max_pixels:
        return width, height
    scale = (max_pixels / (width * height)) ** 0.5
    return max(1, int(width * scale)), max(1, int(height * scale))
