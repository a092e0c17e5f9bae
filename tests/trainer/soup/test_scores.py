"""Score files and evaluation programs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from builders import random_state, write_model
from vlmsel.errors import NotFoundError, UnreadableError, UsageError
from vlmsel_trainer.soup.ingredient import Ingredient
from vlmsel_trainer.soup.scores import evaluate, match_scores, read_scores
from vlmsel_trainer.soup.weights.checkpoint import Checkpoint

PYTHON = sys.executable


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.json", '{"a": 1.5, "b": {"score": 2, "mme": 7, "note": "x"}}'),
        ("s.json", '[{"model": "a", "score": 1.5}, {"model": "b", "score": "2", "benchmarks": {"mme": 7}}]'),
        ("s.csv", "model,score,mme\na,1.5,\nb,2,7\n"),
        ("s.csv", "\ufeffmodel,mme,score\r\na,,1.5\r\nb,7,2\r\n"),
    ],
)
def test_forms(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    scores = read_scores(tmp_path / name)
    assert {model: score.value for model, score in scores.items()} == {"a": 1.5, "b": 2.0}
    assert scores["b"].benchmarks == {"mme": 7.0}


def test_without_a_score_the_mean_of_the_benchmarks_counts(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("model,x,y\na,1,2\n")
    assert read_scores(tmp_path / "s.csv")["a"].value == 1.5


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("s.json", '{"a": NaN}', UsageError),
        ("s.json", '{"a": "good"}', UsageError),
        ("s.json", '{"a": true}', UsageError),
        ("s.json", '{"a": 1, "a": 2}', UnreadableError),
        ("s.json", "{", UnreadableError),
        ("s.json", "3", UsageError),
        ("s.json", "{}", UsageError),
        ("s.json", "[" * 100_000, UnreadableError),
        ("s.csv", "name,score\na,1\n", UsageError),
        ("s.csv", "model,score\na,1\na,2\n", UsageError),
        ("s.csv", "model,score\na,1,2\n", UsageError),
        ("s.csv", "model,score\na,inf\n", UsageError),
        ("s.csv", "model,score\na,\n", UsageError),
        ("s.csv", "", UsageError),
        ("s.csv", b"model,score\n\xff,1\n", UnreadableError),
    ],
)
def test_files_that_hold_no_usable_scores(tmp_path: Path, name: str, text: str | bytes, error: type[Exception]) -> None:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(error):
        read_scores(tmp_path / name)


def test_rows_match_by_path_label_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    model = write_model(tmp_path / "models" / "a", random_state(0, {"w": (torch.float32, (2,))}))
    ingredient = Ingredient("some/a", model, Checkpoint(model), "f")
    for name in (str(model), "a", "some/a"):
        (tmp_path / "s.json").write_text(f'{{"{name}": 4}}')
        scores = read_scores(tmp_path / "s.json")
        assert match_scores(scores, [ingredient], tmp_path / "s.json")["some/a"].value == 4
    (tmp_path / "s.json").write_text('{"b": 4}')
    with pytest.raises(UsageError, match="no score for some/a"):
        match_scores(read_scores(tmp_path / "s.json"), [ingredient], tmp_path / "s.json")
    (tmp_path / "s.json").write_text('{"a": 4, "some/a": 5}')
    with pytest.raises(UsageError, match="different scores"):
        match_scores(read_scores(tmp_path / "s.json"), [ingredient], tmp_path / "s.json")
    ingredient.checkpoint.close()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_scores(tmp_path / "none.json")


def program(tmp_path: Path, body: str) -> str:
    path = tmp_path / "evaluate.py"
    path.write_text(f"import sys, os, time, json\n{body}\n")
    return f"{PYTHON} {path} {{model}}"


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("print('noise'); print(3.5)", 3.5),
        ("print(-2)\nprint()\nprint('  ')", -2.0),
        ("print(json.dumps({'score': 4, 'mme': 6}))", 4.0),
        ("sys.stdout.write('1e-3')", 0.001),
        ("[print('x' * 100000) for _ in range(100)]; print(7)", 7.0),
    ],
)
def test_last_line_is_the_score(tmp_path: Path, body: str, value: float) -> None:
    assert evaluate(program(tmp_path, body), tmp_path).value == value


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print('nan')", "nan"),
        ("print('good')", "not a number"),
        ("print(json.dumps({'mme': 6}))", "without score"),
        ("pass", "printed nothing"),
        ("print(1); sys.exit(3)", "code 3"),
        ("print(1); os.kill(os.getpid(), 9)", "code -9"),
    ],
)
def test_programs_that_fail(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        evaluate(program(tmp_path, body), tmp_path)


def test_no_shell_is_involved(tmp_path: Path) -> None:
    spy = tmp_path / "spy"
    model = tmp_path / "a b; touch $(echo x) `id`"
    body = f"open({str(spy)!r}, 'w').write(sys.argv[1] + '|' + str(len(sys.argv))); print(1)"
    evaluate(program(tmp_path, body), model)
    assert spy.read_text() == f"{model}|2"
    assert (
        evaluate(program(tmp_path, "print(len(sys.argv))") + f" '; touch {tmp_path / 'owned'}' && true", model).value
        == 5
    )
    assert not (tmp_path / "owned").exists()


def test_programs_that_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\{model\}"):
        evaluate(f"{PYTHON} x.py", tmp_path)
    with pytest.raises(UsageError, match="cannot run"):
        evaluate(f"{tmp_path}/none {{model}}", tmp_path)
    with pytest.raises(UsageError, match="split"):
        evaluate("a 'b {model}", tmp_path)


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    body = (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{child.pid}}')\n"
        "time.sleep(600)"
    )
    with pytest.raises(UsageError, match="longer than"):
        evaluate(program(tmp_path, body), tmp_path, timeout_s=3.0)
    assert _ends(int(pids.read_text())), "the program's child outlived it"


def test_what_a_program_leaves_running_is_ended_and_costs_no_score(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    body = (
        "import subprocess\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{child.pid}}')\n"
        "print(7)"
    )
    assert evaluate(program(tmp_path, body), tmp_path).value == 7
    assert _ends(int(pids.read_text())), "the program's child outlived it"


def _ends(pid: int) -> bool:
    """Whether a process that was told to end does so within some seconds."""
    for _ in range(100):
        if not _is_running(pid):
            return True
        time.sleep(0.05)
    return False


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
