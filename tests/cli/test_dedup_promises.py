"""``vlmsel dedup``: the same bytes whatever happens, old or new and never between, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import vlmsel
from dedup_corpus import Pool, flags, make_pool, make_scores
from pair_corpus import COMMAND, run, run_json, tree
from vlmsel.errors import MismatchError, UsageError

KINDS = (("exact", "pair"), ("near-text", "0.7"), ("near-image", "6"), ("near-pair", "0.5:8"))
TOLERANT = ("--max-bad-fraction", "0.2", "--max-removed", "1")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return make_pool(tmp_path_factory.mktemp("pool"), samples=240)


@pytest.fixture(scope="module")
def workspace(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with codes, and what a run of one thread makes of it; nobody changes it."""
    folder = tmp_path_factory.mktemp("workspace")
    pool.index(folder / "index", "--image-codes")
    dedup(folder / "index", folder / "dedup", "--threads", "1")
    return folder


def words(index: Path, output: Path, *more: str | Path) -> list[str | Path]:
    return ["dedup", "--index", index, "-o", output, *flags(KINDS), *TOLERANT, *more]


def dedup(index: Path, output: Path, *more: str | Path) -> dict[str, Any]:
    return run_json(*words(index, output, *more))


def both(output: Path) -> dict[str, bytes]:
    """Every file of the result and of the edges."""
    edges = output.with_name(f"{output.name}-edges")
    return {
        f"{folder.name[len(output.name) :]}/{name}": data
        for folder in (output, edges)
        for name, data in tree(folder).items()
    }


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def start(index: Path, output: Path, *more: str | Path) -> subprocess.Popen[bytes]:
    command = [*COMMAND, *map(os.fspath, words(index, output, *more))]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.parametrize(
    "more",
    [("--threads", "2"), ("--threads", "8"), ("--threads", "3", "--memory-limit", "2MB"), ("--memory-limit", "1GB")],
)
def test_threads_and_memory_do_not_show(workspace: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    dedup(workspace / "index", tmp_path / "dedup", *more, "--scratch", scratch)
    assert both(tmp_path / "dedup") == both(workspace / "dedup")
    assert list(scratch.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "dedup",
        "dedup-edges",
        "scratch",
    ]


def test_the_order_of_sources_does_not_show(pool: Pool, workspace: Path, tmp_path: Path) -> None:
    pool.index(tmp_path / "index", "--image-codes", reverse=True)
    dedup(tmp_path / "index", tmp_path / "dedup")
    assert both(tmp_path / "dedup") == both(workspace / "dedup")


def test_codes_are_made_where_they_are_missing(workspace: Path, tmp_path: Path) -> None:
    dedup(workspace / "index", tmp_path / "dedup", "--codes", tmp_path / "codes")
    assert tree(tmp_path / "codes") == tree(workspace / "codes")
    assert both(tmp_path / "dedup") == both(workspace / "dedup")


def test_a_second_run_touches_nothing_and_another_keep_compares_nothing(workspace: Path, tmp_path: Path) -> None:
    output = tmp_path / "dedup"
    dedup(workspace / "index", output)
    result, edges = times(output), times(tmp_path / "dedup-edges")
    again = dedup(workspace / "index", output)
    assert (again["already_finished"], again["edges_reused"]) == (True, True)
    assert (times(output), times(tmp_path / "dedup-edges")) == (result, edges)
    refused = run(*words(workspace / "index", output, "--keep", "first"))
    assert refused.returncode == 7 and "--overwrite" in refused.stderr
    other = dedup(workspace / "index", output, "--keep", "first", "--overwrite")
    assert (other["already_finished"], other["edges_reused"]) == (False, True)
    assert times(tmp_path / "dedup-edges") == edges
    dedup(workspace / "index", tmp_path / "clean", "--keep", "first")
    assert both(output) == both(tmp_path / "clean")
    # Other kinds are other edges.
    words_of_exact = ["dedup", "--index", workspace / "index", "-o", output, *TOLERANT]
    assert run(*words_of_exact).returncode == 7
    assert not run_json(*words_of_exact, "--overwrite")["edges_reused"]


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_the_next_run_ends_in_the_bytes_of_a_clean_one(
    workspace: Path, tmp_path: Path, seed: int
) -> None:
    """Codes, edges and keepers: whatever stands when the run dies is complete or is not there."""
    choose = random.Random(seed)
    more = ("--codes", tmp_path / "codes", "--threads", "2")
    for _ in range(2):
        child = start(workspace / "index", tmp_path / "dedup", *more)
        time.sleep(choose.uniform(0.1, 0.6))
        child.kill()
        child.communicate()
    dedup(workspace / "index", tmp_path / "dedup", *more)
    assert both(tmp_path / "dedup") == both(workspace / "dedup")
    assert tree(tmp_path / "codes") == tree(workspace / "codes")


@pytest.mark.parametrize("seed", range(3))
def test_killed_while_it_replaces_the_output_is_old_or_new(workspace: Path, tmp_path: Path, seed: int) -> None:
    for name in ("dedup", "dedup-edges"):
        shutil.copytree(workspace / name, tmp_path / name)
    child = start(workspace / "index", tmp_path / "dedup", "--keep", "first", "--overwrite")
    time.sleep(random.Random(seed).uniform(0.15, 0.5))
    child.kill()
    child.communicate()
    assert vlmsel.verify(tmp_path / "dedup").problems == []
    keep = json.loads((tmp_path / "dedup" / "manifest.json").read_text())["config"]["keep"]
    assert keep in (["largest"], ["first"])
    if keep == ["largest"]:
        assert both(tmp_path / "dedup") == both(workspace / "dedup")
    dedup(workspace / "index", tmp_path / "dedup", "--keep", "first", "--overwrite")
    dedup(workspace / "index", tmp_path / "clean", "--keep", "first")
    assert both(tmp_path / "dedup") == both(tmp_path / "clean")


@pytest.mark.parametrize("held", ["dedup", "dedup-edges"])
def test_two_runs_at_once_are_exit_code_4(workspace: Path, tmp_path: Path, held: str) -> None:
    with vlmsel.Output.begin(tmp_path / held, command=held, config={}, inputs=[]):
        done = run(*words(workspace / "index", tmp_path / "dedup"))
    assert done.returncode == 4, done.stderr
    assert not (tmp_path / "dedup").exists()


def small(folder: Path, lines: list[str]) -> Path:
    """An index of captions alone."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pool.jsonl").write_text("".join(json.dumps({"caption": line}) + "\n" for line in lines))
    return vlmsel.index(folder / "pool.jsonl", output=folder / "index", overwrite=True).path


def test_another_index_is_exit_code_7(tmp_path: Path) -> None:
    index = small(tmp_path, ["a", "a", "b"])
    vlmsel.dedup(index, output=tmp_path / "dedup", exact=["text"])
    before = both(tmp_path / "dedup")
    small(tmp_path, ["a", "a", "b", "c"])
    with pytest.raises(MismatchError, match="overwrite"):
        vlmsel.dedup(index, output=tmp_path / "dedup", exact=["text"])
    assert both(tmp_path / "dedup") == before
    assert vlmsel.dedup(index, output=tmp_path / "dedup", exact=["text"], overwrite=True).input == 4


def test_scores_of_another_index_are_exit_code_7(tmp_path: Path) -> None:
    index, other = small(tmp_path / "a", ["a", "a"]), small(tmp_path / "b", ["a", "b"])
    scores = make_scores(other, tmp_path / "scores", {"ppl": pa.array([1.0, 2.0], pa.float32())})
    with pytest.raises(MismatchError, match="another index"):
        vlmsel.dedup(index, scores=scores, output=tmp_path / "dedup", exact=["text"])
    assert not (tmp_path / "dedup").exists()


def test_what_is_no_index_and_what_lies_within_it_are_exit_code_2(tmp_path: Path) -> None:
    index = small(tmp_path, ["a", "a"])
    (tmp_path / "nothing").mkdir()
    scores = make_scores(index, tmp_path / "scores", {"ppl": pa.array([1.0, 2.0], pa.float32())})
    for wrong in (tmp_path / "nothing", scores):
        with pytest.raises(UsageError, match="index"):
            vlmsel.dedup(wrong, output=tmp_path / "dedup")
    with pytest.raises((UsageError, FileNotFoundError)):
        vlmsel.dedup(tmp_path / "not there", output=tmp_path / "dedup")
    with pytest.raises(UsageError):
        vlmsel.dedup(index, scores=index, output=tmp_path / "dedup")
    before = tree(index)
    for inside in (index, index / "dedup", tmp_path):
        with pytest.raises(UsageError):
            vlmsel.dedup(index, output=inside, exact=["text"])
    assert tree(index) == before


def test_a_source_that_loses_too_much_is_exit_code_3(tmp_path: Path) -> None:
    index = small(tmp_path, ["a", "a", "a", "b"])
    # Just as much as is allowed is not too much.
    for allowed, code in (("0.4", 3), ("0.49", 3), ("0.5", 0)):
        done = run("dedup", "--index", index, "-o", tmp_path / "dedup", "--exact", "text", "--max-removed", allowed)
        assert done.returncode == code, done.stderr
        assert (tmp_path / "dedup").exists() == (code == 0)
    # What stands was tolerated then and is not now.
    done = run("dedup", "--index", index, "-o", tmp_path / "dedup", "--exact", "text", "--max-removed", "0.4")
    assert done.returncode == 3 and "2 of its 4" in done.stderr and "0.5" in done.stderr


def test_too_little_memory_for_keepers_is_exit_code_6_with_the_number(tmp_path: Path) -> None:
    index = small(tmp_path, [f"some words {n // 2}" for n in range(4000)])
    done = run(
        "dedup", "--index", index, "-o", tmp_path / "dedup", "--exact", "text", "--exact", "pair", "--max-removed", "1",
        "--memory-limit", "100kB",
    )  # fmt: skip
    assert done.returncode == 6, done.stderr
    # 4,000 records of two kinds.
    assert f"takes {4000 * (40 + 24 * 2)} bytes" in done.stderr and "allows 100000" in done.stderr
    assert not (tmp_path / "dedup").exists()
    done = run(
        "dedup", "--index", index, "-o", tmp_path / "dedup", "--exact", "text", "--exact", "pair", "--max-removed", "1",
        "--memory-limit", str(4000 * (40 + 24 * 2)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
del sys.argv[1]
from vlmsel.cli.main import main
main()
"""


@pytest.mark.parametrize("limit", [1_000, 3_000, 6_000])
def test_a_full_disk_is_exit_code_6_and_leaves_the_old_output(workspace: Path, tmp_path: Path, limit: int) -> None:
    """A limit on the size of files stands in for the disk: the same writes fail."""
    for name in ("dedup", "dedup-edges"):
        shutil.copytree(workspace / name, tmp_path / name)
    shutil.rmtree(tmp_path / "dedup-edges")
    before = tree(tmp_path / "dedup")
    command = words(workspace / "index", tmp_path / "dedup", "--keep", "first", "--overwrite")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *map(os.fspath, command)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr and str(tmp_path) in done.stderr
    assert tree(tmp_path / "dedup") == before
    dedup(workspace / "index", tmp_path / "dedup", "--keep", "first", "--overwrite")
    dedup(workspace / "index", tmp_path / "clean", "--keep", "first")
    assert both(tmp_path / "dedup") == both(tmp_path / "clean")


def test_the_scratch_folder_is_where_scratch_files_go(tmp_path: Path) -> None:
    """One that takes nothing ends the run where it spills, and one that takes all does not."""
    if not Path("/proc/self").is_dir():
        pytest.skip("needs a folder in which nobody creates files")
    index = small(tmp_path, [f"some words {n}" for n in range(4000)])
    command = ["dedup", "--index", index, "-o", tmp_path / "dedup", "--exact", "text", "--memory-limit", "60kB"]
    done = run(*command, "--scratch", "/proc/self")
    assert done.returncode not in (0, 1), done.stderr
    assert "/proc/self" in done.stderr
    (tmp_path / "scratch").mkdir()
    run_json(*command, "--scratch", tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_and_goes_on_later(tmp_path: Path, number: int, code: int) -> None:
    """However long a step would take: sets of nearly the same words, of which all pairs are candidates."""
    choose = random.Random(1)
    lines = [" ".join(f"w{n}" for n in choose.sample(range(40), 20)) for _ in range(12_000)]
    index = small(tmp_path, lines)
    command = ["dedup", "--index", index, "-o", tmp_path / "dedup", "--near-text", "0.6", "-q", "--max-removed", "1"]
    child = subprocess.Popen(
        [*COMMAND, *map(os.fspath, command)], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while not (tmp_path / "dedup-edges.partial").exists() and child.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == code, said
    assert b"Traceback" not in said
    assert not (tmp_path / "dedup").exists() and not (tmp_path / "dedup-edges").exists()


@pytest.mark.parametrize("folder", ["dedup", "dedup-edges", "codes"])
def test_a_flipped_bit_is_found(workspace: Path, tmp_path: Path, folder: str) -> None:
    shutil.copytree(workspace / folder, tmp_path / folder)
    assert run("verify", tmp_path / folder).returncode == 0
    choose = random.Random(folder)
    files = [path for path in sorted((tmp_path / folder).iterdir()) if path.is_file() and path.name != "run.json"]
    for path in files:
        content = path.read_bytes()
        at = choose.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << choose.randrange(8)]) + content[at + 1 :])
        done = run("verify", tmp_path / folder)
        assert done.returncode == 3 and path.name in done.stdout + done.stderr, path
        path.write_bytes(content)
    assert vlmsel.verify(tmp_path / folder).problems == []


def test_a_dry_run_writes_nothing(workspace: Path, tmp_path: Path) -> None:
    done = dedup(workspace / "index", tmp_path / "dedup", "--dry-run")
    assert done["dry_run"] and done["input"] > 0
    assert list(tmp_path.iterdir()) == []
