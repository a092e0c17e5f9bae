"""Memory stays under `--memory-limit` plus a fixed slack, at ten times the limit in data (promise 13)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

LIMIT = 24 << 20
#: Pages, row groups being written, and the sample for the histogram: the same for any amount of data.
SLACK = 144 << 20
ROWS = 12_000_000
WANTED = 1_500_000

# A process of its own, because a peak is for life. `used` is what the call added to the interpreter and its libraries.
CHILD = """
import json, resource, sys
import pyarrow as pa
import vlmsel, vlmsel.selection
path, output, kind, k, limit = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def stream():
    # Made on the way, so that nothing but the selection holds on to it.
    import numpy as np
    rng, n = np.random.default_rng(5), 1 << 14
    schema = pa.schema([("uid", pa.binary(16)), ("ppl", pa.float32()), ("other", pa.float64())])
    def batch(n):
        ids = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), n, [None, pa.py_buffer(rng.bytes(16 * n))])
        return pa.record_batch([ids, pa.array(rng.random(n, dtype=np.float32)), pa.array(rng.random(n))], schema=schema)
    rows = int(sys.argv[6])
    return pa.RecordBatchReader.from_batches(schema, (batch(min(n, rows - at)) for at in range(0, rows, n)))
def small():
    return pa.table({"uid": pa.array([b"0" * 16], pa.binary(16)), "ppl": pa.array([1.0], pa.float32())})
next(iter(stream()))
vlmsel.select(small(), k=1, output=output + "-small")
before = peak()
found = vlmsel.select(stream() if kind == "stream" else path, k=k, output=output, memory_limit=limit, threads=2)
print(json.dumps({"used": peak() - before, "selected": found.selected, "input": found.input}))
"""


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten times the limit in ids and scores."""
    path = tmp_path_factory.mktemp("scores") / "scores.parquet"
    rng = np.random.default_rng(5)
    schema = pa.schema([("uid", pa.binary(16)), ("ppl", pa.float32()), ("other", pa.float64())])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for _ in range(10):
            n = ROWS // 10
            ids = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), n, [None, pa.py_buffer(rng.bytes(16 * n))])
            ppl = pa.array(rng.gamma(2.0, 20.0, n).astype(np.float32))
            writer.write_table(pa.table([ids, ppl, pa.array(rng.random(n))], schema=schema))
    assert ROWS * 20 > 9 * LIMIT
    return path


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_memory_stays_under_the_limit(scores: Path, tmp_path: Path, kind: str) -> None:
    arguments = [str(scores), str(tmp_path / "out"), kind, str(WANTED), str(LIMIT), str(ROWS)]
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["selected"], found["input"]) == (WANTED, ROWS)
    assert found["used"] < LIMIT + SLACK, f"{found['used'] >> 20} MiB"
