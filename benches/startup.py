"""Start-up: ``vlmsel --help`` and ``import vlmsel`` beside ``python -c pass``; the best of several runs each."""

from __future__ import annotations

import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": "pass",
    "import vlmsel": "import vlmsel",
    "vlmsel --help": "import sys; sys.argv = ['vlmsel', '--help']; from vlmsel.cli.main import run; run()",
}


def main() -> None:
    """Measure and print."""
    for name, code in COMMANDS.items():
        times_s = []
        for _ in range(10):
            begun_s = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            times_s.append(time.perf_counter() - begun_s)
        print(f"{name:<16} {min(times_s):.3f} s best, {sorted(times_s)[5]:.3f} s median")


if __name__ == "__main__":
    main()
