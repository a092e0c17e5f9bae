"""Where memory or threads run out, a command ends with exit code 6 and says so: no signal, no traceback, no bug."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pair_corpus import COMMAND, corpus, run_json
from vlmsel.errors import is_memory_shortage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are enforced on Linux")

OK, RESOURCE, NO_OTHER_USER = 0, 6, 77


@pytest.fixture(scope="module")
def workspace() -> Iterator[Path]:
    """For everybody: one test is another user while it runs."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    corpus(folder / "data", shards=4, samples=100)
    run_json("index", folder / "data", "-w", folder, "--image-codes")
    uids = [
        uid for path in sorted((folder / "index").glob("*.parquet")) for uid in pq.read_table(path)["uid"].to_pylist()
    ]
    table = pa.table({"uid": pa.array(uids, pa.binary(16)), "ppl": [float(n * 37 % 400) for n in range(len(uids))]})
    pq.write_table(table, folder / "scores.parquet")
    run_json("select", folder / "scores.parquet", "-k", "150", "-w", folder)
    yield folder
    shutil.rmtree(folder)


COMMANDS = {
    "index": ["index", "data", "-o", "OUT/index"],
    "select": ["select", "scores.parquet", "-k", "150", "-o", "OUT/selection"],
    "dedup": ["dedup", "-o", "OUT/dedup", "--exact", "text", "--near-pair", "0.8:6", "--max-removed", "1"],
    "shard": ["shard", "-o", "OUT/shards"],
    "verify": ["verify", "index"],
    "doctor": ["doctor", "data"],
    "sheet": ["sheet", "selection", "-o", "OUT/sheet.png"],
}


def end_of(command: str, workspace: Path, prefix: list[str], limit: Callable[[], None] | None = None) -> int:
    """The exit code of a command that runs into a limit, which must be good and explained."""
    out = Path(tempfile.mkdtemp(dir=workspace))
    out.chmod(0o777)
    words = [*prefix, *(word.replace("OUT", str(out)) for word in COMMANDS[command]), "-q", "--threads", "3"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OUT": str(out)}
    done = subprocess.run(
        words,
        cwd=workspace,
        env=environment,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    shutil.rmtree(out)
    if done.returncode == NO_OTHER_USER:
        pytest.skip("no other user can be taken on here")
    assert done.returncode in (OK, RESOURCE), f"{command}: {done.returncode}\n{done.stderr}"
    assert "Traceback" not in done.stderr and "panicked" not in done.stderr and "bug" not in done.stderr, done.stderr
    if done.returncode == RESOURCE:
        assert done.stderr.startswith("Error: ") and len(done.stderr.splitlines()) == 1, done.stderr
    return done.returncode


# Where Python starts with few MiB to spare; where a library or a thread is too much; where all goes well. With less, Python
# itself does not come so far that it could say anything.
@pytest.mark.parametrize("command", COMMANDS)
def test_memory_that_runs_out_is_exit_code_6(workspace: Path, command: str) -> None:
    def within(megabytes: int) -> Callable[[], None]:
        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

        return limit

    ends = [
        end_of(command, workspace, COMMAND, within(megabytes)) for megabytes in (40, 46, 52, 58, 64, 75, 110, 260, 1500)
    ]
    assert (ends[0], ends[-1]) == (RESOURCE, OK)


# The limit counts the threads of a user and says nothing to root: there, the run is that of a user who has no other. So that
# all is imported that this user may not read, and that the pool of threads has to be made, it is forked from one that is done.
FORKED = """
import os, resource, sys
from vlmsel.cli.main import run
threads, words = int(sys.argv[1]), sys.argv[2:]
out = os.environ["OUT"]
assert run([f"{word}-first" if word.startswith(out) else word for word in words]) == 0
child = os.fork()
if child == 0:
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)
        except OSError:
            os._exit(77)
    resource.setrlimit(resource.RLIMIT_NPROC, (threads, threads))
    os._exit(run(words))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_threads_that_do_not_start_are_exit_code_6(workspace: Path, command: str) -> None:
    ends = [
        end_of(command, workspace, [sys.executable, "-W", "ignore", "-c", FORKED, str(threads)])
        for threads in (1, 2, 4)
    ]
    assert ends[0] == RESOURCE


def test_the_compiler_that_gets_no_memory_says_so_in_its_own_way() -> None:
    assert is_memory_shortage(SystemError("<built-in function compile> returned NULL without setting an exception"))
    assert not is_memory_shortage(SystemError("bad argument to internal function"))
