"""A picture of how the score went as models were added: an SVG written by hand, the same bytes on every machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from vlmsel_trainer.soup.greedy import Trial

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 200, 44, 56
_LINE_HEIGHT, _MAX_LABEL = 12, 20
_ACCEPTED, _REFUSED, _LINE, _GRID, _TEXT = "#1a7f5a", "#c0504d", "#1a7f5a", "#d9d9d9", "#333333"


def plot_trials(trials: Sequence[Trial], singles: Sequence[tuple[str, float]]) -> str:
    """Score by number of models in the soup: accepted steps joined by a line, refused ones as crosses.

    ``singles`` are the candidates' own scores, drawn as ticks at one model.
    """
    values = [score for _, score in singles] + [trial.score for trial in trials]
    low, high = min(values), max(values)
    margin = (high - low) * 0.1 or max(abs(high), 1.0) * 0.01
    low, high = low - margin, high + margin
    most = max([len(trial.members) for trial in trials], default=1)

    def x_of(count: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (count - 0.5) / max(most, 1)

    def y_of(score: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - score) / (high - low)

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
            f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12" fill="{_TEXT}">'
        ),
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 24, "Acceptance score by number of models in the soup", size=14),
    ]
    for score in _ticks(low, high):
        y = y_of(score)
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="{_GRID}"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{score:.6g}", anchor="end"))
    parts += [_text(x_of(n), _HEIGHT - _BOTTOM + 20, str(n), anchor="middle") for n in range(1, most + 1)]
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, "models in the soup", anchor="middle"))
    labels = _Labels()
    for name, score in singles:
        y = y_of(score)
        parts.append(
            f'<line x1="{x_of(1) - 7:.1f}" y1="{y:.1f}" x2="{x_of(1) + 7:.1f}" y2="{y:.1f}" stroke="#888888"/>'
        )
        parts += labels.place(x_of(1) + 11, y + 4, name)
    accepted = [trial for trial in trials if trial.accepted]
    points = " ".join(f"{x_of(len(t.members)):.1f},{y_of(t.score):.1f}" for t in accepted)
    parts.append(f'<polyline points="{points}" fill="none" stroke="{_LINE}" stroke-width="2"/>')
    for trial in trials:
        x, y = x_of(len(trial.members)), y_of(trial.score)
        label = f"{'+' if trial.accepted else 'refused: '}{trial.candidate}: {trial.score:.6g}"
        title = f"<title>{_safe(label)}</title>"
        parts += labels.place(x + 11, y + 4, f"{'+ ' if len(trial.members) > 1 else ''}{trial.candidate}")
        if trial.accepted:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{_ACCEPTED}">{title}</circle>')
        else:
            cross = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
            parts.append(f'<path d="{cross}" stroke="{_REFUSED}" stroke-width="2" fill="none">{title}</path>')
    parts.extend(_legend())
    return "\n".join([*parts, "</svg>", ""])


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers between ``low`` and ``high``."""
    power = 10.0 ** math.floor(math.log10(high - low))
    step = next(power * factor for factor in (0.2, 0.5, 1.0, 2.0) if (high - low) / (power * factor) <= 6)
    first = math.ceil(low / step)
    return [step * number for number in range(first, math.floor(high / step) + 1)]


class _Labels:
    """Names beside the points; one that would lie on another is left to the point's tooltip."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float]] = []

    def place(self, x: float, y: float, text: str) -> list[str]:
        if any(x == other_x and abs(y - other_y) < _LINE_HEIGHT for other_x, other_y in self._taken):
            return []
        self._taken.append((x, y))
        return [
            _text(
                x, y, text if len(text) <= _MAX_LABEL else f"{text[: _MAX_LABEL - 1]}\N{HORIZONTAL ELLIPSIS}", size=11
            )
        ]


def _legend() -> list[str]:
    x, y = _WIDTH - _RIGHT + 16, _TOP + 12
    return [
        f'<circle cx="{x + 4}" cy="{y - 4}" r="4.5" fill="{_ACCEPTED}"/>',
        _text(x + 18, y, "accepted into the soup"),
        f'<path d="M{x} {y + 14}l8 8m0 -8l-8 8" stroke="{_REFUSED}" stroke-width="2" fill="none"/>',
        _text(x + 18, y + 22, "tried and refused"),
        f'<line x1="{x - 3}" y1="{y + 40}" x2="{x + 11}" y2="{y + 40}" stroke="#888888"/>',
        _text(x + 18, y + 44, "a single model"),
    ]


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{_safe(text)}</text>'


def _safe(text: str) -> str:
    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:200]))
