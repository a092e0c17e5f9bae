"""Chooses the members of a soup: hashes and scores the candidates, tries soups, and pays for each score once."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blake3 import blake3
from vlmsel import Output
from vlmsel.files import create_plain, write_plain

from vlmsel_trainer.soup.greedy import Candidate, Trial, greedy, rank, take_top
from vlmsel_trainer.soup.ingredient import Ingredient
from vlmsel_trainer.soup.inputs import Setup
from vlmsel_trainer.soup.scores import Score, evaluate
from vlmsel_trainer.soup.weights.checkpoint import INDEX_FILE
from vlmsel_trainer.soup.weights.content_hash import hash_adapter, hash_checkpoint
from vlmsel_trainer.soup.weights.weight_shards import index_json

#: Relative difference below which a score of the file and one of the program are the same one.
_SAME_SCORE = 1e-3


class Chooser:
    """Chooses for one output folder. A score is committed there as soon as it is known, so that a killed run keeps it."""

    def __init__(self, setup: Setup, output: Output) -> None:
        self._setup = setup
        self._options = setup.options
        self._output = output

    def choose(self) -> tuple[list[Ingredient], list[Trial], dict[str, Score]]:
        """The members, the trials, and the candidates' own scores by label."""
        options = self._options
        if options.method == "average":
            return self._setup.ingredients, [], self._setup.given_scores
        by_label = {ingredient.label: ingredient for ingredient in self._setup.ingredients}
        scores = dict(self._setup.given_scores)
        if options.eval_program is not None:
            self._hash_all(self._setup.ingredients)
            for ingredient in self._setup.ingredients:
                if ingredient.label not in scores:
                    scores[ingredient.label] = self._score([ingredient], options.eval_program)
        elif _has_ties(scores, options.top):
            self._hash_all(self._setup.ingredients)
        candidates = self._rank(scores)
        self._setup.reporter.candidates(candidates)
        if options.report_program is None or options.report_program == options.eval_program:
            self._setup.reporter.warn(
                "the scores that choose the members are the scores you would report, which flatters the soup; "
                "give a program for another split with --report-eval"
            )
        if options.method == "maximum":
            return [by_label[c.label] for c in take_top(candidates, options.top)], [], scores
        program = options.eval_program
        assert program is not None  # SoupOptions.check asks for it

        def evaluate_members(tried: tuple[Candidate, ...]) -> float:
            score = self._score([by_label[c.label] for c in tried], program).value
            if len(tried) == 1 and not math.isclose(score, tried[0].score, rel_tol=_SAME_SCORE):
                self._setup.reporter.warn(
                    f"{tried[0].label} has {tried[0].score:.6g} in {options.scores} and {score:.6g} by --eval; the file "
                    "orders the models, and only --eval decides which stay"
                )
            return score

        chosen, trials = greedy(candidates, evaluate_members, options.accept_margin, self._setup.reporter.trial)
        return [by_label[c.label] for c in chosen], trials, scores

    def report(self, members: Sequence[Ingredient], scores: Mapping[str, Score]) -> dict[str, Any] | None:
        """The held-out score of the soup beside that of the best single model."""
        program = self._options.report_program
        if program is None:
            return None
        if scores:
            best = self._rank(scores)[0].label
            singles = [i for i in self._setup.ingredients if i.label == best]
        else:
            singles = self._setup.ingredients
        self._hash_all(singles)
        rows = [{"label": i.label, "score": self._score([i], program).value} for i in singles]
        if len(members) > 1:
            rows.append({"label": "this soup", "score": self._score(members, program).value})
        return {"program": program, "scores": rows}

    def _rank(self, scores: Mapping[str, Score]) -> list[Candidate]:
        return rank(
            [
                Candidate(i.label, i.content_hash or i.fingerprint, scores[i.label].value)
                for i in self._setup.ingredients
            ]
        )

    def _score(self, members: Sequence[Ingredient], program: str) -> Score:
        """The program's score of a model or of a trial soup; each is paid for once, whatever happens to the run."""
        hashes = sorted(member.content_hash or member.fingerprint for member in members)
        identity = json.dumps([program, hashes, sorted(self._setup.kept), self._setup.companions_digest(members[0])])
        key = blake3(identity.encode()).hexdigest()[:24]
        unit = f"score {key}"
        known = self._output.committed().get(unit)
        if known is not None:
            detail = known["detail"]
            return Score(float(detail["score"]), detail["benchmarks"])
        if len(members) == 1 and members[0].adapter is None and not self._setup.kept:
            score = evaluate(program, members[0].path, self._options.eval_timeout_s)
        else:
            folder = self._output.scratch() / "trial"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self._write_trial(folder, members)
            score = evaluate(program, folder, self._options.eval_timeout_s)
            shutil.rmtree(folder, ignore_errors=True)
        record = {**score.to_json(), "members": sorted(m.label for m in members), "of": hashes, "program": program}
        commit_files(self._output, unit, {f"scores/{key}.json": json_bytes(record)}, detail=record)
        return score

    def _write_trial(self, folder: Path, members: Sequence[Ingredient]) -> None:
        blender = self._setup.blender(members)
        total_bytes = sum(shard.data_bytes for shard in self._setup.shards) * len(blender.sources)
        with self._setup.reporter.progress(f"blending a trial of {len(members)}", total_bytes) as on_progress:
            blender.on_progress = on_progress
            for shard in self._setup.shards:
                blender.write(shard, folder / shard.file_name)
        index = index_json(self._setup.shards)
        files = self._setup.companion_files(self._setup.companions_from(members))
        if index is not None:
            files = {**files, INDEX_FILE: index}
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)

    def _hash_all(self, ingredients: Sequence[Ingredient]) -> None:
        """Content hashes by one reading pass, remembered for as long as the files stay as they are."""
        place = self._output.scratch() / "hashes.json"
        known: dict[str, str] = json.loads(place.read_bytes()) if place.exists() else {}
        for ingredient in ingredients:
            if ingredient.content_hash is not None:
                continue
            key = json.dumps(ingredient.checkpoint.identity())
            if key not in known:
                with self._setup.reporter.progress(
                    f"hashing {ingredient.label}", ingredient.checkpoint.size_bytes
                ) as on_progress:
                    known[key] = hash_checkpoint(ingredient.checkpoint, self._options.n_threads, on_progress)
                replace_file(place, json_bytes(known))
            ingredient.content_hash = known[key]
            if ingredient.adapter is not None:
                adapter = ingredient.adapter
                ingredient.content_hash = hash_adapter(known[key], adapter.content_hash, adapter.describe())


def commit_files(
    output: Output, unit: str, files: Mapping[str, bytes], detail: Mapping[str, Any] | None = None
) -> None:
    """Commits small files as one unit, unless an earlier run did."""
    if not files or unit in output.committed():
        return
    for name, data in files.items():
        write_plain(output.temporary(name), data)
    output.commit(unit, sorted(files), rows=len(files), detail=detail)


def replace_file(place: Path, data: bytes) -> None:
    """Writes a file that a kill or a power cut leaves as it was or as it will be."""
    temporary = place.with_suffix(".tmp")
    with os.fdopen(create_plain(temporary), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, place)


def json_bytes(document: Any) -> bytes:
    """JSON with sorted keys and a final newline."""
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode()


def _has_ties(scores: dict[str, Score], top: int) -> bool:
    """Whether equal scores straddle the cut, so that only content hashes can decide."""
    values = sorted((score.value for score in scores.values()), reverse=True)
    return top < len(values) and values[top - 1] == values[top]
