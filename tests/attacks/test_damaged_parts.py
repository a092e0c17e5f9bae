"""Tables that vlmsel itself reads back, and those beside tars, with a few bytes changed: an error that names the file, or
an answer; never a bug, an abort or a hang."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
import vlmsel.tables
from vlmsel.errors import ResourceError, UnreadableError, UsageError, VlmselError

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))
from pair_corpus import pairs, write_tar

CASES = 200
N_SAMPLES = 40


def damaged(whole: bytes, seed: int) -> Iterator[bytes]:
    """Copies with one to four bytes changed; half of the changes are in the footer."""
    rng = random.Random(seed)
    for _ in range(CASES):
        data = bytearray(whole)
        first = rng.choice([4, max(4, len(data) - 2500)])
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(first, len(data))] = rng.randrange(256)
        yield bytes(data)


def error_of(work: Callable[[], object], *errors: type[VlmselError]) -> str | None:
    """What went wrong; None if nothing did. Errors of other kinds go on."""
    try:
        work()
    except errors as error:
        return str(error)
    return None


def outcomes(place: Path, seed: int, read: Callable[[int], object]) -> int:
    """Reads ``place`` with damaged content, again and again; how often that was an error. Leaves it as it was."""
    whole = place.read_bytes()
    refused = 0
    for at, data in enumerate(damaged(whole, seed)):
        place.write_bytes(data)
        # What is not there after damage, such as a column, is told as usage.
        said = error_of(lambda at=at: read(at), UnreadableError, UsageError)
        assert said is None or place.name in said
        refused += said is not None
    place.write_bytes(whole)
    read(CASES)
    return refused


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A tar with what img2dataset leaves beside it."""
    folder = tmp_path / "data"
    keys = [f"{n:06d}" for n in range(N_SAMPLES)]
    write_tar(folder / "00000.tar", pairs(0, N_SAMPLES))
    table = pa.table(
        {
            "key": keys,
            "status": ["success"] * N_SAMPLES,
            "caption": [f"caption {n % 7}" for n in range(N_SAMPLES)],
            "url": [f"http://example.org/{n}" for n in range(N_SAMPLES)],
            "width": pa.array([None if n % 5 == 0 else n for n in range(N_SAMPLES)], pa.int32()),
            "labels": [["a", f"b{n}"][: n % 3] for n in range(N_SAMPLES)],
            "similarity": [n / 7 for n in range(N_SAMPLES)],
        }
    )
    pq.write_table(table, folder / "00000.parquet", row_group_size=16)
    return folder


def test_sidecars(data: Path, tmp_path: Path) -> None:
    """A damaged one counts as a file that cannot be read, which `--allow-bad-files` lets pass."""

    def index(at: int) -> None:
        found = vlmsel.index(data, output=tmp_path / f"index{at}", allow_bad_files=1, max_bad_fraction=1.0)
        shutil.rmtree(found.path)

    outcomes(data / "00000.parquet", 1, index)


def test_index_parts_in_shard_and_tables(data: Path, tmp_path: Path) -> None:
    index = Path(vlmsel.index(data, output=tmp_path / "index").path)
    (part,) = index.rglob("*.parquet")
    ids = tmp_path / "ids.txt"
    uids = [row["uid"] for row in vlmsel.tables.rows(part, ["uid"])]
    ids.write_text("".join(f"{uid.hex()}\n" for uid in uids[::2]))

    def shard(output: Path, **options: bool) -> None:
        vlmsel.shard(selection=ids, index=index, output=output, max_bad_fraction=1.0, **options)  # type: ignore[arg-type]

    # Damaged sizes may say that the disk is too small.
    plan = lambda at: error_of(lambda: shard(tmp_path / f"shards{at}", dry_run=True), ResourceError)  # noqa: E731
    assert outcomes(part, 2, plan) > CASES // 4
    # With the bytes copied too: what a damaged index says may be missing, changed or too large for the disk.
    whole = part.read_bytes()
    for data in damaged(whole, 9):
        part.write_bytes(data)
        said = error_of(lambda: shard(tmp_path / "copied", overwrite=True), VlmselError)
        assert said is None or "bug in vlmsel" not in said
    part.write_bytes(whole[:4] + bytes(200) + whole[204:])
    with pytest.raises(UnreadableError, match=f"vlmsel verify {index}"):
        shard(tmp_path / "cut")
    part.write_bytes(whole)
    assert outcomes(part, 3, lambda _: list(vlmsel.tables.rows(part, start=3, stop=30))) > CASES // 4
    assert outcomes(part, 4, lambda _: list(vlmsel.tables.rows(part, ["images", "text"], uids=uids[::3]))) > CASES // 4
    outcomes(part, 5, lambda _: pa.table(vlmsel.tables.read(part)))


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_score_tables(tmp_path: Path, compression: str) -> None:
    rng = random.Random(6)
    n = 120
    table = pa.table(
        {
            "uid": pa.array([rng.randbytes(16) for _ in range(n)], pa.binary(16)),
            "source": pa.array(["laion"] * n).dictionary_encode(),
            "ppl": pa.array([None if k % 11 == 0 else 1 + k / 7 for k in range(n)], pa.float32()),
            "n_tokens": pa.array(range(n), pa.uint32()),
            "status": ["too_long" if k % 11 == 0 else "ok" for k in range(n)],
        }
    )
    part = tmp_path / "scores.parquet"
    pq.write_table(table, part, compression=compression, row_group_size=50)
    outcomes(part, 7, lambda at: vlmsel.select(part, k=10, output=tmp_path / f"selection{at}"))
    outcomes(part, 8, lambda _: list(vlmsel.tables.rows(part)))


def test_a_table_beside_a_tar_may_not_fill_the_memory(data: Path, tmp_path: Path) -> None:
    """Three million rows in a few kilobytes, and a long caption that every row shares."""
    sidecar = data / "00000.parquet"
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 3_000_000, pa.int32()), pa.array(["a"]))
    pq.write_table(pa.table({"key": many, "status": many}), sidecar)
    assert sidecar.stat().st_size < 100_000
    with pytest.raises(UnreadableError, match=r"00000\.parquet.*3000000 rows, a table beside a tar"):
        vlmsel.index(data, output=tmp_path / "index")
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int32()), pa.array(["x" * (1 << 20)]))
    keys = [f"{n:09d}" for n in range(10_000)]
    pq.write_table(pa.table({"key": keys, "caption": long}), sidecar, compression="zstd")
    assert sidecar.stat().st_size < 1_000_000
    with pytest.raises(UnreadableError, match=r"00000\.parquet.*take more than 536870912 bytes"):
        vlmsel.index(data, output=tmp_path / "again")


def test_rows_by_number_are_those_of_all_rows(data: Path, tmp_path: Path) -> None:
    sidecar = data / "00000.parquet"
    shutil.copy(sidecar, tmp_path / "again.parquet")
    paths = [sidecar, tmp_path / "again.parquet"]
    every = list(vlmsel.tables.rows(paths))
    assert len(every) == 2 * N_SAMPLES
    for start, stop in [(0, None), (0, 1), (15, 17), (16, 32), (30, 55), (79, 80), (80, 99), (500, None), (9, 3)]:
        assert list(vlmsel.tables.rows(paths, start=start, stop=stop)) == every[start:stop]
    assert every[1]["labels"] == ["a"]
