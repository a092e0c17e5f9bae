"""Threads that work through a list of chunk jobs: read ahead, compute and write behind, all bounded.

Every job reads, computes and writes one chunk from start to end, in calls that release the interpreter lock
(``preadv``, BLAKE3, the mean, ``pwrite``). One thread more than there are cores keeps the disk busy while the others
compute, and memory is bounded by one buffer per thread instead of by queues.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

Job = TypeVar("Job")
Buffer = TypeVar("Buffer")

#: How often a waiting main thread looks at signals and reports progress.
_POLL_S = 0.1


def stream(
    jobs: Iterable[Job],
    work: Callable[[Job, Buffer], int],
    make_buffer: Callable[[], Buffer],
    n_threads: int,
    on_progress: Callable[[int], None] | None = None,
    ahead: Callable[[Job], None] | None = None,
    n_ahead: int = 8,
) -> int:
    """Runs ``work(job, buffer)`` for every job on ``n_threads`` threads and returns the sum of what they return (bytes).

    ``ahead`` is called for each job ``n_ahead`` jobs before it is handed out (to advise the kernel). The first exception
    of any thread, or KeyboardInterrupt in the caller, stops all of them within one job and is raised here.
    """
    source, lock, stop = iter(jobs), threading.Lock(), threading.Event()
    waiting: deque[Job] = deque()
    failures: list[BaseException] = []
    done_bytes = 0
    exhausted = False

    def next_job() -> Job | None:
        nonlocal exhausted
        with lock:
            while not exhausted and len(waiting) <= n_ahead:
                try:
                    job = next(source)
                except StopIteration:
                    exhausted = True
                    break
                if ahead is not None:
                    ahead(job)
                waiting.append(job)
            return waiting.popleft() if waiting else None

    def run() -> None:
        nonlocal done_bytes
        try:
            buffer = make_buffer()
            while not stop.is_set():
                job = next_job()
                if job is None:
                    return
                count = work(job, buffer)
                with lock:
                    done_bytes += count
        except BaseException as error:  # handed to the caller's thread, which raises it
            with lock:
                failures.append(error)
            stop.set()

    threads = [threading.Thread(target=run, name=f"soup-{i}", daemon=True) for i in range(max(1, n_threads))]
    for thread in threads:
        thread.start()
    reported = 0
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(_POLL_S)
                if on_progress is not None and done_bytes > reported:
                    on_progress(done_bytes - reported)
                    reported = done_bytes
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    if on_progress is not None and done_bytes > reported:
        on_progress(done_bytes - reported)
    return done_bytes
