"""`vlmsel index`, `doctor` and `shard` on data that is damaged, changing, or odd but right."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
from vlmsel.errors import UnreadableError

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))
from pair_corpus import COMMAND, corpus, pairs, picture, run, run_json, tree, write_tar


def rows_of(index: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(index.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def shard_all(workspace: Path, *flags: str) -> dict[str, bytes]:
    """Shards every row of the index; members by key and extension."""
    rows = rows_of(workspace / "index")
    (workspace / "ids.txt").write_text("\n".join(row["uid"].hex() for row in rows))
    run_json("shard", "--selection", workspace / "ids.txt", "-w", workspace, *flags)
    keys, found = {row["uid"].hex(): row["key"] for row in rows}, {}
    for path in sorted((workspace / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                uid, extension = member.name.split(".", 1)
                found[f"{keys[uid]}.{extension}"] = tar.extractfile(member).read()  # type: ignore[union-attr]
    assert run("verify", workspace / "shards").returncode == 0
    return found


def test_a_parquet_file_without_its_tar_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    corpus(tmp_path / "p", shards=2)
    for number in (0, 2):
        table = pa.table({"key": [f"{number}x"], "status": ["failed_to_download"], "caption": ["c"]})
        pq.write_table(table, tmp_path / "p" / f"{number:05d}.parquet")
    pq.write_table(pa.table({"key": ["mine"], "n": [1]}), tmp_path / "p" / "notes.parquet")
    done = run("index", tmp_path / "p", "-o", tmp_path / "index")
    assert done.returncode == 3 and "00002.tar" in done.stderr and "notes" not in done.stderr
    result = run_json("index", tmp_path / "p", "-o", tmp_path / "index", "--allow-bad-files", "1")
    assert (result["ok"], len(result["damaged"])) == (24, 1)
    found = run_json("doctor", tmp_path / "p")["findings"]
    assert found["unreadable_file"]["count"] == 1 and "00002.tar" in found["unreadable_file"]["examples"][0]


def test_a_tar_that_grows_while_it_is_read_is_said_to_change(tmp_path: Path) -> None:
    path = tmp_path / "p" / "0.tar"
    path.parent.mkdir()
    info = tarfile.TarInfo("a.jpg")
    info.size = 2 << 30
    with path.open("wb") as out:
        out.write(tarfile.TarInfo("README").tobuf() + info.tobuf())
        out.truncate(1024 + info.size)

    def grow(*_: int) -> None:
        with path.open("ab") as out:
            out.write(bytes(512))

    with pytest.raises(UnreadableError, match="changed while it was read"):
        vlmsel.index(tmp_path / "p", output=tmp_path / "index", max_bad_fraction=1.0, progress=grow)
    assert not (tmp_path / "index").exists()


def test_json_as_people_and_pandas_write_it(tmp_path: Path) -> None:
    lines = [
        '\ufeff{"id": "bom", "caption": "a"}\r',
        '{"id": "nan", "caption": "NaN", "score": NaN, "low": -Infinity}\r',
        '{"id": "first", "caption": "b", "id": "twice"}\r',
        "",
        json.dumps({"id": "long", "caption": "x" * 1_000_000}) + "\r",
        '{"id": "deep", "caption": "c", "d": ' + "[" * 100 + "]" * 100 + "}",
        '{"id": "cut", "caption": ',
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(lines), newline="")
    result = run_json("index", tmp_path / "d.jsonl", "-w", tmp_path, "--max-bad-fraction", "0.2")
    assert result["reasons"] == {"bad_json": 1} and result["input"] == 6
    rows = {row["key"]: row for row in rows_of(tmp_path / "index")}
    # As Python's json reads it: the last of two equal keys holds.
    assert set(rows) == {"bom", "nan", "twice", "long", "deep"}
    assert rows["nan"]["metadata"].decode() == lines[1].strip() and rows["nan"]["text"] == "NaN"
    assert len(rows["long"]["text"]) == 1_000_000
    found = run_json("doctor", tmp_path / "d.jsonl")["findings"]
    assert set(found) == {"bad_json"}
    assert shard_all(tmp_path, "--max-bad-fraction", "0.2")["nan.json"].decode() == lines[1].strip()


def test_ids_that_repeat_across_sources_stay_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "d.jsonl").write_text('{"id": 7, "caption": "x"}\n{"id": 7, "caption": "x"}\n')
    run_json("index", tmp_path / "a" / "d.jsonl", tmp_path / "b" / "d.jsonl", "-w", tmp_path)
    rows = rows_of(tmp_path / "index")
    assert [row["key"] for row in rows] == ["7"] * 4 and len({row["uid"] for row in rows}) == 4


def test_another_image_root_is_another_index(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(picture(len(name)))
    (tmp_path / "j").mkdir()
    (tmp_path / "j" / "d.jsonl").write_text('{"image": "a.jpg", "caption": "x"}\n')
    words = ["index", str(tmp_path / "j"), "-o", str(tmp_path / "index"), "--image-root"]
    run_json(*words, tmp_path / "one")
    before = tree(tmp_path / "index")
    assert run_json(*words, tmp_path / "one")["already_finished"]
    # Finished, and about to be extended.
    for _ in range(2):
        done = run(*words, tmp_path / "two")
        assert done.returncode == 7 and "--image-root" in done.stderr
        assert tree(tmp_path / "index") == before
        (tmp_path / "j" / "e.jsonl").write_text('{"image": "a.jpg", "caption": "y"}\n')
    assert run_json(*words, tmp_path / "one")["shards_read"] == 1


def test_links_in_the_image_root_are_the_users_own(tmp_path: Path) -> None:
    # As in Hugging Face's cache, where every file is a link to a blob outside.
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0").write_bytes(picture(1))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.jpg").symlink_to(tmp_path / "blobs" / "0")
    (tmp_path / "d.jsonl").write_text('{"image": "a.jpg", "caption": "x"}\n')
    run_json("index", tmp_path / "d.jsonl", "-w", tmp_path, "--image-root", tmp_path / "root")
    assert shard_all(tmp_path)["0.jpg"] == picture(1)


def old_header(name: str, size: bytes) -> bytes:
    """A header as V7 tar wrote it, without `ustar`; ``size`` is the field's 12 bytes."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT)[:512])
    block[257:512] = bytes(255)
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_old_headers_base_256_sizes_and_a_missing_end(tmp_path: Path) -> None:
    data = old_header("a.jpg", b"%11o " % len(picture(1))) + picture(1)
    data += bytes(-len(data) % 512)
    data += old_header("a.txt", b"\x80" + (3).to_bytes(11, "big")) + b"cat" + bytes(509)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "0.tar").write_bytes(data)
    run_json("index", tmp_path / "p", "-w", tmp_path)
    assert shard_all(tmp_path) == {"a.jpg": picture(1), "a.txt": b"cat"}
    assert set(run_json("doctor", tmp_path / "p")["findings"]) == {"no_end_marker"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data + data, "second_archive"),
        (lambda data: b"", "truncated"),
        (lambda data: b"\x1f\x8b" + data, "not_a_tar"),
        (lambda data: data[: len(data) // 2 + 100], "truncated"),
    ],
)
def test_what_is_no_single_whole_tar_is_said(tmp_path: Path, change: Any, reason: str) -> None:
    write_tar(tmp_path / "p" / "0.tar", pairs(0, 4))
    path = tmp_path / "p" / "0.tar"
    path.write_bytes(change(path.read_bytes()))
    done = run("index", tmp_path / "p", "-o", tmp_path / "index", "--max-bad-fraction", "1")
    assert done.returncode == 3 and reason in done.stderr and not (tmp_path / "index").exists()
    found = run_json("doctor", tmp_path / "p")["findings"]
    assert {"truncated": "truncated_tar"}.get(reason, reason) in found


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_of_every_layout_hold_the_same_bytes(tmp_path: Path, form: int) -> None:
    """Members of all sizes around blocks and chunks, long names between them, and rubbish in the padding."""
    sizes = [0, 1, 511, 512, 513, 100_000, (1 << 19) - 1024, (1 << 19) - 512, 1 << 19, (1 << 20) + 7, 2_000_003]
    expected: dict[str, bytes] = {}
    path = tmp_path / "p" / "0.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w", format=form) as tar:
        for number, size in enumerate(sizes):
            long = "d" * 90 + "/" + "k" * 80 if number % 3 == 1 else f"k{number}"
            key = f"{long}{number}"
            for extension, data in [
                ("bin", bytes([number + 1]) * size),
                ("txt", f"caption {number}".encode()),
                ("json", json.dumps({"n": number}).encode()),
                ("jpg", picture(number)),
                ("a." + "x" * 120, b"long extension") if form != tarfile.USTAR_FORMAT else ("b", b"short"),
            ]:
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                expected[info.name] = data
    raw = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        for member in tar.getmembers():
            end = member.offset_data + member.size
            raw[end : end + -end % 512] = b"\xee" * (-end % 512)
    path.write_bytes(raw)
    run_json("index", path.parent, "-w", tmp_path)
    for flags in (["--samples-per-shard", "3"], ["--samples-per-shard", "100", "--threads", "1", "--overwrite"]):
        assert shard_all(tmp_path, *flags) == expected
    written_tars = list((tmp_path / "shards").glob("*.tar"))
    assert written_tars
    for path in written_tars:
        with tarfile.open(path) as tar:
            ends = [member.offset_data + member.size for member in tar]
        written = path.read_bytes()
        assert all(not any(written[end : end + -end % 512]) for end in ends)


