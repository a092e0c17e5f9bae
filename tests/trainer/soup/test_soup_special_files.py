"""`vlmsel soup` where something lies that is no plain file, and what it must not write into."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import random_state, same_folder, write_model
from test_adapters import adapter, base_model
from vlmsel.errors import UsageError
from vlmsel_trainer.soup import SoupOptions, make_soup
from vlmsel_trainer.soup.choose import replace_file
from vlmsel_trainer.soup.weights.write_behind import WriteBehind

torch = pytest.importorskip("torch")
Special = Callable[[Path, str], Path]
# A hang is what these tests are about.
pytestmark = pytest.mark.timeout(120)
LAYOUT = {f"layers.{n}.weight": (torch.float32, (8, 8)) for n in range(4)}
KINDS = ["pipe", "link to a pipe", "socket", "device", "folder"]
NAMED = r"is (a )?(named pipe|socket|device|folder), not a plain file"


@pytest.fixture
def models(tmp_path: Path) -> tuple[Path, ...]:
    files = {name: json.dumps({"a": 1}) for name in ("config.json", "tokenizer.json")}
    return tuple(write_model(tmp_path / f"m{n}", random_state(n, LAYOUT), n_shards=2, files=files) for n in range(2))


def soup(models: tuple[Path, ...], out: Path, **options: object) -> None:
    make_soup(SoupOptions(method=options.pop("method", "average"), models=models, output=out, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json", "tokenizer.json"]
)
def test_a_file_of_a_model_that_is_none_is_named(
    name: str, kind: str, models: tuple[Path, ...], tmp_path: Path, special: Special
) -> None:
    (models[1] / name).unlink()
    special(models[1] / name, kind)
    with pytest.raises(UsageError, match=rf"{name} {NAMED}"):
        soup(models, tmp_path / "soup")
    assert not list(tmp_path.glob("soup*"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_of_an_adapter_that_is_none_is_named(name: str, kind: str, tmp_path: Path, special: Special) -> None:
    base = base_model(tmp_path / "base", torch.float32)
    place = adapter(tmp_path / "adapter", 1, base)
    (place / name).unlink()
    special(place / name, kind)
    with pytest.raises(UsageError, match=rf"{name} {NAMED}"):
        soup((place,), tmp_path / "soup")


@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_are_no_file_are_named(
    kind: str, models: tuple[Path, ...], tmp_path: Path, special: Special
) -> None:
    """`--scores <(program)` is a pipe, which a second run could not read again."""
    scores = special(tmp_path / "scores.csv", kind)
    with pytest.raises(UsageError, match=rf"--scores .*scores\.csv {NAMED}; write the scores into a file first"):
        soup(models, tmp_path / "soup", method="maximum", scores=scores, top=1)


def test_a_card_that_is_no_file_names_no_data_sets(models: tuple[Path, ...], tmp_path: Path, special: Special) -> None:
    special(models[0] / "README.md", "pipe")
    soup(models, tmp_path / "soup")
    assert (tmp_path / "soup" / "manifest.json").is_file()


def test_every_input_is_guarded(models: tuple[Path, ...], tmp_path: Path) -> None:
    """Models, the base of adapters, --from, --companions-from, --scores, and files that --eval is called with."""
    base = base_model(tmp_path / "base", torch.float32)
    adapters = (adapter(tmp_path / "adapter", 1, base),)
    folder = tmp_path / "inputs"
    folder.mkdir()
    other = Path(shutil.copytree(models[0], folder / "other"))
    (folder / "scores.json").write_text(json.dumps({"m0": 1, "m1": 2}))
    (folder / "evaluate.py").write_text("print(1)")
    program = f"python {folder / 'evaluate.py'} {{model}}"
    scored = {"method": "maximum", "scores": folder / "scores.json", "top": 1}

    def guarded(inputs: tuple[Path, ...], out: Path, **options: object) -> None:
        with pytest.raises(UsageError, match="is, holds or lies inside the input"):
            soup(inputs, out, **options)

    guarded(models, models[1] / "soup")
    guarded(adapters, base / "soup")
    guarded(adapters, adapters[0] / "soup")
    guarded(models, other / "soup", keep=("layers.0.*",), keep_from=other)
    guarded(models, other / "soup", companions_from=other)
    # A folder that holds them would be replaced as a whole under --overwrite.
    guarded(models, folder, **scored)
    guarded(models, folder, method="greedy", eval_program=program)
    guarded(models, folder, report_program=program)
    guarded(models, folder / "scores.json", **scored)
    guarded(models, folder / "evaluate.py", report_program=program)
    assert sorted(path.name for path in folder.iterdir()) == ["evaluate.py", "other", "scores.json"]


def test_nothing_is_written_through_a_link(models: tuple[Path, ...], tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "weights").symlink_to("precious")
    (tmp_path / "hashes.tmp").symlink_to("precious")
    with WriteBehind(tmp_path / "weights", 3) as file:
        file.write(b"new", 0)
    replace_file(tmp_path / "hashes.json", b"new")
    assert (tmp_path / "weights").read_bytes() == (tmp_path / "hashes.json").read_bytes() == b"new"
    assert not (tmp_path / "weights").is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"precious"
    soup(models, tmp_path / "clean")
    (tmp_path / "soup.partial" / "output").mkdir(parents=True)
    (tmp_path / "soup.partial" / "output" / ".config.json.tmp").symlink_to(tmp_path / "precious")
    soup(models, tmp_path / "soup")
    assert same_folder(tmp_path / "soup", tmp_path / "clean")
    assert (tmp_path / "precious").read_bytes() == b"precious"
