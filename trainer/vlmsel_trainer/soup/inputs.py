"""Everything a soup needs open and compared before the first byte is written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

from vlmsel.errors import NotFoundError, UsageError

from vlmsel_trainer.soup.average import Blender
from vlmsel_trainer.soup.config_files import (
    CONFIG_FILE,
    Companions,
    Difference,
    check_companions,
    compare_companions,
    read_companions,
)
from vlmsel_trainer.soup.ingredient import Ingredient, check_tied, select_kept
from vlmsel_trainer.soup.models import Models
from vlmsel_trainer.soup.options import SoupOptions
from vlmsel_trainer.soup.report.reporting import Reporter
from vlmsel_trainer.soup.scores import Score, match_scores, parse_program, read_scores
from vlmsel_trainer.soup.weights.checkpoint import Checkpoint
from vlmsel_trainer.soup.weights.content_hash import fingerprint
from vlmsel_trainer.soup.weights.weight_shards import plan_shards

#: Differences that are shown before the rest is counted.
_WARNED = 10


class Setup(AbstractContextManager["Setup"]):
    """The opened models and what was found about them. A context manager: leaving it closes the files.

    Raises what :func:`~vlmsel_trainer.soup.make_soup` raises for models that do not fit together.
    """

    def __init__(self, options: SoupOptions, reporter: Reporter) -> None:
        options.check()
        self.options = options
        self.reporter = reporter
        self._stack = ExitStack()
        try:
            self.models = self._stack.enter_context(Models(options.models, options.weights, options.base))
            self.ingredients = self.models.ingredients
            self.keep_source = None if options.keep_from is None else self.models.open(options.keep_from)
            self.kept: dict[str, Checkpoint] = {}
            if self.keep_source is not None:
                self.kept = select_kept(options.keep, self.keep_source, self.ingredients)
            check_tied(self.ingredients, self.kept)
            self._chosen_companions = self._read_chosen_companions()
            self.differences = self._compare_companions()
            self.given_scores = self._read_scores()
            tensors = list(self.ingredients[0].checkpoint.tensors.values())
            self.shards = plan_shards(tensors, options.max_shard_bytes, self._metadata())
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes every file."""
        self._stack.close()

    @property
    def guarded(self) -> list[Path]:
        """What is read and must not be written into: folders of models, the scores, files that programs are called with."""
        options = self.options
        named = [options.keep_from, options.companions_from, options.scores]
        programs = [program for program in (options.eval_program, options.report_program) if program is not None]
        words = [Path(word) for program in programs for word in parse_program(program) if "{model}" not in word]
        return [*self.models.folders, *(p for p in named if p is not None), *filter(os.path.isfile, words)]

    def blender(self, members: Sequence[Ingredient]) -> Blender:
        """A blender of these members with the run's limits."""
        return Blender(members, self.kept, self.options.n_threads, self.options.memory_bytes)

    def companions_from(self, members: Sequence[Ingredient]) -> Ingredient:
        """The member whose companion files go along: decided by content, never by the order of arguments."""
        return min(members, key=lambda m: (m.content_hash or m.fingerprint, self.companions_digest(m), m.label))

    def companion_files(self, owner: Ingredient) -> dict[str, bytes]:
        """The companion files of the soup, by name."""
        if self._chosen_companions is not None:
            return self._chosen_companions.files
        return next(s.companions.files for s in self.models.opened if s.ingredient is owner)

    def companions_label(self, owner: Ingredient) -> str:
        """What reports call the folder that the companion files come from."""
        chosen = self.options.companions_from
        return owner.label if chosen is None else Path(os.path.abspath(chosen)).name

    def companions_digest(self, ingredient: Ingredient) -> str:
        """Hash of an ingredient's companion files."""
        return next(s.companions.digest for s in self.models.opened if s.ingredient is ingredient)

    def source_label(self, source: Checkpoint) -> str:
        """What reports call a checkpoint that bytes come from."""
        named = (i.label for i in self.ingredients if i.checkpoint is source and i.adapter is None)
        return next(named, Path(os.path.abspath(source.path)).name)

    def config(self) -> dict[str, Any]:
        """The options that decide the content, for the output folder's manifest."""
        options, chosen = self.options, self._chosen_companions
        return {
            "accept_margin": options.accept_margin,
            "companions_from": None if chosen is None else chosen.digest,
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

    def inputs(self) -> list[dict[str, Any]]:
        """The ingredients, for the output folder's manifest."""
        return [
            {"bytes": i.checkpoint.size_bytes, "fingerprint": i.fingerprint, "name": i.label}
            for i in sorted(self.ingredients, key=lambda i: i.label)
        ]

    def _read_chosen_companions(self) -> Companions | None:
        folder = self.options.companions_from
        if folder is None:
            return None
        if not folder.is_dir():
            raise NotFoundError(f"--companions-from {folder}: no such folder")
        chosen = read_companions(folder)
        if CONFIG_FILE not in chosen.files:
            raise UsageError(f"--companions-from {folder} holds no {CONFIG_FILE}; name the folder of a model")
        return chosen

    def _compare_companions(self) -> list[Difference]:
        differences = compare_companions([(s.ingredient.label, s.companions) for s in self.models.opened])
        if self.options.companions_from is None:
            check_companions(differences)
        for difference in differences[:_WARNED]:
            self.reporter.warn(str(difference))
        if len(differences) > _WARNED:
            self.reporter.warn(f"{len(differences) - _WARNED} more differences are listed in the model card")
        if self._chosen_companions is None and not any(CONFIG_FILE in s.companions.files for s in self.models.opened):
            self.reporter.warn(
                f"no model has a {CONFIG_FILE}, so the soup has none: transformers cannot load it as it is"
            )
        return differences

    def _read_scores(self) -> dict[str, Score]:
        options = self.options
        for program in (options.eval_program, options.report_program):
            if program is not None:
                parse_program(program)
        if options.scores is None:
            return {}
        scores = read_scores(options.scores)
        matched = match_scores(scores, self.ingredients, options.scores)
        if len(scores) > len(matched):
            self.reporter.warn(f"{options.scores} scores {len(scores)} models, {len(matched)} of them are given here")
        return matched

    def _metadata(self) -> dict[str, str]:
        formats = {i.checkpoint.format_metadata.get("format", "pt") for i in self.ingredients}
        if len(formats) > 1:
            raise UsageError(f"the models were saved for different frameworks: {', '.join(sorted(formats))}")
        return {"format": formats.pop()}
