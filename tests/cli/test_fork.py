"""A process forked from one that has called vlmsel can call it too: workers of multiprocessing and of a DataLoader do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pair_corpus import corpus

DEADLINE_S = 120

# A process of its own: that of the tests has threads of other libraries. A child that hangs is ended by its alarm.
CHILD = """
import hashlib, multiprocessing, os, signal, sys
from pathlib import Path
import vlmsel, vlmsel.tables

folder, deadline_s = Path(sys.argv[1]), int(sys.argv[2])

def digest(path):
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.name != "run.json")
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()

def everything(name):
    out = folder / name
    vlmsel.index(folder / "data", output=out / "index", threads=2)
    chosen = vlmsel.select(folder / "scores.parquet", k=40_000, output=out / "selection", threads=2, control="random")
    vlmsel.shard(folder / "ids.txt", index=out / "index", output=out / "shards", threads=2)
    rows = list(vlmsel.tables.rows(sorted((out / "index").glob("*.parquet")), ["uid", "text"]))
    vlmsel.sheet(folder / "small", index=folder / "index", output=out / "sheet.png", rows=1, columns=2)
    whole = [digest(out / part) for part in ("index", "selection", "selection-random-s0", "shards", "sheet.png")]
    (folder / f"{name}.txt").write_text("\\n".join([*whole, str(chosen.selected), repr(rows)]))

def in_child(name, nested=False):
    signal.alarm(deadline_s)
    everything(name)
    if nested:
        ended(f"{name}-child")

def ended(name):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            in_child(name)
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"{name}: ended with status {status}"

everything("parent")
ended("child")
context = multiprocessing.get_context("fork")
workers = [context.Process(target=in_child, args=(f"worker{n}", True)) for n in range(2)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
assert [worker.exitcode for worker in workers] == [0, 0], workers
# The parent's own threads still work.
everything("after")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_process_can_do_all_that_its_parent_did(tmp_path: Path) -> None:
    corpus(tmp_path / "data", shards=2, samples=6)
    count = 100_000
    ids = [n.to_bytes(16, "big") for n in range(count)]
    scores = pa.table({"uid": pa.array(ids, pa.binary(16)), "ppl": [float(n * 7919 % count) for n in range(count)]})
    pq.write_table(scores, tmp_path / "scores.parquet", row_group_size=20_000)
    command = [sys.executable, "-W", "ignore", "-c", SETUP, str(tmp_path)]
    subprocess.run(command, check=True, timeout=DEADLINE_S)
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(tmp_path), str(DEADLINE_S)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=6 * DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    names = ["child", "worker0", "worker0-child", "worker1", "worker1-child", "after"]
    expected = (tmp_path / "parent.txt").read_text()
    assert {name: (tmp_path / f"{name}.txt").read_text() == expected for name in names} == dict.fromkeys(names, True)


# What a sheet and a shard are made of; in a process of its own, because the one that forks begins without any call.
SETUP = """
import sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq, vlmsel
folder = Path(sys.argv[1])
vlmsel.index(folder / "data", output=folder / "index")
uids = sorted(uid for path in (folder / "index").glob("*.parquet") for uid in pq.read_table(path)["uid"].to_pylist())
(folder / "ids.txt").write_text("".join(f"{uid.hex()}\\n" for uid in uids[::2]))
table = pa.table({"uid": pa.array(uids, pa.binary(16)), "ppl": [float(n) for n in range(len(uids))]})
pq.write_table(table, folder / "small.parquet")
vlmsel.select(folder / "small.parquet", k=4, output=folder / "small")
"""
