"""Progress of the demo's own two stages: a bar in a terminal, else a plain line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY_S = 10.0


class Report(Protocol):
    """Called with how much is done, and a few words on how it goes."""

    def __call__(self, done: int, words: str = "") -> None: ...


@contextmanager
def show(title: str, total: int, unit: str) -> Iterator[Report]:
    """Show the progress of one stage on stderr, `total` units of `unit` long."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[words]}"), console=console) as bar:
            task = bar.add_task(title, total=total, words="")
            yield lambda done, words="": bar.update(task, completed=done, words=words)
        return
    # What comes before the first report is loading and drawing: it would spoil the rate.
    first: tuple[float, int] | None = None
    shown = time.monotonic()

    def line(done: int, words: str = "") -> None:
        nonlocal shown, first
        now = time.monotonic()
        first = first or (now, done)
        if now - shown < _LINE_EVERY_S and done < total:
            return
        shown = now
        rate = (done - first[1]) / max(now - first[0], 1e-9)
        left = f", {rate:,.1f}/s, {(total - done) / rate:.0f} s left" if 0 < rate and done < total else ""
        print(f"  {title}: {done:,} of {total:,} {unit}{left}  {words}".rstrip(), file=sys.stderr)

    yield line
