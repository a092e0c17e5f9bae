"""Progress: plain lines for a log, a bar for a terminal, silence under -q."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlmsel.cli import progress
from vlmsel.cli.progress import Counters, Pace, Progress, describe, format_bytes, format_seconds


class Log(io.StringIO):
    """A stream that is no terminal and says when a line came."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        count = super().write(text)
        self.written.set()
        return count


def test_a_log_gets_plain_lines() -> None:
    log = Log()
    with Progress("select", stream=log, interval_s=0.01) as shown:
        shown.update(1_234_567, 2_000_000, 1_500_000, 6_000_000, note="pass 2 \x1b[2J")
        log.written.clear()
        assert log.written.wait(30)
    line = log.getvalue().splitlines()[-1]
    assert line.startswith("select: 1,234,567 of 2,000,000 records (62%), 1.5 MB of 6.0 MB (25%)")
    assert line.endswith(r"pass 2 \x1b[2J")
    assert "\x1b" not in log.getvalue()
    assert "\r" not in log.getvalue()


def test_a_line_comes_while_a_step_is_silent() -> None:
    log = Log()
    with Progress("score", stream=log, interval_s=0.01):
        assert log.written.wait(30)
    assert log.getvalue().startswith("score: 0 records\n")


def test_a_short_run_is_silent() -> None:
    log = Log()
    with Progress("select", stream=log) as shown:
        shown.update(5, 5)
    assert log.getvalue() == ""


def test_quiet_is_silent_and_starts_no_thread() -> None:
    log = Log()
    before = threading.active_count()
    with Progress("select", quiet=True, stream=log, interval_s=0.001) as shown:
        shown.update(5, 10)
        assert threading.active_count() == before
    assert log.getvalue() == ""