def limited(files: int, words: list[str]) -> subprocess.CompletedProcess[str]:
    """The command with a limit of open files."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [*COMMAND, *words], env=environment, capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )  # fmt: skip


@pytest.mark.parametrize("stage", ["index", "shard"])
def test_too_few_file_handles_never_make_a_good_file_look_bad(tmp_path: Path, stage: str) -> None:
    corpus(tmp_path / "p", shards=30, samples=3)
    (tmp_path / "p" / "j.jsonl").write_text('{"image": "a.jpg", "caption": "x"}\n')
    (tmp_path / "p" / "a.jpg").write_bytes(picture(1))
    sources = [str(tmp_path / "p"), str(tmp_path / "p" / "j.jsonl")]
    run_json("index", *sources, "-w", tmp_path)
    shard_all(tmp_path)
    words = {
        "index": ["index", *sources, "-o", str(tmp_path / "out")],
        "shard": [
            "shard", "--selection", str(tmp_path / "ids.txt"), "--index", str(tmp_path / "index"),
            "-o", str(tmp_path / "out"), "--samples-per-shard", "20",
        ],
    }[stage]  # fmt: skip
    codes = {}
    for files in range(7, 19):
        done = limited(files, [*words, "--threads", "12"])
        codes[files] = done.returncode
        if done.returncode == 6:
            assert "ulimit -n" in done.stderr
        elif "vlmsel" in done.stderr and done.returncode:
            # Below some limit Python itself cannot import its modules.
            assert "Too many open files" in done.stderr, done.stderr
    assert 6 in codes.values() and codes[18] in {0, 6}, codes
    assert run(*words).returncode == 0
    clean = [str(tmp_path / "clean") if word == str(tmp_path / "out") else word for word in words]
    run_json(*clean)
    assert tree(tmp_path / "out") == tree(tmp_path / "clean")


@pytest.mark.parametrize("stage", ["index", "shard"])
def test_a_full_disk_is_exit_6_and_the_next_run_goes_on(tmp_path: Path, stage: str) -> None:
    """A limit on the size of files stands in for the disk: the same write fails, by another error."""
    members = [
        (f"{n:03d}.{kind}", data)
        for n in range(40)
        for kind, data in (("jpg", os.urandom(9000)), ("txt", os.urandom(2000).hex().encode()))
    ]
    members = [
        (name, b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x40\x00\x40" + data if name.endswith("jpg") else data)
        for name, data in members
    ]
    write_tar(tmp_path / "p" / "0.tar", members)
    run_json("index", tmp_path / "p", "-w", tmp_path)
    shard_all(tmp_path)
    words = {
        "index": ["index", str(tmp_path / "p")],
        "shard": ["shard", "--selection", str(tmp_path / "ids.txt"), "--index", str(tmp_path / "index")],
    }[stage]
    limit = 50_000
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "from vlmsel.cli.main import main; main()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "-o", str(tmp_path / "out")],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 6, done.stderr
    assert "out.partial" in done.stderr and not (tmp_path / "out").exists()
    run_json(*words, "-o", tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / ("index" if stage == "index" else "shards"))
