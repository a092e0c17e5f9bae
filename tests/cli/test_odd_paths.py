"""Paths as an adversary gives them: nothing is destroyed, nothing hangs, every byte works."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

DEADLINE_S = 60
heavy = pytest.mark.heavy


def vlmsel(
    *words: str | bytes | Path, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command line; one that hangs fails."""
    return subprocess.run(
        [sys.executable, "-m", "vlmsel.cli.main", *words],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=DEADLINE_S,
        check=False,
    )


def write_scores(path: Path | bytes, n: int = 100) -> None:
    table = pa.table({"uid": [f"{i:032x}" for i in range(n)], "ppl": [float(i) for i in range(n)]})
    with open(path, "wb") as out:
        pq.write_table(table, out)


def write_tar(path: Path | bytes) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(picture, "JPEG")
    with open(path, "wb") as out, tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (("a.jpg", picture.getvalue()), ("a.txt", b"a red square")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def fails(done: subprocess.CompletedProcess[str], code: int, text: str) -> None:
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "bug in vlmsel" not in done.stderr
    assert "Traceback" not in done.stderr


# --- what an output may not touch -------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["new/../sel1", "./sel1/../sel1", "new/../sel1/inside"])
def test_an_output_that_leads_to_an_input_is_refused(tmp_path: Path, output: str) -> None:
    write_scores(tmp_path / "s.parquet")
    assert vlmsel("select", "s.parquet", "-k", "50", "-o", "sel1", cwd=tmp_path).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "sel1").iterdir()}
    names = sorted(os.listdir(tmp_path))
    done = vlmsel("select", "sel1", "--score-column", "score", "-k", "5", "-o", output, "--overwrite", cwd=tmp_path)
    fails(done, 2, "the output")
    assert {path: path.read_bytes() for path in (tmp_path / "sel1").iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == names, "something was made on the way"


def test_an_output_behind_dots_lies_where_they_lead(tmp_path: Path) -> None:
    write_scores(tmp_path / "s.parquet")
    (tmp_path / "a/b").mkdir(parents=True)
    done = vlmsel("select", "s.parquet", "-k", "5", "-o", "a/none/../b/../out", "--control", "worst", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path / "a")) == [".out-worst.identities", ".out.identities", "b", "out", "out-worst"]


@pytest.mark.parametrize("name", ["out.partial", ".out.check"])
def test_an_input_at_a_name_that_the_output_needs_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    write_scores(folder / "s.parquet")
    before = (folder / "s.parquet").read_bytes()
    done = vlmsel("select", folder / "s.parquet", "-k", "5", "-o", "out", cwd=tmp_path)
    fails(done, 2, "out")
    assert (folder / "s.parquet").read_bytes() == before


@pytest.mark.parametrize("command", ["select", "index"])
def test_a_lock_is_never_opened_through_a_link(tmp_path: Path, command: str) -> None:
    write_scores(tmp_path / "s.parquet")
    write_tar(tmp_path / "0.tar")
    precious = tmp_path / "precious.csv"
    precious.write_text("uid,ppl\na,1\n")
    os.symlink(precious, tmp_path / ".out.lock")
    words = ["select", "s.parquet", "-k", "5"] if command == "select" else ["index", "0.tar"]
    fails(vlmsel(*words, "-o", "out", cwd=tmp_path), 2, ".out.lock")
    assert precious.read_text() == "uid,ppl\na,1\n"
    assert os.path.islink(tmp_path / ".out.lock")


def test_partial_folders_and_noted_identities_are_never_written_through_a_link(tmp_path: Path) -> None:
    write_scores(tmp_path / "s.parquet")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("mine")
    os.symlink(elsewhere, tmp_path / "out.partial")
    fails(vlmsel("select", "s.parquet", "-k", "5", "-o", "out", cwd=tmp_path), 2, "out.partial is in the way (a link)")
    os.unlink(tmp_path / "out.partial")
    os.symlink(elsewhere / "precious", tmp_path / ".out.identities")
    fails(vlmsel("select", "s.parquet", "-k", "5", "-o", "out", cwd=tmp_path), 2, ".out.identities is in the way")
    os.unlink(tmp_path / ".out.identities")
    (tmp_path / ".out.identities").write_text("my notes")
    fails(vlmsel("select", "s.parquet", "-k", "5", "-o", "out", cwd=tmp_path), 2, ".out.identities is in the way")
    assert (tmp_path / ".out.identities").read_text() == "my notes"
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]
    assert (elsewhere / "precious").read_text() == "mine"


