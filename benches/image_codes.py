"""Perceptual codes of JPEGs of 512 px: `vlmsel index --image-codes` beside imagehash and imagededup.

python benches/image_codes.py --n 20000 --folder bench-data/image-codes --peers /path/to/python \
    --out benches/runs/<date>-<machine>/image-codes.json

The environment of ``--peers`` has imagehash and imagededup; without it only vlmsel runs. All make both codes (imagededup: pHash
alone, which is what it is for) of the same files, page cache warm; times are of whole processes, on 1 and 2 threads or workers.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import sys
import tarfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from tar_corpus import measure

SIDE = 512
EACH_TAR = 1_000
IMAGEHASH = """
import sys, multiprocessing, imagehash
from pathlib import Path
from PIL import Image
def codes(path):
    image = Image.open(path)
    return path.stem, str(imagehash.phash(image)), str(imagehash.dhash(image))
if __name__ == "__main__":
    paths = sorted(Path(sys.argv[1]).glob("*.jpg"))
    workers = int(sys.argv[2])
    if workers == 1:
        found = [codes(path) for path in paths]
    else:
        with multiprocessing.Pool(workers) as pool:
            found = pool.map(codes, paths, chunksize=64)
    Path(sys.argv[3]).write_text("\\n".join(" ".join(row) for row in found))
"""
IMAGEDEDUP = """
import sys
from imagededup.methods import PHash
if __name__ == "__main__":
    workers = int(sys.argv[2])
    found = PHash(verbose=False).encode_images(image_dir=sys.argv[1], num_enc_workers=0 if workers == 1 else workers)
    print(len(found))
"""


def draw(number: int) -> bytes:
    """A picture like no other, of 50 to 65 KB: shapes on a gradient, with grain."""
    random = np.random.default_rng(number)
    shade = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )
    pen = ImageDraw.Draw(shade)
    for _ in range(12):
        x, y, wide, high = (int(value) for value in random.integers(0, SIDE, 4))
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        (pen.ellipse if random.random() < 0.5 else pen.rectangle)((x, y, x + wide // 3, y + high // 3), fill=colour)
    grain = random.normal(0, 8, (SIDE, SIDE, 1))
    pixels = (np.asarray(shade) + grain).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=82)
    return out.getvalue()


def make(folder: Path, n: int) -> tuple[Path, Path]:
    """The pictures as files and in tars; kept and reused if they are there."""
    files, tars, marker = folder / "files", folder / "tars", folder / f"made-{n}"
    if marker.exists():
        return files, tars
    for path in (files, tars):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        tar = None
        for number, content in enumerate(pool.map(draw, range(n), chunksize=50)):
            if number % EACH_TAR == 0:
                if tar:
                    tar.close()
                tar = tarfile.open(tars / f"{number // EACH_TAR:05}.tar", "w")  # noqa: SIM115
            assert tar
            (files / f"{number:06}.jpg").write_bytes(content)
            info = tarfile.TarInfo(f"{number:06}.jpg")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if tar:
            tar.close()
    marker.touch()
    return files, tars


def timed(words: list[str], environment: dict[str, str] | None = None) -> tuple[float, float]:
    """Wall and CPU seconds of a process and its workers."""
    found = measure(" ".join(words[:4]), words, env=environment)
    return found["wall_s"], found["cpu_s"]


def vlmsel(*words: str) -> list[str]:
    """A command of vlmsel."""
    return [sys.executable, "-m", "vlmsel.cli.main", *words]


def ours(tars: Path, folder: Path, threads: int) -> dict[str, tuple[float, float]]:
    """The stage alone, over an index that is there; and in the pass of the index, beside the index alone."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    index = vlmsel("index", str(tars), "-o", str(out / "index"), "-q", "--threads", str(threads))
    plain = timed(index)
    stage = timed([*index, "--image-codes"])
    shutil.rmtree(out)
    both = timed([*index, "--image-codes"])
    return {"index": plain, "stage": stage, "index with codes": both}


