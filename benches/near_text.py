"""Near texts beside peers: exact word-set Jaccard against MinHash LSH, on the same captions.

    python benches/near_text.py make captions.txt --rows 5M
    python benches/near_text.py run captions.txt --threshold 0.8 --rounds 3 --out benches/runs/<date>-<machine>/near-text.json

Captions have 8 to 40 words of a vocabulary of a million, as frequent as in Zipf's law; 10 % are copies of an earlier one with one
or two words changed, added or removed. `run` needs the peers' environment (rensa, datasketch, numpy: benches/requirements.txt)
and the example binary: `cargo build --release -p vlmsel-pipeline --example near_text`. Every run is a process of its own, timed by its
CPU seconds (user and system), because the machine may be shared; peers take the same file from disk to verified pairs.

`recall` is the share of the pairs that vlmsel's exact join tells which the peer tells too, `precision` the share of the peer's pairs
that reach the threshold. With `--sample`, vlmsel's pairs are compared with all pairs of so many captions, computed plainly.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BINARY = ROOT / "target/release/examples/near_text"


def count(text: str) -> int:
    """`200k`, `5M` or a plain number."""
    unit = {"k": 1_000, "M": 1_000_000}.get(text[-1], 1)
    return int(text.rstrip("kM")) * unit


def make(path: Path, rows: int, vocabulary: int = 1_000_000) -> None:
    """Writes the captions, one a line."""
    import numpy as np

    rng = np.random.default_rng(13)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", dtype=np.uint8)
    lengths = rng.integers(3, 11, vocabulary)
    words = [bytes(letters[rng.integers(0, 26, n)]).decode() for n in lengths]
    ranks = np.cumsum(1.0 / np.arange(1, vocabulary + 1))

    def draw(n: int) -> list[str]:
        return [words[i] for i in np.searchsorted(ranks, rng.random(n) * ranks[-1])]

    recent: list[list[str]] = []
    with path.open("w") as out:
        for start in range(0, rows, 10_000):
            block = min(10_000, rows - start)
            sizes = rng.integers(8, 41, block)
            pool = iter(draw(int(sizes.sum()) + 3 * block))
            copies = rng.random(block) < 0.1
            for size, copy in zip(sizes, copies, strict=True):
                if copy and recent:
                    caption = list(recent[int(rng.integers(len(recent)))])
                    for _ in range(int(rng.integers(1, 3))):
                        at, kind = int(rng.integers(len(caption))), int(rng.integers(3))
                        if kind == 0:
                            caption[at] = next(pool)
                        elif kind == 1:
                            caption.insert(at, next(pool))
                        else:
                            del caption[at]
                else:
                    caption = [next(pool) for _ in range(size)]
                if len(recent) < 100_000:
                    recent.append(caption)
                else:
                    recent[int(rng.integers(len(recent)))] = caption
                out.write(" ".join(caption) + "\n")


def measured(command: list[str]) -> dict[str, Any]:
    """Runs a process: CPU and wall seconds, peak memory, and the JSON of its last line."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "RAYON_NUM_THREADS": "2"})
    assert process.stdout is not None
    answer = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} ended with {status}")
    return {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "wall_s": round(time.perf_counter() - begin, 2),
        "peak_mb": usage.ru_maxrss // 1024,
        **json.loads(answer.splitlines()[-1]),
    }


def captions(path: Path, rows: int) -> Iterator[list[str]]:
    with path.open() as lines:
        for _, line in zip(range(rows), lines, strict=False):
            yield line.split()


