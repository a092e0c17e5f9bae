"""`vlmsel score`: an index and a model folder in, a scores folder out, committed unit by unit.

A run that is killed at any moment and started again gives the bytes of one clean run (fp32, CPU, the same number of
threads): batches are planned within a unit, and a unit is committed whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import vlmsel
from vlmsel import stage
from vlmsel.errors import MismatchError, StrictError, UsageError
from vlmsel.outputs import accept_losses

from vlmsel_trainer.scoring.options import ScoreOptions
from vlmsel_trainer.scoring.scorer import BatchScorer, PendingRows
from vlmsel_trainer.scoring.table import write_part
from vlmsel_trainer.scoring.tolerance import Failures, Tolerance
from vlmsel_trainer.vlm import load as models
from vlmsel_trainer.vlm import provenance as provenance_of
from vlmsel_trainer.vlm.chat_template import ChatTemplate, TemplateError
from vlmsel_trainer.vlm.conversations import caption_turns
from vlmsel_trainer.vlm.images import ImageLimits
from vlmsel_trainer.vlm.index_reader import Index
from vlmsel_trainer.vlm.memory import ByteBudget, MemoryPlan, count_weight_bytes, plan_memory
from vlmsel_trainer.vlm.prefetch import PlannedUnit, Prefetch, ReadyBatch, TokenRules
from vlmsel_trainer.vlm.preprocess import Preprocessor
from vlmsel_trainer.vlm.records import OK, Unit
from vlmsel_trainer.vlm.tokenize import TokenizerError


@dataclass(frozen=True)
class Plan:
    """What a run will do: counted from the manifest and the model folder, before any weight is read."""

    rows: int
    units: list[Unit]
    model_bytes: int
    memory: MemoryPlan
    config: dict[str, Any]
    index: Index


@dataclass(frozen=True)
class Summary:
    """What a run did. ``counts``: every input row by its status; ``scored_rows`` and the rates are of this run alone."""

    path: Path
    counts: dict[str, int]
    scored_rows: int
    wall_s: float
    tokens: int
    already_done: bool = False
    """Whether the scores were there, of the same model, options and index; nothing was touched then."""

    @property
    def failed(self) -> int:
        return self.counts["input"] - self.counts[OK]


@dataclass
class Progress:
    """How far a run is: rows of the whole and tokens (text and image, padding not counted) of this run."""

    total_rows: int
    rows: int = 0
    tokens: int = 0


def plan(model: Path, index: Path, options: ScoreOptions, memory_limit: int | None = None) -> Plan:
    """Checks model folder and index and counts the work; hashes the model (its bytes are read once).

    Raises `ResourceError` where ``memory_limit`` (bytes) has no room beside the weights; those on a GPU do not count.
    """
    model_config = models.check_folder(model, trust_remote_code=options.trust_remote_code)
    manifest = vlmsel.read_manifest(index)
    if manifest.get("command") != "index":
        raise UsageError(f"{index} is no index: `vlmsel {manifest.get('command')}` wrote it; give the index as --index")
    opened = Index(index, manifest)
    units = _limited(opened.units(options.samples_per_unit), options.limit)
    dtype = _resolved_dtype(options)
    weight_bytes = count_weight_bytes(model, models.DTYPES[dtype])
    memory = plan_memory(memory_limit, 0 if on_gpu(options) else weight_bytes)
    files = provenance_of.list_model_files(model)
    config = options.config() | {
        "model_sha256": provenance_of.hash_model(model),
        "architecture": ", ".join(model_config.get("architectures") or []),
        "dtype": dtype,
        "image_backend": options.image_backend,
    }
    model_bytes = sum(file.stat().st_size for file in files)
    return Plan(sum(map(len, units)), units, model_bytes, memory, config, opened)


def score(
    model: str | os.PathLike[str],
    *,
    index: str | os.PathLike[str] = "index",
    output: str | os.PathLike[str] = "scores",
    options: ScoreOptions | None = None,
    overwrite: bool = False,
    strict: bool = False,
    max_bad_fraction: float = 0.001,
    allow_bad_files: int = 0,
    memory_limit: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Scores every row of ``index`` with the model in the folder ``model`` and writes the folder ``output``.

    Raises NotFoundError and UsageError before any work; UnreadableError where the index lost more of its data than is tolerated here, and where more than ``max_bad_fraction`` of the rows
    failed (StrictError at the first, under ``strict``): nothing is published then, what was scored stays for the next
    run, and an ``output`` that a more tolerant run finished stays as it is; MismatchError where ``output`` was begun with another model, configuration or index; LockedError; ResourceError.
    ``allow_bad_files``: of up to so many shards, rows whose image is missing or cut short do not count as failed (those whose image is another one than was indexed do). ``memory_limit`` (bytes) is
    shared out by `vlmsel_trainer.vlm.memory`; a model that leaves no room in it is refused before it is loaded.
    """
    options = options or ScoreOptions()
    began = time.monotonic()
    model, index = Path(model), Path(index)
    planned = plan(model, index, options, memory_limit)
    accept_losses(index, max_bad_fraction=max_bad_fraction, allow_bad_files=allow_bad_files, strict=strict)
    failures = Failures(Tolerance(strict, max_bad_fraction, allow_bad_files), planned.rows)
    scoring = _Scoring(planned, model, options, failures, on_progress, began)
    ended = stage.run(
        scoring,
        output,
        command="score",
        config=planned.config,
        inputs=planned.index.inputs(),
        units=scoring.stage_units(),
        guarded=[index, model, *planned.index.shards()],
        overwrite=overwrite,
        extend=True,
    )
    counts = dict(ended.manifest["counts"])
    wall_s = time.monotonic() - began
    return Summary(ended.path, counts, scoring.scored_rows, wall_s, scoring.progress.tokens, ended.already_done)


