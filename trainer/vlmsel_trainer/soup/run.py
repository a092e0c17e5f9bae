"""Makes a soup: chooses the members, streams their mean, and writes what goes along.

The output folder is committed file by file (:class:`vlmsel.Output`), and so is every score that was paid for: a killed
run continues with the next file or the next trial.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmsel import Output
from vlmsel.cli.report import peak_bytes
from vlmsel.errors import MismatchError, ResourceError, UnreadableError, UsageError, VlmselError

from vlmsel_trainer.soup.average import Blender
from vlmsel_trainer.soup.choose import Chooser, commit_files, json_bytes, replace_file
from vlmsel_trainer.soup.inputs import Setup
from vlmsel_trainer.soup.options import SoupOptions
from vlmsel_trainer.soup.report.card import write_card
from vlmsel_trainer.soup.report.lineage import describe_lineage
from vlmsel_trainer.soup.report.plot import plot_trials
from vlmsel_trainer.soup.report.reporting import Reporter
from vlmsel_trainer.soup.weights.checkpoint import INDEX_FILE
from vlmsel_trainer.soup.weights.weight_shards import index_json

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
    """A finished soup: its folder and manifest; ``already_done`` if it was there, of the same models and options."""

    path: Path
    manifest: dict[str, Any]
    already_done: bool
    wall_s: float
    peak_bytes: int


class Soup(AbstractContextManager["Soup"]):
    """One soup being made; a context manager. :func:`make_soup` is the short form, :meth:`plan` the dry run."""

    def __init__(self, options: SoupOptions, reporter: Reporter | None = None) -> None:
        self._started_s = time.monotonic()
        self._options = options
        self._reporter = reporter or Reporter()
        self._setup = Setup(options, self._reporter)

    def __exit__(self, *_: object) -> None:
        self._setup.close()

    def plan(self) -> SoupPlan:
        """What the run would do; refuses what cannot fit on the disk."""
        self._check_disk()
        setup = self._setup
        blender = setup.blender(setup.ingredients)
        return SoupPlan(
            tuple(ingredient.label for ingredient in setup.ingredients),
            sum(source.size_bytes for source in blender.sources),
            sum(shard.size_bytes for shard in setup.shards),
            tuple(shard.file_name for shard in setup.shards),
            blender.memory_bytes,
            tuple(str(difference) for difference in setup.differences),
        )

    def make(self) -> SoupResult:
        """Makes the soup, or finds it made."""
        output = self._begin(resume=True)
        try:
            changed = [] if output.finished else self._changed_files(output)
            if changed and self._options.overwrite:
                output.close()
                output = self._begin(resume=False)
            elif changed:
                raise MismatchError(
                    f"the files of {', '.join(changed)} were written again since the unfinished run in {output.path} began; "
                    "start again with --overwrite, or choose another output with -o"
                )
            if output.finished:
                return self._result(output, already_done=True)
            self._check_disk()
            replace_file(self._files_place(output), self._files_json())
            return self._make_in(output)
        except (UsageError, UnreadableError):
            if not output.committed():
                # Nothing is worth resuming, and what is left would refuse the options that mend this run.
                shutil.rmtree(self._partial_folder())
            raise
        except OSError as error:
            if isinstance(error, VlmselError) or error.errno is None:
                raise
            where = error.filename or self._options.output
            raise ResourceError(f"{where}: {error.strerror}; free space or repair it and run again") from error
        finally:
            output.close()

    def _begin(self, resume: bool) -> Output:
        return Output.begin(
            self._options.output,
            command="soup",
            config=self._setup.config(),
            inputs=self._setup.inputs(),
            guarded=self._setup.guarded,
            overwrite=self._options.overwrite,
            resume=resume,
        )

    def _make_in(self, output: Output) -> SoupResult:
        setup = self._setup
        chooser = Chooser(setup, output)
        members, trials, scores = chooser.choose()
        blender = setup.blender(members)
        self._write_shards(output, blender)
        for member, content_hash in zip(members, blender.content_hashes(), strict=True):
            member.content_hash = content_hash
        owner = setup.companions_from(members)
        commit_files(output, "companions", setup.companion_files(owner))
        index = index_json(setup.shards)
        if index is not None:
            commit_files(output, "index", {INDEX_FILE: index})
        report = chooser.report(members, scores)
        lineage = describe_lineage(setup, output, members, blender, trials, scores, report)
        if trials:
            singles = sorted((label, score.value) for label, score in scores.items())
            commit_files(output, "plot", {PLOT_FILE: plot_trials(trials, singles).encode()})
        command = self._options.command_line({i.label: i.weight for i in setup.ingredients})
        commit_files(output, "card", {"README.md": write_card(lineage, command, has_plot=bool(trials)).encode()})
        run = {"peak_bytes": peak_bytes(), "threads": blender.n_threads, "wall_s": time.monotonic() - self._started_s}
        n_left_out = len(setup.ingredients) - len(members)
        counts = {"in_soup": len(members), "input": len(setup.ingredients), "left_out": n_left_out}
        output.finish(counts=counts, provenance=lineage, run=run)
        return self._result(output, already_done=False)

    def _write_shards(self, output: Output, blender: Blender) -> None:
        committed = output.committed()
        total_bytes = sum(shard.data_bytes for shard in self._setup.shards) * len(blender.sources)
        with self._reporter.progress(f"blending {len(blender.ingredients)} models", total_bytes) as on_progress:
            blender.on_progress = on_progress
            for shard in self._setup.shards:
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

    def _partial_folder(self) -> Path:
        return Path(f"{os.path.abspath(self._options.output)}.partial")

    def _files_place(self, output: Output) -> Path:
        return output.scratch() / "files.json"

    def _files_json(self) -> bytes:
        found = {i.label: i.checkpoint.identity() for i in self._setup.ingredients}
        if self._setup.keep_source is not None:
            found["--from"] = self._setup.keep_source.identity()
        return json_bytes(found)

    def _changed_files(self, output: Output) -> list[str]:
        """Models whose files a resumed run does not meet as it left them; the fingerprint alone reads a part of them."""
        place = self._files_place(output)
        if not output.committed() or not place.exists():
            return []
        before, now = json.loads(place.read_bytes()), json.loads(self._files_json())
        return [label for label, files in now.items() if before.get(label) != files]

    def _check_disk(self) -> None:
        parent = Path(os.path.abspath(self._options.output)).parent
        while not parent.exists():
            parent = parent.parent
        soup_bytes = sum(shard.size_bytes for shard in self._setup.shards)
        copies = 2 if self._options.eval_program or self._options.report_program else 1
        present = _size_below(self._partial_folder())
        free_bytes = shutil.disk_usage(parent).free + present
        if free_bytes < soup_bytes * copies:
            raise ResourceError(
                f"{parent} has {free_bytes} bytes free, the soup needs {soup_bytes * copies}"
                f"{' (with one trial beside it)' if copies > 1 else ''}; free space or choose another place with -o"
            )

    def _result(self, output: Output, already_done: bool) -> SoupResult:
        return SoupResult(output.path, output.manifest, already_done, time.monotonic() - self._started_s, peak_bytes())


def make_soup(options: SoupOptions, reporter: Reporter | None = None) -> SoupResult:
    """Makes a soup of models on disk into ``options.output``.

    Raises the family of :mod:`vlmsel.errors`: UsageError where models do not fit together or options make no sense,
    UnreadableError for damaged files and NaN, ResourceError for disk and memory, LockedError and MismatchError as every
    output folder does.
    """
    with Soup(options, reporter) as soup:
        return soup.make()


def _size_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
