"""What ``vlmsel soup`` says on stderr: tables of candidates and trials, warnings, and progress in bytes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from .greedy import Candidate, Trial
from .reporting import Reporter

_PLAIN_LINE_EVERY_S = 30.0


class ConsoleReporter(Reporter):
    """Writes to stderr: a bar in a terminal, otherwise a line every 30 s; warnings even when ``quiet``."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self._console.print(f"warning: {escape(_printable(text))}", style="yellow")

    def candidates(self, ranked: Sequence[Candidate]) -> None:
        if self._quiet:
            return
        table = Table("rank", "model", "score", title="candidates", title_justify="left")
        for place, candidate in enumerate(ranked, start=1):
            table.add_row(str(place), escape(_printable(candidate.label)), f"{candidate.score:.6g}")
        self._console.print(table)

    def trial(self, trial: Trial) -> None:
        if self._quiet:
            return
        verdict = "stays" if trial.accepted else "goes"
        against = "" if trial.to_beat is None else f", to beat {trial.to_beat:.6g}"
        name = escape(_printable(trial.candidate))
        self._console.print(f"trial of {len(trial.members)}: + {name} scores {trial.score:.6g}{against}: {verdict}")

    @contextmanager
    def progress(self, title: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        if self._quiet:
            yield lambda _: None
        elif sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self._console, transient=True) as bar:
                task = bar.add_task(escape(_printable(title)), total=total_bytes)
                yield lambda count: bar.advance(task, count)
        else:
            yield self._lines(title, total_bytes)

    def _lines(self, title: str, total_bytes: int) -> Callable[[int], None]:
        done, last_s, began_s = 0, time.monotonic(), time.monotonic()

        def advance(count: int) -> None:
            nonlocal done, last_s
            done += count
            now_s = time.monotonic()
            if now_s - last_s >= _PLAIN_LINE_EVERY_S:
                last_s = now_s
                rate = done / (now_s - began_s)
                left_s = (total_bytes - done) / rate if rate else 0.0
                text = f"{title}: {done / 1e9:.1f} of {total_bytes / 1e9:.1f} GB, {rate / 1e9:.2f} GB/s, {left_s:.0f} s left"
                self._console.print(escape(_printable(text)))

        return advance


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
