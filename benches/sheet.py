"""``vlmsel sheet`` over tables of millions of rows: seconds and peak memory, which must not grow with the tables.

    python benches/sheet.py --rows 1M,5M --out benches/runs/<date>-<machine>/sheet.json

An index, scores and a selection of a fifth are made from a seed, in parts of a million rows; all rows point at a few dozen
pictures in one file. The command runs as a process of its own over the selection and over the scores alone.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import vlmsel
from PIL import Image
from vlmsel.cli.options import parse_count

PART_ROWS = 1_000_000
PICTURES = 48

# Prints CPU seconds and the peak of this program's own memory: getrusage would count the parent that forked it.
CHILD = """
import re, resource, sys
from vlmsel.cli.main import run
code = run(sys.argv[1:])
use = resource.getrusage(resource.RUSAGE_SELF)
peak_kib = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
print(use.ru_utime + use.ru_stime, int(peak_kib) * 1024, file=sys.stderr)
sys.exit(code)
"""


def make_tables(folder: Path, n_rows: int, seed: int = 0) -> None:
    """``index/``, ``scores/`` and ``selection/`` of ``n_rows`` rows under ``folder``."""
    chance = np.random.default_rng(seed)
    data, places = io.BytesIO(), []
    for _ in range(PICTURES):
        blocks = Image.fromarray(chance.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        begin = data.tell()
        blocks.resize((96, 96), Image.Resampling.NEAREST).save(data, "JPEG")
        places.append((begin, data.tell() - begin))
    (folder / "data").mkdir()
    (folder / "data" / "a.tar").write_bytes(data.getvalue())
    roots = {"web": {"path": str(folder / "data"), "image_root": None}}
    write_folder(folder / "index", "index", index_parts(n_rows, places, chance), roots)
    write_folder(folder / "scores", "score", score_parts(n_rows, chance), {})
    vlmsel.select(folder / "scores", fraction="0.2", output=folder / "selection")


def write_folder(folder: Path, command: str, tables: Iterator[pa.Table], roots: dict[str, Any]) -> None:
    """One part per table, and a manifest that names them."""
    folder.mkdir()
    parts = []
    for table in tables:
        name = f"{len(parts):05d}.parquet"
        pq.write_table(table, folder / name, compression="zstd", row_group_size=64 << 10)
        file = {"file": name, "bytes": (folder / name).stat().st_size, "blake3": "0" * 64}
        parts.append({"unit": name, "rows": len(table), "counts": {}, "detail": {}, "files": [file]})
    manifest = {"schema": 1, "command": command, "version": "0", "config": {}, "inputs": [], "provenance": {}}
    manifest |= {"roots": roots, "parts": parts, "counts": {"input": sum(part["rows"] for part in parts)}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def starts(n_rows: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each part."""
    for start in range(0, n_rows, PART_ROWS):
        yield start, min(PART_ROWS, n_rows - start)


def uids(start: int, n_rows: int) -> pa.Array:
    """16 bytes for each row, scattered as hashes are."""
    numbers = np.arange(start, start + n_rows, dtype=np.uint64)
    words = np.stack([numbers * np.uint64(0x9E3779B97F4A7C15), numbers], axis=1)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), n_rows, [None, pa.py_buffer(words.tobytes())])


def index_parts(n_rows: int, places: list[tuple[int, int]], chance: np.random.Generator) -> Iterator[pa.Table]:
    """Index rows with one image and a caption of some 60 characters each."""
    words = np.array(
        [
            "a",
            "photo",
            "of",
            "two",
            "small",
            "red",
            "dogs",
            "that",
            "run",
            "over",
            "wet",
            "sand",
            "near",
            "the",
            "sea",
            "at",
            "noon",
        ],
        dtype=object,
    )
    for start, n_part in starts(n_rows):
        chosen = chance.integers(0, len(places), n_part)
        offsets, sizes = (np.array(column, dtype=np.uint64)[chosen] for column in zip(*places, strict=True))
        image = pa.StructArray.from_arrays(
            [
                pa.nulls(n_part, pa.string()),
                pa.array(offsets),
                pa.array(sizes),
                *[pa.array([96] * n_part, pa.uint32())] * 2,
            ],
            ["file", "offset", "size", "width", "height"],
        )
        texts = [" ".join(line) for line in words[chance.integers(0, len(words), (n_part, 14))]]
        yield pa.table(
            {
                "uid": uids(start, n_part),
                "source": pa.array(["web"] * n_part),
                "shard": pa.array(["a.tar"] * n_part),
                "images": pa.ListArray.from_arrays(pa.array(np.arange(n_part + 1, dtype=np.int32)), image),
                "text": pa.array(texts),
                "conversations": pa.nulls(n_part, pa.string()),
            }
        )


def score_parts(n_rows: int, chance: np.random.Generator) -> Iterator[pa.Table]:
    """Scores as `vlmsel score` writes them, one row in a hundred failed."""
    for start, n_part in starts(n_rows):
        failed = chance.random(n_part) < 0.01
        yield pa.table(
            {
                "uid": uids(start, n_part),
                "source": pa.array(["web"] * n_part),
                "ppl": pa.array(chance.lognormal(2, 1, n_part).astype(np.float32), mask=failed),
                "status": pa.array(np.where(failed, "image_undecodable", "ok")),
            },
        )


def measure(folder: Path, target: str) -> dict[str, float]:
    """Wall and CPU seconds and peak bytes of one sheet."""
    output = folder / f"{target}.png"
    arguments = ["sheet", str(folder / target), "-w", str(folder), "-o", str(output), "--overwrite", "-q"]
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    wall_s = time.perf_counter() - begun
    cpu_s, peak = done.stderr.split()[-2:]
    return {"wall_s": wall_s, "cpu_s": float(cpu_s), "peak_bytes": int(peak)}


def main() -> None:
    """Make, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1M,5M", help="sizes, such as 1M,5M")
    parser.add_argument("--scratch", type=Path, default=Path("bench-data"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.scratch.mkdir(exist_ok=True)
    record: dict[str, Any] = {"bench": "sheet", "cores": os.cpu_count(), "machine": platform.machine(), "runs": []}
    print(f"{'rows':>12} {'sheet of':<10} {'wall s':>8} {'cpu s':>8} {'peak MB':>8}")
    for n_rows in map(parse_count, options.rows.split(",")):
        with tempfile.TemporaryDirectory(dir=options.scratch) as name:
            folder = Path(name)
            make_tables(folder, n_rows)
            for target in ("selection", "scores"):
                taken = measure(folder, target)
                record["runs"].append({"rows": n_rows, "target": target, **taken})
                print(
                    f"{n_rows:>12,} {target:<10} {taken['wall_s']:>8.2f} {taken['cpu_s']:>8.2f} {taken['peak_bytes'] / 1e6:>8.0f}",
                    flush=True,
                )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