class _Scoring:
    """The stage: counts, checks, and the units scored one after the other while the next are read ahead."""

    def __init__(
        self,
        planned: Plan,
        model: Path,
        options: ScoreOptions,
        failures: Failures,
        on_progress: Callable[[Progress], None] | None,
        began: float,
    ) -> None:
        self._plan = planned
        self._model = model
        self._options = options
        self._failures = failures
        self._on_progress = on_progress
        self._began = began
        self._units = {unit.name: unit for unit in planned.units}
        self._provenance: dict[str, Any] = {}
        self._device = ""
        self.progress = Progress(planned.rows)
        self.scored_rows = 0

    def stage_units(self) -> list[stage.Unit]:
        """The units as plain data: a part of the index, and its rows."""
        units = self._units.values()
        return [stage.Unit("score", unit.name, (unit.part.name,), (unit.start, unit.stop)) for unit in units]

    def accept(self, standing: Mapping[str, Any]) -> None:
        # Made by a run that may have put up with more than this one does.
        for part in standing["parts"]:
            self._failures.add(part["unit"], part["counts"])
        self._failures.check()

    def work(self, left: Sequence[stage.Unit], output: vlmsel.Output) -> Generator[tuple[stage.Unit, stage.Done]]:
        committed = output.committed()
        for name, record in committed.items():
            self._failures.add(name, record["counts"])
        self.progress.rows = sum(int(record["rows"]) for record in committed.values())
        loaded = models.load(
            self._model,
            device=self._options.device,
            dtype=self._plan.config["dtype"],
            image_backend=self._options.image_backend,
            trust_remote_code=self._options.trust_remote_code,
        )
        self._device = str(loaded.device)
        template = self._template(loaded)
        self._provenance = self._describe(loaded, template)
        self._refuse_other_provenance(output)
        self._failures.check()
        named = {unit.name: unit for unit in left}
        for planned in self._score(loaded, template, [self._units[unit.name] for unit in left]):
            yield named[planned.unit.name], self._write(planned, output)
            self._failures.check()

    def _score(self, loaded: models.LoadedModel, template: ChatTemplate, units: list[Unit]) -> Generator[PlannedUnit]:
        preprocessor = Preprocessor(
            loaded,
            template,
            self._plan.index.roots,
            ImageLimits(self._options.max_decode_pixels, self._options.max_pixels),
            ByteBudget(self._plan.memory.read_bytes),
            ByteBudget(self._plan.memory.decode_bytes),
        )
        rules = TokenRules(
            template,
            self._options.prompt,
            self._options.max_text_tokens,
            self._options.batch_tokens,
            self._options.no_image_pass,
        )
        scorer = BatchScorer(loaded)
        n_workers = self._options.workers or min(16, os.cpu_count() or 1)
        prefetch = Prefetch(preprocessor, rules, n_workers, self._plan.memory.prefetch_bytes)
        pending: list[tuple[bool, list[int], list[PendingRows]]] = []
        with contextlib.closing(prefetch.run(self._plan.index.read(units))) as batches:
            scorer.begin_unit()
            for ready in batches:
                if ready.rows:
                    pending.append((True, ready.rows, scorer.score(ready.prepared)))
                if ready.prepared_no_image:
                    pending.append((False, ready.rows, scorer.score(ready.prepared_no_image)))
                self._report(ready)
                if ready.is_last:
                    _fetch(ready.planned, pending)
                    pending.clear()
                    yield ready.planned
                    scorer.begin_unit()

    def conclude(self, output: vlmsel.Output) -> stage.Conclusion:
        self._failures.check()
        counts = {"input": 0, OK: 0} | dict(sorted(self._failures.counts.items()))
        run = {
            "wall_s": round(time.monotonic() - self._began, 3),
            "rows": self.scored_rows,
            "tokens": self.progress.tokens,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "device": torch.cuda.get_device_name() if self._device.startswith("cuda") else self._device,
            "batch_tokens": self._options.batch_tokens,
        }
        return stage.Conclusion(counts, provenance=self._provenance, run=run)

    def _write(self, planned: PlannedUnit, output: vlmsel.Output) -> stage.Done:
        unit = planned.unit
        name = f"{unit.name}.parquet"
        write_part(
            output.temporary(name),
            [sample.uid for sample in planned.samples],
            [sample.source for sample in planned.samples],
            planned.scores,
            self._provenance,
            with_no_image=self._options.no_image_pass,
        )
        statuses = Counter(score.status for score in planned.scores)
        counts = {"input": len(unit)} | dict(sorted(statuses.items()))
        self._failures.add(unit.name, counts)
        self.scored_rows += len(unit)
        for row, score_of_row in enumerate(planned.scores):
            if self._failures.tolerance.strict and self._failures.is_bad(score_of_row.status):
                raise StrictError(
                    f"row {unit.start + row} of {unit.part} (uid {planned.samples[row].uid.hex()}): {score_of_row.status}; "
                    "without --strict it stays as a row with this status"
                )
        mark = hashlib.sha256(provenance_of.encode(self._provenance)).hexdigest()
        return stage.Done([name], len(unit), counts, {"provenance": mark})

    def _template(self, loaded: models.LoadedModel) -> ChatTemplate:
        try:
            return loaded.family.chat_template(
                loaded.processor,
                count_end_token=self._options.count_end_token,
                separate_answers=self._options.compat == "wepoints",
            )
        except (TemplateError, TokenizerError) as error:
            raise UsageError(f"this model cannot score: {error}") from error

    def _describe(self, loaded: models.LoadedModel, template: ChatTemplate) -> dict[str, Any]:
        shown = template.show(caption_turns(self._options.prompt, "", 1))
        return {
            "model_sha256": self._plan.config["model_sha256"],
            "architecture": self._plan.config["architecture"],
            "prompt_sha256": provenance_of.hash_texts([shown]),
            "dtype": loaded.dtype_name,
            "attention": loaded.attention,
            "image_backend": loaded.image_backend,
            "image_processor": loaded.image_processor,
            "max_pixels": self._options.max_pixels,
            "max_text_tokens": self._options.max_text_tokens,
            "end_token": template.end_token if self._options.count_end_token else None,
            "compat": self._options.compat,
            "software": {name: ".".join(version(name).split(".")[:2]) for name in ("torch", "transformers", "pillow")},
        }

    def _refuse_other_provenance(self, output: vlmsel.Output) -> None:
        """A run may go on only where its scores can stand beside those that are there already."""
        mark = hashlib.sha256(provenance_of.encode(self._provenance)).hexdigest()
        others = [unit for unit, record in output.committed().items() if record["detail"].get("provenance") != mark]
        if others:
            raise MismatchError(
                f"{output.path}: {len(others)} units ({others[0]}, ...) were scored under other conditions than now "
                f"({self._provenance}); their Parquet metadata says which. Go back to those versions, or --overwrite"
            )

    def _report(self, ready: ReadyBatch) -> None:
        self.progress.rows += len(ready.rows)
        self.progress.tokens += sum(map(len, ready.prepared)) + sum(map(len, ready.prepared_no_image))
        if ready.is_last:
            # Rows that failed before they reached a batch are done too.
            self.progress.rows = self._failures.counts["input"] + len(ready.planned.unit)
        if self._on_progress is not None:
            self._on_progress(replace(self.progress))


