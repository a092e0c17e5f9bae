"""Tables read in a forked child, as the workers of a DataLoader read them, with a deadline."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

FORKED = """
import os, signal, sys
from vlmsel import tables
path = sys.argv[1]
assert len(list(tables.rows(path))) == 100
begun = tables.rows(path)
assert next(begun)["n"] == 0
child = os.fork()
if child == 0:
    signal.alarm(30)  # A child that waits for a thread of its parent dies of this.
    found = [row["n"] for row in tables.rows(path)] == list(range(100))
    found = found and [row["n"] for row in begun] == list(range(1, 100))
    found = found and tables.read(path).num_rows == 100
    os._exit(0 if found else 1)
_, status = os.waitpid(child, 0)
assert [row["n"] for row in begun] == list(range(1, 100))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_tables_are_read_in_a_forked_child(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": range(100)}), tmp_path / "a.parquet", row_group_size=30)
    words = [sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path / "a.parquet")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
