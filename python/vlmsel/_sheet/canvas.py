"""One cell of a contact sheet on the canvas: a picture in a frame, and lines of text below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from vlmsel._sheet.cell_pictures import CellPictures
from vlmsel._sheet.cells import Cell
from vlmsel._sheet.layout import Layout
from vlmsel._sheet.text_layout import Lettering

GAP_PX = 10
FRAME_PX = 2
INK, SOFT, GROUND, PANEL = "#1b1b1b", "#6b6b6b", "#ffffff", "#f1f1f1"
FRAMES = {True: "#2e8b57", False: "#c0392b", None: "#b5b5b5"}

Line = tuple[str, str]
"""A text, and its colour."""


@dataclass(slots=True)
class Canvas:
    """A sheet that is being drawn."""

    image: Image.Image
    pen: ImageDraw.ImageDraw
    pictures: CellPictures
    layout: Layout
    small: Lettering

    @property
    def line_px(self) -> int:
        """Height of a line of text."""
        return self.small.size_px + 3

    def draw_cell(
        self,
        corner: tuple[int, int],
        cell: Cell,
        facts: Sequence[Line],
        caption_lines: int,
        *,
        text_in_frame: bool = False,
    ) -> None:
        """Draws a cell from its left upper `corner` on: the first picture, a line for each of `facts`, the caption.

        A sample without pictures has its caption in place of one under `text_in_frame`.
        """
        left, top = corner
        side = self.layout.cell_px
        frame = (left, top, left + side + 2 * FRAME_PX - 1, top + side + 2 * FRAME_PX - 1)
        self.pen.rectangle(frame, fill=PANEL, outline=FRAMES[cell.kept], width=FRAME_PX)
        middle = (left + FRAME_PX + side // 2, top + FRAME_PX + side // 2)
        words, ink = words_of(cell)
        shown = self.pictures.read(cell)
        is_framed = shown is None and text_in_frame
        if isinstance(shown, Image.Image):
            self.image.paste(_enlarge(shown, side), _corner(shown, middle, side))
        elif is_framed:
            inner = (left + FRAME_PX + 4, top + FRAME_PX + 2)
            self._draw_lines(
                inner, [(line, ink) for line in self.small.wrap(words, side - 8, (side - 4) // self.line_px)]
            )
        elif shown is None:
            self.pen.text(middle, "no image", SOFT, self.small.font, anchor="mm")
        else:
            self._draw_mark(middle, self.small.wrap(shown.reason, side - 8, 3))
        below = top + side + 2 * FRAME_PX + 2
        lines = [((self.small.wrap(text, side + 4, 1) or [""])[0], colour) for text, colour in facts]
        if not is_framed:
            lines += [(line, ink) for line in self.small.wrap(words, side + 4, caption_lines)]
        self._draw_lines((left, below), lines)

    def _draw_lines(self, corner: tuple[int, int], lines: Sequence[Line]) -> None:
        for number, (line, colour) in enumerate(lines):
            self.pen.text((corner[0], corner[1] + number * self.line_px), line, colour, self.small.font)

    def _draw_mark(self, middle: tuple[int, int], lines: Sequence[str]) -> None:
        reach = self.layout.cell_px // 8
        x, y = middle[0], middle[1] - self.layout.cell_px // 5
        self.pen.line((x - reach, y - reach, x + reach, y + reach), FRAMES[False], 3)
        self.pen.line((x - reach, y + reach, x + reach, y - reach), FRAMES[False], 3)
        for number, line in enumerate(lines):
            place = (middle[0], middle[1] + number * self.line_px)
            self.pen.text(place, line, FRAMES[False], self.small.font, anchor="ma")


def words_of(cell: Cell) -> Line:
    """The caption of a cell, or that there is none."""
    caption = None if cell.sample is None else cell.sample.caption
    if caption is None:
        return "(no caption)", SOFT
    return (caption, INK) if caption.strip() else ("(empty caption)", SOFT)


def _enlarged_size(picture: Image.Image, side: int) -> tuple[int, int]:
    # Whole multiples and hard pixels: a picture of 4 pixels is to look like one.
    factor = max(1, min(4, side // max(picture.size)))
    return picture.width * factor, picture.height * factor


def _enlarge(picture: Image.Image, side: int) -> Image.Image:
    size = _enlarged_size(picture, side)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.NEAREST)


def _corner(picture: Image.Image, middle: tuple[int, int], side: int) -> tuple[int, int]:
    width, height = _enlarged_size(picture, side)
    return middle[0] - width // 2, middle[1] - height // 2
