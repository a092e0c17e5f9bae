"""What a user asks of a soup, checked before any file is opened."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlmsel.errors import UsageError

from vlmsel_trainer.soup.average import DEFAULT_MEMORY_BYTES
from vlmsel_trainer.soup.scores import DEFAULT_TIMEOUT_S

Method = Literal["average", "maximum", "greedy"]

DEFAULT_MAX_SHARD_BYTES = 5_000_000_000
_WEIGHT_RANGE = (1e-6, 1e6)


@dataclass(frozen=True, slots=True)
class SoupOptions:
    """Options of one soup; ``vlmsel soup METHOD --help`` describes each. ``weights`` follow the order of ``models``."""

    method: Method
    models: tuple[Path, ...]
    output: Path
    weights: tuple[float, ...] | None = None
    top: int = 2
    keep: tuple[str, ...] = ()
    keep_from: Path | None = None
    scores: Path | None = None
    eval_program: str | None = None
    report_program: str | None = None
    accept_margin: float = 0.0
    eval_timeout_s: float = DEFAULT_TIMEOUT_S
    max_shard_bytes: int = DEFAULT_MAX_SHARD_BYTES
    base: Path | None = None
    companions_from: Path | None = None
    threads: int | None = None
    """None: one more than there are cores."""
    memory_limit: int | None = None
    """Bytes of buffers; None: 512 MiB."""
    overwrite: bool = False

    @property
    def n_threads(self) -> int:
        """How many threads add: while one waits for the disk the others compute."""
        return (os.cpu_count() or 1) + 1 if self.threads is None else self.threads

    @property
    def memory_bytes(self) -> int:
        """What the buffers may take."""
        return DEFAULT_MEMORY_BYTES if self.memory_limit is None else self.memory_limit

    def check(self) -> None:
        """Raises UsageError for options that contradict each other or themselves."""
        if not self.models:
            raise UsageError("no models: give one folder or more")
        if self.weights is not None:
            if len(self.weights) != len(self.models):
                raise UsageError(f"--weights has {len(self.weights)} numbers for {len(self.models)} models")
            low, high = _WEIGHT_RANGE
            for weight in self.weights:
                if not (math.isfinite(weight) and low <= weight <= high):
                    raise UsageError(f"--weights holds {weight}; a weight lies between {low:g} and {high:g}")
        if bool(self.keep) != (self.keep_from is not None):
            raise UsageError("--keep PATTERN and --from MODEL belong together: which tensors, and whose")
        if self.method == "maximum":
            if not 1 <= self.top <= len(self.models):
                raise UsageError(f"--top {self.top} of {len(self.models)} models; choose 1 to {len(self.models)}")
            if self.scores is None and self.eval_program is None:
                raise UsageError(
                    "maximum takes the best models: give their scores with --scores FILE or --eval PROGRAM"
                )
        if self.method == "greedy" and self.eval_program is None:
            raise UsageError("greedy scores every trial soup: give --eval 'PROGRAM ARGS {model}'")
        if not math.isfinite(self.accept_margin) or self.accept_margin < 0:
            raise UsageError(f"--accept-margin is {self.accept_margin}; give 0 or a positive number")
        if self.max_shard_bytes < 1 or self.n_threads < 1 or not self.eval_timeout_s > 0:
            raise UsageError("--max-shard-size, --eval-timeout and --threads must be positive")

    def command_line(self, weights: Mapping[str, float]) -> str:
        """The command as the model card shows it: models by label in sorted order, no paths, no output.

        ``weights`` are those of the models by label.
        """
        words = ["vlmsel", "soup", self.method, *sorted(weights)]
        if self.method == "maximum":
            words += ["--top", str(self.top)]
        if len(set(weights.values())) > 1:
            words += ["--weights", ",".join(f"{weight:g}" for _, weight in sorted(weights.items()))]
        for pattern in self.keep:
            words += ["--keep", pattern]
        places = {
            "--from": self.keep_from,
            "--scores": self.scores,
            "--base": self.base,
            "--companions-from": self.companions_from,
        }
        for flag, place in places.items():
            if place is not None:
                words += [flag, place.name]
        for flag, program in (("--eval", self.eval_program), ("--report-eval", self.report_program)):
            if program is not None:
                words += [flag, program]
        if self.accept_margin:
            words += ["--accept-margin", f"{self.accept_margin:g}"]
        if self.max_shard_bytes != DEFAULT_MAX_SHARD_BYTES:
            words += ["--max-shard-size", str(self.max_shard_bytes)]
        return shlex.join(words)
