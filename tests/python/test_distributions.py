"""The two distributions: one name for what needs torch, and floors at what was tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
TESTED_FLOORS = ["torch", "torchvision", "transformers", "deepspeed", "peft"]


def parsed(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


DATA, TRAINER = parsed("pyproject.toml"), parsed("trainer/pyproject.toml")


def requirements() -> list[Requirement]:
    """Everything that either distribution, its extras and the groups of people who work on it ask for."""
    lists = [
        *(lines for file in (DATA, TRAINER) for lines in file["project"]["optional-dependencies"].values()),
        *(file["project"]["dependencies"] for file in (DATA, TRAINER)),
        *DATA["dependency-groups"].values(),
    ]
    return [Requirement(line) for lines in lists for line in lines]


def test_one_extra_brings_scoring_soups_and_training() -> None:
    assert set(DATA["project"]["optional-dependencies"]) == {"train"}
    [trainer] = [Requirement(line) for line in DATA["project"]["optional-dependencies"]["train"]]
    assert (trainer.name, trainer.extras) == (TRAINER["project"]["name"], {"train"})
    assert TRAINER["project"]["version"] in trainer.specifier
    brought = {Requirement(line).name for line in TRAINER["project"]["optional-dependencies"]["train"]}
    assert brought == {"deepspeed", "peft"}


def test_the_halves_ask_for_each_other_by_versions_that_exist() -> None:
    version = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["workspace"]["package"]["version"]
    [data] = [found for line in TRAINER["project"]["dependencies"] if (found := Requirement(line)).name == "vlmsel"]
    assert version in data.specifier


def test_every_other_extra_is_installed_by_the_makefile() -> None:
    [installed] = re.findall(
        r"^TRAINER := \./trainer\[(.*)\]$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {*installed.split(","), "train"} == set(TRAINER["project"]["optional-dependencies"])


@pytest.mark.parametrize("name", TESTED_FLOORS)
def test_floors_are_the_minor_versions_that_were_tested(name: str) -> None:
    [pinned] = re.findall(rf"^{name}==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    major, minor, *_ = Version(pinned).release
    asked = {str(found.specifier) for found in requirements() if found.name == name}
    assert asked == {f">={major}.{minor}"}


def test_the_data_half_brings_nothing_of_the_other() -> None:
    assert not {Requirement(line).name for line in DATA["project"]["dependencies"]} & {*TESTED_FLOORS, "vlmsel-trainer"}
