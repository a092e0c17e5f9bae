"""Pictures of characters: which characters, from which faces, and in which colours.

The scorer trains on `TRAINING_FACES` and `TRAINING_HUES`; the pool is drawn from `POOL_FACES` and `POOL_HUES`, which share
nothing with them. The four families overlap, the faces do not.
"""

from __future__ import annotations

import colorsys
import functools
import random
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

TRAINING_FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-BoldItalic",
    "STIXGeneral",
    "STIXGeneralItalic",
    "STIXGeneralBolIta",
)
POOL_FACES = ("DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneralBol")

TRAINING_HUES = tuple(degree for degree in range(360) if degree % 30 < 15)
POOL_HUES = tuple(degree for degree in range(360) if 18 <= degree % 30 < 27)

SIDE_PX = 64
"""Side of a drawn picture, in pixels. The scorer's image processor halves it."""

_COMMON_FACES = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")
_SIZE_RANGE = (0.65, 0.95)
_SHIFT = 0.05
# Letters that only lean on others, and what has no ink of its own, make no picture that a name describes.
_SKIPPED_CATEGORIES = frozenset({"Mn", "Mc", "Me", "Lm", "Sk", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"})


@dataclass(frozen=True, slots=True)
class Colours:
    """Ink and ground of one picture, as 8-bit RGB: dark ink on pale ground."""

    ink: tuple[int, int, int]
    ground: tuple[int, int, int]


def face_path(face: str) -> Path:
    """The font file of `face` among those that matplotlib carries."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


@functools.cache
def charmap(face: str) -> frozenset[int]:
    """Code points that `face` has a glyph for."""
    return frozenset(FT2Font(str(face_path(face))).get_charmap())


@functools.cache
def _font(face: str, size_px: int) -> ImageFont.FreeTypeFont:
    # Basic layout: one glyph needs no shaping, and raqm is not in every build of Pillow.
    return ImageFont.truetype(str(face_path(face)), size_px, layout_engine=ImageFont.Layout.BASIC)


def draw_mask(character: str, face: str, size_px: int, shift_px: tuple[float, float] = (0.0, 0.0)) -> Image.Image:
    """The ink of one character: an 8-bit grey picture of `SIDE_PX` squared, 255 where the ink is full.

    The anchor is the middle of the face's ascent and descent, not of the ink, so that a full stop and a middle dot differ.
    """
    mask = Image.new("L", (SIDE_PX, SIDE_PX), 0)
    centre = (SIDE_PX / 2 + shift_px[0], SIDE_PX / 2 + shift_px[1])
    ImageDraw.Draw(mask).text(centre, character, fill=255, font=_font(face, size_px), anchor="mm")
    return mask


def draw_view(character: str, face: str, rng: random.Random) -> Image.Image:
    """`draw_mask` at a random size and place: 65 to 95 % of the side, moved by up to 5 %."""
    size_px = round(rng.uniform(*_SIZE_RANGE) * SIDE_PX)
    shift_px = (rng.uniform(-_SHIFT, _SHIFT) * SIDE_PX, rng.uniform(-_SHIFT, _SHIFT) * SIDE_PX)
    return draw_mask(character, face, size_px, shift_px)


def pick_colours(hues: tuple[int, ...], rng: random.Random) -> Colours:
    """Dark ink and pale ground, each of a hue (in degrees) out of `hues`."""
    ink = _rgb(rng.choice(hues), rng.uniform(0.10, 0.32), rng.uniform(0.5, 1.0))
    ground = _rgb(rng.choice(hues), rng.uniform(0.88, 0.97), rng.uniform(0.3, 0.9))
    return Colours(ink, ground)


def _rgb(hue_degrees: int, lightness: float, saturation: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hls_to_rgb(hue_degrees / 360, lightness, saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def paint(mask: Image.Image, colours: Colours) -> Image.Image:
    """An RGB picture: `colours.ink` where the mask is full, `colours.ground` where it is empty."""
    picture = Image.new("RGB", mask.size, colours.ground)
    picture.paste(colours.ink, (0, 0, *mask.size), mask)
    return picture


@functools.cache
def named_characters() -> tuple[tuple[str, str], ...]:
    """(character, lower-cased official name) in code point order, about 1,000 of them.

    Kept are those that all four families have in their upright face, that stand alone, and of those that DejaVu Sans draws
    alike (Latin A, Greek Alpha, Cyrillic A) the first: no reader of the picture could tell their names apart.
    """
    shared = frozenset.intersection(*(charmap(face) for face in _COMMON_FACES))
    seen: set[bytes] = set()
    kept = []
    for code_point in sorted(shared):
        character = chr(code_point)
        name = unicodedata.name(character, "")
        if not name or unicodedata.category(character) in _SKIPPED_CATEGORIES:
            continue
        ink = draw_mask(character, "DejaVuSans", 48).tobytes()
        if ink in seen or not any(ink):
            continue
        seen.add(ink)
        kept.append((character, name.lower()))
    return tuple(kept)
