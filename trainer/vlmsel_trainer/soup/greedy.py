"""Which models enter the soup: POINTS (arXiv 2409.04828), section 3.3 and its algorithm box, without a byte of weights.

Greedy: candidates by descending score; each is tried once together with those already in, as a plain mean; it stays if
the score does not fall (the box's >=). The empty pool scores minus infinity, so the best candidate always enters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model and its own score. ``key`` (its content hash) orders equal scores."""

    label: str
    key: str
    score: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One greedy step: what was tried, what it scored against what, and whether the candidate stayed."""

    candidate: str
    members: tuple[str, ...]
    score: float
    to_beat: float | None
    accepted: bool


def rank(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first; equal scores in the order of content hashes, so that the order of arguments decides nothing."""
    return sorted(candidates, key=lambda c: (-c.score, c.key, c.label))


def take_top(candidates: Sequence[Candidate], top: int) -> list[Candidate]:
    """Maximum soup: the ``top`` best."""
    return rank(candidates)[:top]


def greedy(
    candidates: Sequence[Candidate],
    evaluate: Callable[[tuple[Candidate, ...]], float],
    margin: float = 0.0,
    on_trial: Callable[[Trial], None] | None = None,
) -> tuple[list[Candidate], list[Trial]]:
    """Greedy soup: the members and every trial. ``evaluate`` scores the plain mean of the models it is given.

    A candidate stays if the trial scores at least ``margin`` more than the soup without it. The first is scored by
    ``evaluate`` too: candidates may have been ordered by scores on another scale.
    """
    members: list[Candidate] = []
    trials: list[Trial] = []
    best: float | None = None
    for candidate in rank(candidates):
        tried = (*members, candidate)
        score = evaluate(tried)
        accepted = best is None or score >= best + margin
        trial = Trial(candidate.label, tuple(c.label for c in tried), score, best, accepted)
        trials.append(trial)
        if on_trial is not None:
            on_trial(trial)
        if accepted:
            members.append(candidate)
            best = score
    return members, trials
