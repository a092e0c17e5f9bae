"""The score benches run, small, and their three ways agree (they exit otherwise)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("script", "arguments"),
    [("gpu_score.py", ["--tiny", "--pairs", "20"]), ("score.py", ["--shape", "tiny", "--rows", "20"])],
)
def test_bench_runs_small(script: str, arguments: list[str], tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benches" / script), *arguments, "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    assert len(record.get("rows" if script == "gpu_score.py" else "ways")) == 3
