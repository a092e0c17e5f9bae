"""Scores of models: read from a file or from an evaluation program, never from a shell.

A score is one number, larger is better, and optionally the benchmarks it is the mean of (POINTS takes the plain mean of
eight, arXiv 2409.04828, section 3.3).
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from vlmsel.errors import NotFoundError, UnreadableError, UsageError
from vlmsel.files import NotPlainError, read_plain

from vlmsel_trainer.soup.ingredient import Ingredient
from vlmsel_trainer.soup.weights.strict_json import parse_json

_MAX_FILE_BYTES = 64 << 20
_MAX_LINE_BYTES = 1 << 20
DEFAULT_TIMEOUT_S = 24 * 3600.0
#: How long a program may take to end after it was asked to, before it is made to.
_PATIENCE_S = 3.0


@dataclass(frozen=True, slots=True)
class Score:
    """One model's score and, where known, the benchmarks behind it."""

    value: float
    benchmarks: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """``{"score", "benchmarks"}``."""
        return {"benchmarks": dict(sorted(self.benchmarks.items())), "score": self.value}


def read_scores(path: Path) -> dict[str, Score]:
    """Scores by model from JSON (a map, or a list of objects with ``model``) or CSV (a header with ``model``).

    The score is the column ``score``; without one it is the plain mean of the other numbers.

    Raises NotFoundError, UnreadableError or UsageError, naming the model at fault.
    """
    try:
        data = read_plain(path, _MAX_FILE_BYTES)
    except NotFoundError as error:
        raise NotFoundError(f"--scores {error}") from error
    except NotPlainError as error:
        raise UsageError(f"--scores {error}; write the scores into a file first") from error
    if path.suffix.lower() == ".csv":
        rows = _csv_rows(data, path)
    else:
        rows = _json_rows(parse_json(data, path), path)
    found: dict[str, Score] = {}
    for model, values in rows:
        if model in found:
            raise UsageError(f"{path} scores {model!r} twice")
        found[model] = _score(values, f"{model!r} in {path}")
    if not found:
        raise UsageError(f"{path} holds no scores")
    return found


def match_scores(scores: Mapping[str, Score], ingredients: Sequence[Ingredient], path: Path) -> dict[str, Score]:
    """The scores by ingredient label; a row may name the model's path, its label or its folder."""
    found: dict[str, Score] = {}
    for ingredient in ingredients:
        place = ingredient.path
        names = [str(place), os.path.abspath(place), os.path.realpath(place), ingredient.label, place.name]
        hits = {name: scores[name] for name in names if name in scores}
        if not hits:
            known = ", ".join(sorted(scores)[:8])
            raise UsageError(f"{path} has no score for {ingredient.label}; it names: {known}")
        if len({hit.value for hit in hits.values()}) > 1:
            raise UsageError(
                f"{path} has different scores for {ingredient.label} under the names {', '.join(sorted(hits))}"
            )
        found[ingredient.label] = next(iter(hits.values()))
    return found


def parse_program(program: str) -> list[str]:
    """Splits ``"PROGRAM ARGS {model}"`` into arguments. Raises UsageError without ``{model}``."""
    try:
        arguments = shlex.split(program)
    except ValueError as error:
        raise UsageError(f"the program {program!r} cannot be split into arguments: {error}") from error
    if not arguments or not any("{model}" in argument for argument in arguments):
        raise UsageError(
            f"the program {program!r} has no {{model}}: write it where the program expects the model's folder"
        )
    return arguments


