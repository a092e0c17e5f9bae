"""Scores in forked children that are killed with SIGKILL after random times, until one of them finishes.

Usage: kill_loop.py MODEL INDEX OUTPUT SEED. Prints how many children were killed. Forking spares the import of torch.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from vlmsel_trainer.scoring import run
from vlmsel_trainer.scoring.options import ScoreOptions

OPTIONS = ScoreOptions(samples_per_unit=5, batch_tokens=256, workers=2, no_image_pass=True)


def main() -> None:
    model, index, output, seed = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    torch.set_num_threads(1)
    moments = random.Random(seed)
    killed = 0
    for attempt in range(400):
        child = os.fork()
        if child == 0:
            run.score(model, index=index, output=output, options=OPTIONS, max_bad_fraction=1.0)
            os._exit(0)
        # Later attempts live longer, so that the loop ends on a busy machine too.
        time.sleep(moments.uniform(0.0, 0.6 + 0.02 * attempt))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, status
            break
        killed += 1
    assert (Path(output) / "manifest.json").is_file()
    print(killed)


if __name__ == "__main__":
    main()
