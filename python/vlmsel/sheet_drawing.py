"""The drawing of a contact sheet: bands of cells, each a picture over its score and caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageDraw

from vlmsel.errors import ResourceError, UsageError
from vlmsel.lettering import Lettering
from vlmsel.pictures import BadPicture, read_picture
from vlmsel.sheet_bands import Band, Entry, uid_bytes
from vlmsel.sheet_layout import Layout, caption_of

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
    bad_pictures: dict[str, str] = field(default_factory=dict)


def letterings(layout: Layout, font: str | None) -> tuple[Lettering, Lettering]:
    """Lettering for captions and for titles, in proportion to the cells."""
    size_px = max(9, min(16, layout.cell_px // 11))
    return Lettering(size_px, font), Lettering(size_px + 4, font)


def draw(
    bands: Sequence[Band],
    samples: Mapping[bytes, Mapping[str, Any]],
    roots: Mapping[str, Mapping[str, Any]],
    layout: Layout,
    lettering: tuple[Lettering, Lettering],
    memory_limit: int = 0,
) -> Drawing:
    """Draw `bands`, one below the other. `samples` are index rows by uid, `roots` where their sources lie.

    Raises ResourceError for a sheet, or a picture on it, that takes more than `memory_limit` bytes (0: no limit).
    """
    small, large = lettering
    line_px = small.size_px + 3
    title_px = large.size_px + 2 * _GAP_PX
    cell_height = layout.cell_px + 2 * _FRAME_PX + (layout.caption_lines + 1) * line_px + _GAP_PX
    cell_width = layout.cell_px + 2 * _FRAME_PX + _GAP_PX
    width = layout.columns * cell_width + _GAP_PX
    height = sum(title_px + -(-len(band.entries) // layout.columns) * cell_height for band in bands) + _GAP_PX
    if width * height > _MAX_SHEET_PIXELS:
        raise UsageError(f"a sheet of {width:,} x {height:,} pixels is too large; lower --rows, --columns or --cell")
    sheet_bytes = width * height * _BYTES_PER_PIXEL
    if memory_limit and sheet_bytes >= memory_limit:
        raise ResourceError(
            f"a sheet of {width:,} x {height:,} pixels takes {sheet_bytes:,} bytes, --memory-limit is {memory_limit:,}; "
            "raise it, or lower --rows, --columns or --cell"
        )
    picture_limit = memory_limit and memory_limit - sheet_bytes
    drawing = Drawing(Image.new("RGB", (width, height), _GROUND))
    pen = ImageDraw.Draw(drawing.image)
    top = 0
    for band in bands:
        title = large.wrap(band.title, width - 2 * _GAP_PX, 1)
        pen.text((_GAP_PX, top + _GAP_PX), title[0] if title else "", _INK, large.font)
        top += title_px
        for number, entry in enumerate(band.entries):
            row, column = divmod(number, layout.columns)
            corner = (_GAP_PX + column * cell_width, top + row * cell_height)
            _draw_cell(drawing, pen, corner, entry, samples, roots, layout, small, picture_limit)
        top += -(-len(band.entries) // layout.columns) * cell_height
    return drawing


def _draw_cell(
    drawing: Drawing,
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    entry: Entry,
    samples: Mapping[bytes, Mapping[str, Any]],
    roots: Mapping[str, Mapping[str, Any]],
    layout: Layout,
    small: Lettering,
    picture_limit: int,
) -> None:
    left, top = corner
    side = layout.cell_px
    uid = uid_bytes(entry.uid)
    sample = None if uid is None else samples.get(uid)
    frame = (left, top, left + side + 2 * _FRAME_PX - 1, top + side + 2 * _FRAME_PX - 1)
    pen.rectangle(frame, fill=_PANEL, outline=_FRAMES[entry.kept], width=_FRAME_PX)
    middle = (left + _FRAME_PX + side // 2, top + _FRAME_PX + side // 2)
    shown = _find_picture(sample, roots, side, picture_limit)
    if isinstance(shown, Image.Image):
        drawing.image.paste(_enlarge(shown, side), _corner(shown, middle, side))
    elif shown is None:
        pen.text(middle, "no image", _SOFT, small.font, anchor="mm")
    else:
        if sample is not None:
            drawing.bad_pictures[sample["uid"].hex()] = shown.reason
        _draw_mark(pen, middle, side, small.wrap(shown.reason, side - 8, 3), small)
    line_px = small.size_px + 3
    below = top + side + 2 * _FRAME_PX + 2
    pen.text((left, below), small.wrap(_describe(entry, sample), side + 4, 1)[0], _SOFT, small.font)
    caption = None if sample is None else caption_of(sample)
    words = "(no caption)" if caption is None else caption if caption.strip() else "(empty caption)"
    ink = _INK if words is caption else _SOFT
    for number, line in enumerate(small.wrap(words, side + 4, layout.caption_lines)):
        pen.text((left, below + (number + 1) * line_px), line, ink, small.font)


def _find_picture(
    sample: Mapping[str, Any] | None, roots: Mapping[str, Mapping[str, Any]], side: int, picture_limit: int
) -> Image.Image | BadPicture | None:
    if sample is None:
        return BadPicture("not in the index")
    if not sample["images"]:
        return None
    return read_picture(roots.get(sample["source"]), sample["shard"], sample["images"][0], side, picture_limit)


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


def _describe(entry: Entry, sample: Mapping[str, Any] | None) -> str:
    score = (
        "no score"
        if entry.score is None
        else f"{entry.score:,}"
        if isinstance(entry.score, int)
        else f"{entry.score:.4g}"
    )
    rank = "" if entry.rank is None else f" (rank {entry.rank:,})"
    n_more = 0 if sample is None else max(0, len(sample["images"] or ()) - 1)
    more_images = f", {n_more} more images" if n_more else ""
    return f"{score}{rank}{more_images}"
