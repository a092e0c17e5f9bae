"""The drawing of a contact sheet: bands of cells, each a picture over its score and caption, and clusters of such cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from vlmsel._sheet.canvas import FRAME_PX, FRAMES, GAP_PX, GROUND, INK, SOFT, Canvas, words_of
from vlmsel._sheet.cell_pictures import CellPictures
from vlmsel._sheet.cells import Band, Cell, Cluster, ClusterBand
from vlmsel._sheet.layout import Layout
from vlmsel._sheet.text_layout import Lettering
from vlmsel._sheet.wording import describe, describe_cluster, describe_copy, describe_member
from vlmsel.errors import ResourceError, UsageError

_CLUSTER_GROUND = "#f7f7f4"
_MAX_SHEET_PIXELS = 200_000_000
_BYTES_PER_PIXEL = 4  # Pillow's, for RGB
# Copies of pictures are told by their words.
_MORE_CAPTION_LINES = 3


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
    bands: Sequence[Band | ClusterBand],
    layout: Layout,
    lettering: tuple[Lettering, Lettering],
    memory_limit: int = 0,
) -> Drawing:
    """Draw `bands`, one below the other.

    Raises ResourceError for a sheet, or a picture on it, that takes more than `memory_limit` bytes (0: no limit).
    """
    small, large = lettering
    title_px = large.size_px + 2 * GAP_PX
    grids = [_grid_of(band, layout, small) for band in bands]
    cell_width = layout.cell_px + 2 * FRAME_PX + GAP_PX
    width = max([layout.columns * cell_width, *(grid.columns * grid.tile[0] for grid in grids)]) + GAP_PX
    height = sum(title_px + grid.rows * grid.tile[1] for grid in grids) + GAP_PX
    if width * height > _MAX_SHEET_PIXELS:
        raise UsageError(f"a sheet of {width:,} x {height:,} pixels is too large; lower --rows, --columns or --cell")
    sheet_bytes = width * height * _BYTES_PER_PIXEL
    if memory_limit and sheet_bytes >= memory_limit:
        raise ResourceError(
            f"a sheet of {width:,} x {height:,} pixels takes {sheet_bytes:,} bytes, --memory-limit is {memory_limit:,}; "
            "raise it, or lower --rows, --columns or --cell"
        )
    pictures = CellPictures(layout.cell_px, memory_limit and memory_limit - sheet_bytes)
    image = Image.new("RGB", (width, height), GROUND)
    canvas = Canvas(image, ImageDraw.Draw(image), pictures, layout, small)
    top = 0
    for band, grid in zip(bands, grids, strict=True):
        title = large.wrap(band.title, width - 2 * GAP_PX, 1)
        canvas.pen.text((GAP_PX, top + GAP_PX), title[0] if title else "", INK, large.font)
        top += title_px
        if isinstance(band, ClusterBand):
            for number, cluster in enumerate(band.clusters):
                _draw_cluster(canvas, grid.corner(number, top), cluster, grid)
        else:
            for number, cell in enumerate(band.cells):
                canvas.draw_cell(grid.corner(number, top), cell, [(describe(cell), SOFT)], layout.caption_lines)
        top += grid.rows * grid.tile[1]
    return Drawing(image, pictures.bad)


@dataclass(frozen=True, slots=True)
class _Grid:
    """How the cells or clusters of a band lie: so many in a row, each a tile of (width, height) pixels with lines of caption."""

    columns: int
    rows: int
    tile: tuple[int, int]
    caption_lines: int

    def corner(self, number: int, top: int) -> tuple[int, int]:
        """The left upper corner of a tile in a grid that begins at `top`."""
        row, column = divmod(number, self.columns)
        return GAP_PX + column * self.tile[0], top + row * self.tile[1]


def _grid_of(band: Band | ClusterBand, layout: Layout, small: Lettering) -> _Grid:
    line_px = small.size_px + 3
    cell_width = layout.cell_px + 2 * FRAME_PX + GAP_PX
    cell_height = layout.cell_px + 2 * FRAME_PX + (layout.caption_lines + 1) * line_px + GAP_PX
    if isinstance(band, Band):
        return _Grid(
            layout.columns, -(-len(band.cells) // layout.columns), (cell_width, cell_height), layout.caption_lines
        )
    columns = max(1, layout.columns // band.span)
    facts = (len(_facts_of(cluster, cell)) for cluster in band.clusters for cell in cluster.members)
    # No more room than the longest of the captions takes; a text in place of a picture takes none.
    most = layout.caption_lines + _MORE_CAPTION_LINES
    captions = (words_of(cell)[0] for cell in band.cells if cell.sample is None or cell.sample.images)
    caption_lines = max((len(small.wrap(words, layout.cell_px + 4, most)) for words in captions), default=0)
    lines = 1 + max(facts, default=0) + caption_lines
    height = layout.cell_px + 2 * FRAME_PX + lines * line_px + 2 * GAP_PX
    return _Grid(columns, -(-len(band.clusters) // columns), (band.span * cell_width + GAP_PX, height), caption_lines)


def _facts_of(cluster: Cluster, cell: Cell) -> list[tuple[str, str]]:
    state, *rest = describe_member(cell)
    if cluster.dropped is not None:
        # Over a pair this stands once, for both.
        rest.insert(0, "" if cell.copy is None else describe_copy(cell.copy))
    return [(state, FRAMES[cell.kept]), *((line, SOFT) for line in rest)]


def _draw_cluster(canvas: Canvas, corner: tuple[int, int], cluster: Cluster, grid: _Grid) -> None:
    left, top = corner
    width = len(cluster.members) * (canvas.layout.cell_px + 2 * FRAME_PX + GAP_PX)
    edge = GAP_PX // 2 - 1
    canvas.pen.rectangle(
        (left - edge, top - edge, left + width - GAP_PX + edge, top + grid.tile[1] - GAP_PX), _CLUSTER_GROUND
    )
    title = canvas.small.wrap(describe_cluster(cluster), width - GAP_PX, 1)
    canvas.pen.text((left, top), title[0] if title else "", INK, canvas.small.font)
    for number, cell in enumerate(cluster.members):
        place = (left + number * (canvas.layout.cell_px + 2 * FRAME_PX + GAP_PX), top + canvas.line_px)
        canvas.draw_cell(place, cell, _facts_of(cluster, cell), grid.caption_lines, text_in_frame=True)
