"""The demo as a user starts it, in small: every stage through the public command line, and again for nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

COMMANDS = ("index", "doctor", "dedup", "score", "select", "shard", "sheet")


def run_demo(workspace: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vlmsel_trainer.demo", str(workspace), "--pairs", "400", "--steps", "12"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)


def outputs(workspace: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file that a second run must not touch."""
    kept = ("pool", "scorer", "index", "dedup", "dedup-edges", "codes", "scores", "selection", "shards")
    files = (path for folder in kept for path in (workspace / folder).rglob("*") if path.is_file())
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_the_demo_runs_to_its_end_and_a_second_run_finds_it_done(tmp_path: Path) -> None:
    workspace = tmp_path / "demo workspace"
    first = run_demo(workspace)
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"{workspace}\n"
    for command in COMMANDS:
        assert f"\n$ vlmsel {command} " in first.stderr
    assert "cannot show" in first.stderr
    kinds = json.loads((workspace / "report.json").read_text())["kinds"]
    assert sum(kind["n_pool"] for kind in kinds) == 400
    selected = sum(kind["n_selected"] for kind in kinds)
    assert selected == sum(kind["n_random"] for kind in kinds)
    removed = {kind["kind"]: kind["n_removed"] for kind in kinds}
    # Of each planted copy, or of the pair that it is of.
    assert removed["repeated-pair"] + removed["good"] >= 20
    # Half of what can be ranked: not the broken pictures, and no copies.
    assert 150 < selected < (400 - sum(removed.values())) / 2
    assert (workspace / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert list((workspace / "shards").glob("*.tar"))

    before, sheet = outputs(workspace), (workspace / "sheet.png").read_bytes()
    second = run_demo(workspace)
    assert second.returncode == 0, second.stderr
    assert outputs(workspace) == before
    assert (workspace / "sheet.png").read_bytes() == sheet