def test_what_is_in_the_way_of_a_control_is_found_before_anything_is_committed(tmp_path: Path) -> None:
    write_scores(tmp_path / "s.parquet")
    (tmp_path / "out-worst").mkdir()
    (tmp_path / "out-worst/notes.txt").write_text("mine")
    done = vlmsel("select", "s.parquet", "-k", "5", "-o", "out", "--control", "worst", cwd=tmp_path)
    fails(done, 2, "out-worst is not empty and vlmsel did not make it")
    assert sorted(os.listdir(tmp_path)) == ["out-worst", "s.parquet"]


@pytest.mark.parametrize("kind", ["file", "fifo", "socket", "dangling link", "link", "long name", "below a file"])
def test_what_cannot_be_an_output_is_a_usage_error_that_names_it(tmp_path: Path, kind: str) -> None:
    write_scores(tmp_path / "s.parquet")
    out = tmp_path / "out"
    listener = socket.socket(socket.AF_UNIX)
    match kind:
        case "file":
            (tmp_path / "out.partial").write_text("mine")
        case "fifo":
            os.mkfifo(out)
        case "socket":
            os.chdir(tmp_path)
            listener.bind("out")
        case "dangling link":
            os.symlink("nowhere", out)
        case "link":
            os.symlink(tmp_path, out)
        case "long name":
            out = tmp_path / ("x" * 300)
        case "below a file":
            out = tmp_path / "s.parquet/out"
    done = vlmsel("select", "s.parquet", "-k", "5", "-o", out, cwd=tmp_path)
    listener.close()
    fails(done, 2, out.name[:200])


# --- files that are no files ------------------------------------------------------------------------------------------


def special(folder: Path, kind: str, name: str) -> Path:
    path = folder / name
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        before = os.getcwd()
        os.chdir(folder)
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(name)
        finally:
            os.chdir(before)
    else:
        os.symlink("/dev/zero", path)
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["select", "{x.parquet}", "-k", "5"],
        ["select", "{x.csv}", "-k", "5"],
        ["select", "{x.jsonl.gz}", "-k", "5"],
        ["select", "@{list}", "-k", "5"],
        ["select", "s.parquet", "-k", "5", "--exclude", "{ids.txt}"],
        ["select", "s.parquet", "-k", "5", "--include", "{ids.npy}"],
        ["select", "s.parquet", "-k", "5", "--include", "{ids.csv}"],
        ["index", "{x.tar}"],
        ["index", "{x.json}"],
        ["index", "@{list}"],
        ["doctor", "{x.tar}"],
        ["doctor", "{x.jsonl}"],
        ["shard", "--index", "index", "--selection", "{ids.txt}"],
        ["shard", "--index", "index", "--selection", "{ids.npy}"],
    ],
    ids=" ".join,
)
def test_special_files_are_refused_at_once(tmp_path: Path, words: list[str]) -> None:
    write_scores(tmp_path / "s.parquet")
    write_tar(tmp_path / "0.tar")
    if words[0] == "shard":
        assert vlmsel("index", "0.tar", "-o", "index", cwd=tmp_path).returncode == 0
    # One kind for each way in; all of them go through one opener, whose own test has every kind.
    kind = ["fifo", "socket", "device"][sum(map(len, words)) % 3]
    given = []
    for word in words:
        head, brace, rest = word.partition("{")
        given.append(head + str(special(tmp_path, kind, rest.rstrip("}"))) if brace else word)
    done = vlmsel(*given, cwd=tmp_path)
    fails(done, 2, {"fifo": "a named pipe (FIFO)", "socket": "a socket", "device": "a device"}[kind])


