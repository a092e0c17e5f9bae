"""Folders of schema 1, as the version before the schema moved wrote them: read, verified, and written again with the same bytes.

`schema-1/out` was made by `make.py` of that version from `schema-1/data`; what may differ is named in each test.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from pair_corpus import run, run_json

GOLDEN = Path(__file__).parent / "schema-1"
SELECTIONS = ["selection", "selection-random-s0", "selection-worst"]
FOLDERS = ["index", "scores", *SELECTIONS, "shards", "soup"]
# What a manifest says of its own version, and not of its content.
OF_VERSION = {"schema", "version", "checksum"}
NEW_COLUMNS = ["n_images", "class"]
NEW_FIELDS = {"row", "item"}


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy that a test may work beside."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden"))


def sources(golden: Path) -> list[str]:
    """Where the data lie now; the golden index says where they lay then."""
    data = golden / "data"
    return [word for name in ("pairs", "laion", "llava") for word in ("--source", f"{name}={data / name}")]


def done(*words: str | Path) -> None:
    finished = run(*words)
    assert finished.returncode == 0, finished.stderr


def manifest(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return read


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name, without those that say when and by whom it was made."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name not in {"manifest.json", "run.json"}
    }


def assert_same_folder(new: Path, old: Path, *, but: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    assert content(new) == content(old)
    ours, theirs = manifest(new), manifest(old)
    assert (theirs["schema"], ours["schema"]) == (1, 2)
    for name in OF_VERSION | but:
        ours.pop(name), theirs.pop(name)
    assert ours == theirs


def columns(folder: Path) -> list[pa.Table]:
    return [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]


@pytest.mark.parametrize("folder", FOLDERS)
def test_old_folders_are_verified(golden: Path, folder: str) -> None:
    assert manifest(golden / "out" / folder)["schema"] == 1
    found = run_json("verify", golden / "out" / folder)
    assert found["problems"] == []


def test_an_old_folder_that_was_changed_is_still_found_out(golden: Path) -> None:
    path = golden / "out/selection/uids.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert run("verify", golden / "out/selection").returncode == 3


def test_selections_of_old_scores_have_the_same_bytes(golden: Path) -> None:
    out = golden / "out"
    options = ["-k", "14", "--control", "random", "--control", "worst", "--keep-columns", "n_tokens,source"]
    done("select", out / "scores", "-o", golden / "new/selection", *options)
    for name in SELECTIONS:
        assert_same_folder(golden / "new" / name, out / name)


def test_finished_old_selections_are_left_alone(golden: Path) -> None:
    out = golden / "out"
    before = content(out / "selection")
    found = run_json("select", out / "scores", "-o", out / "selection", "-k", "14", "--keep-columns", "n_tokens,source")
    assert found["already_done"]
    assert content(out / "selection") == before
    assert manifest(out / "selection")["schema"] == 1


def test_shards_of_an_old_index_have_the_same_bytes(golden: Path) -> None:
    out = golden / "out"
    words = ["--samples-per-shard", "5", "--max-bad-fraction", "0.1", *sources(golden)]
    done("shard", "--selection", out / "selection", "--index", out / "index", "-o", golden / "new", *words)
    assert_same_folder(golden / "new", out / "shards")


def move_roots(golden: Path, index: Path) -> None:
    """Lets the manifest say where the data lie now: `score` takes them from where they were indexed."""
    read = manifest(index)
    for name, root in read["roots"].items():
        root["path"] = str(golden / "data" / name)
    del read["checksum"]

    def as_bytes() -> bytes:
        return (json.dumps(read, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()

    read["checksum"] = blake3(as_bytes()).hexdigest()
    (index / "manifest.json").write_bytes(as_bytes())


def new_index(golden: Path) -> Path:
    data, out = golden / "data", golden / "new"
    done(
        "index",
        data / "pairs",
        data / "laion",
        data / "llava/train.json",
        "-o",
        out / "index",
        "--max-bad-fraction",
        "0.1",
    )
    return out / "index"


def test_an_index_made_again_differs_in_its_new_columns_alone(golden: Path) -> None:
    index = new_index(golden)
    for ours, theirs in zip(columns(index), columns(golden / "out/index"), strict=True):
        images = ours["images"].combine_chunks()
        assert {field.name for field in images.type.value_type} >= NEW_FIELDS
        assert images.flatten().field("row").null_count == len(images.flatten())
        assert ours["n_images"].to_pylist() == [len(row) for row in images.to_pylist()]
        assert set(ours["class"].to_pylist()) <= {"pair", "conversation", "multi-image", "text-only"}
        old = [
            {name: row[name] for name in row if name != "phash"}
            for row in theirs["images"].combine_chunks().flatten().to_pylist()
        ]
        new = [{name: row[name] for name in row if name not in NEW_FIELDS} for row in images.flatten().to_pylist()]
        assert new == old
        assert ours.drop_columns([*NEW_COLUMNS, "images"]).equals(theirs.drop_columns(["images"]))
    ours, theirs = manifest(index), manifest(golden / "out/index")
    assert ours["config"].pop("reader_version") == 3
    assert [ours["config"].pop(name) for name in ("key_until", "caption_column")] == ["first-dot", None]
    classes = {name: ours["counts"].pop(name) for name in list(ours["counts"]) if name.startswith("class.")}
    assert sum(classes.values()) == ours["counts"]["ok"]
    for name in ("inputs", "counts", "losses", "config"):
        assert ours[name] == theirs[name]
    for new, old in zip(ours["parts"], theirs["parts"], strict=True):
        assert (new["unit"], new["rows"], new["counts"]) == (old["unit"], old["rows"], old["counts"])
        assert [file["file"] for file in new["files"]] == [file["file"] for file in old["files"]]


def test_shards_of_the_index_made_again_have_the_same_bytes(golden: Path) -> None:
    words = ["--samples-per-shard", "5", "--max-bad-fraction", "0.1"]
    done(
        "shard", "--selection", golden / "out/selection", "--index", new_index(golden), "-o", golden / "shards", *words
    )
    assert_same_folder(golden / "shards", golden / "out/shards", but={"inputs"})


def test_an_old_index_is_not_extended(golden: Path) -> None:
    data, index = golden / "data", golden / "out/index"
    before = {**content(index), "": (index / "manifest.json").read_bytes()}
    shutil.copy(data / "pairs/00000.tar", data / "pairs/00002.tar")
    refused = run(
        "index", data / "pairs", data / "laion", data / "llava/train.json", "-o", index, "--max-bad-fraction", "0.1"
    )
    assert refused.returncode == 7
    assert "schema 1" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert {**content(index), "": (index / "manifest.json").read_bytes()} == before
    # The advice is tried.
    words = ["--max-bad-fraction", "0.2", "--overwrite"]
    done("index", data / "pairs", data / "laion", data / "llava/train.json", "-o", index, *words)
    assert manifest(index)["schema"] == 2


def test_old_scores_are_not_extended(golden: Path, model: Path) -> None:
    scores, index = golden / "out/scores", new_index(golden)
    words = ["--model", model, "--dtype", "float32", "--max-bad-fraction", "0.1"]
    refused = run("score", "--index", index, "-o", scores, *words)
    assert refused.returncode == 7, refused.stderr
    assert manifest(scores)["schema"] == 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that the golden scores were made with; seeded, so it need not be kept."""
    import torch
    from tiny_models import save_family

    torch.set_num_threads(1)
    return save_family("llava_qwen2", tmp_path_factory.mktemp("golden") / "model")


