"""`vlmsel shard`: what comes out is what went in, byte for byte, as other people's readers see it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pair_corpus import COMMAND, corpus, pairs, picture, run, run_json, tree, write_tar


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """A workspace with pool/ and index/."""
    corpus(tmp_path / "pool", shards=4, samples=15)
    run_json("index", tmp_path / "pool", "-w", tmp_path)
    return tmp_path


def uids_of(workspace: Path) -> dict[str, str]:
    """Key by uid."""
    tables = [pq.read_table(path, columns=["uid", "key"]) for path in sorted((workspace / "index").glob("*.parquet"))]
    return {row["uid"].hex(): row["key"] for table in tables for row in table.to_pylist()}


def write_ids(path: Path, uids: list[str]) -> Path:
    path.write_text("# chosen by hand\n" + "\n".join(uids) + "\n")
    return path


def members_of(folder: Path) -> list[tuple[str, bytes]]:
    out = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                handle = tar.extractfile(member)
                assert handle and (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
                out.append((member.name, handle.read()))
    return out


def test_the_members_of_the_selected_samples_unchanged(indexed: Path) -> None:
    keys = uids_of(indexed)
    chosen = sorted(keys)[::3]
    write_ids(indexed / "ids.txt", chosen[::-1])
    result = run_json("shard", "--selection", indexed / "ids.txt", "-w", indexed, "--samples-per-shard", "8")
    assert (result["input"], result["written"], result["shards"]) == (20, 20, 3)
    originals = dict(pairs(0, 60))
    expected = [
        (f"{uid}.{extension}", originals[f"{keys[uid]}.{extension}"])
        for uid in chosen
        for extension in ("jpg", "txt", "json")
    ]
    assert members_of(indexed / "shards") == expected
    assert json.loads((indexed / "shards" / "sizes.json").read_text()) == {
        "00000000.tar": 8,
        "00000001.tar": 8,
        "00000002.tar": 4,
    }
    assert json.loads((indexed / "shards" / "00000001_stats.json").read_text()) == {"successes": 8}
    ids = np.load(indexed / "shards" / "sample_ids.npy")
    assert [f"{int(a):016x}{int(b):016x}" for a, b in ids] == chosen
    assert run("verify", indexed / "shards").returncode == 0


def test_webdataset_and_datasets_read_it(indexed: Path) -> None:
    keys = uids_of(indexed)
    write_ids(indexed / "ids.txt", list(keys))
    run_json("shard", "--selection", indexed / "ids.txt", "-w", indexed, "--samples-per-shard", "25", "--shuffle", "3")
    tars = sorted(str(path) for path in (indexed / "shards").glob("*.tar"))
    originals = dict(pairs(0, 60))

    import webdataset

    seen = {sample["__key__"]: sample for sample in webdataset.WebDataset(tars, shardshuffle=False)}
    assert set(seen) == set(keys)
    assert all(sample["jpg"] == originals[f"{keys[uid]}.jpg"] for uid, sample in seen.items())

    from datasets import load_dataset

    loaded = load_dataset("webdataset", data_files={"train": tars}, split="train", cache_dir=str(indexed / "cache"))
    assert len(loaded) == 60
    for row in loaded:
        assert row["txt"] == f"caption  {int(keys[row['__key__']])}" and row["json"]["n"] == int(keys[row["__key__"]])
        assert row["jpg"].size == (48, 36)


def test_datacomp_subsets_repeats_and_selections(indexed: Path) -> None:
    chosen = sorted(uids_of(indexed))[:4]
    wanted = sorted([*chosen, chosen[1], chosen[1]])
    array = np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in wanted], dtype="u8,u8")
    np.save(indexed / "subset.npy", array)
    run_json("shard", "--selection", indexed / "subset.npy", "-w", indexed)
    names = [name.split(".")[0] for name, _ in members_of(indexed / "shards") if name.endswith(".jpg")]
    assert names == [chosen[0], chosen[1], f"{chosen[1]}-1", f"{chosen[1]}-2", chosen[2], chosen[3]]
    assert (np.load(indexed / "shards" / "sample_ids.npy") == array).all()


def test_threads_and_memory_do_not_show_and_seeds_do(indexed: Path) -> None:
    write_ids(indexed / "ids.txt", list(uids_of(indexed)))
    outputs = []
    for name, flags in {"a": ["--threads", "1"], "b": ["--threads", "8", "--memory-limit", "300MB"], "c": []}.items():
        seed = "2" if name == "c" else "1"
        run_json(
            "shard", "--selection", indexed / "ids.txt", "-w", indexed, "-o", indexed / name,
            "--samples-per-shard", "7", "--shuffle", seed, *flags,
        )  # fmt: skip
        outputs.append(tree(indexed / name))
    assert outputs[0] == outputs[1] != outputs[2]
    assert sorted(members_of(indexed / "a")) == sorted(members_of(indexed / "c"))


def test_ids_that_are_not_there_are_counted(indexed: Path) -> None:
    chosen = sorted(uids_of(indexed))[:3]
    write_ids(indexed / "ids.txt", [*chosen, "f" * 32, "no id"])
    assert run("shard", "--selection", indexed / "ids.txt", "-w", indexed).returncode == 3
    assert not (indexed / "shards").exists()
    assert run("shard", "--selection", indexed / "ids.txt", "-w", indexed, "--strict").returncode == 5
    result = run_json("shard", "--selection", indexed / "ids.txt", "-w", indexed, "--max-bad-fraction", "0.5")
    assert (result["input"], result["written"], result["quarantined"]) == (5, 3, 2)
    reasons = [
        json.loads(line)["reason"] for line in (indexed / "shards" / "quarantine.jsonl").read_text().splitlines()
    ]
    assert reasons == ["bad_id", "not_in_index"]


@pytest.mark.parametrize("extension", ["jpg", "txt", "json", ""])
def test_data_that_changed_since_is_refused(indexed: Path, extension: str) -> None:
    write_ids(indexed / "ids.txt", list(uids_of(indexed)))
    path = indexed / "pool" / "00002.tar"
    with tarfile.open(path) as tar:
        member = next(m for m in tar if m.name.endswith(extension))
    data = bytearray(path.read_bytes())
    if extension:
        data[member.offset_data + 2] ^= 1
    else:
        # As long as no selected byte changed, only the size tells.
        data += bytes(512)
    path.write_bytes(data)
    done = run("shard", "--selection", indexed / "ids.txt", "-w", indexed)
    assert done.returncode == 7 and "00002.tar" in done.stderr
    assert not (indexed / "shards").exists()


def test_data_that_moved_is_found(indexed: Path) -> None:
    write_ids(indexed / "ids.txt", list(uids_of(indexed)))
    (indexed / "pool").rename(indexed / "elsewhere")
    assert run("shard", "--selection", indexed / "ids.txt", "-w", indexed).returncode == 2
    run_json("shard", "--selection", indexed / "ids.txt", "-w", indexed, "--source", f"pool={indexed / 'elsewhere'}")


def test_a_disk_that_is_too_small_is_refused_first(tmp_path: Path) -> None:
    # A sparse tar of 8 TiB that the index takes for one picture: nothing is read, the sum of sizes is enough.
    huge = 1 << 43
    path = tmp_path / "pool" / "0.tar"
    path.parent.mkdir()
    info = tarfile.TarInfo("a.bin")
    info.size = huge
    with path.open("wb") as out:
        out.write(info.tobuf(tarfile.GNU_FORMAT))
        try:
            out.truncate(512 + huge + 1024)
        except OSError:
            pytest.skip("this file system has no files of 8 TiB")
    run_json("index", tmp_path / "pool", "-w", tmp_path)
    write_ids(tmp_path / "ids.txt", list(uids_of(tmp_path)))
    done = run("shard", "--selection", tmp_path / "ids.txt", "-w", tmp_path)
    assert done.returncode == 6 and str(huge)[:4] in done.stderr
    assert not (tmp_path / "shards").exists()


def test_json_sources_become_tars(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for n in range(2):
        (tmp_path / "images" / f"{n}.png").write_bytes(picture(n, kind="PNG"))
    rows = [
        {"id": 1, "image": "0.png", "caption": "one"},
        {
            "id": 2,
            "image": ["0.png", "1.png"],
            "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        },
        {"id": 3, "text": "only words", "extra": 1.50},
    ]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    run_json("index", tmp_path / "d.json", "-w", tmp_path, "--image-root", tmp_path / "images")
    keys = uids_of(tmp_path)
    write_ids(tmp_path / "ids.txt", list(keys))
    run_json("shard", "--selection", tmp_path / "ids.txt", "-w", tmp_path)
    found = {(keys[name.split(".")[0]], name.split(".", 1)[1]): data for name, data in members_of(tmp_path / "shards")}
    assert found == {
        ("1", "png"): picture(0, kind="PNG"),
        ("1", "txt"): b"one",
        ("2", "0.png"): picture(0, kind="PNG"),
        ("2", "1.png"): picture(1, kind="PNG"),
        ("2", "json"): json.dumps({"conversations": rows[1]["conversations"]})
        .replace('{"conversations": ', '{"conversations":', 1)
        .encode(),
        ("3", "txt"): b"only words",
        ("3", "json"): json.dumps(rows[2]).encode(),
    }


def test_a_shard_of_shards_is_a_data_set(indexed: Path) -> None:
    write_ids(indexed / "ids.txt", list(uids_of(indexed)))
    run_json("shard", "--selection", indexed / "ids.txt", "-w", indexed)
    again = run_json("index", indexed / "shards", "-o", indexed / "index2")
    assert again["ok"] == 60 and again["quarantined"] == 0


@pytest.mark.parametrize("stage", ["index", "shard"])
def test_killed_at_any_moment_the_next_run_ends_in_the_bytes_of_a_clean_one(tmp_path: Path, stage: str) -> None:
    for shard in range(24):
        write_tar(tmp_path / "pool" / f"{shard:05d}.tar", pairs(shard * 40, 40))
    run_json("index", tmp_path / "pool", "-o", tmp_path / "index")
    write_ids(tmp_path / "ids.txt", list(uids_of(tmp_path)))
    words = {
        "index": ["index", str(tmp_path / "pool"), "--threads", "2"],
        "shard": [
            "shard",
            "--selection",
            str(tmp_path / "ids.txt"),
            "--index",
            str(tmp_path / "index"),
            "--samples-per-shard",
            "20",
        ],
    }[stage]
    run_json(*words, "-o", tmp_path / "clean")
    output = tmp_path / "out"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # Parts wait under their temporary names to be recorded together.
    written = tmp_path / "out.partial" / "output"
    kills = 0
    for wanted in range(1, 40, 6):
        process = subprocess.Popen(
            [*COMMAND, *words, "-o", str(output)], env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        while process.poll() is None and (len(os.listdir(written)) if written.exists() else 0) < wanted:
            time.sleep(0.0005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        if process.returncode == 0:
            break
        assert not output.exists()
    assert kills >= 1
    run_json(*words, "-o", output)
    assert tree(output) == tree(tmp_path / "clean")
    assert not (tmp_path / "out.partial").exists()


def test_a_killed_index_of_many_small_shards_keeps_what_was_recorded(tmp_path: Path) -> None:
    for shard in range(1_100):
        write_tar(tmp_path / "pool" / f"{shard:05d}.tar", pairs(shard, 1))
    words = ["index", str(tmp_path / "pool")]
    run_json(*words, "-o", tmp_path / "clean")
    output, partial = tmp_path / "out", tmp_path / "out.partial"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [*COMMAND, *words, "-o", str(output)], env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    while process.poll() is None and not list((partial / "parts").glob("*.jsonl")):
        time.sleep(0.0005)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    if process.wait() == 0:
        pytest.skip("the run was too fast to be killed")
    recorded = [
        json.loads(line) for path in (partial / "parts").glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    names = [file["file"] for line in recorded for file in line["part"]["files"]]
    before = {name: (partial / "output" / name).stat().st_ino for name in names}
    assert len(before) > 0
    run_json(*words, "-o", output)
    assert tree(output) == tree(tmp_path / "clean")
    assert {name: (output / name).stat().st_ino for name in names} == before, "a part was made twice"
