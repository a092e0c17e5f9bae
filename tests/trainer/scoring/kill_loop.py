"""Scores in forked children that are killed with SIGKILL, until one of them finishes.

Usage: kill_loop.py MODEL INDEX OUTPUT SEED. Prints how many children were killed. Each child dies a random moment (0 to 30 ms)
after a random one of its writes and commits, so that kills fall into and between them and every child gets somewhere, on a
busy machine too. Forking spares the import of torch.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import vlmsel
from vlmsel_trainer.scoring import run
from vlmsel_trainer.scoring.options import ScoreOptions

OPTIONS = ScoreOptions(samples_per_unit=5, batch_tokens=256, workers=2, no_image_pass=True)


def die_after(n_events: int, delay_s: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Wraps functions so that the process is killed ``delay_s`` after their ``n_events``-th call began, all counted together."""
    left = [n_events]

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                if delay_s < 0.003:
                    os.kill(os.getpid(), signal.SIGKILL)
                threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
            return function(*args, **kwargs)

        return counted

    return wrap


def run_child(model: str, index: str, output: str, n_events: int, delay_s: float) -> None:
    wrap = die_after(n_events, delay_s)
    run.write_part = wrap(run.write_part)
    vlmsel.Output.commit = wrap(vlmsel.Output.commit)  # type: ignore[method-assign]
    vlmsel.Output.finish = wrap(vlmsel.Output.finish)  # type: ignore[method-assign]
    run.score(model, index=index, output=output, options=OPTIONS, max_bad_fraction=1.0)
    os._exit(0)


def main() -> None:
    model, index, output, seed = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    torch.set_num_threads(1)
    moments = random.Random(seed)
    killed = 0
    while killed < 60:
        n_events, delay_s = moments.randint(1, 4), moments.uniform(0.0, 0.03)
        child = os.fork()
        if child == 0:
            run_child(model, index, output, n_events, delay_s)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, status
            break
        killed += 1
    assert (Path(output) / "manifest.json").is_file()
    print(killed)


if __name__ == "__main__":
    main()
