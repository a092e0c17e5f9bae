"""``vlmsel.select`` beside DuckDB, Polars and chDB, and the floor of pyarrow decoding both columns.

    python benches/selection.py --rows 200M --k 1M --ids binary,hex,int --out benches/runs/<date>-<machine>/select.json

Tables of (id, f32 score, u16) in 8 Parquet files as pyarrow writes them, made from a seed. Every contender is a fresh
process that times itself after its imports; the files are read once before each run, so that the page cache is warm for
all; ratios are medians of the rounds' ratios. The peers return their rows in memory; vlmsel also writes, syncs and
commits its folder. All answers are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILES = 8

# Each contender prints one JSON object; `answer` is a hash of the selected ids in order.
COMMON = """
import hashlib, json, os, resource, sys, time
folder, k, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
files = sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".parquet"))
def cpu():
    use = resource.getrusage(resource.RUSAGE_SELF)
    return use.ru_utime + use.ru_stime
def moved():
    # Bytes of read and write calls, from the page cache or not; what is mapped is not in them.
    lines = dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())
    return int(lines["rchar"]), int(lines["wchar"])
def run(work):
    before, begun, used = moved(), time.perf_counter(), cpu()
    result = work()
    wall, used, after = time.perf_counter() - begun, cpu() - used, moved()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result, {"wall_s": wall, "cpu_s": used, "peak_bytes": peak, "read_bytes": after[0] - before[0], "written_bytes": after[1] - before[1]}
def done(measured, column):
    digest = hashlib.sha256()
    for value in column:
        digest.update(value if isinstance(value, bytes) else str(value).encode())
    print(json.dumps({**measured, "answer": digest.hexdigest()}))
"""
CONTENDERS = {
    "vlmsel": """
import vlmsel.selection, tempfile
with tempfile.TemporaryDirectory(dir=os.path.dirname(folder)) as out:
    found, measured = run(lambda: vlmsel.select(folder, k=k, output=out + "/selection", threads=threads))
    import pyarrow as pa
    done(measured, pa.table(found.table())["uid"].to_pylist())
""",
    "pyarrow floor": """
import pyarrow.parquet as pq
from concurrent.futures import ThreadPoolExecutor
def decode(task):
    path, group = task
    table = pq.ParquetFile(path).read_row_group(group, columns=["uid", "ppl"], use_threads=False)
    return table.num_rows
tasks = [(path, group) for path in files for group in range(pq.ParquetFile(path).num_row_groups)]
def work():
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(decode, tasks))
_, measured = run(work)
print(json.dumps(measured))
""",
    "duckdb": """
import duckdb
db = duckdb.connect(config={"threads": threads})
names = ", ".join(repr(path) for path in files)
rows, measured = run(lambda: db.sql(f"select uid from read_parquet([{names}]) order by ppl, uid limit {k}").fetchnumpy())
done(measured, [bytes(v) if isinstance(v, (bytes, bytearray)) else v for v in rows["uid"].tolist()])
""",
    "polars": """
os.environ["POLARS_MAX_THREADS"] = str(threads)
import polars as pl
rows, measured = run(lambda: pl.scan_parquet(files).select("uid", "ppl").bottom_k(k, by=["ppl", "uid"]).sort("ppl", "uid").collect(engine="streaming"))
done(measured, rows["uid"].to_list())
""",
    "chdb": """
import chdb
names = folder + "/*.parquet"
# FixedString(16) in results stays bytes only through Arrow.
rows, measured = run(lambda: chdb.query(f"select uid from file('{names}') order by ppl, uid limit {k} settings max_threads={threads}", "ArrowTable"))
done(measured, rows["uid"].to_pylist())
""",
}
WRITER = """
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq
path, kind, rows, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = np.random.default_rng(seed)
writer = None
for start in range(0, rows, 1 << 20):
    n = min(1 << 20, rows - start)
    raw = rng.integers(0, 2**64, size=(n, 2), dtype=np.uint64)
    if kind == "binary":
        ids = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), n, [None, pa.py_buffer(raw.tobytes())])
    elif kind == "hex":
        text = np.frombuffer(raw.tobytes().hex().encode(), dtype=np.uint8)
        offsets = np.arange(0, 32 * n + 1, 32, dtype=np.int32)
        ids = pa.StringArray.from_buffers(n, pa.py_buffer(offsets.tobytes()), pa.py_buffer(text.tobytes()))
    else:
        ids = pa.array(raw[:, 0])
    table = pa.table({"uid": ids, "ppl": rng.gamma(2.0, 20.0, n).astype(np.float32), "n_tokens": rng.integers(1, 400, n).astype(np.uint16)})
    writer = writer or pq.ParquetWriter(path, table.schema)
    writer.write_table(table)
