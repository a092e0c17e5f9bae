"""The plot of a greedy soup: well-formed for any scores and names, and readable without its tooltips."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from vlmsel_trainer.soup.greedy import Trial
from vlmsel_trainer.soup.report.plot import _ticks, plot_trials

SVG = "{http://www.w3.org/2000/svg}"
finite = st.floats(-1e12, 1e12)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@given(st.lists(st.tuples(st.text(max_size=30), finite, st.booleans()), min_size=1, max_size=8))
def test_any_names_and_scores_give_a_picture(rows: list[tuple[str, float, bool]]) -> None:
    trials = [Trial(name, (name,) * (n + 1), score, None, kept) for n, (name, score, kept) in enumerate(rows)]
    root = ElementTree.fromstring(plot_trials(trials, [(name, score) for name, score, _ in rows]))
    assert len(list(root.iter(f"{SVG}title"))) == len(rows)
    for element in root.iter(f"{SVG}circle"):
        assert 0 <= float(element.get("cy", "nan")) <= 400


@given(finite, st.floats(1e-6, 1e6))
def test_ticks_are_few_and_inside(low: float, width: float) -> None:
    high = low + width
    if high - low < abs(low) * 1e-9:
        return
    ticks = _ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low - width * 1e-6 <= tick <= high + width * 1e-6 and math.isfinite(tick) for tick in ticks)


def test_points_are_named_and_labels_do_not_cover_each_other() -> None:
    trials = [
        Trial("a", ("a",), 0.5, None, True),
        Trial("b", ("a", "b"), 0.6, 0.5, True),
        Trial("c", ("a", "b", "c"), 0.55, 0.6, False),
        Trial("d", ("a", "b", "d"), 0.5500001, 0.6, False),
    ]
    found = texts(plot_trials(trials, [("a", 0.5), ("b", 0.4)]))
    assert [name for name in ("a", "b", "+ b", "+ c", "+ d") if name in found] == ["a", "b", "+ b", "+ c"]
    assert {"0.4", "0.5", "0.6"} <= set(found)
