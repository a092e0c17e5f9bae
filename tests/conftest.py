"""What holds for every test: one torch thread, no network, reproducible examples."""

from __future__ import annotations

import os
import signal
import sys

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


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    """Tests that use torch import it while they are collected; the others must not pay for it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
