"""What ``vlmsel soup`` says on stderr: tables of candidates and trials, warnings, and progress in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from vlmsel.cli.progress import Progress
from vlmsel.cli.report import Report, printable

from vlmsel_trainer.soup.greedy import Candidate, Trial
from vlmsel_trainer.soup.report.reporting import Reporter


class ConsoleReporter(Reporter):
    """Passes everything to the command's :class:`vlmsel.cli.report.Report` and to a progress display."""

    def __init__(self, report: Report, quiet: bool) -> None:
        self._report = report
        self._quiet = quiet

    def warn(self, text: str) -> None:
        self._report.warn(text)

    def candidates(self, ranked: Sequence[Candidate]) -> None:
        rows = [(str(place), c.label, f"{c.score:.6g}") for place, c in enumerate(ranked, start=1)]
        self._report.say(format_table(("rank", "candidate", "score"), rows))

    def trial(self, trial: Trial) -> None:
        against = "" if trial.to_beat is None else f", to beat {trial.to_beat:.6g}"
        verdict = "stays" if trial.accepted else "goes"
        self._report.say(
            f"trial of {len(trial.members)}: + {trial.candidate} scores {trial.score:.6g}{against}: {verdict}"
        )

    @contextmanager
    def progress(self, title: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        done_bytes = 0
        with Progress(printable(title), quiet=self._quiet, unit="bytes") as display:

            def advance(count: int) -> None:
                nonlocal done_bytes
                done_bytes += count
                display.update(0, None, done_bytes, total_bytes)

            yield advance


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded with spaces; candidates to the left, numbers to the right."""
    safe = [[printable(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in safe) for column in range(len(header))]
    lines = []
    for row in safe:
        cells = [
            cell.ljust(width) if header[n] == "candidate" else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