def _fetch(planned: PlannedUnit, pending: list[tuple[bool, list[int], list[PendingRows]]]) -> None:
    for is_main, rows, pieces in pending:
        for piece in pieces:
            for i, outcome in piece.fetch():
                row = planned.scores[rows[i]]
                if outcome.status != OK:
                    row.status = outcome.status
                elif is_main:
                    row.nll_sum = outcome.nll_sum
                else:
                    row.nll_sum_no_image = outcome.nll_sum


def _limited(units: list[Unit], limit: int | None) -> list[Unit]:
    if limit is None:
        return units
    kept = []
    for unit in units:
        if limit <= 0:
            break
        kept.append(replace(unit, stop=min(unit.stop, unit.start + limit)))
        limit -= len(kept[-1])
    return kept


def _resolved_dtype(options: ScoreOptions) -> str:
    if options.dtype in models.DTYPES:
        return options.dtype
    if options.dtype != "auto":
        raise UsageError(f"unknown dtype {options.dtype!r}; one of auto, {', '.join(models.DTYPES)}")
    return "bfloat16" if on_gpu(options) else "float32"


def on_gpu(options: ScoreOptions) -> bool:
    """Whether a run with these options puts the model on a GPU."""
    return options.device.startswith("cuda") or (options.device == "auto" and torch.cuda.is_available())
