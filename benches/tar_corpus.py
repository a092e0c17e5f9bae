"""Tars of a given size from a seed, and measuring one child process: wall, CPU and peak memory."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

IMAGE_BYTES = (20_000, 120_000)
SAMPLES_PER_TAR = 1_500


def jpeg_like(rng: random.Random, noise: bytes) -> bytes:
    """A JPEG header with a real size, then noise: what an index reads of a picture, without the cost of encoding one."""
    size = rng.randint(*IMAGE_BYTES)
    start = rng.randrange(len(noise) - size)
    head = (
        b"\xff\xd8\xff\xc0\x00\x11\x08"
        + rng.randint(200, 800).to_bytes(2, "big")
        + rng.randint(200, 800).to_bytes(2, "big")
    )
    return head + noise[start : start + size] + b"\xff\xd9"


def make_tars(folder: Path, gigabytes: float, seed: int = 0) -> list[Path]:
    """Tars of jpg, txt and json members, about ``gigabytes`` in all; kept and reused if they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f"made-{gigabytes}-{seed}"
    if marker.exists():
        return sorted(folder.glob("*.tar"))
    rng = random.Random(seed)
    noise = rng.randbytes(32 << 20)
    words = [f"word{n}" for n in range(2000)]
    made, number, paths = 0, 0, []
    while made < gigabytes * 1e9:
        path = folder / f"{number:05d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in range(SAMPLES_PER_TAR):
                key = f"{number:05d}{sample:05d}"
                text = " ".join(rng.choices(words, k=rng.randint(5, 40)))
                record = json.dumps(
                    {"key": key, "url": f"https://example.org/{key}.jpg", "caption": text, "width": 512}
                )
                for extension, data in (
                    ("jpg", jpeg_like(rng, noise)),
                    ("txt", text.encode()),
                    ("json", record.encode()),
                ):
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                if made + tar.offset > gigabytes * 1e9:
                    break
        made += path.stat().st_size
        paths.append(path)
        number += 1
    marker.touch()
    return paths


def warm(paths: list[Path]) -> int:
    """Read everything once, so that every contender finds the same page cache; returns the bytes."""
    total = 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while block := file.read(8 << 20):
                total += len(block)
    return total


def measure(name: str, words: list[str], **kwargs: Any) -> dict[str, Any]:
    """Run a command to its end: wall and CPU seconds, peak MB of the process itself; raises if it fails."""
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, **kwargs)
    peak = [0.0]
    # What wait4 tells includes this process as it was before the command took its place.
    watching = threading.Thread(target=watch_peak, args=(process.pid, peak), daemon=True)
    watching.start()
    output = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    watching.join()
    if process.stdout:
        process.stdout.close()
    if process.returncode != 0:
        raise RuntimeError(f"{name} ended with {process.returncode}")
    return {
        "name": name,
        "wall_s": round(wall_s, 3),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_mb": round(peak[0], 1),
        "output": output.decode(errors="replace").strip()[-200:],
    }


def watch_peak(pid: int, peak: list[float]) -> None:
    """Follow the high-water mark of a process until it is gone; what it has had at most in the last 5 ms may be missed."""
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        found = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        if not found:
            return
        peak[0] = max(peak[0], int(found[0].split()[1]) / 1024)
        time.sleep(0.005)


def in_turn(contenders: dict[str, Callable[[], dict[str, Any]]], repeat: int) -> list[dict[str, Any]]:
    """The fastest run of each, taken in turn, so that a busy or a quiet minute of the machine meets all of them."""
    rows: dict[str, dict[str, Any]] = {}
    for _ in range(repeat):
        for name, run in contenders.items():
            made = run()
            if name not in rows or made["wall_s"] < rows[name]["wall_s"]:
                rows[name] = made
    return list(rows.values())


def table(rows: list[dict[str, Any]], size_bytes: int, base: str) -> str:
    """Wall, CPU, peak and rate of each row, and its wall time over that of ``base``."""
    reference = next(row["wall_s"] for row in rows if row["name"] == base)
    lines = [f"{'':28}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'GB/s':>8}  x {base}"]
    for row in rows:
        rate = size_bytes / row["wall_s"] / 1e9
        lines.append(
            f"{row['name']:28}{row['wall_s']:9.2f}{row['cpu_s']:9.2f}{row['peak_mb']:9.0f}{rate:8.2f}  {row['wall_s'] / reference:.2f}"
        )
    return "\n".join(lines)
