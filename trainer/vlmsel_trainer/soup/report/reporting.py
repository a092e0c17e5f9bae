"""What a soup tells whoever waits for it; this silent version is the default of the Python API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from vlmsel_trainer.soup.greedy import Candidate, Trial


class Reporter:
    """Receives what happens while a soup is made. Every method may be overridden; none decides anything."""

    def warn(self, text: str) -> None:
        """Something the user should know although the run goes on."""

    def candidates(self, ranked: Sequence[Candidate]) -> None:
        """The candidates with their own scores, best first."""

    def trial(self, trial: Trial) -> None:
        """One greedy step."""

    @contextmanager
    def progress(self, title: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """Yields a function to call with the bytes done since the last call."""
        del title, total_bytes
        yield lambda _: None