@pytest.mark.parametrize("kind", ["fifo", pytest.param("socket", marks=heavy), pytest.param("device", marks=heavy)])
def test_special_files_in_a_folder_are_bad_files(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "d"
    data.mkdir()
    write_tar(data / "0.tar")
    special(data, kind, "1.tar")
    fails(vlmsel("index", "d", cwd=tmp_path), 3, "--allow-bad-files 1")
    assert vlmsel("index", "d", "--allow-bad-files", "1", cwd=tmp_path).returncode == 0
    doctor = vlmsel("doctor", "d", cwd=tmp_path)
    assert "unreadable_file" in doctor.stdout + doctor.stderr
    tables = tmp_path / "t"
    tables.mkdir()
    write_scores(tables / "0.parquet")
    special(tables, kind, "1.csv")
    fails(vlmsel("select", "t", "-k", "5", cwd=tmp_path), 3, "--allow-bad-files 1")
    assert vlmsel("select", "t", "-k", "5", "--allow-bad-files", "1", cwd=tmp_path).returncode == 0


def test_an_image_that_is_a_pipe_is_a_bad_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text(json.dumps([{"image": "a.jpg", "caption": "x"}]))
    fails(vlmsel("index", "a.json", cwd=tmp_path), 3, "unreadable_image")


def test_links_in_circles_are_walked_once(tmp_path: Path) -> None:
    data = tmp_path / "d"
    data.mkdir()
    write_tar(data / "0.tar")
    write_scores(data / "s.parquet")
    for name in ("x", "y", "z"):
        os.symlink(data, data / name)
    done = vlmsel("index", "d", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, 1), done.stderr
    for word in ("d", "d/**/*.parquet", "d/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*/*.parquet"):
        done = vlmsel("select", word, "-k", "5", "-o", "out", "--overwrite", "--json", cwd=tmp_path)
        assert (done.returncode, json.loads(done.stdout)["input"]) == (0, 100), done.stderr


@pytest.mark.parametrize("command", [["select", "-k", "5"], ["index"]], ids=" ".join)
def test_braces_without_end_are_refused(tmp_path: Path, command: list[str]) -> None:
    fails(vlmsel(*command, "{a}" * 20_000, cwd=tmp_path), 2, "braces")


@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        ("select", signal.SIGINT, 130),
        ("index", signal.SIGTERM, 143),
        pytest.param("select", signal.SIGTERM, 143, marks=heavy),
        pytest.param("index", signal.SIGINT, 130, marks=heavy),
    ],
)
def test_signals_act_while_words_are_expanded(tmp_path: Path, command: str, number: int, code: int) -> None:
    # A list that names a hundred thousand patterns, each of which looks through a folder of two thousand files.
    folder = tmp_path / "f"
    folder.mkdir()
    for i in range(2000):
        (folder / f"{i}.txt").touch()
    write_tar(folder / "0.tar")
    (tmp_path / "list").write_text("f/*.tar\n" * 100_000)
    words = ["select", "@list", "-k", "5"] if command == "select" else ["index", "@list"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vlmsel.cli.main", *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    time.sleep(1.5)
    if process.poll() is not None:
        pytest.fail(f"it ended by itself: {process.communicate()[1]!r}")
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == code, error


# --- paths are bytes --------------------------------------------------------------------------------------------------

ODD = b"caf\xe9"
UTF8 = "café".encode()


ASCII_ALONE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("name", "locale"),
    [
        (ODD, {}),
        (UTF8, ASCII_ALONE),
        pytest.param(ODD, ASCII_ALONE, marks=heavy),
        pytest.param(ODD, {"LC_ALL": "C"}, marks=heavy),
        pytest.param(UTF8, {"LC_ALL": "C"}, marks=heavy),
    ],
)
def test_every_path_of_a_command_line_is_taken_as_bytes(tmp_path: Path, name: bytes, locale: dict[str, str]) -> None:
    folder = os.fsencode(tmp_path) + b"/" + name
    os.mkdir(folder)
    write_scores(folder + b"/" + name + b".parquet")
    write_tar(folder + b"/" + name + b".tar")

    def run(*words: str | bytes) -> str:
        done = vlmsel(*words, cwd=tmp_path, env=locale)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    workspace = [b"-w", folder]
    run("select", folder + b"/" + name + b".parquet", "-k", "5", *workspace, "--control", "random")
    run("index", folder + b"/" + name + b".tar", *workspace)
    uid = os.fsencode(tmp_path) + b"/ids-" + name
    index = next(path for path in (Path(os.fsdecode(folder)) / "index").iterdir() if path.suffix == ".parquet")
    with open(uid, "w") as out, open(index, "rb") as part:
        out.write(pq.read_table(part)["uid"][0].as_py().hex() + "\n")
    run("shard", "--selection", uid, *workspace)
    run("doctor", folder + b"/" + name + b".tar")
    run("verify", folder + b"/shards")
    run("verify", folder + b"/selection-random-s0")
    run(
        "select",
        folder + b"/" + name + b".parquet",
        "-k",
        "5",
        "-o",
        folder + b"/" + name,
        "--json",
        "--include",
        uid,
        "--allow-unmatched",
    )
    run("sheet", folder + b"/selection", *workspace, "-o", folder + b"/" + name + b".png", "--json")
    found = sorted(os.listdir(folder))
    assert {b"selection", b"selection-random-s0", b"index", b"shards", name, name + b".png"} <= set(found)


