"""Records and tars that are small and would cost much: each is read, or put aside, within a bound."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

# The peak that getrusage tells is that of the process before as well; the system's own count begins with the program.
MEASURED = """
import json, resource, sys
import vlmsel, vlmsel.errors

def peak():
    try:
        status = open("/proc/self/status").read()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.split("VmHWM:")[1].split()[0])

before = peak()
try:
    {call}
    said = ""
except vlmsel.errors.VlmselError as error:
    said = str(error)
print(json.dumps([peak() - before >> 10, said]))
"""


def measured(call: str, *args: Path) -> tuple[int, str]:
    """Mebibytes that the call takes, and what it says if it fails; killed where it takes minutes."""
    words = [sys.executable, "-c", MEASURED.format(call=call), *map(str, args)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    mebibytes, said = json.loads(done.stdout)
    return mebibytes, said


def million_keys() -> str:
    return ", ".join(f'"{n}": 0' for n in range(1_000_000))


@pytest.mark.parametrize("place", [0, 500])
def test_a_score_line_with_a_million_keys(tmp_path: Path, place: int) -> None:
    lines = [json.dumps({"uid": f"{n:032x}", "ppl": n}) for n in range(1000)]
    lines[place] = f'{{"uid": "{0:032x}", "ppl": 0, {million_keys()}}}'
    path = tmp_path / "s.jsonl"
    path.write_text("\n".join(lines))
    call = "vlmsel.select(sys.argv[1], k=999, output=sys.argv[2], max_bad_fraction=0.1, threads=1)"
    mebibytes, said = measured(call, path, tmp_path / "o")
    assert mebibytes < 150 and said == ""
    [record] = (tmp_path / "o" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(record)["reason"] == "too_many_keys"


def test_a_csv_header_with_a_million_columns(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("uid,ppl" + "," * 1_000_000 + "\n")
    mebibytes, said = measured("vlmsel.select(sys.argv[1], k=1, output=sys.argv[2])", path, tmp_path / "o")
    assert mebibytes < 100 and "1000002 columns" in said


@pytest.mark.parametrize(
    ("record", "pieces", "reason"),
    [
        ('{"images": [*]}', "null", "bad_image_path"),
        ('{"images": [*]}', "[]", "bad_image_path"),
        ('{"images": [*]}', '"a"', "too_many_images"),
        ('{"conversations": [*]}', "0", "bad_conversation"),
        ('{"conversations": [{"from": 0, "value": [*]}]}', "0", "bad_conversation"),
        ('{"id": [*]}', "0", "bad_id"),
        ('{"text": [*]}', "0", "bad_text"),
        ('{"text": "t", *}', '"a": 0', "too_many_keys"),
    ],
)
def test_a_record_of_millions_of_values(tmp_path: Path, record: str, pieces: str, reason: str) -> None:
    path = tmp_path / "in" / "a.jsonl"
    path.parent.mkdir()
    path.write_text(record.replace("*", ",".join([pieces] * 3_000_000)) + "\n")
    size = path.stat().st_size >> 20
    call = "assert list(vlmsel.doctor([sys.argv[1]], threads=1).findings) == [sys.argv[2]]"
    mebibytes, said = measured(call, path, Path(reason))
    # Read, cut out and taken apart, each once.
    assert mebibytes < 4 * size + 20 and said == ""


def test_a_conversation_of_a_million_turns(tmp_path: Path) -> None:
    turns = ",".join(['{"from": 0, "value": ""}'] * 1_000_000)
    path = tmp_path / "in" / "a.jsonl"
    path.parent.mkdir()
    path.write_text(f'{{"conversations": [{turns}]}}\n')
    call = "assert vlmsel.index([sys.argv[1]], output=sys.argv[2], threads=1).ok == 1"
    mebibytes, said = measured(call, path, tmp_path / "o")
    assert mebibytes < 300 and said == ""


def test_a_tar_of_very_many_members_of_one_key(tmp_path: Path) -> None:
    """Comparing each member with all before it would take minutes."""
    path = tmp_path / "a.tar"
    with path.open("wb") as tar:
        for n in range(400_000):
            tar.write(tarfile.TarInfo(f"a.{n}").tobuf(tarfile.USTAR_FORMAT))
        tar.write(bytes(1024))
    assert measured("vlmsel.doctor([sys.argv[1]], threads=1)", path)[1] == ""