def test_the_thread_ends_with_the_run() -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), Progress("select", stream=Log(), interval_s=0.001):
        raise ZeroDivisionError
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "error", [BrokenPipeError(), OSError(errno.ENOSPC, "full"), ValueError("I/O operation on closed file")], ids=repr
)
def test_a_closed_stderr_does_not_stop_the_work(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread gives up by itself: it neither dies of the error, which Python would tell on stderr, nor tries for ever."""
    died: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", died.append)

    class Closed(Log):
        def write(self, text: str) -> int:
            self.written.set()
            raise error

    closed = Closed()
    with Progress("select", stream=closed, interval_s=0.001) as shown:
        # It may have given up already.
        threads = [thread for thread in threading.enumerate() if thread.name == "vlmsel-progress"]
        assert closed.written.wait(30)
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        shown.update(1, 2)
    assert died == []


def test_a_terminal_that_goes_away_does_not_stop_the_work() -> None:
    """The bar is drawn at the end too, when the command has done its work."""
    leader, follower = os.openpty()
    code = f"import sys\n{BAR}\n    print('drawn', file=sys.__stdout__, flush=True)\n    sys.stdin.readline()\nprint('done', flush=True)\n"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=follower,
        env={**os.environ, "TERM": "xterm"},
        text=True,
    ) as process:
        os.close(follower)
        assert process.stdout is not None
        assert process.stdout.readline() == "drawn\n"
        os.close(leader)
        out, _ = process.communicate("\n", timeout=60)
    assert (process.returncode, out) == (0, "done\n")


BAR = """
import threading
from vlmsel.cli.progress import BarFace, Progress
shown_twice = threading.Semaphore(0)
show = BarFace.show
def counted(self, counters, pace):
    show(self, counters, pace)
    if counters.done:
        shown_twice.release()
BarFace.show = counted
with Progress("select", interval_s=0.01) as progress:
    progress.update(50, 100, 10, 20, note="[red]x[/red] \\x1b[5m")
    for _ in range(2):
        assert shown_twice.acquire(timeout=30)
"""


def on_a_terminal(**environment: str) -> bytes:
    leader, follower = os.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "200", **environment}
    output = b""
    process = subprocess.Popen([sys.executable, "-c", BAR], stderr=follower, stdout=subprocess.DEVNULL, env=env)
    os.close(follower)
    try:
        while chunk := os.read(leader, 65536):
            output += chunk
    except OSError:
        pass  # Linux reports the closed other end of a terminal as EIO.
    finally:
        os.close(leader)
    assert process.wait(60) == 0
    return output


COLOUR = re.compile(rb"\x1b\[[0-9;]*m")


def test_a_terminal_gets_a_bar() -> None:
    output = on_a_terminal()
    assert b"select" in output
    assert b"50 of 100 records (50%)" in output
    assert COLOUR.search(output)
    # The note is data: neither rich's markup nor a terminal's escape in it is obeyed.
    assert b"[red]x[/red] \\x1b[5m" in output


def test_no_color_is_honoured() -> None:
    output = on_a_terminal(NO_COLOR="1")
    assert b"50 of 100 records" in output
    colours = {code for found in COLOUR.finditer(output) for code in found[0][2:-1].split(b";")}
    assert not any(code[:1] in b"3 4 9".split() and len(code) == 2 for code in colours)


def test_a_dumb_terminal_gets_lines() -> None:
    assert not progress.watched(io.StringIO())
    leader, follower = os.openpty()
    try:
        with open(follower, "w", closefd=False) as stream, pytest.MonkeyPatch.context() as patch:
            patch.setenv("TERM", "xterm")
            assert progress.watched(stream)
            patch.setenv("TERM", "dumb")
            assert not progress.watched(stream)
    finally:
        os.close(leader)
        os.close(follower)


def test_pace_forgets_what_is_long_ago() -> None:
    pace = Pace()
    for second in range(200):
        done = second * 1000 if second < 100 else 100_000 + (second - 100) * 10
        pace.see(float(second), Counters(done, 200_000))
    records_s, _ = pace.rates()
    assert records_s == pytest.approx(10)


def test_pace_of_a_resumed_run_is_not_that_of_its_past() -> None:
    pace = Pace()
    pace.see(0.0, Counters(1_000_000, 2_000_000))
    pace.see(10.0, Counters(1_000_100, 2_000_000))
    assert pace.rates()[0] == pytest.approx(10)
    assert pace.left_s() == pytest.approx(99_990)


def test_pace_begins_anew_with_the_next_pass() -> None:
    pace = Pace()
    pace.see(0.0, Counters(0, 100))
    pace.see(1.0, Counters(100, 100))
    pace.see(2.0, Counters(0, 100))
    assert pace.rates() == (0.0, 0.0)
    assert pace.left_s() is None


@given(st.lists(st.tuples(st.floats(0.001, 30), st.integers(0, 10**9)), min_size=1, max_size=30))
def test_pace_is_change_over_time(steps: list[tuple[float, int]]) -> None:
    """Against the slow way: every sample kept, the window searched from the end."""
    pace, now, done = Pace(), 0.0, 0
    samples = [(0.0, 0)]
    pace.see(0.0, Counters(0))
    for step_s, more in steps:
        now, done = now + step_s, done + more
        samples.append((now, done))
        pace.see(now, Counters(done))
    old = [sample for sample in samples if sample[0] <= now - progress.WINDOW_S]
    first = old[-1] if old else samples[0]
    if first == samples[-1]:
        first = samples[-2]
    assert pace.rates()[0] == pytest.approx((done - first[1]) / (now - first[0]))


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1536, "1.5 kB"),
        (99_949, "99.9 kB"),
        (150_000, "150 kB"),
        (999_600, "1.0 MB"),
        (2.5e9, "2.5 GB"),
        (3e15, "3.0 PB"),
    ],
)
def test_format_bytes(size_bytes: float, text: str) -> None:
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (7500, "2 h 05 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_bytes_alone_are_described_alone() -> None:
    assert describe(Counters(bytes_done=5, bytes_total=10), Pace(), "records") == "5 B of 10 B (50%)"