def test_a_file_found_by_its_folder_whose_name_is_no_text_is_a_bad_file(tmp_path: Path) -> None:
    data = tmp_path / "d"
    data.mkdir()
    write_tar(data / "0.tar")
    write_tar(os.fsencode(data) + b"/" + ODD + b".tar")
    done = vlmsel("index", "d", cwd=tmp_path)
    fails(done, 3, "caf\\xe9.tar")
    assert "--allow-bad-files 1" in done.stderr
    assert vlmsel("index", "d", "--allow-bad-files", "1", cwd=tmp_path).returncode == 0
    tables = tmp_path / "t"
    tables.mkdir()
    write_scores(tables / "0.parquet")
    write_scores(os.fsencode(tables) + b"/" + ODD + b".parquet")
    fails(vlmsel("select", "t", "-k", "5", cwd=tmp_path), 3, "caf\\xe9.parquet")
    done = vlmsel("select", "t", "-k", "5", "--allow-bad-files", "1", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["input"]) == (0, 100), done.stderr


# --- answers ----------------------------------------------------------------------------------------------------------


def test_the_two_infinities_are_two_thresholds(tmp_path: Path) -> None:
    write_scores(tmp_path / "s.parquet")
    assert vlmsel("select", "s.parquet", "--threshold", "inf", cwd=tmp_path).returncode == 0
    fails(vlmsel("select", "s.parquet", "--threshold=-inf", cwd=tmp_path), 7, "threshold")


def test_what_a_run_lost_is_not_accepted_by_one_that_tolerates_less(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("uid,ppl\na,1\nb,abc\nc,3\n")
    fails(vlmsel("select", "s.csv", "-k", "1", cwd=tmp_path), 3, "--max-bad-fraction")
    assert vlmsel("select", "s.csv", "-k", "2", "--max-bad-fraction", "0.6", cwd=tmp_path).returncode == 0
    losses = json.loads((tmp_path / "selection/manifest.json").read_text())["losses"]
    assert (losses["input"], losses["quarantined"], losses["tolerated"]["max_bad_fraction"]) == (3, 1, 0.6)
    fails(vlmsel("select", "s.csv", "-k", "2", cwd=tmp_path), 3, "--max-bad-fraction 0.3334")
    fails(vlmsel("select", "s.csv", "-k", "2", "--strict", cwd=tmp_path), 5, "1 of 3 records")
    assert vlmsel("select", "s.csv", "-k", "2", "--max-bad-fraction", "0.3334", cwd=tmp_path).returncode == 0
    reader = ["select", "selection", "--score-column", "score", "-k", "1", "-o", "next"]
    fails(vlmsel(*reader, cwd=tmp_path), 3, "selection was made without 1 of 3 records")
    fails(vlmsel("sheet", "selection", cwd=tmp_path), 3, "selection was made without 1 of 3 records")
    assert vlmsel(*reader, "--max-bad-fraction", "0.3334", cwd=tmp_path).returncode == 0


def test_a_lossy_index_is_read_by_those_who_accept_it(tmp_path: Path) -> None:
    data = tmp_path / "d"
    data.mkdir()
    write_tar(data / "0.tar")
    (data / "1.tar").write_bytes((data / "0.tar").read_bytes()[:700])
    assert vlmsel("index", "d", "--allow-bad-files", "1", "--max-bad-fraction", "0.5", cwd=tmp_path).returncode == 0
    fails(vlmsel("index", "d", cwd=tmp_path), 3, "--allow-bad-files 1")
    uid = pq.read_table(next((tmp_path / "index").glob("*0.tar*.parquet")))["uid"][0].as_py().hex()
    (tmp_path / "ids.txt").write_text(uid + "\n")
    fails(vlmsel("shard", "--selection", "ids.txt", cwd=tmp_path), 3, "index was made without")
    done = vlmsel(
        "shard", "--selection", "ids.txt", "--allow-bad-files", "1", "--max-bad-fraction", "0.5", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [2**63, 2**54])
def test_numbers_that_make_no_sense_are_no_panic(tmp_path: Path, number: int) -> None:
    write_scores(tmp_path / "s.parquet")
    assert vlmsel("select", "s.parquet", "-k", "5", cwd=tmp_path).returncode == 0
    place = tmp_path / "selection/manifest.json"
    manifest = json.loads(place.read_text())
    manifest.pop("checksum")
    manifest["parts"] = [{**manifest["parts"][0], "rows": number, "unit": f"{i}"} for i in range(3)]
    place.write_text(json.dumps(manifest))
    for words in (["verify", "selection"], ["select", "selection", "--score-column", "score", "-k", "1", "-o", "x"]):
        fails(vlmsel(*words, cwd=tmp_path), 3, "make no sense")
