"""The drawing of a contact sheet: bands of cells, each a picture over its score and caption."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from vlmsel._sheet.cell_pictures import CellPictures
from vlmsel._sheet.cells import Band, Cell
from vlmsel._sheet.layout import Layout
from vlmsel._sheet.text_layout import Lettering
from vlmsel.errors import ResourceError, UsageError

_GAP_PX = 10
_FRAME_PX = 2
_INK, _SOFT, _GROUND, _PANEL = "#1b1b1b", "#6b6b6b", "#ffffff", "#f1f1f1"
_FRAMES = {True: "#2e8b57", False: "#c0392b", None: "#b5b5b5"}
_MAX_SHEET_PIXELS = 200_000_000
_BYTES_PER_PIXEL = 4  # Pillow's, for RGB


@dataclass(slots=True)
class Drawing:
    """The sheet, and the uids (in hexadecimal) of pictures that could not be shown with the reason of each."""

    image: Image.Image
    bad_pictures: dict[str, str]


def letterings(layout: Layout, font: str | None) -> tuple[Lettering, Lettering]:
    """Lettering for captions and for titles, in proportion to the cells."""
    size_px = max(9, min(16, layout.cell_px // 11))
    return Lettering(size_px, font), Lettering(size_px + 4, font)


def draw(
    bands: Sequence[Band], layout: Layout, lettering: tuple[Lettering, Lettering], memory_limit: int = 0
) -> Drawing:
    """Draw `bands`, one below the other.

    Raises ResourceError for a sheet, or a picture on it, that takes more than `memory_limit` bytes (0: no limit).
    """
    small, large = lettering
    line_px = small.size_px + 3
    title_px = large.size_px + 2 * _GAP_PX
    cell_height = layout.cell_px + 2 * _FRAME_PX + (layout.caption_lines + 1) * line_px + _GAP_PX
    cell_width = layout.cell_px + 2 * _FRAME_PX + _GAP_PX
    width = layout.columns * cell_width + _GAP_PX
    height = sum(title_px + -(-len(band.cells) // layout.columns) * cell_height for band in bands) + _GAP_PX
    if width * height > _MAX_SHEET_PIXELS:
        raise UsageError(f"a sheet of {width:,} x {height:,} pixels is too large; lower --rows, --columns or --cell")
    sheet_bytes = width * height * _BYTES_PER_PIXEL
    if memory_limit and sheet_bytes >= memory_limit:
        raise ResourceError(
            f"a sheet of {width:,} x {height:,} pixels takes {sheet_bytes:,} bytes, --memory-limit is {memory_limit:,}; "
            "raise it, or lower --rows, --columns or --cell"
        )
    pictures = CellPictures(layout.cell_px, memory_limit and memory_limit - sheet_bytes)
    image = Image.new("RGB", (width, height), _GROUND)
    pen = ImageDraw.Draw(image)
    top = 0
    for band in bands:
        title = large.wrap(band.title, width - 2 * _GAP_PX, 1)
        pen.text((_GAP_PX, top + _GAP_PX), title[0] if title else "", _INK, large.font)
        top += title_px
        for number, cell in enumerate(band.cells):
            row, column = divmod(number, layout.columns)
            corner = (_GAP_PX + column * cell_width, top + row * cell_height)
            _draw_cell(image, pen, corner, cell, pictures, layout, small)
        top += -(-len(band.cells) // layout.columns) * cell_height
    return Drawing(image, pictures.bad)


def _draw_cell(
    image: Image.Image,
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    cell: Cell,
    pictures: CellPictures,
    layout: Layout,
    small: Lettering,
) -> None:
    left, top = corner
    side = layout.cell_px
    frame = (left, top, left + side + 2 * _FRAME_PX - 1, top + side + 2 * _FRAME_PX - 1)
    pen.rectangle(frame, fill=_PANEL, outline=_FRAMES[cell.kept], width=_FRAME_PX)
    middle = (left + _FRAME_PX + side // 2, top + _FRAME_PX + side // 2)
    shown = pictures.read(cell)
    if isinstance(shown, Image.Image):
        image.paste(_enlarge(shown, side), _corner(shown, middle, side))
    elif shown is None:
        pen.text(middle, "no image", _SOFT, small.font, anchor="mm")
    else:
        _draw_mark(pen, middle, side, small.wrap(shown.reason, side - 8, 3), small)
    line_px = small.size_px + 3
    below = top + side + 2 * _FRAME_PX + 2
    pen.text((left, below), small.wrap(_describe(cell), side + 4, 1)[0], _SOFT, small.font)
    caption = None if cell.sample is None else cell.sample.caption
    words = "(no caption)" if caption is None else caption if caption.strip() else "(empty caption)"
    ink = _INK if words is caption else _SOFT
    for number, line in enumerate(small.wrap(words, side + 4, layout.caption_lines)):
        pen.text((left, below + (number + 1) * line_px), line, ink, small.font)


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


def _draw_mark(
    pen: ImageDraw.ImageDraw, middle: tuple[int, int], side: int, lines: Sequence[str], small: Lettering
) -> None:
    reach = side // 8
    x, y = middle[0], middle[1] - side // 5
    pen.line((x - reach, y - reach, x + reach, y + reach), _FRAMES[False], 3)
    pen.line((x - reach, y + reach, x + reach, y - reach), _FRAMES[False], 3)
    for number, line in enumerate(lines):
        place = (middle[0], middle[1] + number * (small.size_px + 3))
        pen.text(place, line, _FRAMES[False], small.font, anchor="ma")


def _describe(cell: Cell) -> str:
    score = (
        "no score" if cell.score is None else f"{cell.score:,}" if isinstance(cell.score, int) else f"{cell.score:.4g}"
    )
    rank = "" if cell.rank is None else f" (rank {cell.rank:,})"
    n_more = 0 if cell.sample is None else max(0, len(cell.sample.images) - 1)
    more_images = f", {n_more} more images" if n_more else ""
    return f"{score}{rank}{more_images}"