def agreement(folder: Path, theirs: Path) -> dict[str, float]:
    """How far the codes are from imagehash's: mean and most of the bits that differ."""
    import pyarrow.parquet as pq

    def of(name: str, columns: list[str]) -> list[dict[str, Any]]:
        manifest = json.loads((folder / "out" / name / "manifest.json").read_text())
        files = [f["file"] for part in manifest["parts"] for f in part["files"] if f["file"].endswith(".parquet")]
        return [
            row for file in files for row in pq.read_table(folder / "out" / name / file, columns=columns).to_pylist()
        ]

    rows = zip(of("index", ["key"]), of("codes", ["phash", "dhash"]), strict=True)
    found = {index["key"]: code for index, code in rows}
    expected = {
        key: (int(p, 16), int(d, 16)) for key, p, d in (line.split() for line in theirs.read_text().splitlines())
    }
    assert found.keys() == expected.keys()
    bits: dict[str, list[int]] = {name: [] for name in ("phash", "dhash")}
    for key, codes in expected.items():
        for name, code in zip(bits, codes, strict=True):
            bits[name].append((found[key][name] ^ code).bit_count())
    return {
        f"{name} {what}": value
        for name, seen in bits.items()
        for what, value in (("mean", sum(seen) / len(seen)), ("most", max(seen)))
    }


def main() -> None:
    """Make the pictures, run everybody, compare the codes, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, default=Path("bench-data/image-codes"))
    parser.add_argument("--repeat", type=int, default=2, help="runs of each, in turn; the fastest counts")
    parser.add_argument("--peers", help="a Python with imagehash and imagededup")
    parser.add_argument("--peers-n", type=int, help="only so many pictures for imagededup, which is slow")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    files, tars = make(options.folder, options.n)
    sizes = [path.stat().st_size for path in files.iterdir()]
    for path in [*files.iterdir(), *tars.iterdir()]:
        path.read_bytes()
    few = options.folder / "few"
    shutil.rmtree(few, ignore_errors=True)
    few.mkdir()
    for path in sorted(files.iterdir())[: options.peers_n or options.n]:
        (few / path.name).symlink_to(path.resolve())
    seconds: dict[str, list[tuple[float, float]]] = {}
    quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet.pop("PYTHONPATH", None)
    theirs = options.folder / "imagehash.txt"
    for _ in range(options.repeat):
        for threads in (1, 2):
            for name, value in ours(tars, options.folder, threads).items():
                seconds.setdefault(f"vlmsel {name}, {threads}", []).append(value)
            if options.peers:
                words = [options.peers, "-c", IMAGEHASH, str(files), str(threads), str(theirs)]
                seconds.setdefault(f"imagehash, {threads}", []).append(timed(words, quiet))
                words = [options.peers, "-c", IMAGEDEDUP, str(few), str(threads)]
                seconds.setdefault(f"imagededup, {threads}", []).append(timed(words, quiet))
    count = {name: len(list(few.iterdir())) if name.startswith("imagededup") else options.n for name in seconds}
    rates = {name: round(count[name] / min(wall for wall, _ in runs), 1) for name, runs in seconds.items()}
    costs = {name: round(min(cpu for _, cpu in runs) / count[name] * 1e3, 3) for name, runs in seconds.items()}
    record = {
        "n": options.n,
        "mean_bytes": sum(sizes) / len(sizes),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "wall_and_cpu_s": seconds,
        "images_per_s": rates,
        "cpu_ms_per_image": costs,
    }
    if options.peers:
        record["bits_from_imagehash"] = agreement(options.folder, theirs)
    for name, rate in rates.items():
        print(f"{name:32} {rate:10,.0f} images/s {costs[name]:8.2f} CPU ms an image")
    print(json.dumps({key: record[key] for key in ("mean_bytes", "bits_from_imagehash") if key in record}))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