@pytest.mark.parametrize("made_again", [False, True], ids=["old-index", "new-index"])
def test_scores_are_those_of_before(golden: Path, model: Path, made_again: bool) -> None:
    """Equal to 1e-5, because another processor's kernels round differently; on the machine that made them, to the bit."""
    index = new_index(golden) if made_again else golden / "out/index"
    words = ["--dtype", "float32", "--max-bad-fraction", "0.1"]
    if not made_again:
        move_roots(golden, index)
    done("score", "--model", model, "--index", index, "-o", golden / "scores", *words)
    for ours, theirs in zip(columns(golden / "scores"), columns(golden / "out/scores"), strict=True):
        assert ours.schema.equals(theirs.schema)
        floats = ["ppl", "nll_sum"]
        assert ours.drop_columns(floats).equals(theirs.drop_columns(floats))
        for name in floats:
            np.testing.assert_allclose(ours[name].to_numpy(), theirs[name].to_numpy(), rtol=1e-5)
    ours, theirs = manifest(golden / "scores"), manifest(golden / "out/scores")
    assert ours["provenance"] == theirs["provenance"]
    assert ours["counts"] == theirs["counts"]


def test_soups_of_old_models_have_the_same_bytes(golden: Path) -> None:
    models = golden / "out/models"
    done("soup", "average", models / "soup-1", models / "soup-2", "-o", golden / "soup")
    assert_same_folder(golden / "soup", golden / "out/soup")
