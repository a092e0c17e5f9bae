"""2,457 named icons through index, doctor and shard: pictures that nobody here made, with real duplicates.

The PyPI package `diagrams` carries them as PNG files; a file's name is its caption, its folder its class. Of the package only
the files are used, so it is installed without its dependencies (`pip install --no-deps diagrams`).
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from PIL import Image


def find_icons() -> dict[str, Path]:
    """Icons by their path below the package's resources, in order."""
    try:
        files = importlib.metadata.distribution("diagrams").files or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    icons = {str(file.relative_to("resources")): Path(str(file.locate())) for file in files if file.suffix == ".png"}
    return dict(sorted(icons.items()))


ICONS = find_icons()


def vlmsel(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "vlmsel.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "NO_COLOR": "1"})


pytestmark = pytest.mark.skipif(not ICONS, reason="needs the icons: pip install --no-deps diagrams")


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def caption_of(name: str) -> str:
    return Path(name).stem.replace("-", " ")


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    found = {name: path.read_bytes() for name, path in ICONS.items()}
    assert len(found) >= 2000
    # The point of these files: some are the same picture under several names, some names stand for several pictures.
    assert len(set(found.values())) < len(found)
    assert len({caption_of(name) for name in found}) < len(found)
    return found


@pytest.fixture(scope="module")
def tar_index(contents: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The icons in three WebDataset tars, indexed."""
    folder = tmp_path_factory.mktemp("icons")
    (folder / "tars").mkdir()
    names = list(contents)
    for shard in range(3):
        with tarfile.open(folder / "tars" / f"{shard:05d}.tar", "w") as tar:
            for name in names[shard::3]:
                record = json.dumps({"class": name.split("/")[0], "path": name}).encode()
                stem = name.removesuffix(".png").replace(".", "_")
                for extension, content in (
                    ("json", record),
                    ("png", contents[name]),
                    ("txt", caption_of(name).encode()),
                ):
                    member = tarfile.TarInfo(f"{stem}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    counts = result(vlmsel("index", folder / "tars", "-o", folder / "index", "--json"))
    assert (counts["input"], counts["quarantined"]) == (len(contents), 0)
    return folder / "index"


def read_index(index: Path) -> pa.Table:
    manifest = json.loads((index / "manifest.json").read_text())
    files = [index / file["file"] for part in manifest["parts"] for file in part["files"]]
    return ds.dataset([str(file) for file in files if file.suffix == ".parquet"]).to_table()


def check_index(table: pa.Table, contents: dict[str, bytes], names: list[str]) -> None:
    """Oracle: Pillow's sizes, and equality of bytes against equality of hashes."""
    rows = table.to_pylist()
    assert len(rows) == len(contents) == len({row["uid"] for row in rows})
    hashes: dict[bytes, bytes] = {}
    for row, name in zip(rows, names, strict=True):
        (image,) = row["images"]
        opened = Image.open(io.BytesIO(contents[name]))
        assert (image["width"], image["height"]) == opened.size
        assert image["size"] == len(contents[name])
        assert hashes.setdefault(image["hash"], contents[name]) == contents[name]
    assert len(hashes) == len(set(contents.values()))


def test_index_of_tars_knows_every_icon(tar_index: Path, contents: dict[str, bytes]) -> None:
    table = read_index(tar_index)
    names = [json.loads(metadata)["path"] for metadata in table["metadata"].to_pylist()]
    assert sorted(names) == sorted(contents)
    assert table["text"].to_pylist() == [caption_of(name) for name in names]
    check_index(table, contents, names)


def test_index_of_a_caption_list_reads_the_files_where_they_lie(contents: dict[str, bytes], tmp_path: Path) -> None:
    root = next(iter(ICONS.values())).parents[len(Path(next(iter(ICONS))).parts) - 1]
    lines = [json.dumps({"id": name, "image": name, "caption": caption_of(name)}) for name in contents]
    (tmp_path / "icons.jsonl").write_text("\n".join(lines) + "\n")
    index = tmp_path / "index"
    counts = result(vlmsel("index", tmp_path / "icons.jsonl", "--image-root", root, "-o", index, "--json"))
    assert (counts["input"], counts["quarantined"]) == (len(contents), 0)
    table = read_index(index)
    names = [images[0]["file"] for images in table["images"].to_pylist()]
    check_index(table, contents, names)


def test_doctor_sees_the_real_duplicates(tar_index: Path, contents: dict[str, bytes]) -> None:
    found = result(vlmsel("doctor", tar_index.parent / "tars", "--json"))
    captions: dict[bytes, list[str]] = {}
    for name, content in contents.items():
        captions.setdefault(content, []).append(caption_of(name))
    assert found["input"] == found["images"] == found["texts"] == len(contents)
    counts = {kind: finding["count"] for kind, finding in found["findings"].items()}
    assert counts["one_image_many_captions"] == sum(len(set(names)) > 1 for names in captions.values()) > 0
    assert counts["repeated_pair"] == sum(len(names) - len(set(names)) for names in captions.values()) > 0
    assert set(counts) <= {"one_image_many_captions", "repeated_pair", "tiny_image"}


def test_shards_hold_the_same_bytes(tar_index: Path, contents: dict[str, bytes], tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(uid.hex() for uid in read_index(tar_index)["uid"].to_pylist()) + "\n")
    shards = tmp_path / "shards"
    result(
        vlmsel("shard", "--selection", ids, "--index", tar_index, "-o", shards, "--samples-per-shard", 1000, "--json")
    )
    found: dict[str, dict[str, bytes]] = {}
    paths = sorted(shards.glob("*.tar"))
    assert len(paths) == -(-len(contents) // 1000)
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                stem, extension = member.name.rsplit(".", 1)
                content = tar.extractfile(member)
                assert content is not None
                found.setdefault(f"{path.name}/{stem}", {})[extension] = content.read()
    written = Counter((json.loads(parts["json"])["path"], parts["png"]) for parts in found.values())
    assert written == Counter(contents.items())
