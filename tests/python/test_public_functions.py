"""The Python interface: every keyword written out, one name per idea, and nothing imported before it is needed."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import vlmsel
from vlmsel._sheet.sheet import plan_sheet
from vlmsel.selection import plan

TRAINERS = ("score", "soup")
WORKERS = ("index", "dedup", "select", "shard", "doctor", "sheet", "verify", *TRAINERS)
"""Functions that take their time: they say how far they are."""
WRITERS = ("index", "dedup", "select", "shard", "sheet", *TRAINERS)

# How an idea that several functions share is spelt, typed and preset.
SHARED: dict[str, tuple[str, Any]] = {
    "progress": ("ProgressCallback | None", None),
    "threads": ("int | None", None),
    "memory_limit": ("int | None", None),
    "strict": ("bool", False),
    "max_bad_fraction": ("float", 0.001),
    "allow_bad_files": ("int", 0),
    "overwrite": ("bool", False),
    "dry_run": ("bool", False),
    "index": ("PathLike", "index"),
    "image_root": ("PathLike | None", None),
    "named_sources": ("Mapping[str, PathLike] | None", None),
}
# Other words for the same, some of which were used once.
SYNONYMS = {
    *("watch", "on_progress", "callback", "report"),
    *("out", "out_dir", "output_dir", "output_folder", "destination"),
    *("n_threads", "num_threads", "num_workers", "jobs"),
    *("memory_bytes", "max_memory", "limit_bytes", "memory_limit_bytes"),
    *("already_finished", "fresh", "finished", "up_to_date"),
    *("force", "replace", "exist_ok"),
}


def function(name: str) -> Callable[..., Any]:
    if name in TRAINERS:
        pytest.importorskip("vlmsel_trainer.api")
    found: Callable[..., Any] = getattr(vlmsel, name)
    return found


def everything() -> list[tuple[str, Callable[[], Callable[..., Any]]]]:
    names = sorted({*vlmsel.__all__, *TRAINERS})
    public = [name for name in names if name in TRAINERS or inspect.isfunction(getattr(vlmsel, name))]
    output = [name for name in vars(vlmsel.Output) if not name.startswith("_")]
    methods = [name for name in output if callable(getattr(vlmsel.Output, name))]
    return [
        *((name, lambda name=name: function(name)) for name in public),
        *((f"Output.{name}", lambda name=name: getattr(vlmsel.Output, name)) for name in methods),
        ("plan", lambda: plan),
        ("plan_sheet", lambda: plan_sheet),
    ]


ALL = everything()
every_function = pytest.mark.parametrize(("name", "find"), ALL, ids=[name for name, _ in ALL])


def parameters(of: Callable[..., Any]) -> list[inspect.Parameter]:
    return [parameter for parameter in inspect.signature(of).parameters.values() if parameter.name != "self"]


def test_the_walk_sees_every_function() -> None:
    assert {*WORKERS, "fingerprint", "read_manifest", "Output.begin", "Output.commit", "plan"} <= {n for n, _ in ALL}


@every_function
def test_every_keyword_is_written_out_and_typed(name: str, find: Callable[[], Callable[..., Any]]) -> None:
    of = find()
    for parameter in parameters(of):
        assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL), parameter
        assert parameter.annotation not in (parameter.empty, "Any"), parameter
    assert inspect.signature(of).return_annotation is not inspect.Signature.empty
    if name in WORKERS:
        positional = [p.name for p in parameters(of) if p.kind is not p.KEYWORD_ONLY]
        assert len(positional) == 1, "what it is about stands first, all else is named"


@every_function
def test_an_idea_has_one_name_one_type_and_one_default(name: str, find: Callable[[], Callable[..., Any]]) -> None:
    found = parameters(find())
    assert not {parameter.name for parameter in found} & SYNONYMS
    for parameter in found:
        annotation, default = SHARED.get(parameter.name, (parameter.annotation, parameter.default))
        assert (parameter.annotation, parameter.default) == (annotation, default), parameter


@pytest.mark.parametrize("name", WORKERS)
def test_work_tells_how_far_it_is_and_says_what_its_arguments_mean(name: str) -> None:
    of = function(name)
    names = [parameter.name for parameter in parameters(of)]
    assert "progress" in names
    if name in WRITERS:
        assert {"output", "overwrite", "memory_limit", "threads"} <= set(names)
    words = inspect.getdoc(of) or ""
    for section in ("Args:", "Returns:", "Raises:"):
        assert f"\n{section}\n" in words
    described = words.partition("\nArgs:\n")[2].partition("\nReturns:\n")[0]
    for parameter in names:
        assert f"\n    {parameter}: " in f"\n{described}", parameter


def test_a_plan_takes_what_its_function_takes() -> None:
    def without(of: Callable[..., Any], *names: str) -> list[inspect.Parameter]:
        return [parameter for parameter in parameters(of) if parameter.name not in names]

    assert parameters(plan) == without(vlmsel.select, "progress")
    of_sheet = without(vlmsel.sheet, "progress", "threads", "memory_limit", "seed", "font", "caption_lines")
    assert parameters(plan_sheet) == of_sheet


def test_results_say_where_they_are_and_whether_they_were_there() -> None:
    results = [vlmsel.Index, vlmsel.Deduplication, vlmsel.Selection, vlmsel.Shards]
    if "score" in dir(vlmsel):
        from vlmsel_trainer.scoring.run import Summary
        from vlmsel_trainer.soup import SoupResult

        results += [Summary, SoupResult]
    for result in results:
        names = {field.name for field in fields(result)}
        assert {"path", "already_done"} <= names, result
        assert not names & SYNONYMS, result


@pytest.mark.parametrize("name", TRAINERS)
def test_defaults_are_those_of_the_command(name: str) -> None:
    """The options of the engines have them too, which the commands use."""
    of = function(name)
    from vlmsel_trainer.scoring.options import ScoreOptions
    from vlmsel_trainer.soup import SoupOptions

    options = {"score": ScoreOptions, "soup": SoupOptions}[name]
    given = {parameter.name: parameter.default for parameter in parameters(of)}
    for field in fields(options):
        assert field.name in given
        if field.default is not inspect.Parameter.empty and field.name not in ("method", "models", "output"):
            assert given[field.name] == field.default, field.name


def run_python(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_vlmsel_imports_nothing_of_weight() -> None:
    shown = run_python(
        "import sys, vlmsel; dir(vlmsel)\n"
        "print([name for name in ('vlmsel._core', 'vlmsel_trainer', 'torch', 'numpy', 'PIL', 'click') if name in sys.modules])"
    )
    assert shown == "[]\n"


def test_the_trainers_functions_are_found_without_torch() -> None:
    pytest.importorskip("vlmsel_trainer.api")
    shown = run_python(
        "import sys, vlmsel\n"
        "print(vlmsel.score.__name__, vlmsel.soup.__name__, hasattr(vlmsel, 'score'), 'soup' in dir(vlmsel), 'torch' in sys.modules)"
    )
    assert shown == "score soup True True False\n"


WITHOUT_TRAINER = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "vlmsel_trainer":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import vlmsel
from vlmsel import *
from vlmsel.errors import NotInstalledError, VlmselError
assert not hasattr(vlmsel, "score") and not hasattr(vlmsel, "soup") and hasattr(vlmsel, "select")
try:
    vlmsel.score("model")
except NotInstalledError as error:
    assert isinstance(error, (AttributeError, VlmselError)) and error.exit_code == 2
    print(error)
"""


def test_without_the_trainer_its_functions_say_what_to_install() -> None:
    assert "pip install 'vlmsel[train]'" in run_python(WITHOUT_TRAINER)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vlmsel.nothing  # noqa: B018


def test_a_limit_of_none_is_the_default_and_progress_has_four_numbers(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("uid,ppl\n" + "".join(f"{n:032x},{n}\n" for n in range(1000)))
    folder = vlmsel.select(tmp_path / "s.csv", k=3, output=tmp_path / "selection", memory_limit=None).path
    calls: list[tuple[int, ...]] = []
    found = vlmsel.verify(folder, progress=lambda *numbers: calls.append(numbers))
    assert found.problems == []
    assert all(len(numbers) == 4 for numbers in calls)
