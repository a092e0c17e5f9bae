"""What a scoring run was asked for, and which part of it decides the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vlmsel.errors import UsageError
from vlmsel.images import MAX_DECODE_PIXELS

SAMPLES_PER_UNIT = 2048
PROMPT = "Describe this image in one sentence."
Compat = Literal["wepoints"]


@dataclass(frozen=True)
class ScoreOptions:
    """The options of `vlmsel score`.

    ``prompt`` stands beside the images in the user's turn of a captioned pair (conversations bring their own).
    ``max_text_tokens`` cuts the end of longer texts and says so in the row. ``max_pixels`` shrinks larger images;
    ``max_decode_pixels`` refuses them by their header. ``compat`` "wepoints": the answer is tokenised apart from the
    prompt and its closing token counts, as in the filter that POINTS released (its rounding of probabilities to bf16 is left
    out). ``limit`` scores only the first rows of the index.
    """

    prompt: str = PROMPT
    dtype: str = "auto"
    device: str = "auto"
    image_backend: str = "auto"
    batch_tokens: int = 16_384
    max_pixels: int | None = None
    max_decode_pixels: int = MAX_DECODE_PIXELS
    max_text_tokens: int = 2048
    count_end_token: bool = True
    no_image_pass: bool = False
    compat: Compat | None = None
    samples_per_unit: int = SAMPLES_PER_UNIT
    workers: int = 0
    limit: int | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "max_pixels", "max_decode_pixels", "max_text_tokens", "samples_per_unit", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least 1")
        if self.workers < 0:
            raise UsageError(f"--workers is {self.workers}; it must be at least 0 (0: chosen by the number of cores)")
        if self.compat is not None and not self.count_end_token:
            raise UsageError("--compat wepoints counts the closing token; it cannot go with --no-end-token")

    def config(self) -> dict[str, Any]:
        """What decides the rows and their scores. Batch size, workers and device only decide the speed."""
        return {
            "prompt": self.prompt,
            "max_pixels": self.max_pixels,
            "max_decode_pixels": self.max_decode_pixels,
            "max_text_tokens": self.max_text_tokens,
            "count_end_token": self.count_end_token,
            "no_image_pass": self.no_image_pass,
            "compat": self.compat,
            "samples_per_unit": self.samples_per_unit,
            "limit": self.limit,
        }
