"""`vlmsel index` beside a walk with Python's tarfile; the floor is `cat` of the same bytes.

python benches/index.py --gigabytes 10 --folder bench-data/index --out benches/runs/<date>-<machine>/index.json
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from tar_corpus import in_turn, make_tars, measure, table, warm

WALK = """
import sys, tarfile
members = size = 0
for path in sys.argv[1:]:
    with tarfile.open(path) as tar:
        for member in tar:
            members += 1; size += member.size
print(members, size)
"""
WALK_AND_HASH = """
import sys, tarfile, xxhash
members = size = 0
for path in sys.argv[1:]:
    with tarfile.open(path) as tar:
        for member in tar:
            members += 1; size += member.size
            data = tar.extractfile(member).read()
            if member.name.endswith(".jpg"):
                xxhash.xxh3_128_digest(data)
print(members, size)
"""


def main() -> None:
    """Make the data, run everybody, check that they saw the same members, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=Path("bench-data/index"))
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, in turn; the fastest counts")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tars = make_tars(options.folder / "tars", options.gigabytes)
    names, output = [str(path) for path in tars], options.folder / "out"
    size_bytes = warm(tars)
    vlmsel = [
        sys.executable,
        "-m",
        "vlmsel.cli.main",
        "index",
        *names,
        "-q",
        "--json",
        "--overwrite",
        "-o",
        str(output),
    ]
    contenders = {
        "cat (floor)": ["sh", "-c", 'cat "$@" | cat > /dev/null', "cat", *names],
        "vlmsel index": vlmsel,
        "vlmsel index, 1 thread": [*vlmsel, "--threads", "1"],
        "tarfile walk": [sys.executable, "-c", WALK, *names],
        "tarfile walk, read and hash": [sys.executable, "-c", WALK_AND_HASH, *names],
    }

    def run(name: str) -> dict[str, Any]:
        shutil.rmtree(output, ignore_errors=True)
        return measure(name, contenders[name])

    rows = in_turn({name: functools.partial(run, name) for name in contenders}, options.repeat)
    run("vlmsel index")
    samples = json.loads((output / "manifest.json").read_text())["counts"]["ok"]
    members = {row["output"] for row in rows if row["name"].startswith("tarfile")}
    assert len(members) == 1 and int(members.pop().split()[0]) == 3 * samples, "the contenders saw different members"
    print(f"{len(tars)} tars, {size_bytes / 1e9:.2f} GB, {samples:,} samples; same members seen by all")
    print(table(rows, size_bytes, "cat (floor)"))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"bytes": size_bytes, "samples": samples, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
