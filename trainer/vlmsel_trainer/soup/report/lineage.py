"""What went into a soup, as the manifest's provenance and the model card tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlmsel import Output

from vlmsel_trainer.soup.average import Blender
from vlmsel_trainer.soup.greedy import Trial
from vlmsel_trainer.soup.ingredient import Ingredient
from vlmsel_trainer.soup.inputs import Setup
from vlmsel_trainer.soup.scores import Score


def describe_lineage(
    setup: Setup,
    output: Output,
    members: Sequence[Ingredient],
    blender: Blender,
    trials: Sequence[Trial],
    scores: Mapping[str, Score],
    report: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Candidates with hashes, scores and weights; trials; how many tensors are means; where the companions came from.

    Every weight file must have been committed. The same soup gives the same document, whatever the order of arguments.
    """
    owner = setup.companions_from(members)
    return {
        "candidates": _candidates(setup, members, scores),
        "companions": {
            "differences": sorted(str(difference) for difference in setup.differences),
            "from": setup.companions_label(owner),
        },
        "content_hash": blender.soup_hash(),
        "keep": sorted(setup.options.keep),
        "method": setup.options.method,
        "report": report,
        "sources": [setup.source_label(source) for source in blender.sources],
        "tensors": _count_tensors(setup, output),
        "trials": [
            {
                "accepted": trial.accepted,
                "candidate": trial.candidate,
                "members": list(trial.members),
                "score": trial.score,
                "to_beat": trial.to_beat,
            }
            for trial in trials
        ],
        "weighted": len({member.weight for member in members}) > 1,
    }


def _candidates(setup: Setup, members: Sequence[Ingredient], scores: Mapping[str, Score]) -> list[dict[str, Any]]:
    total = sum(member.weight for member in members)
    in_soup = {id(member) for member in members}
    found = []
    for ingredient in sorted(setup.ingredients, key=lambda i: i.label):
        score = scores.get(ingredient.label)
        found.append(
            {
                "adapter": ingredient.adapter.describe() if ingredient.adapter else None,
                "benchmarks": dict(score.benchmarks) if score else {},
                "content_hash": ingredient.content_hash,
                "datasets": list(ingredient.datasets),
                "in_soup": id(ingredient) in in_soup,
                "label": ingredient.label,
                "score": score.value if score else None,
                "weight": ingredient.weight / total if id(ingredient) in in_soup else 0.0,
            }
        )
    return found


def _count_tensors(setup: Setup, output: Output) -> dict[str, int]:
    parts = output.committed()
    counts: dict[str, int] = {}
    for shard in setup.shards:
        for how, count in parts[shard.file_name]["counts"].items():
            counts[how] = counts.get(how, 0) + count
    return counts