def evaluate(program: str, model: Path, timeout_s: float = DEFAULT_TIMEOUT_S) -> Score:
    """Runs the program on a model folder; its last line on stdout is a number, or JSON with ``score``.

    No shell is involved. stdin is empty and stderr passes through. The program and its children are ended when it takes
    longer than ``timeout_s`` or the caller is interrupted.

    Raises UsageError if it cannot be started, fails, or prints no score.
    """
    arguments = [argument.replace("{model}", str(model)) for argument in parse_program(program)]
    shown = shlex.join(arguments)
    try:
        process = subprocess.Popen(
            arguments, bufsize=0, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
    except OSError as error:
        raise UsageError(f"cannot run {shown}: {error.strerror}") from error
    assert process.stdout is not None
    last = _LastLine(process.stdout)
    try:
        code = process.wait(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"{shown} took longer than {timeout_s:.0f} s; see --eval-timeout") from error
    finally:
        _end(process, last)
    if code != 0:
        raise UsageError(f"{shown} ended with code {code}; its messages are above. Finished scores are kept: run again")
    return _parse_last_line(last.text(), shown)


class _LastLine(threading.Thread):
    """Drains a pipe and remembers the last line that holds anything, however much is printed."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(name="soup-eval", daemon=True)
        self._pipe = pipe
        self._last = self._unended = b""
        self.start()

    def run(self) -> None:
        with self._pipe:
            while block := self._pipe.read(1 << 16):
                *lines, rest = (self._unended + block).split(b"\n")
                self._last = next((line for line in reversed(lines) if line.strip()), self._last)
                self._unended = rest[-_MAX_LINE_BYTES:]

    def text(self) -> str:
        line = self._unended if self._unended.strip() else self._last
        return line.decode("utf-8", "replace").strip()


def _end(process: subprocess.Popen[bytes], output: _LastLine) -> None:
    """Ends the program and whatever it started in its session, also where it has ended by itself.

    What a program leaves behind could hold its output open, or a GPU.
    """
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signal_number)
        except (ProcessLookupError, PermissionError):
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
            # The program has ended; something of its session may still hold its output.
            output.join(_PATIENCE_S)
    output.join(_PATIENCE_S)


def _parse_last_line(text: str, shown: str) -> Score:
    where = f"the last line that {shown} printed"
    if not text:
        raise UsageError(f"{shown} printed nothing; its last line on stdout must be a number, or JSON with score")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if isinstance(value, dict):
        nested = value.get("benchmarks")
        flat = {**(nested if isinstance(nested, dict) else {}), **{k: v for k, v in value.items() if k != "benchmarks"}}
        if "score" not in flat:
            raise UsageError(f"{where} is JSON without score: {text[:200]!r}")
        return _score(flat, where)
    return Score(_number(value, where))


def _csv_rows(data: bytes, path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{path} is not UTF-8: {error}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        if "model" not in (reader.fieldnames or []):
            raise UsageError(f"{path} has no column 'model'; its header is {reader.fieldnames}")
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(f"line {reader.line_num} of {path} has another number of fields than the header")
            rows.append((row["model"], {key: value for key, value in row.items() if key != "model" and value.strip()}))
    except csv.Error as error:
        raise UnreadableError(f"line {reader.line_num} of {path}: {error}") from error
    return rows


def _json_rows(document: Any, path: Path) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(document, dict):
        return [(k, v if isinstance(v, dict) else {"score": v}) for k, v in document.items()]
    if isinstance(document, list) and all(
        isinstance(row, dict) and isinstance(row.get("model"), str) for row in document
    ):
        return [(row["model"], {key: value for key, value in row.items() if key != "model"}) for row in document]
    raise UsageError(f"{path} is neither a map of model to score nor a list of objects with 'model'")


def _score(values: Mapping[str, Any], where: str) -> Score:
    nested = values.get("benchmarks")
    flat = {**values, **nested} if isinstance(nested, dict) else dict(values)
    flat.pop("benchmarks", None)
    # Notes and dates may stand beside the numbers; what is called score may not be one.
    numbers = {k: _number(v, f"{k} of {where}") for k, v in flat.items() if k == "score" or _looks_numeric(v)}
    benchmarks = {key: value for key, value in numbers.items() if key != "score"}
    if "score" in numbers:
        return Score(numbers["score"], benchmarks)
    if not benchmarks:
        raise UsageError(f"{where} has no score")
    return Score(math.fsum(benchmarks.values()) / len(benchmarks), benchmarks)


def _looks_numeric(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _number(value: Any, where: str) -> float:
    if not _looks_numeric(value):
        raise UsageError(f"{where} is not a number: {str(value)[:200]!r}")
    number = float(value)
    if not math.isfinite(number):
        raise UsageError(f"{where} is {number}; a model without a finite score cannot be ranked, leave it out")
    return number
