"""Greedy choice against a brute force that holds every score of every subset."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from vlmsel_trainer.soup.greedy import Candidate, greedy, rank, take_top


def plain_greedy(singles: dict[str, float], table: dict[frozenset[str], float]) -> list[str]:
    """The paper's algorithm box, literally; the empty pool scores minus infinity."""
    pool: list[str] = []
    pool_score = float("-inf")
    for name in sorted(singles, key=lambda n: (-singles[n], n)):
        score = table[frozenset([*pool, name])]
        if score >= pool_score:
            pool.append(name)
            pool_score = score
    return pool


@given(st.data(), st.integers(1, 6))
def test_equals_brute_force(data: st.DataObject, count: int) -> None:
    names = [f"m{n}" for n in range(count)]
    subsets = [frozenset(s) for size in range(1, count + 1) for s in combinations(names, size)]
    # Few distinct values, so that ties are common.
    table = {s: float(data.draw(st.integers(0, 3))) for s in subsets}
    singles = {name: table[frozenset([name])] for name in names}
    asked: list[tuple[str, ...]] = []

    def evaluate(members: tuple[Candidate, ...]) -> float:
        asked.append(tuple(m.label for m in members))
        return table[frozenset(m.label for m in members)]

    members, trials = greedy([Candidate(n, n, singles[n]) for n in names], evaluate)
    assert [m.label for m in members] == plain_greedy(singles, table)
    assert len(trials) == count
    assert len(asked) == count, "every candidate is tried once"
    # On the acceptance scores a greedy soup is never worse than the best single model.
    assert max(t.score for t in trials if t.accepted) >= max(singles.values())


def test_equal_score_is_accepted_and_a_margin_refuses_it() -> None:
    candidates = [Candidate("a", "1", 1.0), Candidate("b", "2", 0.5)]
    members, _ = greedy(candidates, lambda _: 1.0)
    assert [m.label for m in members] == ["a", "b"]
    members, trials = greedy(candidates, lambda _: 1.0, margin=0.01)
    assert [m.label for m in members] == ["a"]
    assert [t.accepted for t in trials] == [True, False]


def test_scores_that_order_the_candidates_may_be_on_another_scale() -> None:
    candidates = [Candidate("a", "1", 0.61), Candidate("b", "2", 0.60)]
    members, trials = greedy(candidates, lambda tried: 61.0 if len(tried) == 1 else 58.0)
    assert [m.label for m in members] == ["a"]
    assert trials[1].to_beat == 61.0


def test_negative_scores_still_let_the_best_in() -> None:
    members, _ = greedy(
        [Candidate("a", "1", -5.0), Candidate("b", "2", -7.0)], lambda tried: -5.0 if len(tried) == 1 else -9.0
    )
    assert [m.label for m in members] == ["a"]


@given(st.permutations([Candidate(f"m{n}", f"{n * 7 % 5}", float(n % 3)) for n in range(6)]), st.integers(1, 6))
def test_order_of_arguments_decides_nothing(candidates: list[Candidate], top: int) -> None:
    expected = sorted(candidates, key=lambda c: (-c.score, c.key, c.label))
    assert rank(candidates) == expected
    assert take_top(candidates, top) == expected[:top]
