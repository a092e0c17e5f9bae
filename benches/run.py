"""``make bench``: the side-by-side benches, one after the other; each prints its table and the answers' agreement.

make bench                                  # all of them at their default sizes
make bench BENCH_ARGS='selection --rows 10M'   # one of them, its own options behind it
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHES = ("selection", "index", "shard", "score", "sheet", "soup", "startup", "image_codes", "dedup")
# They need a folder or a file to work on.
BY_NAME_ALONE = ("near_text", "dedup_alterations")


def main() -> int:
    """Run the named bench with its options, or all."""
    named = sys.argv[1:2]
    if named and named[0] not in BENCHES + BY_NAME_ALONE:
        print(f"no bench {named[0]!r}; there are {', '.join(BENCHES + BY_NAME_ALONE)}", file=sys.stderr)
        return 2
    # The product is measured as it is installed in .venv; the peers come from this environment.
    installed = HERE.parent / "python"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), str(HERE.parent / "trainer")])}
    failed = []
    for name in named or BENCHES:
        print(f"\n== {name}", flush=True)
        done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *sys.argv[2:]], env=environment)
        if done.returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
