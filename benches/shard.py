"""`vlmsel shard` of a fifth of the samples beside the loop that webdataset's users write; the floor is `cp` and `sync`.

    python benches/shard.py --gigabytes 10 --folder bench-data/shard --out benches/runs/<date>-<machine>/shard.json

`vlmsel shard` syncs every tar to the disk before it counts, and checks what it reads; `cp` and the loop do neither. So the
floor is `cp` followed by `sync` of its files, and plain `cp` stands beside it. The loop runs once: it takes minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tar_corpus import in_turn, make_tars, measure, table, warm

LOOP = """
import sys, webdataset
output, ids, *tars = sys.argv[1:]
wanted = set(open(ids).read().split())
with webdataset.ShardWriter(output + "/%08d.tar", maxcount=10000, verbose=0) as sink:
    for sample in webdataset.WebDataset(tars, shardshuffle=False):
        if sample["__key__"] in wanted:
            sink.write(sample)
"""


def digests(folder: Path, extension: str) -> list[str]:
    """Hashes of every member of one extension, sorted: the answer, whatever the order and the keys."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(extension):
                    found.append(hashlib.blake2b(tar.extractfile(member).read()).hexdigest())  # type: ignore[union-attr]
    return sorted(found)


def main() -> None:
    """Make the data, run everybody, check that the same samples came out, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--folder", type=Path, default=Path("bench-data/shard"))
    parser.add_argument("--repeat", type=int, default=5, help="runs of each but the loop, in turn; the fastest counts")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tars = make_tars(options.folder / "tars", options.gigabytes)
    index, output, loop_output = (options.folder / name for name in ("index", "shards", "loop"))
    vlmsel = [sys.executable, "-m", "vlmsel.cli.main"]
    subprocess.run(
        [*vlmsel, "index", *map(str, tars), "-q", "--overwrite", "-o", str(index)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    rows = [
        row
        for path in sorted(index.glob("*.parquet"))
        for row in pq.read_table(path, columns=["uid", "key"]).to_pylist()
    ]
    chosen = sorted(rows, key=lambda row: hashlib.blake2b(row["key"].encode()).digest())[: len(rows) // 5]
    (options.folder / "uids.txt").write_text("\n".join(row["uid"].hex() for row in chosen))
    (options.folder / "keys.txt").write_text("\n".join(row["key"] for row in chosen))
    warm(tars)
    shard = [
        *vlmsel,
        "shard",
        "--selection",
        str(options.folder / "uids.txt"),
        "--index",
        str(index),
        "-q",
        "-o",
        str(output),
    ]
    loop = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        LOOP,
        str(loop_output),
        str(options.folder / "keys.txt"),
        *map(str, tars),
    ]
    environment = {"stderr": subprocess.DEVNULL}

    def run_loop() -> dict[str, Any]:
        shutil.rmtree(loop_output, ignore_errors=True)
        loop_output.mkdir()
        return measure("webdataset loop", loop, **environment)

    def run_shard() -> dict[str, Any]:
        shutil.rmtree(output, ignore_errors=True)
        return measure("vlmsel shard", shard, **environment)

    looped = run_loop()
    run_shard()
    assert digests(output, ".jpg") == digests(loop_output, ".jpg"), "different samples came out"
    kept, copy = options.folder / "kept", options.folder / "copy"
    shutil.rmtree(loop_output)
    shutil.rmtree(kept, ignore_errors=True)
    output.rename(kept)
    written = [str(path) for path in sorted(kept.glob("*.tar"))]
    size_bytes = warm([Path(name) for name in written])
    warm(tars)

    def run_copy(name: str, tail: str) -> dict[str, Any]:
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        return measure(name, ["sh", "-c", f'cp --reflink=never "$@" "$0"{tail}', str(copy), *written])

    results = in_turn(
        {
            "cp": lambda: run_copy("cp", ""),
            "cp and sync (floor)": lambda: run_copy("cp and sync (floor)", ' && sync "$0"/*'),
            "vlmsel shard": run_shard,
        },
        options.repeat,
    )
    results.append(looped)
    print(f"{len(chosen):,} of {len(rows):,} samples, {size_bytes / 1e9:.2f} GB written; the same images from both")
    print(table(results, size_bytes, "cp and sync (floor)"))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(
            json.dumps({"bytes": size_bytes, "samples": len(chosen), "rows": results}, indent=1) + "\n"
        )
    for folder in (copy, output, kept):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