def bands(threshold: float, recall: float = 0.99, most: int = 256) -> tuple[int, int]:
    """Bands and rows of the same expected recall as vlmsel's: the peers get the choice that vlmsel makes for itself."""
    for rows in range(16, 0, -1):
        for n in range(1, most // rows + 1):
            if 1 - (1 - threshold**rows) ** n >= recall:
                return n, rows
    return most, 1


def peer(name: str, path: Path, rows: int, threshold: float, out: Path) -> None:
    """A peer's whole way, in this process: tokenise, sign, band, verify."""
    n_bands, n_rows = bands(threshold)
    sets = [frozenset(words) for words in captions(path, rows)]
    candidates: set[tuple[int, int]] = set()
    if name in ("rensa", "rensa-bulk"):
        from rensa import RMinHash, RMinHashLSH

        index = RMinHashLSH(threshold=threshold, num_perm=n_bands * n_rows, num_bands=n_bands)
        if name == "rensa-bulk":
            sketches = RMinHash.from_token_sets([list(words) for words in sets], n_bands * n_rows, 42)
            index.insert_many(sketches)
            for at, others in enumerate(index.query_all(sketches)):
                candidates.update((other, at) for other in others if other < at)
        else:
            for at, words in enumerate(sets):
                sketch = RMinHash(num_perm=n_bands * n_rows, seed=42)
                sketch.update(list(words))
                candidates.update((other, at) for other in index.query(sketch))
                index.insert(at, sketch)
    else:
        from datasketch import MinHash, MinHashLSH

        index = MinHashLSH(threshold=threshold, num_perm=n_bands * n_rows, params=(n_bands, n_rows))
        for at, sketch in enumerate(
            MinHash.generator(([w.encode() for w in s] for s in sets), num_perm=n_bands * n_rows)
        ):
            candidates.update((int(other), at) for other in index.query(sketch))
            index.insert(at, sketch)
    kept = 0
    with out.open("w") as lines:
        for a, b in candidates:
            shared = len(sets[a] & sets[b])
            if shared >= threshold * (len(sets[a]) + len(sets[b]) - shared):
                kept += 1
                lines.write(f"{a} {b}\n")
    print(json.dumps({"candidates": len(candidates), "near": kept, "bands": n_bands, "rows_of_band": n_rows}))


def pairs_of(path: Path) -> set[tuple[int, int]]:
    return {(int(line.split()[0]), int(line.split()[1])) for line in path.open()}


def check(path: Path, rows: int, threshold: float, scratch: Path) -> dict[str, Any]:
    """All pairs of some captions, plainly, against what vlmsel tells of them (equal sets one for each class)."""
    cut, told = scratch / "sample.txt", scratch / "sample.pairs"
    sets = [frozenset(words) for words in captions(path, rows)]
    cut.write_text("".join(" ".join(words) + "\n" for words in captions(path, rows)))
    measured([str(BINARY), str(cut), str(threshold), "words", "2", "0", str(scratch), str(told)])
    first: dict[frozenset[str], int] = {}
    plain = {(first[s], at) for at, s in enumerate(sets) if first.setdefault(s, at) != at}
    distinct = list(first.items())
    for i, (y, b) in enumerate(distinct):
        for x, a in distinct[:i]:
            if min(len(x), len(y)) >= threshold * max(len(x), len(y)):
                shared = len(x & y)
                if shared >= threshold * (len(x) + len(y) - shared):
                    plain.add((a, b))
    return {"rows": rows, "plain": len(plain), "vlmsel": len(pairs_of(told)), "equal": plain == pairs_of(told)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["make", "run", "peer"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=count, default=5_000_000)
    parser.add_argument("--peer-rows", type=count, default=1_000_000)
    parser.add_argument("--datasketch-rows", type=count, default=200_000)
    parser.add_argument("--sample", type=count, default=10_000)
    parser.add_argument("--threshold", default="0.8")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--name", default="rensa")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "make":
        make(arguments.path, arguments.rows)
        return
    if arguments.verb == "peer":
        peer(arguments.name, arguments.path, arguments.rows, float(arguments.threshold), arguments.out)
        return
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=arguments.path.parent) as folder:
        scratch = Path(folder)

        def ours(rows: int, threads: int, pairs: Path | None = None) -> dict[str, Any]:
            path = arguments.path
            if rows != arguments.rows:
                path = scratch / f"{rows}.txt"
                if not path.exists():
                    with arguments.path.open() as lines, path.open("w") as out:
                        out.writelines(line for _, line in zip(range(rows), lines, strict=False))
            command = [str(BINARY), str(path), arguments.threshold, "words", str(threads), "0", str(scratch)]
            run = measured(command + ([str(pairs)] if pairs else []))
            return {
                "who": "vlmsel",
                "rows": rows,
                "threads": threads,
                "us_cpu": round(run["cpu_s"] / rows * 1e6, 3),
                **run,
            }

        for _ in range(arguments.rounds):
            for threads in arguments.threads:
                results.append(ours(arguments.rows, threads))
                print(json.dumps(results[-1]), flush=True)
            for name, rows in [
                ("rensa", arguments.peer_rows),
                ("rensa-bulk", arguments.peer_rows),
                ("datasketch", arguments.datasketch_rows),
            ]:
                if rows == 0:
                    continue
                exact = ours(rows, 1, scratch / "exact")
                told = scratch / "peer"
                command = [sys.executable, __file__, "peer", str(arguments.path), "--rows", str(rows), "--name", name]
                run = measured([*command, "--threshold", arguments.threshold, "--out", str(told)])
                # Equal sets are told by vlmsel as one pair for each copy, by peers as all pairs among them.
                own, other = pairs_of(scratch / "exact"), pairs_of(told)
                run["recall"] = round(len(own & other) / max(len(own), 1), 5)
                run["precision_unverified"] = round(run["near"] / max(run["candidates"], 1), 5)
                run["times_vlmsel_cpu"] = round(run["cpu_s"] / exact["cpu_s"], 2)
                results += [exact, {"who": name, "rows": rows, "us_cpu": round(run["cpu_s"] / rows * 1e6, 3), **run}]
                for line in results[-2:]:
                    print(json.dumps(line), flush=True)
        sample = check(arguments.path, arguments.sample, float(arguments.threshold), scratch)
        print(json.dumps(sample), flush=True)
    if arguments.out:
        head = {
            "threshold": arguments.threshold,
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
        }
        arguments.out.write_text(json.dumps({**head, "runs": results, "sample": sample}, indent=1) + "\n")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
