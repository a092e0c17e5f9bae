"""How many threads torch computes with: a setting of the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_threads(threads: int | None, *, on_gpu: bool) -> Iterator[None]:
    """Let torch use ``threads`` threads, and set back what was there. None: as many as it has chosen, and one beside a GPU.

    Beside a GPU only the threads that decode pictures are left on the host; sixteen of them with sixteen threads each would
    wait for each other.
    """
    wanted = 1 if threads is None and on_gpu else threads
    if wanted is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
