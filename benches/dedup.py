"""Exact copies of ids, beside DuckDB; near codes by themselves.

    python benches/dedup.py exact [--rows 200_000_000] [--memory 2GB] [--threads 2] [--peer PYTHON] [--out FILE]
    python benches/dedup.py codes [--rows 100_000_000] [--radius 6] [--threads 2] [--out FILE]

`exact`: ids of 16 bytes in Parquet, 20 % of them repeats -> keep bits, within the limit; DuckDB counts DISTINCT ids of the same file within
the same limit, in an environment of its own (`--peer`). Both answers are compared. `codes`: all pairs of random 64-bit codes within
the radius, a hundredth of them with a planted near copy. Both use `rust/vlmsel-pipeline/examples/dedup_engines.rs`, which the script builds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
REPEATED = 0.2
ROWS_A_GROUP = 1 << 20

DUCKDB = """
import sys, duckdb, json, time
path, limit, threads, folder = sys.argv[1:]
db = duckdb.connect(config={"threads": int(threads), "memory_limit": limit, "temp_directory": folder})
db.execute("SET preserve_insertion_order = false")
begun = time.perf_counter()
kept, = db.execute(f"SELECT count(*) FROM (SELECT DISTINCT uid FROM read_parquet('{path}'))").fetchone()
print(json.dumps({"kept": kept, "wall_s": round(time.perf_counter() - begun, 3), "version": duckdb.__version__}))
"""


def write_ids(path: Path, rows: int) -> int:
    """Random ids, a fifth of them seen before; how many are distinct."""
    rng = np.random.default_rng(0)
    schema = pa.schema([pa.field("uid", pa.binary(16), nullable=False)])
    pool = np.empty((0, 16), np.uint8)
    distinct = 0
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, rows, ROWS_A_GROUP):
            count = min(ROWS_A_GROUP, rows - start)
            fresh = rng.integers(0, 256, (count, 16), np.uint8)
            if len(pool):
                old = rng.random(count) < REPEATED
                fresh[old] = pool[rng.integers(0, len(pool), int(old.sum()))]
                distinct += int((~old).sum())
            else:
                distinct += count
            if len(pool) < 1 << 24:
                pool = np.concatenate([pool, fresh[:: max(1, rows >> 24)]])
            array = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), count, [None, pa.py_buffer(fresh.tobytes())])
            writer.write_table(pa.table([array], schema=schema))
    return distinct


def measured(command: list[str], **how: Any) -> dict[str, Any]:
    """What the command says as JSON, its CPU time and its peak of memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    done = subprocess.run(["/usr/bin/time", "-f", "%M", *command], capture_output=True, text=True, check=False, **how)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "Error" in line or "Exception" in line]
        return {
            "failed": (said or done.stderr.splitlines() or ["?"])[0],
            "process_s": round(time.perf_counter() - begun, 3),
        }
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        # DuckDB draws its bar on stdout.
        **json.loads(done.stdout.strip().splitlines()[-1]),
        "process_s": round(time.perf_counter() - begun, 3),
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 3),
        "peak_mb": round(int(done.stderr.strip().splitlines()[-1]) / 1024),
    }


def engine() -> Path:
    """The example, built."""
    build = ["cargo", "build", "--release", "--locked", "-p", "vlmsel-pipeline", "--example", "dedup_engines"]
    subprocess.run(build, cwd=ROOT, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/dedup_engines"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("exact", "codes"), nargs="?", default="exact")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--radius", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peer", help="a Python that has duckdb; this one, if it has")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.peer is None and find_spec("duckdb"):
        asked.peer = sys.executable
    binary = str(engine())
    found: list[dict[str, Any]] = []

    def note(what: str, **facts: Any) -> None:
        found.append({"what": what, **facts})
        print(json.dumps(found[-1]), file=sys.stderr)

    if asked.job == "codes":
        for _ in range(asked.rounds):
            words = ["codes", str(asked.rows or 100_000_000), str(asked.threads), str(asked.radius)]
            note("codes", **measured([binary, *words]))
    else:
        rows = asked.rows or 200_000_000
        limit = int(asked.memory.removesuffix("GB")) * 10**9
        with tempfile.TemporaryDirectory(dir=asked.scratch) as temporary:
            ids = Path(temporary) / "ids.parquet"
            distinct = write_ids(ids, rows)
            for _ in range(asked.rounds):
                ours = measured([binary, "exact", str(ids), str(asked.threads), str(limit), temporary])
                note("vlmsel", **ours)
                assert ours.get("kept") == distinct, (ours, distinct)
                if asked.peer:
                    words = [asked.peer, "-c", DUCKDB, str(ids), asked.memory, str(asked.threads), temporary]
                    theirs = measured(words)
                    note("duckdb", **theirs)
                    assert theirs.get("kept", distinct) == distinct, (theirs, distinct)
    if asked.out:
        asked.out.write_text(
            json.dumps(
                {
                    "asked": {k: str(v) for k, v in vars(asked).items() if k not in ("out", "peer", "scratch")},
                    "runs": found,
                },
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
