"""What people type: counts, sizes, fractions, and the flags that all commands share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlmsel.cli.main import run
from vlmsel.cli.options import (
    COUNT,
    Common,
    common_options,
    common_options_without_records,
    parse_count,
    parse_fraction,
    parse_size,
)

Hang = Callable[[click.Command], click.Command]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1_000_000", 1_000_000),
        ("1M", 1_000_000),
        ("1m", 1_000_000),
        ("2.5k", 2_500),
        (".5K", 500),
        ("3B", 3_000_000_000),
        ("1e6", 1_000_000),
        (" 7 ", 7),
        ("18446744073709551615", 2**64 - 1),
    ],
)
def test_count(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        "2.5",
        "1.0001k",
        "1_",
        "_1",
        "1__0",
        "x",
        "1MB",
        "1,000",
        "nan",
        "inf",
        "0x10",
        "١",
        "2**9",
        "18446744073709551616",
        "1e99",
    ],
)
def test_no_count(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a|is above"):
        parse_count(text)


@given(st.integers(0, 2**64 - 1))
def test_any_whole_number_is_a_count(number: int) -> None:
    assert parse_count(str(number)) == parse_count(f"{number:_}") == number


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1", 1),
        ("2GB", 2 * 10**9),
        ("2 gb", 2 * 10**9),
        ("512MiB", 512 << 20),
        ("1.5G", 1_500_000_000),
        ("4096B", 4096),
        ("1TiB", 1 << 40),
    ],
)
def test_size(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "0", "0GB", "-1", "1XB", "GB", "1e3", "1 2", "99999999999TB"])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("0.2", "0.2"),
        (".5", "0.5"),
        ("20%", "0.2"),
        ("33.3 %", "0.333"),
        ("1e-3", "0.001"),
        ("1", "1"),
        ("1.0", "1"),
        ("0", "0"),
        ("100%", "1"),
        ("0.29", "0.29"),
    ],
)
def test_fraction(text: str, exact: str) -> None:
    assert parse_fraction(text) == exact


@pytest.mark.parametrize(
    "text", ["", "-0.1", "1.1", "101%", "nan", "inf", "x", "1/2", "1e-19", "0.1234567890123456789"]
)
def test_no_fraction(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not|has more"):
        parse_fraction(text)


@given(st.integers(0, 10**18))
def test_fraction_is_exact(numerator: int) -> None:
    text = f"{numerator // 10**18}.{numerator % 10**18:018d}"
    assert Fraction(parse_fraction(text)) == Fraction(numerator, 10**18)


@pytest.fixture
def seen(hang: Hang) -> list[Common]:
    """What a command with the common flags received."""
    received: list[Common] = []

    @click.command("seeing")
    @common_options
    @click.option("--k", type=COUNT)
    def command(common: Common, k: int | None) -> None:
        received.append(common)

    hang(command)
    return received


def test_defaults_are_those_of_the_dataclass(seen: list[Common]) -> None:
    assert run(["seeing"]) == 0
    assert seen == [Common()]


def test_every_flag_arrives(seen: list[Common]) -> None:
    args = [
        "-w",
        "ws",
        "--json",
        "--dry-run",
        "--threads",
        "3",
        "--memory-limit",
        "2GB",
        "--strict",
        "--max-bad-fraction",
        "1%",
        "--allow-bad-files=4",
        "--overwrite",
        "-q",
    ]
    assert run(["seeing", *args]) == 0
    expected = Common(Path("ws"), True, True, 3, 2 * 10**9, True, 0.01, 4, True, True)
    assert seen == [expected]
    changed = [
        field.name
        for field in dataclasses.fields(Common)
        if getattr(expected, field.name) == getattr(Common(), field.name)
    ]
    assert changed == []


@pytest.mark.parametrize(
    ("args", "workspace"),
    [
        (["seeing"], "."),
        (["-w", "a", "seeing"], "a"),
        (["seeing", "-w", "b"], "b"),
        (["-w", "a", "seeing", "-w", "b"], "b"),
    ],
)
def test_workspace_before_or_after_the_command(args: list[str], workspace: str, seen: list[Common]) -> None:
    assert run(args) == 0
    assert seen[0].workspace == Path(workspace)
    assert seen[0].place("scores") == Path(workspace) / "scores"


@pytest.mark.parametrize(
    "args", [["--threads", "0"], ["--memory-limit", "lots"], ["--max-bad-fraction", "2"], ["--k", "1.5"]]
)
def test_a_wrong_value_names_the_flag(args: list[str], seen: list[Common], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["seeing", *args]) == 2
    assert args[0] in capsys.readouterr().err
    assert seen == []


def test_a_command_that_reads_no_records_has_no_flags_about_bad_ones(
    hang: Hang, capsys: pytest.CaptureFixture[str]
) -> None:
    received: list[Common] = []

    @click.command("blending")
    @common_options_without_records
    def command(common: Common) -> None:
        received.append(common)

    hang(command)
    assert run(["blending", "--json", "--threads", "3", "-q"]) == 0
    assert received == [Common(json=True, threads=3, quiet=True)]
    for flag in ("--strict", "--max-bad-fraction=0.1", "--allow-bad-files=1"):
        assert run(["blending", flag]) == 2
        assert flag.partition("=")[0] in capsys.readouterr().err
