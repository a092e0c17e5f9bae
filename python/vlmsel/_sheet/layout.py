"""How a contact sheet is laid out."""

from __future__ import annotations

from dataclasses import dataclass

from vlmsel.errors import UsageError


@dataclass(frozen=True, slots=True)
class Layout:
    """`rows` by `columns` cells in each band, each with a picture of up to `cell_px` squared and `caption_lines` of text."""

    rows: int = 2
    columns: int = 8
    cell_px: int = 128
    caption_lines: int = 3

    def __post_init__(self) -> None:
        limits = {"rows": (1, 100), "columns": (1, 100), "cell_px": (32, 1024)}
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise UsageError(
                    f"--{name.removesuffix('_px')} must be from {least} to {most}, not {getattr(self, name)}"
                )

    @property
    def cells(self) -> int:
        """Cells of one band."""
        return self.rows * self.columns
