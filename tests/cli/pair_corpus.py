"""Small real corpora for tests of index, shard and doctor, and a way to run the command line."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

COMMAND = [sys.executable, "-m", "vlmsel.cli.main"]


def run(*args: str | os.PathLike[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``vlmsel ARGS`` as a user runs it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [*COMMAND, *(os.fspath(arg) for arg in args)]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def run_json(*args: str | os.PathLike[str], code: int = 0) -> dict[str, Any]:
    """The JSON object that the command prints; asserts its exit code."""
    done = run(*args, "--json")
    assert done.returncode == code, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def picture(number: int, width: int = 48, height: int = 36, kind: str = "JPEG") -> bytes:
    """An image whose pixels depend on ``number``."""
    image = Image.new("RGB", (width, height))
    image.putdata(
        [((x * 7 + number) % 256, (number * 13) % 256, (x // width * 5) % 256) for x in range(width * height)]
    )
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of plain files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pairs(first: int, count: int) -> list[tuple[str, bytes]]:
    """Members of ``count`` samples: jpg, txt and json."""
    members = []
    for n in range(first, first + count):
        members.append((f"{n:06d}.jpg", picture(n)))
        members.append((f"{n:06d}.txt", f"caption  {n}".encode()))
        members.append((f"{n:06d}.json", json.dumps({"n": n, "big": 2**62 + n, "x": 0.1}).encode()))
    return members


def corpus(folder: Path, shards: int = 3, samples: int = 12) -> Path:
    """A folder of WebDataset tars."""
    for shard in range(shards):
        write_tar(folder / f"{shard:05d}.tar", pairs(shard * samples, samples))
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but ``run.json``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "run.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
