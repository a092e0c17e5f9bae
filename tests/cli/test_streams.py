"""Standard streams that are closed, full or have no reader: every command runs, ends with its own code, and spoils no file."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pair_corpus import COMMAND, corpus, run, run_json, tree
from vlmsel import verify

HAS_TRAINER = find_spec("vlmsel_trainer") is not None and find_spec("torch") is not None
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

# What is written goes into `made/`, so that it can be compared with what the same command makes with its streams open.
DATA_HALF = {
    "index": (0, ["index", "pool", "-o", "made/index"]),
    "select": (0, ["select", "scores.parquet", "--k", "9", "-o", "made/selection"]),
    "dedup": (0, ["dedup", "-o", "made/dedup"]),
    "shard": (0, ["shard", "-o", "made/shards", "--json"]),
    "sheet": (0, ["sheet", "-o", "made/sheet.png"]),
    "doctor": (0, ["doctor", "pool"]),
    "doctor as JSON": (0, ["doctor", "pool", "--json"]),
    "verify": (0, ["verify", "index"]),
    "verify, nothing there": (2, ["verify", "nowhere"]),
    "version": (0, ["--version"]),
    "help": (0, ["--help"]),
    "help of a command": (0, ["select", "--help"]),
    "no command": (2, []),
}
TRAINER = {
    "score, planned": (2, ["score", "--model", "no-model", "--dry-run"]),
    "score's help": (0, ["score", "--help"]),
    "soup's help": (0, ["soup", "--help"]),
    "soup of nothing": (2, ["soup", "average", "no-model", "-o", "made/soup"]),
}
PROGRAMS = {
    "demo's help": (0, ["-m", "vlmsel_trainer.demo", "--help"]),
    "soup demo's help": (0, ["-m", "vlmsel_trainer.demo.soup", "--help"]),
    "demo in a file's place": (2, ["-m", "vlmsel_trainer.demo", "pool/00000.tar"]),
}
CASES = {name: (code, [*COMMAND[1:], *words]) for name, (code, words) in DATA_HALF.items()}
if HAS_TRAINER:
    CASES |= {name: (code, [*COMMAND[1:], *words]) for name, (code, words) in TRAINER.items()} | PROGRAMS
# One of each kind of command; the others go the same way, and are under the heavy tests.
SAMPLE = ("index", "dedup", "select", "doctor as JSON", "verify", "help")


def sampled(case: str, *more: str, is_sample: bool | None = None) -> object:
    """The parameters of a test, marked as heavy unless they are of the sample."""
    wanted = case in SAMPLE if is_sample is None else is_sample
    return pytest.param(case, *more, marks=() if wanted else pytest.mark.heavy)


CLOSED_SAMPLE = {
    ("index", "<&- >&- 2>&-"),
    ("select", ">&-"),
    ("shard", "2>/dev/full"),
    ("sheet", "<&-"),
    ("doctor", "2>&-"),
    ("verify", "2>&-"),
    ("verify, nothing there", "2>&-"),
    ("version", ">&-"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with pool/, index/, scores and selection/."""
    workspace = tmp_path_factory.mktemp("streams")
    corpus(workspace / "pool", shards=2, samples=8)
    run_json("index", workspace / "pool", "-w", workspace)
    uids = [uid for path in sorted((workspace / "index").glob("*.parquet")) for uid in pq.read_table(path)["uid"]]
    pq.write_table(
        pa.table({"uid": pa.array([uid.as_py() for uid in uids], pa.binary(16)), "ppl": [float(n) for n in range(16)]}),
        workspace / "scores.parquet",
    )
    done = run("select", "scores.parquet", "--k", "5", "-w", workspace, cwd=workspace)
    assert done.returncode == 0, done.stderr
    return workspace


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    """A folder of one's own with links to the inputs."""
    for name in ("pool", "index", "scores.parquet", "selection"):
        (tmp_path / name).symlink_to(made / name)
    (tmp_path / "made").mkdir()
    return tmp_path


def in_shell(words: list[str], redirection: str, workspace: Path) -> subprocess.CompletedProcess[bytes]:
    line = f"exec {shlex.join([sys.executable, *words])} {redirection}"
    return subprocess.run(["sh", "-c", line], cwd=workspace, env=ENVIRONMENT, capture_output=True, timeout=120)


@pytest.mark.parametrize(
    ("case", "redirection"),
    [
        *(
            sampled(case, redirection, is_sample=(case, redirection) in CLOSED_SAMPLE)
            for case in CASES
            for redirection in (">&-", "2>&-", "<&-", "<&- >&- 2>&-", "2>/dev/full")
        ),
    ],
)
def test_a_closed_stream_changes_no_exit_code_and_no_output(case: str, redirection: str, workspace: Path) -> None:
    code, words = CASES[case]
    done = in_shell(words, redirection, workspace)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    # What was to be said is not said elsewhere: neither on another stream nor in a file.
    if "2>" in redirection:
        assert b"Error:" not in done.stdout
    for name, content in tree(workspace / "made").items():
        assert b"Usage" not in content, name
        assert content, name
    for folder in (workspace / "made").iterdir():
        if folder.is_dir():
            assert verify(folder).problems == []
    if code == 0 and "-o" in words:
        assert (workspace / words[words.index("-o") + 1]).exists()


@pytest.mark.parametrize("case", [sampled(case) for case in CASES])
def test_a_full_disk_behind_stdout_is_told(case: str, workspace: Path) -> None:
    code, words = CASES[case]
    done = in_shell(words, ">/dev/full", workspace)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    # A command that fails has nothing to say on stdout.
    assert done.returncode == (6 if code == 0 else code), done.stderr
    assert (b"No space left on device" in done.stderr) == (code == 0)


@pytest.mark.parametrize("case", [sampled(case) for case in CASES])
def test_a_reader_that_has_gone_is_no_fault(case: str, workspace: Path) -> None:
    code, words = CASES[case]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=workspace, env=ENVIRONMENT, stdout=writer, stderr=subprocess.PIPE, timeout=120
        )
    finally:
        os.close(writer)
    assert done.returncode == (141 if code == 0 else code), done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


WRITES_INTO_THE_NEXT_FILE = """
import os, sys
from vlmsel.cli.main import commands, main
import click
def callback():
    opened = os.open("data", os.O_RDWR | os.O_CREAT)
    assert opened > 2, opened
    print("to stdout", flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    os.write(1, b"by a library")
    os.write(2, b"by a library")
    os.system("echo by a program; echo by a program >&2")
commands.add_command(click.Command("writes", callback=callback))
sys.argv = ["vlmsel", "writes"]
main()
"""


def test_nothing_is_written_into_the_file_that_is_opened_next(tmp_path: Path) -> None:
    done = in_shell(["-c", WRITES_INTO_THE_NEXT_FILE], "<&- >&- 2>&-", tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "data").read_bytes() == b""


OWNED = """
import os, sys
taken = os.open("data", os.O_RDWR | os.O_CREAT)
assert taken == 1, taken
from vlmsel.cli.streams import open_standard_streams
open_standard_streams()
print("to stdout", flush=True)
"""


def test_a_file_that_has_the_number_already_is_left_alone(tmp_path: Path) -> None:
    done = in_shell(["-c", OWNED], ">&-", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data").read_bytes() == b""
