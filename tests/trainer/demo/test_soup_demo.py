"""The soup demo's parts on a scorer of a few steps: styles, fine-tune, held-out score."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")
from vlmsel_trainer.demo import styles
from vlmsel_trainer.demo.train import TrainingPlan, train


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingPlan, Path]:
    torch.set_num_threads(1)
    plan = TrainingPlan(n_steps=3, batch_size=8, views=1, n_names=60)
    return plan, train(plan, tmp_path_factory.mktemp("base") / "scorer")


@pytest.mark.parametrize("style", sorted(styles.STYLES))
def test_styles_change_pictures_and_keep_their_shape(style: str) -> None:
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    one, two = (styles.STYLES[style](pixels, torch.Generator().manual_seed(1)) for _ in range(2))
    assert one.shape == pixels.shape
    assert torch.equal(one, two), "the generator decides"
    assert not torch.equal(one, pixels)


def test_turning_leaves_the_middle_and_a_plain_ground_alone() -> None:
    plain = torch.full((4, 3, 33, 33), 0.25)
    assert torch.allclose(styles.turn(plain, torch.Generator()), plain, atol=1e-5)
    dot = torch.zeros(4, 3, 33, 33)
    dot[:, :, 16, 16] = 1.0
    turned = styles.turn(dot, torch.Generator())
    assert torch.allclose(turned[:, :, 16, 16], torch.ones(4, 3), atol=1e-4)


def test_splits_share_no_face_with_each_other_or_with_training() -> None:
    from vlmsel_trainer.demo import glyphs

    accept, report = (set(styles.SPLITS[name]) for name in ("accept", "report"))
    assert accept and report
    assert not accept & report
    assert not (accept | report) & set(glyphs.TRAINING_FACES)


def test_fine_tune_is_reproducible_and_left_alone_when_done(base: tuple[TrainingPlan, Path], tmp_path: Path) -> None:
    plan, folder = base
    steps: list[int] = []
    fine = styles.FineTunePlan("turned", n_steps=2, batch_size=8)
    for name in ("a", "b"):
        styles.fine_tune(fine, folder, plan, tmp_path / name, lambda step, loss: steps.append(step))
    assert steps == [1, 2, 1, 2]
    a, b, before = ((place / "model.safetensors").read_bytes() for place in (tmp_path / "a", tmp_path / "b", folder))
    assert a == b
    assert a != before
    styles.fine_tune(fine, folder, plan, tmp_path / "a", lambda step, loss: pytest.fail("it was done"))


@pytest.mark.heavy
def test_the_whole_demo(tmp_path: Path) -> None:
    """Needs the installed command: `vlmsel soup` is found by its entry point."""
    words = [sys.executable, "-m", "vlmsel_trainer.demo.soup", str(tmp_path), "--base-steps", "20", "--steps", "5"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=590, check=False)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "soups" / "report.json").read_text())
    assert {"average", "maximum", "greedy", "scorer", *styles.STYLES} == scores.keys()
    assert (tmp_path / "soups" / "greedy" / "soup.svg").exists()
