"""Makes a soup: opens the models, chooses the members, streams their mean, and writes what goes along.

The output folder is committed file by file (:class:`vlmsel.Output`), and so is every score that was paid for: a killed
run continues with the next file or the next trial.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from vlmsel import Output
from vlmsel.errors import MismatchError, ResourceError, UsageError, VlmselError

from .blend import Blender
from .card import write_card
from .checkpoint import INDEX_FILE, Checkpoint
from .companions import Difference, check_companions, compare_companions, read_companions
from .content_hash import fingerprint, hash_adapter, hash_checkpoint
from .greedy import Candidate, Trial, climb, rank, take_top
from .ingredient import Ingredient, check_tied, select_kept
from .layout import index_json, plan_shards
from .options import SoupOptions
from .pantry import Pantry
from .plot import plot_trials
from .reporting import Reporter
from .scores import Score, evaluate, match_scores, parse_program, read_scores

PLOT_FILE = "soup.svg"


@dataclass(frozen=True, slots=True)
class SoupPlan:
    """What a run would read and write."""

    ingredients: tuple[str, ...]
    read_bytes: int
    write_bytes: int
    shards: tuple[str, ...]
    memory_bytes: int
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SoupResult:
    """A finished soup: its folder and manifest; ``fresh`` is false if it was there already."""

    path: Path
    manifest: dict[str, Any]
    fresh: bool
    wall_s: float
    peak_bytes: int


class Soup:
    """One soup being made. Use :func:`make_soup`, or :meth:`plan` alone for a dry run."""

    def __init__(self, options: SoupOptions, reporter: Reporter) -> None:
        self.options = options
        self.reporter = reporter
        self._stack = ExitStack()
        self._started_s = time.monotonic()

    def __enter__(self) -> Soup:
        options = self.options
        options.check()
        try:
            self.pantry = self._stack.enter_context(Pantry(options.models, options.weights, options.base))
            self.ingredients = self.pantry.ingredients
            self.keep_source = None if options.keep_from is None else self.pantry.open(options.keep_from)
            self.kept: dict[str, Checkpoint] = {}
            if self.keep_source is not None:
                self.kept = select_kept(options.keep, self.keep_source, self.ingredients)
            check_tied(self.ingredients, self.kept)
            self.differences = self._compare_companions()
            self.given_scores = self._read_scores()
            tensors = list(self.ingredients[0].checkpoint.tensors.values())
            self.shards = plan_shards(tensors, options.max_shard_bytes, self._metadata())
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def plan(self) -> SoupPlan:
        """What the run would do; refuses what cannot fit on the disk."""
        self._check_disk()
        blender = self._blender(self.ingredients)
        return SoupPlan(
            tuple(ingredient.label for ingredient in self.ingredients),
            sum(source.size_bytes for source in blender.sources),
            sum(shard.size_bytes for shard in self.shards),
            tuple(shard.file_name for shard in self.shards),
            blender.memory_bytes,
            tuple(str(difference) for difference in self.differences),
        )

    def make(self) -> SoupResult:
        """Makes the soup, or finds it made."""
        output = self._begin(resume=True)
        try:
            changed = [] if output.finished else self._changed_files(output)
            if changed and self.options.overwrite:
                output.close()
                output = self._begin(resume=False)
            elif changed:
                raise MismatchError(
                    f"the files of {', '.join(changed)} were written again since the unfinished run in {output.path} began; "
                    "start again with --overwrite, or choose another output with -o"
                )
            if output.finished:
                return self._result(output.path, output.manifest, fresh=False)
            self._check_disk()
            self._files_place(output).write_bytes(self._files_json())
            return self._make_in(output)
        except OSError as error:
            if isinstance(error, VlmselError) or error.errno is None:
                raise
            where = error.filename or self.options.out
            raise ResourceError(f"{where}: {error.strerror}; free space or repair it and run again") from error
        finally:
            output.close()

    def _begin(self, resume: bool) -> Output:
        options = self.options
        return Output.begin(
            options.out,
            command="soup",
            config=self._config(),
            inputs=self._inputs(),
            guarded=[*self.pantry.folders, *[p for p in (options.keep_from, options.companions_from) if p is not None]],
            overwrite=options.overwrite,
            resume=resume,
        )

    # The steps, in order.

    def _make_in(self, output: Output) -> SoupResult:
        members, trials, scores = self._choose(output)
        blender = self._blender(members)
        self._write_shards(output, blender)
        hashes = blender.content_hashes()
        for member, content_hash in zip(members, hashes, strict=True):
            member.content_hash = content_hash
        carrier = min(members, key=lambda m: (m.content_hash or "", self._digest(m), m.label))
        carried = self._carried(carrier)
        self._commit_files(output, "companions", carried)
        index = index_json(self.shards)
        if index is not None:
            self._commit_files(output, "index", {INDEX_FILE: index})
        lineage = self._lineage(output, members, blender, trials, scores)
        lineage["companions"] = {
            "differences": sorted(str(difference) for difference in self.differences),
            "from": self._carrier_label(carrier),
        }
        lineage["report"] = self._report(output, members, scores)
        if trials:
            singles = sorted((label, score.value) for label, score in scores.items())
            self._commit_files(output, "plot", {PLOT_FILE: plot_trials(trials, singles).encode()})
        card = write_card(lineage, self.options.command_line([i.label for i in self.ingredients]), bool(trials))
        self._commit_files(output, "card", {"README.md": card.encode()})
        run = {"wall_s": time.monotonic() - self._started_s, "peak_bytes": peak_bytes(), "threads": blender.n_threads}
        counts = {
            "input": len(self.ingredients),
            "in_soup": len(members),
            "left_out": len(self.ingredients) - len(members),
        }
        manifest = output.finish(counts=counts, provenance=lineage, run=run)
        return self._result(output.path, manifest, fresh=True)

    def _choose(self, output: Output) -> tuple[list[Ingredient], list[Trial], dict[str, Score]]:
        """The members, the trials, and the candidates' own scores by label."""
        options = self.options
        if options.method == "average":
            return self.ingredients, [], self.given_scores
        by_label = {ingredient.label: ingredient for ingredient in self.ingredients}
        scores = dict(self.given_scores)
        if options.eval_program is not None:
            self._hash_all(output, self.ingredients)
            for ingredient in self.ingredients:
                if ingredient.label not in scores:
                    scores[ingredient.label] = self._score(output, [ingredient], options.eval_program)
        elif _has_ties(scores, options.top):
            self._hash_all(output, self.ingredients)
        candidates = [Candidate(i.label, i.content_hash or i.fingerprint, scores[i.label].value) for i in self.ingredients]
        self.reporter.candidates(rank(candidates))
        if options.report_program is None or options.report_program == options.eval_program:
            self.reporter.warn(
                "the scores that choose the members are the scores you would report, which flatters the soup; "
                "give a program for another split with --report-eval"
            )
        if options.method == "maximum":
            return [by_label[c.label] for c in take_top(candidates, options.top)], [], scores
        program = options.eval_program
        if program is None:
            raise UsageError("greedy scores every trial soup: give --eval 'PROGRAM ARGS {model}'")

        def evaluate_members(tried: tuple[Candidate, ...]) -> float:
            return self._score(output, [by_label[c.label] for c in tried], program).value

        chosen, trials = climb(candidates, evaluate_members, options.accept_margin, self.reporter.trial)
        return [by_label[c.label] for c in chosen], trials, scores

    def _score(self, output: Output, members: Sequence[Ingredient], program: str) -> Score:
        """The program's score of a model or of a trial soup; each is paid for once, whatever happens to the run."""
        hashes = sorted(member.content_hash or member.fingerprint for member in members)
        identity = json.dumps([program, hashes, sorted(self.kept), self._digest(members[0])])
        key = blake3(identity.encode()).hexdigest()[:24]
        unit = f"score {key}"
        known = output.committed().get(unit)
        if known is not None:
            detail = known["detail"]
            return Score(float(detail["score"]), detail["benchmarks"])
        if len(members) == 1 and members[0].adapter is None and not self.kept:
            score = evaluate(program, members[0].path, self.options.eval_timeout_s)
        else:
            folder = output.scratch() / "trial"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            self._write_trial(folder, members)
            score = evaluate(program, folder, self.options.eval_timeout_s)
            shutil.rmtree(folder, ignore_errors=True)
        record = {**score.to_json(), "members": sorted(m.label for m in members), "of": hashes, "program": program}
        self._commit_files(output, unit, {f"scores/{key}.json": _json_bytes(record)}, detail=record)
        return score

    def _write_trial(self, folder: Path, members: Sequence[Ingredient]) -> None:
        blender = self._blender(members)
        total_bytes = sum(shard.data_bytes for shard in self.shards) * len(blender.sources)
        with self.reporter.progress(f"blending a trial of {len(members)}", total_bytes) as on_progress:
            blender.on_progress = on_progress
            for shard in self.shards:
                blender.write(shard, folder / shard.file_name)
        index = index_json(self.shards)
        files = dict(self._carried(min(members, key=lambda m: (m.content_hash or m.fingerprint, self._digest(m)))))
        if index is not None:
            files[INDEX_FILE] = index
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)

    def _write_shards(self, output: Output, blender: Blender) -> None:
        committed = output.committed()
        total_bytes = sum(shard.data_bytes for shard in self.shards) * len(blender.sources)
        with self.reporter.progress(f"blending {len(blender.ingredients)} models", total_bytes) as on_progress:
            blender.on_progress = on_progress
            for shard in self.shards:
                part = committed.get(shard.file_name)
                if part is not None:
                    blender.restore(part["detail"]["tensors"])
                    on_progress(shard.data_bytes * len(blender.sources))
                    continue
                record = blender.write(shard, output.temporary(shard.file_name))
                counts: dict[str, int] = {}
                for entry in record.values():
                    counts[entry["how"]] = counts.get(entry["how"], 0) + 1
                detail = {"tensors": record}
                output.commit(shard.file_name, [shard.file_name], rows=len(record), counts=counts, detail=detail)

    def _report(self, output: Output, members: Sequence[Ingredient], scores: dict[str, Score]) -> dict[str, Any] | None:
        """The held-out score of the soup beside that of the best single model."""
        program = self.options.report_program
        if program is None:
            return None
        if scores:
            candidates = [Candidate(i.label, i.content_hash or i.fingerprint, scores[i.label].value) for i in self.ingredients]
            best = rank(candidates)[0].label
            singles = [i for i in self.ingredients if i.label == best]
        else:
            singles = self.ingredients
        self._hash_all(output, singles)
        rows = [{"label": i.label, "score": self._score(output, [i], program).value} for i in singles]
        if len(members) > 1:
            rows.append({"label": "this soup", "score": self._score(output, members, program).value})
        return {"program": program, "scores": rows}

    # Facts about the run.

    def _lineage(
        self, output: Output, members: Sequence[Ingredient], blender: Blender, trials: Sequence[Trial], scores: dict[str, Score]
    ) -> dict[str, Any]:
        total = sum(member.weight for member in members)
        in_soup = {id(member) for member in members}
        candidates = []
        for ingredient in sorted(self.ingredients, key=lambda i: i.label):
            score = scores.get(ingredient.label)
            candidates.append(
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
        counts: dict[str, int] = {}
        parts = output.committed()
        for shard in self.shards:
            for how, count in parts[shard.file_name]["counts"].items():
                counts[how] = counts.get(how, 0) + count
        return {
            "candidates": candidates,
            "content_hash": blender.soup_hash(),
            "keep": list(self.options.keep),
            "method": self.options.method,
            "sources": [self._source_label(source) for source in blender.sources],
            "tensors": counts,
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

    def _config(self) -> dict[str, Any]:
        options = self.options
        companions = options.companions_from
        return {
            "accept_margin": options.accept_margin,
            "companions_from": None if companions is None else read_companions(companions).digest,
            "eval": options.eval_program,
            "keep": sorted(options.keep),
            "keep_from": None if self.keep_source is None else fingerprint(self.keep_source)[:32],
            "max_shard_bytes": options.max_shard_bytes,
            "method": options.method,
            "report_eval": options.report_program,
            "scores": {label: score.to_json() for label, score in sorted(self.given_scores.items())},
            "top": options.top if options.method == "maximum" else None,
            "weights": {i.label: i.weight for i in sorted(self.ingredients, key=lambda i: i.label)},
        }

    def _inputs(self) -> list[dict[str, Any]]:
        return [
            {"bytes": i.checkpoint.size_bytes, "fingerprint": i.fingerprint, "name": i.label}
            for i in sorted(self.ingredients, key=lambda i: i.label)
        ]

    def _files_place(self, output: Output) -> Path:
        return output.scratch() / "files.json"

    def _files_json(self) -> bytes:
        return _json_bytes({i.label: i.checkpoint.identity() for i in self.ingredients})

    def _changed_files(self, output: Output) -> list[str]:
        """Models whose files a resumed run does not meet as it left them; the fingerprint alone reads a part of them."""
        place = self._files_place(output)
        if not output.committed() or not place.exists():
            return []
        before, now = json.loads(place.read_bytes()), json.loads(self._files_json())
        return [label for label, files in now.items() if before.get(label) != files]

    def _hash_all(self, output: Output, ingredients: Sequence[Ingredient]) -> None:
        """Content hashes by one reading pass, remembered for as long as the files stay as they are."""
        place = output.scratch() / "hashes.json"
        known: dict[str, str] = json.loads(place.read_bytes()) if place.exists() else {}
        for ingredient in ingredients:
            if ingredient.content_hash is not None:
                continue
            key = json.dumps(ingredient.checkpoint.identity())
            if key not in known:
                with self.reporter.progress(f"hashing {ingredient.label}", ingredient.checkpoint.size_bytes) as on_progress:
                    known[key] = hash_checkpoint(ingredient.checkpoint, self.options.n_threads, on_progress)
                temporary = place.with_suffix(".tmp")
                temporary.write_bytes(_json_bytes(known))
                os.replace(temporary, place)
            ingredient.content_hash = known[key]
            if ingredient.adapter is not None:
                adapter = ingredient.adapter
                ingredient.content_hash = hash_adapter(known[key], adapter.content_hash, adapter.describe())

    def _check_disk(self) -> None:
        parent = Path(os.path.abspath(self.options.out)).parent
        while not parent.exists():
            parent = parent.parent
        soup_bytes = sum(shard.size_bytes for shard in self.shards)
        copies = 2 if self.options.eval_program or self.options.report_program else 1
        present = _size_below(Path(f"{os.path.abspath(self.options.out)}.partial"))
        free_bytes = shutil.disk_usage(parent).free + present
        if free_bytes < soup_bytes * copies:
            raise ResourceError(
                f"{parent} has {free_bytes} bytes free, the soup needs {soup_bytes * copies}"
                f"{' (with one trial beside it)' if copies > 1 else ''}; free space or choose another place with -o"
            )

    def _compare_companions(self) -> list[Difference]:
        differences = compare_companions([(s.ingredient.label, s.companions) for s in self.pantry.stocked])
        if self.options.companions_from is None:
            check_companions(differences)
        for difference in differences[:10]:
            self.reporter.warn(str(difference))
        return differences

    def _read_scores(self) -> dict[str, Score]:
        options = self.options
        for program in (options.eval_program, options.report_program):
            if program is not None:
                parse_program(program)
        if options.scores is None:
            return {}
        return match_scores(read_scores(options.scores), self.ingredients, options.scores)

    def _carried(self, carrier: Ingredient) -> dict[str, bytes]:
        if self.options.companions_from is not None:
            return read_companions(self.options.companions_from).files
        return next(s.companions.files for s in self.pantry.stocked if s.ingredient is carrier)

    def _carrier_label(self, carrier: Ingredient) -> str:
        chosen = self.options.companions_from
        return carrier.label if chosen is None else Path(os.path.abspath(chosen)).name

    def _digest(self, ingredient: Ingredient) -> str:
        return next(s.companions.digest for s in self.pantry.stocked if s.ingredient is ingredient)

    def _metadata(self) -> dict[str, str]:
        formats = {i.checkpoint.format_metadata.get("format", "pt") for i in self.ingredients}
        if len(formats) > 1:
            raise UsageError(f"the models were saved for different frameworks: {', '.join(sorted(formats))}")
        return {"format": formats.pop()}

    def _source_label(self, source: Checkpoint) -> str:
        named = (i.label for i in self.ingredients if i.checkpoint is source and i.adapter is None)
        return next(named, Path(os.path.abspath(source.path)).name)

    def _blender(self, members: Sequence[Ingredient]) -> Blender:
        return Blender(members, self.kept, self.options.n_threads, self.options.memory_bytes)

    def _commit_files(
        self, output: Output, unit: str, files: dict[str, bytes], detail: dict[str, Any] | None = None
    ) -> None:
        if not files or unit in output.committed():
            return
        for name, data in files.items():
            output.temporary(name).write_bytes(data)
        output.commit(unit, sorted(files), rows=len(files), detail=detail)

    def _result(self, path: Path, manifest: dict[str, Any], fresh: bool) -> SoupResult:
        return SoupResult(path, manifest, fresh, time.monotonic() - self._started_s, peak_bytes())


def make_soup(options: SoupOptions, reporter: Reporter | None = None) -> SoupResult:
    """Makes a soup of models on disk into ``options.out``.

    Raises the family of :mod:`vlmsel.errors`: UsageError where models do not fit together or options make no sense,
    UnreadableError for damaged files and NaN, ResourceError for disk and memory, LockedError and MismatchError as every
    output folder does.
    """
    with Soup(options, reporter or Reporter()) as soup:
        return soup.make()


def peak_bytes() -> int:
    """Peak resident memory of this process since it was started.

    The kernel's ``ru_maxrss`` would also count what the process that started this one held at that moment.
    """
    try:
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _has_ties(scores: dict[str, Score], top: int) -> bool:
    """Whether equal scores straddle the cut, so that only content hashes can decide."""
    values = sorted((score.value for score in scores.values()), reverse=True)
    return top < len(values) and values[top - 1] == values[top]


def _json_bytes(document: Any) -> bytes:
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode()


def _size_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0

