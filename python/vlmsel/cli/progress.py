"""Progress on stderr: a bar where somebody watches, a plain line now and then where a log collects it.

A run calls :meth:`Progress.update` as often as it likes, from any thread: it only stores the counters. A thread of the
display's own shows them, so that a line still comes while one step takes minutes.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

from vlmsel.cli.report import printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PLAIN_INTERVAL_S = 30.0
BAR_INTERVAL_S = 0.1
WINDOW_S = 60.0
"""Rates are taken over this long, so that a resumed or uneven run does not show its average since the start."""


@dataclass(frozen=True, slots=True)
class Counters:
    """How far a run is. Totals are None where they are not known."""

    done: int = 0
    total: int | None = None
    bytes_done: int = 0
    bytes_total: int | None = None
    note: str = ""


class Pace:
    """Rates and the time left, from the counters of the last :data:`WINDOW_S` seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Counters]] = deque()

    def see(self, now_s: float, counters: Counters) -> None:
        """Take note of ``counters`` at ``now_s`` (a monotonic clock)."""
        last = self._seen[-1][1] if self._seen else counters
        if counters.done < last.done or counters.bytes_done < last.bytes_done:
            self._seen.clear()  # The next pass over the data began at zero.
        self._seen.append((now_s, counters))
        while len(self._seen) > 2 and self._seen[1][0] <= now_s - WINDOW_S:
            self._seen.popleft()

    def rates(self) -> tuple[float, float]:
        """Records and bytes per second; 0 where nothing is known yet."""
        if len(self._seen) < 2:
            return 0.0, 0.0
        (from_s, first), (to_s, last) = self._seen[0], self._seen[-1]
        elapsed_s = to_s - from_s
        if elapsed_s <= 0:
            return 0.0, 0.0
        return (last.done - first.done) / elapsed_s, (last.bytes_done - first.bytes_done) / elapsed_s

    def left_s(self) -> float | None:
        """Seconds until the total is reached: by bytes where they have a total, else by records."""
        if not self._seen:
            return None
        counters = self._seen[-1][1]
        records_s, bytes_s = self.rates()
        for done, total, rate in (
            (counters.bytes_done, counters.bytes_total, bytes_s),
            (counters.done, counters.total, records_s),
        ):
            if total and rate > 0:
                return max(total - done, 0) / rate
        return None


class Face(Protocol):
    """Where counters are shown."""

    interval_s: float

    def show(self, counters: Counters, pace: Pace) -> None:
        """Show ``counters``."""


class Progress:
    """Shows how far a command is, as a context manager.

    ``title`` is the command's word for what it does, ``unit`` the plural noun of what it counts. Under ``quiet`` nothing is
    shown. ``stream`` is stderr unless given; ``interval_s`` replaces the time between two lines or frames.

    >>> with Progress("select") as progress:
    ...     progress.update(10, 100, 4096, 40960)
    """

    def __init__(
        self,
        title: str,
        *,
        quiet: bool = False,
        unit: str = "records",
        stream: TextIO | None = None,
        interval_s: float | None = None,
    ) -> None:
        self._title = title
        self._unit = unit
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._interval_s = interval_s
        self._counters = Counters()
        self._pace = Pace()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._stack = ExitStack()

    def update(
        self,
        done: int,
        total: int | None = None,
        bytes_done: int = 0,
        bytes_total: int | None = None,
        note: str = "",
    ) -> None:
        """Set the counters; a total of None or 0 is unknown. Cheap, and safe from any thread."""
        self._counters = Counters(done, total or None, bytes_done, bytes_total or None, note)

    def __enter__(self) -> Progress:
        if self._quiet:
            return self
        face: Face
        if watched(self._stream):
            try:
                face = self._stack.enter_context(BarFace(self._title, self._unit, self._stream))
            except (OSError, ValueError):
                return self  # As in `_run`.
        else:
            face = PlainFace(self._title, self._unit, self._stream)
        if self._interval_s is not None:
            face.interval_s = self._interval_s
        self._pace.see(time.monotonic(), self._counters)
        self._thread = threading.Thread(target=self._run, args=(face,), name="vlmsel-progress", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
        # The terminal may have gone while the work went on.
        with suppress(OSError, ValueError):
            self._stack.close()

    def _run(self, face: Face) -> None:
        while not self._over.wait(face.interval_s):
            self._pace.see(time.monotonic(), self._counters)
            try:
                face.show(self._counters, self._pace)
            except (OSError, ValueError):
                return  # stderr is gone; the work goes on without a display.


class PlainFace:
    """One line of text every half minute."""

    def __init__(self, title: str, unit: str, stream: TextIO) -> None:
        self.interval_s = PLAIN_INTERVAL_S
        self._title = title
        self._unit = unit
        self._stream = stream

    def show(self, counters: Counters, pace: Pace) -> None:
        """Write the line."""
        self._stream.write(f"{self._title}: {describe(counters, pace, self._unit)}\n")
        self._stream.flush()


class BarFace:
    """A rich bar that is redrawn in place and gone at the end."""

    def __init__(self, title: str, unit: str, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        self.interval_s = BAR_INTERVAL_S
        self._unit = unit
        self._bar: RichProgress = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[words]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=Console(file=stream),
            transient=True,
            auto_refresh=False,
        )
        self._task: TaskID = self._bar.add_task(title, total=None, words="")

    def __enter__(self) -> BarFace:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, counters: Counters, pace: Pace) -> None:
        """Redraw the bar: by records where their total is known, else by bytes."""
        if counters.total is None and counters.bytes_total is not None:
            completed, total = counters.bytes_done, counters.bytes_total
        else:
            completed, total = counters.done, counters.total or 0
        words = describe(counters, pace, self._unit)
        self._bar.update(self._task, completed=completed, total=total or None, words=words, refresh=True)


def watched(stream: TextIO) -> bool:
    """Whether a person sits before ``stream``: a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") not in {"dumb", ""}


def describe(counters: Counters, pace: Pace, unit: str) -> str:
    """One line: how much of how much, how fast, how long still."""
    parts = []
    records_s, bytes_s = pace.rates()
    if counters.done or counters.total or not counters.bytes_done:
        parts.append(
            _of(f"{counters.done:,}", counters.done, f"{counters.total or 0:,} {unit}", counters.total)
            or f"{counters.done:,} {unit}"
        )
    if counters.bytes_done or counters.bytes_total:
        done, whole = format_bytes(counters.bytes_done), format_bytes(counters.bytes_total or 0)
        parts.append(_of(done, counters.bytes_done, whole, counters.bytes_total) or done)
    if records_s >= 0.05:
        parts.append(f"{records_s:,.0f} {unit}/s" if records_s >= 10 else f"{records_s:.1f} {unit}/s")
    if bytes_s >= 1:
        parts.append(f"{format_bytes(bytes_s)}/s")
    left_s = pace.left_s()
    if left_s is not None:
        parts.append(f"{format_seconds(left_s)} left")
    if counters.note:
        parts.append(printable(counters.note))
    return ", ".join(parts)


def _of(done: str, count: int, whole: str, total: int | None) -> str:
    return f"{done} of {whole} ({min(count / total, 1):.0%})" if total else ""


def format_bytes(size_bytes: float) -> str:
    """``1.5 GB``: decimal units, three digits at most before the unit changes."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size_bytes < 999.5:
            return f"{size_bytes:.0f} {unit}" if unit == "B" or size_bytes >= 99.95 else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:,.1f} PB"


def format_seconds(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 4 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
