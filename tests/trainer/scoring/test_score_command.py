"""`vlmsel score` as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import vlmsel
from click.testing import CliRunner
from small_index import Pair, draw_png, write_index
from vlmsel.errors import UsageError
from vlmsel_trainer.cli.score import command


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    pairs = [Pair([draw_png(i)], f"a bird number {i}") for i in range(6)]
    write_index(tmp_path / "index", tmp_path / "data", {"a.tar": pairs})
    return tmp_path


def test_stdout_is_the_path_alone(workspace: Path, family_folder: Callable[[str], Path]) -> None:
    arguments = ["--model", str(family_folder("llava_qwen2")), "-w", str(workspace), "--threads", "1"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout == f"{workspace / 'scores'}\n"
    assert "pairs/s" in done.stderr
    assert "tokens/s" in done.stderr


def test_the_public_function_does_what_the_command_does(workspace: Path, family_folder: Callable[[str], Path]) -> None:
    model = family_folder("llava_qwen2")
    arguments = ["--model", str(model), "-w", str(workspace), "--threads", "1", "-q"]
    assert CliRunner().invoke(command, arguments, catch_exceptions=False).exit_code == 0
    calls: list[tuple[int, ...]] = []
    places = {"index": workspace / "index", "output": workspace / "by-function"}
    done = vlmsel.score(model, **places, threads=1, progress=lambda *numbers: calls.append(numbers))
    assert (done.path, done.scored_rows, done.already_done) == (workspace / "by-function", 6, False)
    assert calls[-1] == (6, 6, 0, 0)
    manifests = [(workspace / name / "manifest.json").read_bytes() for name in ("scores", "by-function")]
    assert manifests[0] == manifests[1]
    assert vlmsel.score(model, **places).already_done


def test_json_is_one_object(workspace: Path, family_folder: Callable[[str], Path]) -> None:
    arguments = ["--model", str(family_folder("llava_qwen2")), "-w", str(workspace), "--json", "-q"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    result = json.loads(done.stdout)
    assert result["schema"] == 1
    assert result["command"] == "score"
    assert result["input"] == result["ok"] == result["scored"] == 6
    assert result["failed"] == 0
    assert done.stderr == ""


def test_dry_run_writes_nothing(workspace: Path, family_folder: Callable[[str], Path]) -> None:
    before = sorted(workspace.rglob("*"))
    arguments = ["--model", str(family_folder("llava_qwen2")), "-w", str(workspace), "--dry-run", "--json"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert json.loads(done.stdout)["input"] == 6
    assert sorted(workspace.rglob("*")) == before


def test_impossible_option_is_a_usage_error(workspace: Path, family_folder: Callable[[str], Path]) -> None:
    arguments = [
        "--model",
        str(family_folder("llava_qwen2")),
        "-w",
        str(workspace),
        "--compat",
        "wepoints",
        "--no-end-token",
    ]
    with pytest.raises(UsageError, match="wepoints"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_command_module_does_not_import_torch() -> None:
    code = (
        "import sys, vlmsel_trainer.cli.score;"
        "print([name for name in ('torch', 'transformers', 'pyarrow', 'PIL', 'numpy') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_interrupt_keeps_what_was_scored(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    pairs = [Pair([draw_png(i % 20)], f"a bird number {i}") for i in range(4000)]
    write_index(tmp_path / "index", tmp_path / "data", {"a.tar": pairs}, row_group_size=500)
    code = (
        "import sys; from vlmsel.cli import main; from vlmsel_trainer.cli.score import command;"
        "main.commands.add_command(command, 'score'); main.main()"
    )
    arguments = ["score", "--model", str(family_folder("llava_qwen2")), "-w", str(tmp_path), "--samples-per-unit", "20"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command_line = [sys.executable, "-c", code, *arguments, "--threads", "1"]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        parts = tmp_path / "scores.partial" / "output"
        while process.poll() is None and not list(parts.glob("a-*.parquet")):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert stdout == b""
    assert b"interrupted" in stderr
    assert not (tmp_path / "scores").exists()
    assert list(parts.glob("a-*.parquet"))
