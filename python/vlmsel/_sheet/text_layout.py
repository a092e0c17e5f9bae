"""Text on pictures: any Unicode string as lines that a font can draw and a reader can trust.

What a font has no glyph for, and what would act instead of being seen (control characters, bidirectional overrides, zero
widths), is written as an escape: `\\u{202e}`. Text is laid out glyph by glyph from left to right, without shaping.
"""

from __future__ import annotations

import functools
import unicodedata

from PIL import ImageFont

from vlmsel.errors import UsageError
from vlmsel.files import check_plain, explain

MAX_CHARACTERS = 400
"""How much of a text is looked at; the rest is an ellipsis."""

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_ELLIPSIS = "..."


def check_font(font: str) -> None:
    """Raises NotFoundError where ``font`` is not there, and UsageError for what is no plain file: FreeType would wait for it."""
    try:
        check_plain(font)
    except OSError as error:
        raise explain(error, font, "no such font file") from error


class Lettering:
    """A font at a size, with what it can draw. `font` is a font file; the default is the one that Pillow carries."""

    def __init__(self, size_px: int, font: str | None = None) -> None:
        self.size_px = size_px
        self.escaped = False
        """Whether a character had to be escaped because the font lacks it."""
        if font is None:
            self.font = _default_font(size_px)
        else:
            check_font(font)
            try:
                self.font = ImageFont.truetype(font, size_px, layout_engine=ImageFont.Layout.BASIC)
            except OSError as error:
                raise UsageError(f"{font}: not a font file that FreeType can read ({error})") from None
        self._missing = self._ink("\uffff")
        self._known: dict[str, str] = {}
        self._widths: dict[str, float] = {}

    def printable(self, text: str) -> list[str]:
        """`text` as units that are drawn whole: characters, or escapes for those that cannot be shown; one line."""
        units = [self._unit(character) for character in " ".join(text[: MAX_CHARACTERS + 1].split())]
        return units if len(text) <= MAX_CHARACTERS else [*units[:MAX_CHARACTERS], _ELLIPSIS]

    def wrap(self, text: str, width_px: int, max_lines: int) -> list[str]:
        """`text` in at most `max_lines` lines no wider than `width_px`; what does not fit ends in an ellipsis."""
        lines: list[list[str]] = [[]]
        for unit in self.printable(text):
            if unit == " " and not lines[-1]:
                continue
            lines[-1].append(unit)
            while len(lines[-1]) > 1 and self._width(lines[-1]) > width_px:
                line = lines[-1]
                if len(lines) == max_lines:
                    return self._end_in_ellipsis(lines, width_px)
                space = max((i for i, part in enumerate(line) if part == " "), default=0)
                split = space or len(line) - 1
                lines[-1], rest = line[:split], line[split:]
                lines.append([part for i, part in enumerate(rest) if i or part != " "])
        return ["".join(line) for line in lines if line]

    def _end_in_ellipsis(self, lines: list[list[str]], width_px: int) -> list[str]:
        while len(lines[-1]) > 1 and self._width([*lines[-1], _ELLIPSIS]) > width_px:
            lines[-1].pop()
        return ["".join(line) for line in (*lines[:-1], [*lines[-1], _ELLIPSIS])]

    def _unit(self, character: str) -> str:
        if character not in self._known:
            self._known[character] = self._find_unit(character)
        return self._known[character]

    def _find_unit(self, character: str) -> str:
        if character == " ":
            return character
        if unicodedata.category(character) not in _UNSEEN:
            if self._ink(character) != self._missing:
                return character
            self.escaped = True
        return f"\\u{{{ord(character):x}}}"

    def _ink(self, character: str) -> tuple[tuple[int, int], bytes]:
        try:
            mask = self.font.getmask(character)
        except (OSError, ValueError, UnicodeError):
            return (0, 0), b""
        return mask.size, bytes(mask)

    def _width(self, units: list[str]) -> float:
        # The sum of advances: without kerning, so a line is never wider than this says by more than a pixel or two.
        total = 0.0
        for unit in units:
            if unit not in self._widths:
                self._widths[unit] = self.font.getlength(unit)
            total += self._widths[unit]
        return total


@functools.cache
def _default_font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise UsageError("this Pillow was built without FreeType; give a Pillow from PyPI (pip install pillow)")
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)
