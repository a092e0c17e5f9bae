"""Two versions of vlmsel beside each other, in turn: does a change cost time?

    python benches/paired.py --before ../vlmsel-before --job select --rows 200M --rounds 11 --out benches/runs/<date>-<machine>/paired-select.json

`--before` is a checkout of the other version, built in place (its `python/vlmsel/_core*.so` is there). Every run is a fresh process;
the two take turns, and the first of a round changes, so that a machine that slows down slows both. What is told is the median of
the rounds' ratios after / before, with the interval that holds the true median with the stated confidence (order statistics).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import selection
from tar_corpus import make_tars, measure, warm

ROOT = Path(__file__).resolve().parent.parent
VLMSEL = [sys.executable, "-m", "vlmsel.cli.main"]


def interval(ratios: list[float], least: float = 0.95) -> tuple[float, float, float]:
    """The narrowest interval between two of the ratios that holds the median with probability `least`, and that probability."""
    ordered, n = sorted(ratios), len(ratios)
    for inner in range(n // 2, -1, -1):
        outside = 2 * sum(math.comb(n, i) for i in range(inner)) / 2**n
        if 1 - outside >= least or inner == 0:
            low = max(inner - 1, 0)
            return ordered[low], ordered[n - 1 - low], 1 - 2 * sum(math.comb(n, i) for i in range(low + 1)) / 2**n
    raise AssertionError


def environment(checkout: Path) -> dict[str, str]:
    """Where a process finds that version."""
    paths = [str(checkout / "python"), str(checkout / "trainer")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


Run = Callable[[dict[str, str]], dict[str, Any]]


def select_job(options: argparse.Namespace) -> Run:
    """`vlmsel.select`, timed by itself after its imports."""
    rows, kind = selection.count(options.rows), options.ids
    folder = options.data / "select" / f"{kind}-{rows}"
    selection.make(folder, kind, rows)
    k = rows // 200
    code = selection.COMMON + selection.CONTENDERS["vlmsel"]

    def run(env: dict[str, str]) -> dict[str, Any]:
        warm(sorted(folder.glob("*.parquet")))
        command = [sys.executable, "-c", code, str(folder), str(k), str(os.cpu_count())]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


def command_job(words: list[str], output: Path, files: list[Path]) -> Run:
    """A command line, timed from outside; `files` are what it reads."""

    def run(env: dict[str, str]) -> dict[str, Any]:
        shutil.rmtree(output, ignore_errors=True)
        warm(files)
        return measure("vlmsel", [*VLMSEL, *words, "-o", str(output), "-q"], env=env)

    return run


def index_job(options: argparse.Namespace) -> Run:
    """`vlmsel index` of tars."""
    tars = make_tars(options.data / "tars", options.gigabytes)
    return command_job(["index", *map(str, tars)], options.data / "paired-index", tars)


def shard_job(options: argparse.Namespace) -> Run:
    """`vlmsel shard` of a fifth of the samples, each version from an index that it made itself."""
    import pyarrow.parquet as pq

    tars = make_tars(options.data / "tars", options.gigabytes)
    ids = options.data / "paired-ids.txt"
    runs: dict[str, Run] = {}

    def run(env: dict[str, str]) -> dict[str, Any]:
        version = env["PYTHONPATH"]
        if version not in runs:
            index = options.data / f"paired-index-{len(runs)}"
            command_job(["index", *map(str, tars)], index, tars)(env)
            uids = [uid.as_py().hex() for part in sorted(index.glob("*.parquet")) for uid in pq.read_table(part)["uid"]]
            ids.write_text("\n".join(sorted(uids)[::5]) + "\n")
            words = ["shard", "--index", str(index), "--selection", str(ids)]
            runs[version] = command_job(words, options.data / "paired-shards", tars)
        return runs[version](env)

    return run


def soup_job(options: argparse.Namespace) -> Run:
    """`vlmsel soup average` of five models."""
    import torch
    from safetensors.torch import save_file

    models = []
    for seed in range(5):
        folder = options.data / "paired-soup" / str(seed)
        models.append(folder)
        if (folder / "config.json").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(seed)
        n = int(options.gigabytes * 1e9 / 2 / 8)
        tensors = {f"layer.{i}.weight": torch.randn(n, generator=generator).to(torch.bfloat16) for i in range(8)}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text('{"model_type": "bench"}')
    files = [folder / "model.safetensors" for folder in models]
    return command_job(["soup", "average", *map(str, models)], options.data / "paired-soup" / "out", files)


JOBS = {"select": select_job, "index": index_job, "shard": shard_job, "soup": soup_job}


def main() -> None:
    """Run both in turn, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="checkout of the other version, built in place")
    parser.add_argument("--after", type=Path, default=ROOT, help="checkout of this version")
    parser.add_argument("--job", choices=JOBS, required=True)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--rows", default="200M", help="of select")
    parser.add_argument("--ids", default="binary", choices=["binary", "hex", "int"], help="of select")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of index and shard; of each model of soup")
    parser.add_argument("--data", type=Path, default=ROOT / "bench-data")
    parser.add_argument("--out", type=Path, help="write the raw numbers there as JSON")
    options = parser.parse_args()
    run = JOBS[options.job](options)
    versions = {"before": environment(options.before.resolve()), "after": environment(options.after.resolve())}
    load_before = os.getloadavg()[0]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in versions}
    for number in range(-1, options.rounds):
        for name in sorted(versions, reverse=number % 2 == 1):
            found = run(versions[name])
            if number >= 0:  # The round before the first warms up.
                # Where it wrote is of no interest, and names a machine's folders.
                runs[name].append({key: value for key, value in found.items() if key != "output"})
    record: dict[str, Any] = {
        "job": options.job,
        "options": {
            key: str(value) for key, value in vars(options).items() if key not in {"before", "after", "data", "out"}
        },
        "machine": platform.processor() or platform.machine(),
        "load_before": load_before,
        "runs": runs,
        "ratios": {},
    }
    print(f"{options.job}: after / before, {options.rounds} rounds, load {load_before:.1f}")
    for figure in ("wall_s", "cpu_s"):
        of_both = [[entry[figure] for entry in runs[name]] for name in ("before", "after")]
        ratios = [after / before for before, after in zip(*of_both, strict=True)]
        low, high, confidence = interval(ratios)
        medians = [statistics.median(values) for values in of_both]
        record["ratios"][figure] = {
            "median": statistics.median(ratios),
            "interval": [low, high],
            "confidence": confidence,
        }
        print(
            f"  {figure:<11}{medians[0]:>14.3f}{medians[1]:>14.3f}   ratio {statistics.median(ratios):.3f} "
            f"[{low:.3f}, {high:.3f}] at {confidence:.0%}"
        )
    answers = {entry.get("answer") for of_one in runs.values() for entry in of_one}
    print(f"  answers {'agree' if len(answers) == 1 else 'DIFFER'}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
