"""Opens the models of a soup: full models and adapters, with their companions, in an order that arguments cannot change."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3
from vlmsel.errors import UsageError

from vlmsel_trainer.soup.adapters import base_of, is_adapter, open_weights, read_adapter
from vlmsel_trainer.soup.config_files import Companions, read_companions
from vlmsel_trainer.soup.ingredient import Ingredient, check_agreement
from vlmsel_trainer.soup.report.card import read_datasets
from vlmsel_trainer.soup.weights.checkpoint import Checkpoint
from vlmsel_trainer.soup.weights.content_hash import fingerprint


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """An ingredient and the files that go along with it."""

    ingredient: Ingredient
    companions: Companions


class Models(AbstractContextManager["Models"]):
    """The opened models, sorted by fingerprint and label. A context manager: leaving it closes the files."""

    def __init__(self, models: Sequence[Path], weights: Sequence[float] | None, base: Path | None) -> None:
        self._stack = ExitStack()
        self._checkpoints: dict[str, Checkpoint] = {}
        self._adapter_bases: set[Path] = set()
        try:
            labels = label_paths(models)
            opened = [
                self._open_model(path, label, 1.0 if weights is None else weights[n], base)
                for n, (path, label) in enumerate(zip(models, labels, strict=True))
            ]
            self.opened = sorted(
                opened, key=lambda s: (s.ingredient.fingerprint, s.ingredient.label, s.ingredient.weight)
            )
            if base is not None and not self._adapter_bases:
                raise UsageError(f"--base {base} is for adapters, and none of the models is one")
            check_agreement(self.ingredients)
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def ingredients(self) -> list[Ingredient]:
        """The ingredients in their fixed order."""
        return [entry.ingredient for entry in self.opened]

    @property
    def folders(self) -> list[Path]:
        """Every folder that is read: none of them may be written into."""
        return [*{entry.ingredient.path for entry in self.opened}, *self._adapter_bases]

    def open(self, path: Path) -> Checkpoint:
        """Opens a checkpoint, once for all that share the folder."""
        place = os.path.realpath(path)
        if place not in self._checkpoints:
            self._checkpoints[place] = self._stack.enter_context(Checkpoint(path))
        return self._checkpoints[place]

    def _open_model(self, path: Path, label: str, weight: float, base: Path | None) -> OpenedModel:
        companions = read_companions(path) if path.is_dir() else Companions(path, {})
        adapter = None
        if path.is_dir() and is_adapter(path):
            base_folder = base or _named_base(path)
            self._adapter_bases.add(base_folder)
            checkpoint = self.open(base_folder)
            adapter = read_adapter(self._stack.enter_context(open_weights(path)), checkpoint)
            companions = Companions(path, {**read_companions(base_folder).files, **companions.files})
        else:
            checkpoint = self.open(path)
        datasets = read_datasets(path)
        parts = [fingerprint(checkpoint), adapter.content_hash if adapter else "", companions.digest, *datasets]
        mark = blake3("\n".join(parts).encode()).hexdigest()[:32]
        ingredient = Ingredient(label, path, checkpoint, mark, adapter=adapter, weight=weight, datasets=datasets)
        return OpenedModel(ingredient, companions)


def label_paths(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; a folder given twice is numbered."""
    real = [Path(os.path.realpath(path)) for path in paths]
    labels = []
    for place in real:
        others = {other for other in real if other != place}
        length = 1
        while length < len(place.parts) and any(o.parts[-length:] == place.parts[-length:] for o in others):
            length += 1
        labels.append("/".join(place.parts[-length:]))
    counts: dict[str, int] = {}
    numbered = []
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
        numbered.append(label if counts[label] == 1 else f"{label} ({counts[label]})")
    return numbered


def _named_base(adapter: Path) -> Path:
    named = base_of(adapter)
    for candidate in (Path(named), adapter / named):
        if named and candidate.is_dir():
            return candidate
    raise UsageError(
        f"{adapter} is an adapter of {named or 'an unnamed base'}, which is no folder here: give it with --base"
    )