writer.close()
"""


def count(text: str) -> int:
    """``200M`` as a number."""
    units = {"k": 10**3, "M": 10**6, "B": 10**9}
    return int(float(text[:-1]) * units[text[-1]]) if text[-1] in units else int(text)


def make(folder: Path, kind: str, rows: int) -> None:
    """Write the tables, unless they are there."""
    done = folder / "done"
    if done.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for at in range(FILES):
        share = rows // FILES + (1 if at < rows % FILES else 0)
        subprocess.run(
            [sys.executable, "-c", WRITER, str(folder / f"{at}.parquet"), kind, str(share), str(at)], check=True
        )
    done.touch()


def warm(folder: Path) -> int:
    """Read every file once; bytes."""
    size_bytes = 0
    for path in sorted(folder.glob("*.parquet")):
        with path.open("rb") as file:
            while block := file.read(16 << 20):
                size_bytes += len(block)
    return size_bytes


def measure_once(name: str, folder: Path, k: int, threads: int) -> dict[str, Any]:
    """One run of a contender in a fresh process, all files in the page cache as far as it holds them."""
    warm(folder)
    command = [sys.executable, "-c", COMMON + CONTENDERS[name], str(folder), str(k), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:200]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(names: list[str], folder: Path, k: int, threads: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Medians of the contenders' runs, taken in turn, so that a machine that slows down slows all of them."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(repeats):
        for name in names:
            if not any("error" in run for run in runs[name]):
                runs[name].append(measure_once(name, folder, k, threads))
    found: dict[str, dict[str, Any]] = {}
    for name, of_name in runs.items():
        if "error" in of_name[-1]:
            found[name] = of_name[-1]
        else:
            figures = [key for key in of_name[0] if key != "answer"]
            medians = {key: statistics.median(run[key] for run in of_name) for key in figures}
            found[name] = {**medians, "answer": of_name[0].get("answer"), "runs": of_name}
    return found


def main() -> None:
    """Make, measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=count, default=count("200M"))
    parser.add_argument("--k", type=count, default=None, help="0.5 %% of the rows by default")
    parser.add_argument("--ids", default="binary,hex,int")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--data", type=Path, default=ROOT / "bench-data" / "select")
    parser.add_argument("--out", type=Path, help="write the raw numbers there as JSON")
    arguments = parser.parse_args()
    k = arguments.k or arguments.rows // 200
    bytes_a_row = {"binary": 25, "hex": 41, "int": 17}
    kinds = arguments.ids.split(",")
    need = sum(bytes_a_row[kind] for kind in kinds) * arguments.rows
    load = os.getloadavg()[0]
    arguments.data.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(arguments.data).free
    print(f"needs about {need / 1e9:.1f} GB under {arguments.data} ({free / 1e9:.0f} GB free)", flush=True)
    if need > free and not any((arguments.data / f"{kind}-{arguments.rows}" / "done").exists() for kind in kinds):
        sys.exit("not enough disk: lower --rows, or name fewer --ids")
    record: dict[str, Any] = {
        "rows": arguments.rows,
        "k": k,
        "threads": arguments.threads,
        "machine": platform.processor() or platform.machine(),
        "load_before": load,
        "tables": {},
    }
    for kind in kinds:
        folder = arguments.data / f"{kind}-{arguments.rows}"
        make(folder, kind, arguments.rows)
        found = measure(arguments.contenders.split(","), folder, k, arguments.threads, arguments.repeats)
        record["tables"][kind] = {"bytes": warm(folder), "contenders": found}
        answers = {entry["answer"] for entry in found.values() if entry.get("answer")}
        print(f"\n{kind} ids, {arguments.rows:,} rows, k = {k:,}: answers {'agree' if len(answers) == 1 else 'DIFFER'}")
        print(f"  {'':<14}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}{'read MB':>9}{'x vlmsel':>10}")
        ours = found.get("vlmsel", {}).get("runs", [])
        for name, entry in found.items():
            if "error" in entry:
                print(f"  {name:<14}failed: {entry['error']}")
                continue
            # Round by round: what slows the machine down for a while slows both.
            rounds = [theirs["wall_s"] / run["wall_s"] for run, theirs in zip(ours, entry["runs"], strict=False)]
            entry["times_vlmsel"] = statistics.median(rounds) if rounds else None
            ratio = f"{entry['times_vlmsel']:>10.2f}" if rounds else ""
            figures = f"{entry['wall_s']:>8.2f}{entry['cpu_s']:>8.2f}{entry['peak_bytes'] / 1e6:>9.0f}"
            print(f"  {name:<14}{figures}{entry['read_bytes'] / 1e6:>9.0f}{ratio}")
        sys.stdout.flush()
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
