"""The frame around the commands: lazy help, plug-ins, exit codes, signals."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from vlmsel import errors
from vlmsel.cli.main import BUILT_IN, commands, run

Hang = Callable[[click.Command], click.Command]
PlugIn = Callable[[str, str], None]

CLICK_COMMAND = "import click\n@click.command(short_help='Planted here.')\ndef command():\n    click.echo('it ran')\n"


def python(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]


# --- help ------------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_and_imports_none() -> None:
    heavy = [
        "torch",
        "transformers",
        "numpy",
        "pyarrow",
        "rich",
        "PIL",
        "vlmsel._core",
        *(f"vlmsel.cli.{name}" for name in BUILT_IN),
    ]
    done = python(
        "import sys\nfrom vlmsel.cli.main import run\ncode = run(['--help'])\n"
        f"print(sorted(set({heavy!r}) & set(sys.modules)), file=sys.stderr)\nsys.exit(code)"
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    for name, line in BUILT_IN.items():
        assert name in done.stdout
        assert line.split(":")[0][:40] in done.stdout


def test_importing_vlmsel_imports_nothing_of_weight() -> None:
    done = python(
        "import sys, vlmsel\nprint(sorted({'torch', 'numpy', 'click', 'rich', 'vlmsel._core'} & set(sys.modules)))"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_goes_to_stdout(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([flag]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("Usage: vlmsel")
    assert shown.err == ""


def test_no_command_is_a_usage_error_that_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Commands:" in shown.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import vlmsel

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"vlmsel {vlmsel.__version__}\n"


# --- did you mean ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["slect"], "select"),
        (["VERIFY"], "verify"),
        (["--worksapce", "."], "--workspace"),
        (["typing", "--jsno"], "--json"),
    ],
)
def test_near_names_are_offered(args: list[str], hint: str, hang: Hang, capsys: pytest.CaptureFixture[str]) -> None:
    hang(click.Command("typing", params=[click.Option(["--json"], is_flag=True)]))
    assert run(args) == 2
    error = capsys.readouterr().err
    assert "Did you mean" in error
    assert hint in error


def test_a_far_name_gets_no_guess(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["xylophone"]) == 2
    assert "Did you mean" not in capsys.readouterr().err


# --- plug-ins --------------------------------------------------------------------------------------------------------


def test_plug_in_is_listed_and_runs(plug_in: PlugIn, capsys: pytest.CaptureFixture[str]) -> None:
    plug_in("planted", CLICK_COMMAND)
    assert run(["--help"]) == 0
    assert "planted  Planted here." in capsys.readouterr().out
    assert run(["planted"]) == 0
    assert capsys.readouterr().out == "it ran\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import a_module_that_is_not_there", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("raise RuntimeError('\\x1b[2Jgone')", r"RuntimeError: \x1b[2Jgone"),
        ("raise RuntimeError", "RuntimeError"),
        ("command = 5", "no click command"),
        ("", "AttributeError"),
    ],
)
def test_broken_plug_in_breaks_nothing_else(
    source: str, reason: str, plug_in: PlugIn, capsys: pytest.CaptureFixture[str]
) -> None:
    plug_in("planted", source)
    assert run(["--help"]) == 0
    assert "planted" in capsys.readouterr().out
    assert run(["planted", "--any", "thing", "-h"]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert "planted_planted:command" in error


@pytest.mark.parametrize(
    "source", ["raise MemoryError", "raise ImportError('a.so: failed to map segment from shared object')"]
)
def test_a_plug_in_that_finds_no_memory_is_not_called_broken(
    source: str, plug_in: PlugIn, capsys: pytest.CaptureFixture[str]
) -> None:
    plug_in("planted", source)
    assert run(["planted"]) == 6
    assert "out of memory" in capsys.readouterr().err


def test_plug_in_cannot_take_the_place_of_a_built_in_command(plug_in: PlugIn) -> None:
    plug_in("verify", CLICK_COMMAND)
    context = click.Context(commands)
    assert commands.list_commands(context).count("verify") == 1
    assert run(["--help"]) == 0
    assert "planted_verify" not in sys.modules


# --- exit codes ------------------------------------------------------------------------------------------------------


def raising(error: BaseException) -> click.Command:
    def callback() -> None:
        raise error

    return click.Command("raising", callback=callback)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (errors.UsageError("no column 'ppl'"), 2, "Error: no column 'ppl'"),
        (errors.NotFoundError("scores/: no such folder"), 2, "Error: scores/: no such folder"),
        (errors.UnreadableError("m"), 3, "Error: m"),
        (errors.LockedError("m"), 4, "Error: m"),
        (errors.StrictError("m"), 5, "Error: m"),
        (errors.ResourceError("m"), 6, "Error: m"),
        (errors.MismatchError("m"), 7, "Error: m"),
        (errors.VlmselError("counts do not add up"), 1, "this is a bug in vlmsel: VlmselError: counts do not add up"),
        (MemoryError(), 6, "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "a/b.parquet"), 6, "a/b.parquet: No space left on device"),
        (OSError(errno.ENOTTY, "odd", "x"), 1, "this is a bug"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 900), 2, "(900 characters): File name too long"),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "a"), 2, "a: Too many levels of symbolic links"),
        (OSError(errno.ENXIO, "No such device or address", "a.sock"), 2, "a.sock: No such device or address"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), 2, "a/b: Not a directory"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), 2, "a: Is a directory"),
        (FileExistsError(errno.EEXIST, "File exists", "a"), 2, "a: File exists"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", b"\xff"), 2, r"\udcff: No such file"),
        (PermissionError(errno.EACCES, "Permission denied"), 2, "a path of this command: Permission denied"),
        (ImportError("libtorch.so: failed to map segment from shared object"), 6, "out of memory (libtorch.so: failed"),
        (ImportError("a.so: cannot allocate memory in static TLS block"), 6, "out of memory"),
        (ImportError("no module named a"), 1, "this is a bug"),
        (OSError("libtorch.so: failed to map segment from shared object"), 6, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 6, "out of memory"),
        (ZeroDivisionError("by zero"), 1, "this is a bug in vlmsel: ZeroDivisionError: by zero"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (click.BadParameter("'x' is not a count"), 2, "'x' is not a count"),
        (BrokenPipeError(), 141, ""),
        (SystemExit(4), 4, ""),
        (errors.UsageError("\x1b]0;title\x07 and \u202e"), 2, r"\x1b]0;title\x07 and \u202e"),
    ],
    ids=lambda value: repr(value) if isinstance(value, BaseException) else "",
)
def test_exit_code(error: BaseException, code: int, says: str, hang: Hang, capsys: pytest.CaptureFixture[str]) -> None:
    hang(raising(error))
    assert run(["raising"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert says in shown.err
    assert "Traceback" not in shown.err
    if not says:
        assert shown.err == ""


def test_the_python_family_is_also_the_built_in_one() -> None:
    assert issubclass(errors.UsageError, ValueError)
    assert issubclass(errors.NotFoundError, FileNotFoundError)
    assert issubclass(errors.ResourceError, OSError)
    assert all(issubclass(getattr(errors, name), errors.VlmselError) for name in errors.__all__)


def test_traceback_on_request(hang: Hang, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    hang(raising(ZeroDivisionError()))
    monkeypatch.setenv("VLMSEL_TRACEBACK", "1")
    assert run(["raising"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


# --- signals, pipes and full disks -----------------------------------------------------------------------------------

WAITING = """
import sys, time, click
from vlmsel.cli.main import commands, main
def wait():
    print("ready", flush=True)
    time.sleep(60)
commands.add_command(click.Command("wait", callback=wait))
sys.argv = ["vlmsel", "wait"]
main()
"""


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signal_ends_a_command(number: signal.Signals, code: int, word: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    assert process.returncode == code
    assert word in error
    assert "Traceback" not in error


HELP = "import sys\nfrom vlmsel.cli.main import main\nsys.argv = ['vlmsel', '--help']\nmain()"


def test_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", HELP], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_behind_stdout_is_told() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", HELP], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 6
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
