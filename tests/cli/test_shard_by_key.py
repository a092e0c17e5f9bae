"""`vlmsel shard` of selections that know samples by their keys, because their scores were not made from the index."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pair_corpus import corpus, run, run_json


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """pool/, index/, and scores by key, ascending."""
    corpus(tmp_path / "pool", shards=2, samples=5)
    run_json("index", tmp_path / "pool", "-w", tmp_path)
    keys = sorted(by_key(tmp_path))
    pq.write_table(pa.table({"key": keys, "clip": [float(n) for n in range(len(keys))]}), tmp_path / "scores.parquet")
    return tmp_path


def by_key(workspace: Path) -> dict[str, str]:
    """The uid of every key."""
    tables = [pq.read_table(path, columns=["uid", "key"]) for path in sorted((workspace / "index").glob("*.parquet"))]
    return {row["key"]: row["uid"].hex() for table in tables for row in table.to_pylist()}


def names(workspace: Path, output: str = "shards") -> set[str]:
    import tarfile

    found = set()
    for path in (workspace / output).glob("*.tar"):
        with tarfile.open(path) as tar:
            found |= {name.split(".")[0] for name in tar.getnames()}
    return found


def test_a_selection_of_keys_is_joined_by_key(workspace: Path) -> None:
    scores = ["select", workspace / "scores.parquet", "--id-column", "key", "--score-column", "clip"]
    run_json(*scores, "-k", "4", "-w", workspace)
    assert not (workspace / "selection/uids.npy").exists()
    done = run_json("shard", "-w", workspace)
    assert (done["input"], done["written"], done["quarantined"]) == (4, 4, 0)
    uids = by_key(workspace)
    assert names(workspace) == {uids[key] for key in sorted(uids)[:4]}
    assert run_json("shard", "-w", workspace)["already_finished"]


def test_lists_of_keys_and_tables_of_ids(workspace: Path) -> None:
    uids = by_key(workspace)
    keys = sorted(uids)[2:5]
    (workspace / "keys.txt").write_text("# by hand\n" + "\n".join(f'"{key}" ' for key in keys) + "\n")
    spelt = [str(uuid.UUID(uids[key])) for key in keys]
    (workspace / "uids.txt").write_text("\n".join(spelt))
    pq.write_table(pa.table({"uid": keys}), workspace / "keys.parquet")
    pq.write_table(pa.table({"uid": spelt}), workspace / "uids.parquet")
    for name in ("keys.txt", "uids.txt", "keys.parquet", "uids.parquet"):
        run_json("shard", "-w", workspace, "--selection", workspace / name, "-o", workspace / f"{name}.out")
        assert names(workspace, f"{name}.out") == {uids[key] for key in keys}, name


def test_keys_that_are_not_there_are_counted(workspace: Path) -> None:
    (workspace / "keys.txt").write_text("\n".join([*sorted(by_key(workspace))[:3], "nowhere"]))
    shard = ["shard", "-w", workspace, "--selection", workspace / "keys.txt"]
    assert run(*shard).returncode == 3
    assert run(*shard, "--strict").returncode == 5
    done = run_json(*shard, "--max-bad-fraction", "0.5")
    assert (done["input"], done["written"], done["quarantined"]) == (4, 3, 1)
    listed = json.loads((workspace / "shards/quarantine.jsonl").read_text())
    assert (listed["reason"], listed["key"]) == ("not_in_index", "nowhere")
    (workspace / "keys.txt").write_text("nowhere\nelse\n")
    failed = run(*shard, "-o", workspace / "other")
    assert failed.returncode == 2 and 'ids like "else"' in failed.stderr and "none of them as a key" in failed.stderr


def test_a_key_of_two_sources_is_refused(workspace: Path) -> None:
    corpus(workspace / "more", shards=1, samples=5)
    run_json("index", workspace / "pool", workspace / "more", "-w", workspace, "--overwrite")
    (workspace / "keys.txt").write_text(min(by_key(workspace)))
    failed = run("shard", "-w", workspace, "--selection", workspace / "keys.txt")
    assert failed.returncode == 2 and not (workspace / "shards").exists()
    for words in ("names two samples of the index", 'source "pool"', 'source "more"', "select by uid"):
        assert words in failed.stderr
