"""Fixtures of the scoring tests: tiny models are built once a session, one torch thread everywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_models import save_family  # noqa: E402
from vlmsel_trainer.vlm import load as models  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a family's tiny model, built at first use."""
    folders: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in folders:
            folders[name] = save_family(name, tmp_path_factory.mktemp("models") / name)
        return folders[name]

    return get


@pytest.fixture(scope="session")
def family(family_folder: Callable[[str], Path]) -> Callable[[str], models.LoadedModel]:
    """Gives a family's tiny model, loaded in fp32 on the CPU."""
    loaded: dict[str, models.LoadedModel] = {}

    def get(name: str) -> models.LoadedModel:
        if name not in loaded:
            loaded[name] = models.load(family_folder(name), device="cpu", dtype="float32")
        return loaded[name]

    return get
