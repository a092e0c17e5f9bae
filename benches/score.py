"""Score row of the speed targets at the size of a CPU: the whole of `vlmsel score` against the obvious ways, same model.

A 4 M parameter LLaVA scores pairs from a tar, in fp32 on one thread: one sample at a time, padded batches of 16 through the
plain transformers forward with full logits, and `vlmsel score` from index to committed Parquet. Answers must agree to
1e-5 nats per token. Seconds on a shared machine mean little: compare the ratios, and CPU seconds beside wall.

    python benches/score.py --rows 512 --out benches/runs/<date>-<machine>/score.json
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import gpu_score as gpu
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from blake3 import blake3
from vlmsel_trainer.scoring import run
from vlmsel_trainer.scoring.options import ScoreOptions

EPSILON = 1e-5


def write_index(folder: Path, pool: gpu.Pool) -> None:
    """The pool as one index part, with the columns that scoring reads (ARCHITECTURE.md, "Tables")."""
    folder.mkdir()
    image = {name: pa.uint64() for name in ("offset", "size")} | {name: pa.uint32() for name in ("width", "height")}
    schema = pa.schema(
        [
            ("uid", pa.binary(16)),
            ("source", pa.string()),
            ("shard", pa.string()),
            ("images", pa.list_(pa.struct([("file", pa.string()), *image.items()]))),
            ("text", pa.string()),
            ("conversations", pa.string()),
        ]
    )
    rows = [dict(vars(sample), images=list(sample.images)) for sample in pool.samples]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "pool.parquet")
    file = {"file": "pool.parquet", "bytes": (folder / "pool.parquet").stat().st_size}
    file["blake3"] = blake3((folder / "pool.parquet").read_bytes()).hexdigest()
    part = {"unit": "pool", "rows": len(rows), "counts": {}, "detail": {}, "files": [file]}
    roots = {"pool": {"path": str(pool.path.parent), "image_root": None}}
    manifest = {"schema": 1, "command": "index", "version": "0", "config": {}, "inputs": [], "roots": roots}
    manifest |= {"provenance": {}, "parts": [part], "counts": {"input": len(rows)}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def clock(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of ``work``, its wall and its CPU seconds."""
    began, began_cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - began, time.process_time() - began_cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--shape", choices=["cpu", "tiny"], default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = gpu.SHAPES[options.shape]
    processor = gpu.build_processor(shape)
    model = gpu.build_model(shape, processor, torch.device("cpu"), torch.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        pool = gpu.make_pool(folder / "data", options.rows, shape.image_side)
        write_index(folder / "index", pool)
        model.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")

        def score() -> list[tuple[float, int]]:
            score_options = ScoreOptions(prompt=gpu.PROMPT, batch_tokens=4096, workers=1, image_backend="torchvision")
            run.score(folder / "model", index=folder / "index", output=folder / "scores", options=score_options)
            table = pa.concat_tables(pq.read_table(part) for part in sorted((folder / "scores").glob("*.parquet")))
            return list(zip(table["nll_sum"].to_pylist(), table["n_tokens"].to_pylist(), strict=True))

        ways: dict[str, Callable[[], list[tuple[float, int]]]] = {
            "one by one": lambda: gpu.score_in_batches(model, processor, pool, options.rows, 1),
            "padded 16": lambda: gpu.score_in_batches(model, processor, pool, options.rows, 16),
            "vlmsel": score,
        }
        gpu.score_in_batches(model, processor, pool, min(16, options.rows), 16)
        measured = {name: clock(way) for name, way in ways.items()}
    ours = measured["vlmsel"][0]
    record: dict[str, Any] = {"bench": "score", "rows": options.rows, "machine": platform.machine(), "ways": {}}
    print(f"{'way':12} {'wall s':>8} {'cpu s':>8} {'pairs/s':>9} {'ratio':>7} {'max |d| per token':>18}")
    for name, (sums, wall_s, cpu_s) in measured.items():
        gap = max(abs(a - b) / n for (a, n), (b, _) in zip(ours, sums, strict=True))
        if gap > EPSILON or [n for _, n in ours] != [n for _, n in sums]:
            raise SystemExit(f"{name}: answers differ by {gap} nats per token")
        ratio = wall_s / measured["vlmsel"][1]
        record["ways"][name] = {"wall_s": wall_s, "cpu_s": cpu_s, "max_gap_nats_per_token": gap}
        print(f"{name:12} {wall_s:8.2f} {cpu_s:8.2f} {options.rows / wall_s:9.1f} {ratio:7.2f} {gap:18.1e}")
    record["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("ratio: how many times vlmsel's wall time, which includes loading and hashing the model and committing")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
