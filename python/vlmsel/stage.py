"""The driver of stages written in Python: begin, what is left, each, commit, finish. Those in Rust go through the same steps.

A `Unit` is plain data, so that another process could do it: what it reads, and which rows of that.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vlmsel.errors import VlmselError
from vlmsel.outputs import Output
from vlmsel.types import PathLike


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of a command's work, which makes one part of its output."""

    command: str
    name: str
    """The part's name in the manifest."""
    inputs: tuple[str, ...] = ()
    """Names of the inputs that it reads, as the manifest has them."""
    range: tuple[int, int] | None = None
    """Which of their rows, first and behind the last; None for all."""


@dataclass(frozen=True, slots=True)
class Done:
    """What doing a unit came to; its files lie at their `Output.temporary` places."""

    files: Sequence[str]
    rows: int
    counts: Mapping[str, int] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a finished stage adds to the manifest; `run` is what differs from run to run."""

    counts: Mapping[str, int]
    roots: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


class Stage(Protocol):
    """One stage: what stands is judged by it, its units are done by it."""

    def accept(self, standing: Mapping[str, Any]) -> None:
        """Judge the manifest of a finished output; raises where this run puts up with less than the one that made it."""

    def work(self, left: Sequence[Unit], output: Output) -> Generator[tuple[Unit, Done]]:
        """Do the units in their order. Each is committed before the next is asked for, so that units may be read ahead."""

    def conclude(self, output: Output) -> Conclusion:
        """Look at all parts when every unit is done; raises for what must not be published."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run came to: `done` counts the units of this run."""

    path: Path
    manifest: dict[str, Any]
    done: int
    already_done: bool


def run(
    stage: Stage,
    output: PathLike,
    *,
    command: str,
    config: Mapping[str, Any],
    inputs: Sequence[Mapping[str, Any]],
    units: Sequence[Unit],
    guarded: Sequence[PathLike] = (),
    overwrite: bool = False,
    extend: bool = False,
) -> Ended:
    """Run a stage into the folder `output`; the keywords are those of `Output.begin`.

    Raises what `Output.begin` and the stage raise; committed units stay for the next run.
    """
    with Output.begin(
        output,
        command=command,
        config=config,
        inputs=inputs,
        units=units,
        guarded=guarded,
        overwrite=overwrite,
        extend=extend,
    ) as out:
        if out.finished:
            stage.accept(out.manifest)
            return Ended(out.path, out.manifest, 0, already_done=True)
        names = out.left()
        left = [unit for unit in units if unit.name in names]
        done = 0
        with closing(stage.work(left, out)) as work:
            for unit, result in work:
                out.commit(unit.name, result.files, rows=result.rows, counts=result.counts, detail=result.detail)
                done += 1
        if done != len(left):
            raise VlmselError(f"{command}: {done} of {len(left)} units were done, and none failed: a bug of vlmsel")
        end = stage.conclude(out)
        manifest = out.finish(counts=end.counts, roots=end.roots, provenance=end.provenance, run=end.run)
        return Ended(out.path, manifest, done, already_done=False)
