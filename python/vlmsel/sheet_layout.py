"""How a contact sheet is laid out, and what stands under a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


def caption_of(sample: Mapping[str, Any]) -> str | None:
    """What stands under a sample's picture: its text, or the turns of its conversation; None where it has neither."""
    if sample["text"] is not None:
        return str(sample["text"])
    if sample["conversations"] is None:
        return None
    try:
        turns = json.loads(sample["conversations"])
        words = [turn.get("value", turn.get("content", "")) for turn in turns]
        return " | ".join(word if isinstance(word, str) else json.dumps(word, ensure_ascii=False) for word in words)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return str(sample["conversations"])
