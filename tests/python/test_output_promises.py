"""What must never break when an output is written: kills, locks, full disks, Ctrl-C (promises 1 to 5, 14 to 16)."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
from vlmsel.errors import LockedError, MismatchError, UsageError

SELECT = "import sys, vlmsel; vlmsel.select(sys.argv[1], k=int(sys.argv[3]), output=sys.argv[2], overwrite=len(sys.argv) > 4, control='random')"


def tree_hash(folder: Path) -> str:
    """Names and bytes of a folder, without what differs from run to run."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "run.json":
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that takes a moment to select from."""
    folder = tmp_path_factory.mktemp("scores")
    rng = random.Random(0)
    for part in range(4):
        ids = [rng.randbytes(16) for _ in range(50_000)]
        pq.write_table(
            pa.table({"uid": pa.array(ids, pa.binary(16)), "ppl": [rng.random() for _ in ids]}),
            folder / f"{part}.parquet",
        )
    return folder


def test_killed_at_any_moment_then_run_again(scores: Path, tmp_path: Path) -> None:
    vlmsel.select(scores, k=20_000, output=tmp_path / "golden", control="random")
    golden = tree_hash(tmp_path / "golden"), tree_hash(tmp_path / "golden-random-s0")
    rng = random.Random(3)
    command = [sys.executable, "-c", SELECT, str(scores), str(tmp_path / "out"), "20000"]
    begun_s = time.monotonic()
    subprocess.run(command, check=True)
    whole_s = time.monotonic() - begun_s
    assert (tree_hash(tmp_path / "out"), tree_hash(tmp_path / "out-random-s0")) == golden
    old = tree_hash(tmp_path / "out")
    killed = 0
    for _ in range(12):
        # Another selection replaces the first; whatever moment the kill hits, the folder is one of the two.
        process = subprocess.Popen([*command[:-1], "10000", "overwrite"])
        try:
            process.wait(timeout=rng.uniform(0.3, 1.0) * whole_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
        now = tree_hash(tmp_path / "out")
        rows = json.loads((tmp_path / "out/manifest.json").read_text())["counts"]["selected"]
        assert now == old if rows == 20_000 else rows == 10_000
        assert vlmsel.verify(tmp_path / "out").problems == []
        subprocess.run([*command, "overwrite"], check=True)
        assert (tree_hash(tmp_path / "out"), tree_hash(tmp_path / "out-random-s0")) == golden
    assert killed > 0
    left = {path.name for path in tmp_path.iterdir() if path.suffix != ".identities"}
    assert left == {"golden", "golden-random-s0", "out", "out-random-s0"}


def test_two_runs_on_one_output(tmp_path: Path) -> None:
    first = vlmsel.Output.begin(tmp_path / "out", command="score", config={}, inputs=[])
    with pytest.raises(LockedError, match=rf"process {os.getpid()} \(vlmsel score\)"):
        vlmsel.Output.begin(tmp_path / "out", command="score", config={}, inputs=[])
    first.close()
    vlmsel.Output.begin(tmp_path / "out", command="score", config={}, inputs=[]).close()


def commit(output: vlmsel.Output, unit: str) -> None:
    """A unit of one file."""
    output.temporary(f"{unit}.txt").write_text(unit * 3)
    output.commit(unit, [f"{unit}.txt"], rows=1, counts={"ok": 1})


def test_resume_keeps_what_was_recorded_and_nothing_else(tmp_path: Path) -> None:
    with vlmsel.Output.begin(tmp_path / "whole", command="score", config={"a": 1}, inputs=[]) as output:
        for unit in "abc":
            commit(output, unit)
        output.finish(counts={"ok": 3})
    with vlmsel.Output.begin(tmp_path / "cut", command="score", config={"a": 1}, inputs=[]) as output:
        commit(output, "b")
        output.temporary("c.txt").write_text("half")
        (output.staging / "unrecorded.txt").write_text("left by a kill between rename and record")
    assert not (tmp_path / "cut").exists()
    with pytest.raises(MismatchError, match="option a: 1 -> 2"):
        vlmsel.Output.begin(tmp_path / "cut", command="score", config={"a": 2}, inputs=[])
    with vlmsel.Output.begin(tmp_path / "cut", command="score", config={"a": 1}, inputs=[]) as output:
        assert list(output.committed()) == ["b"]
        commit(output, "a")
        commit(output, "c")
        output.finish(counts={"ok": 3})
    assert tree_hash(tmp_path / "cut") == tree_hash(tmp_path / "whole")
    assert vlmsel.Output.begin(tmp_path / "cut", command="score", config={"a": 1}, inputs=[]).finished


def test_extending_adds_and_refuses_change(tmp_path: Path) -> None:
    def record(name: str, mark: str) -> dict[str, object]:
        return {"name": name, "bytes": 1, "fingerprint": mark}

    begin = {"command": "index", "config": {}, "extend": True}
    with vlmsel.Output.begin(tmp_path / "out", inputs=[record("a", "1")], **begin) as output:
        commit(output, "a")
        output.finish(counts={"ok": 1})
    both = [record("a", "1"), record("b", "2")]
    with vlmsel.Output.begin(tmp_path / "out", inputs=both, **begin) as output:
        assert not output.finished and list(output.committed()) == ["a"]
        commit(output, "b")
        output.finish(counts={"ok": 2})
    assert vlmsel.verify(tmp_path / "out").files == 2
    for changed in ([record("a", "9"), record("b", "2")], [record("b", "2")]):
        with pytest.raises(MismatchError, match="input a"):
            vlmsel.Output.begin(tmp_path / "out", inputs=changed, **begin)


def test_inputs_and_foreign_folders_are_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/x").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for place in ["data", "data/inside", "link", "link/inside", "data/../data"]:
        with pytest.raises(UsageError):
            vlmsel.Output.begin(
                tmp_path / place, command="score", config={}, inputs=[], guarded=[tmp_path / "data"], overwrite=True
            )
    with pytest.raises(UsageError, match="vlmsel did not make it"):
        vlmsel.Output.begin(tmp_path / "data", command="score", config={}, inputs=[], overwrite=True)
    assert (tmp_path / "data/x").read_text() == "x"


def test_unfinished_inputs_are_refused_by_name(tmp_path: Path) -> None:
    with vlmsel.Output.begin(tmp_path / "scores", command="score", config={}, inputs=[]) as output:
        commit(output, "a")
    for path in ("scores", "scores.partial"):
        with pytest.raises(MismatchError, match=r"unfinished|not finished"):
            vlmsel.select(tmp_path / path, k=1, output=tmp_path / "out")


def mounted(folder: Path, size: str) -> bool:
    """A small disk of its own, where this machine lets us."""
    folder.mkdir()
    return (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True
        ).returncode
        == 0
    )


def test_a_full_disk_leaves_the_old_output(scores: Path, tmp_path: Path) -> None:
    if mounted(tmp_path / "disk", "2m"):
        try:
            disk_full(scores, tmp_path / "disk")
        finally:
            subprocess.run(["umount", str(tmp_path / "disk")], check=True)
    else:
        # A limit on the size of files stands in for the disk: the same write fails, by another error.
        limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20));"
        disk_full(scores, tmp_path / "disk", limit)


def disk_full(scores: Path, disk: Path, limit: str = "") -> None:
    """Fill the disk with a second, larger selection."""
    vlmsel.select(scores, k=1_000, output=disk / "out", control="random")
    before = tree_hash(disk / "out")
    done = subprocess.run(
        [sys.executable, "-c", limit + SELECT, str(scores), str(disk / "out"), "190000", "overwrite"],
        capture_output=True,
        text=True,
    )
    assert "ResourceError" in done.stderr and str(disk) in done.stderr
    assert tree_hash(disk / "out") == before
    assert vlmsel.verify(disk / "out").problems == []
    assert vlmsel.select(scores, k=2_000, output=disk / "out", overwrite=True).selected == 2_000


def test_ctrl_c_ends_the_run_and_keeps_the_output(scores: Path, tmp_path: Path) -> None:
    code = "from vlmsel.cli.main import main; main()"
    many = [str(scores)] * 1 + [str(scores / "0.parquet")]
    for name, number, status in (("int", signal.SIGINT, 130), ("term", signal.SIGTERM, 143)):
        arguments = [
            "select",
            *many,
            "--fraction",
            "0.9",
            "--memory-limit",
            "1MB",
            "--control",
            "worst",
            "--control",
            "middle",
            "-o",
            str(tmp_path / name),
        ]
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)
        deadline_s = time.monotonic() + 60
        while not (tmp_path / f"{name}.partial").exists() and process.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == status, errors
        assert "Traceback" not in errors
        assert subprocess.run([sys.executable, "-c", code, *arguments, "-q"], capture_output=True).returncode == 0


FORK = """
import os, sys, vlmsel
output = vlmsel.Output.begin(sys.argv[1], command="score", config={}, inputs=[], resume=sys.argv[2] == "resume")
output.temporary("a.txt").write_text("a")
child = os.fork()
if child == 0:
    for call in (lambda: output.temporary("b.txt"), lambda: output.commit("a", ["a.txt"], rows=1), lambda: output.finish(counts={})):
        try:
            call()
        except ValueError as error:
            assert "forked" in str(error), error
        else:
            os._exit(3)
    del output, call
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert os.path.exists(os.path.join(os.path.dirname(sys.argv[1]), ".out.lock")), "the child took the lock away"
output.commit("a", ["a.txt"], rows=1, counts={"ok": 1})
output.finish(counts={"ok": 1})
"""


@pytest.mark.parametrize("mode", ["resume", "restart"])
def test_a_forked_child_neither_writes_nor_takes_away(tmp_path: Path, mode: str) -> None:
    subprocess.run([sys.executable, "-c", FORK, str(tmp_path / "out"), mode], check=True, timeout=60)
    assert vlmsel.verify(tmp_path / "out").problems == []
    assert (tmp_path / "out/a.txt").read_text() == "a"
