"""stdout carries one result; untrusted text cannot steer a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlmsel.cli.report import Report, printable


@given(st.text(st.characters()))
def test_printable_leaves_nothing_that_steers(text: str) -> None:
    safe = printable(text)
    assert all(
        unicodedata.category(character)[0] != "C" and unicodedata.category(character) not in {"Zl", "Zp"}
        for character in safe
    )
    assert printable(safe) == safe
    assert safe == text or not text.isprintable()


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("caption", "caption"),
        ("Über 漢 😀", "Über 漢 😀"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb", r"a\nb"),
        ("\u202eabc", r"\u202eabc"),
        ("\udcff", r"\udcff"),
    ],
)
def test_printable(text: str, safe: str) -> None:
    assert printable(text) == safe


def test_printable_keeps_newlines_where_asked() -> None:
    assert printable("a\n\x07b", newlines=True) == "a\n\\x07b"


def test_path_alone(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    Report("select").result(Path("selection"), {"selected": 3})
    assert capsysbinary.readouterr().out == b"selection\n"


def test_path_is_exact_whatever_its_bytes(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    Report("select").result(os.fsdecode(b"odd\xff name"))
    assert capsysbinary.readouterr().out == b"odd\xff name\n"


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("select", as_json=True)
    report.say("a note")
    report.result(
        Path("selection"),
        {"input": np.uint64(9), "threshold": float("nan"), "rejected": {"nan": 1}, "text": "\u202e\n"},
    )
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 1
    assert shown.out.isascii()
    record = json.loads(shown.out)
    assert list(record)[:3] == ["schema", "command", "output"]
    assert {key: record[key] for key in ("schema", "command", "output", "input", "threshold", "rejected", "text")} == {
        "schema": 1,
        "command": "select",
        "output": "selection",
        "input": 9,
        "threshold": None,
        "rejected": {"nan": 1},
        "text": "\u202e\n",
    }
    assert record["wall_s"] >= 0
    assert record["peak_bytes"] > 1_000_000
    assert shown.err == "a note\n"


def test_a_command_may_name_its_own_peak(capsys: pytest.CaptureFixture[str]) -> None:
    Report("score", as_json=True).result("scores", {"peak_bytes": 7, "wall_s": 1.5})
    record = json.loads(capsys.readouterr().out)
    assert (record["peak_bytes"], record["wall_s"]) == (7, 1.5)


@pytest.mark.parametrize("as_json", [True, False])
def test_second_result_is_refused(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("select", as_json=as_json)
    report.result("selection")
    with pytest.raises(RuntimeError, match="already"):
        report.result("selection")
    with pytest.raises(RuntimeError, match="already"):
        report.text("plan")
    assert capsys.readouterr().out.count("\n") == 1


def test_quiet_silences_notes_and_not_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("select", quiet=True)
    report.say("a note")
    report.warn("3 files \x1b[1m are unreadable")
    assert capsys.readouterr().err == "warning: 3 files \\x1b[1m are unreadable\n"


def test_a_terminal_gets_the_path_escaped() -> None:
    leader, follower = os.openpty()
    code = "from vlmsel.cli.report import Report\nReport('select').result('a\\x1b[2Jb')"
    try:
        done = subprocess.run([sys.executable, "-c", code], stdout=follower, timeout=60, check=True)
        assert done.returncode == 0
        assert os.read(leader, 1000) == b"a\\x1b[2Jb\r\n"
    finally:
        os.close(leader)
        os.close(follower)
