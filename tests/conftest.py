"""What holds for every test: one torch thread, no network, reproducible examples."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

# Before anything imports torch or tokenizers: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A test that asks a model hub for something fails at once instead of waiting for it.
for _name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ[_name] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Output under test looks the same in a developer's coloured terminal and in a log.
for _name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS", "VLMSEL_TRACEBACK"):
    os.environ.pop(_name, None)

# A shell that starts the tests in the background makes them ignore Ctrl-C, and every process they start; the tests that
# interrupt a process need the usual answer.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest

# The same examples in every run, so that a red build is red for everybody; no deadline, because no test measures time.
hypothesis.settings.register_profile("everyday", deadline=None, derandomize=True, print_blob=True)
# `HYPOTHESIS_PROFILE=search` looks for new examples.
hypothesis.settings.register_profile("search", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "everyday"))


@pytest.fixture
def special(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], Path]:
    """Puts a thing that is no plain file at a path: a pipe, a socket, a device, a folder, or a link to one or to nothing."""

    def put(place: Path, kind: str) -> Path:
        if kind == "pipe":
            os.mkfifo(place)
        elif kind == "socket":
            # By a relative name: that of a socket must not be long.
            with monkeypatch.context() as patch, socket.socket(socket.AF_UNIX) as listening:
                patch.chdir(place.parent)
                listening.bind(place.name)
        elif kind == "device":
            place.symlink_to("/dev/zero")
        elif kind == "folder":
            place.mkdir()
        elif kind == "link to a pipe":
            os.mkfifo(place.with_name("a-pipe"))
            place.symlink_to("a-pipe")
        else:
            assert kind == "link to nothing"
            place.symlink_to("nothing")
        return place

    return put


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    """Tests that use torch import it while they are collected; the others must not pay for it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
