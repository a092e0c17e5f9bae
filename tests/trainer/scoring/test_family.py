"""The seam between scoring and families of models: a family that differs in a step needs that step and a line in a table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from small_index import Pair, draw_png, write_index
from transformers import LlavaConfig, LlavaForConditionalGeneration
from vlmsel.errors import UsageError
from vlmsel_trainer.scoring import run
from vlmsel_trainer.scoring.options import ScoreOptions
from vlmsel_trainer.vlm import families
from vlmsel_trainer.vlm.families import family_of
from vlmsel_trainer.vlm.family import Family
from vlmsel_trainer.vlm.load import load

PAIRS = [Pair([draw_png(i, 40 + 10 * i, 40)], f"a bird {i} " * (i + 1)) for i in range(6)]
# Several rows in a batch, so that positions and padding matter.
OPTIONS = ScoreOptions(dtype="float32", device="cpu", batch_tokens=400, workers=2)
STEPS = (
    "load_model",
    "load_processor",
    "pad_token_id",
    "chat_template",
    "expand_image",
    "insert_images",
    "collate",
    "positions",
)


class Toy(Family):
    """LLaVA by another name, which no Auto class knows."""

    def load_model(self, path: Path, dtype: torch.dtype, *, trust_remote_code: bool) -> Any:
        config = json.loads((path / "config.json").read_text()) | {"model_type": "llava"}
        return LlavaForConditionalGeneration.from_pretrained(path, config=LlavaConfig(**config), dtype=dtype)


@pytest.fixture
def llava(family_folder: Callable[[str], Path]) -> Path:
    return family_folder("llava_qwen2")


@pytest.fixture
def toy(llava: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    shutil.copytree(llava, folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "toy-vlm"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return write_index(tmp_path / "index", tmp_path / "data", {"a.tar": PAIRS})


def sums(model: Path, index: Path, output: Path) -> list[float]:
    run.score(model, index=index, output=output, options=OPTIONS)
    [part] = output.glob("*.parquet")
    table = pq.read_table(part)
    assert table["status"].to_pylist() == ["ok"] * len(PAIRS)
    return list(table["nll_sum"].to_pylist())


def test_a_family_that_is_not_listed_is_the_general_one(toy: Path) -> None:
    for config in ({"model_type": "llava"}, {"model_type": ["odd"]}, {}):
        assert type(family_of(config)) is Family
    with pytest.raises(UsageError, match="toy-vlm"):
        load(toy, device="cpu")


def test_one_overridden_step_scores_what_no_auto_class_knows(
    llava: Path, toy: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(families.FAMILIES, "toy-vlm", Toy)
    assert sums(toy, index, tmp_path / "scores") == sums(llava, index, tmp_path / "general")


def test_every_step_goes_through_the_family(
    toy: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: set[str] = set()

    def watched(step: str) -> Callable[..., Any]:
        def call(self: Toy, *args: Any, **named: Any) -> Any:
            taken.add(step)
            return getattr(Toy, step)(self, *args, **named)

        return call

    monkeypatch.setitem(families.FAMILIES, "toy-vlm", type("Watched", (Toy,), {step: watched(step) for step in STEPS}))
    sums(toy, index, tmp_path / "scores")
    assert taken == set(STEPS)
    assert set(STEPS) == {name for name in vars(Family) if not name.startswith("_")}


@pytest.mark.parametrize("shift", [0, 7])
def test_positions_are_what_the_family_says(
    llava: Path, toy: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: int
) -> None:
    """Counted as the model would, they change nothing; all the same, they change the scores."""

    class Counted(Toy):
        def positions(self, inputs: Any, padding_side: Any) -> dict[str, torch.Tensor]:
            n_rows, n_positions = inputs["input_ids"].shape
            return {"position_ids": (torch.arange(n_positions) * (shift == 0) + shift).expand(n_rows, -1)}

    monkeypatch.setitem(families.FAMILIES, "toy-vlm", Counted)
    theirs, ours = sums(toy, index, tmp_path / "scores"), sums(llava, index, tmp_path / "general")
    assert (theirs == ours) == (shift == 0)
