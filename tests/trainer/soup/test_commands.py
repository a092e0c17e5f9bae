"""``vlmsel soup`` as a user runs it: in its own process, killed, resumed, and its result loaded by transformers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from builders import random_state, read_model, same_folder, same_state, write_model
from safetensors.torch import save_file
from vlmsel import verify

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path)}
#: What the installed `vlmsel` does once it has found the plug-in.
RUN = (
    "import sys; from vlmsel.cli.main import commands, run; from vlmsel_trainer.cli.soup import command; "
    "commands.add_command(command); sys.exit(run(['soup', *sys.argv[1:]]))"
)
LAYOUT = {f"layers.{n}.weight": (torch.bfloat16, (512, 1024)) for n in range(12)}


def soup(*words: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, *map(str, words)],
        cwd=cwd, env={**ENVIRONMENT, **variables}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [write_model(root / f"m{n}", random_state(n, LAYOUT)) for n in range(3)]


#: Scores a model by one of its numbers, slowly enough to be killed, and notes every evaluation it was paid for.
EVALUATE = """
import glob, os, sys, time
import numpy as np  # torch would take seconds to load, for every evaluation
score = 0.0
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.safetensors"))):
    raw = np.fromfile(path, np.uint8)
    bits = raw[8 + int(raw[:8].view("<u8")[0]):].view("<u2").astype(np.uint32) << 16  # all tensors are bf16
    score -= float(np.square(bits.view(np.float32) - 0.1).sum())
with open(os.environ["EVALUATIONS"], "a") as log:
    log.write("evaluation\\n")
time.sleep(float(os.environ.get("PAUSE_S", "0")))
print("talk")
print(score)
"""


@pytest.fixture
def evaluate(tmp_path: Path) -> str:
    (tmp_path / "evaluate.py").write_text(EVALUATE)
    return f"{sys.executable} {tmp_path / 'evaluate.py'} {{model}}"


def test_stdout_is_the_result_alone(models: list[Path], tmp_path: Path) -> None:
    made = soup("average", *models, "-o", "soup", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert Path(made.stdout.strip()) == tmp_path / "soup" or made.stdout.strip() == "soup"
    facts = json.loads(soup("average", *models, "-o", "soup", "--json", cwd=tmp_path).stdout)
    assert (facts["schema"], facts["command"], facts["in_soup"], facts["fresh"]) == (1, "soup", 3, False)
    assert soup("average", *models, "-o", "soup", "-q", cwd=tmp_path).stderr == ""


def test_no_torch_is_imported(models: list[Path], tmp_path: Path) -> None:
    code = RUN.replace("sys.exit(run(", "code = run(").removesuffix(")") + "; sys.exit(code or 'torch' in sys.modules)"
    words = [sys.executable, "-c", code, "average", *map(str, models), "-o", "soup"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    code = "import sys; import vlmsel_trainer.cli.soup; assert 'numpy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False, env=ENVIRONMENT).returncode == 0


def test_exit_codes_and_messages(models: list[Path], tmp_path: Path) -> None:
    def fails(code: int, words: str, *arguments: object) -> None:
        done = soup(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr

    fails(2, "nothing does not exist", "average", "nothing", "-o", "soup")
    fails(2, "inside the input", "average", models[0], "-o", models[0] / "soup")
    fails(2, "--scores", "maximum", *models, "-o", "soup")
    fails(2, "--max-shard-size", "average", *models, "-o", "soup", "--max-shard-size", "5 apples")
    fails(2, "--weights", "average", *models, "-o", "soup", "--weights", "1,x,2")
    broken = write_model(tmp_path / "broken", random_state(9, LAYOUT))
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-7])
    fails(3, "cut short", "average", models[0], broken, "-o", "soup")
    fails(6, "--memory-limit", "average", *models, "-o", "soup", "--memory-limit", "1MB")
    soup("average", *models[:2], "-o", "taken", cwd=tmp_path)
    fails(7, "taken", "average", *models, "-o", "taken")


def test_the_output_has_a_place_in_the_workspace(models: list[Path], tmp_path: Path) -> None:
    done = soup("average", *models, "-w", "here", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "here/soup"), done.stderr
    assert verify(tmp_path / "here" / "soup").problems == []


def test_the_card_shows_a_command_that_can_be_typed_again(models: list[Path], tmp_path: Path) -> None:
    words = ["--weights", "0.5,0.2,1.5", "--companions-from", models[0], "--max-shard-size", "5MB", "-o", "soup"]
    done = soup("average", models[2], models[0], models[1], *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "soup" / "README.md").read_text()
    shown = next(line for line in card.splitlines() if line.startswith("    vlmsel soup")).split()[2:]
    again = soup(*shown, "-o", tmp_path / "again", cwd=models[0].parent)
    assert again.returncode == 0, again.stderr
    assert same_folder(tmp_path / "soup", tmp_path / "again")


def test_scores_of_models_that_are_not_given_are_mentioned(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("model,score\nm0,1\nm1,9\nother,2\n")
    done = soup("maximum", *models[:2], "--top", "1", "--scores", "scores.csv", "-o", "soup", cwd=tmp_path)
    assert done.returncode == 0
    assert "scores.csv scores 3 models, 2 of them are given here" in done.stderr
    done = soup("maximum", *models, "--scores", "scores.csv", "-o", "other", cwd=tmp_path)
    assert done.returncode == 2
    assert "no score for m2" in done.stderr


def test_maximum_by_scores(models: list[Path], tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("model,mme,ocr\nm0,1,2\nm1,9,9\nm2,5,4\n")
    done = soup("maximum", *models, "--scores", "scores.csv", "-o", "soup", "--json", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert [entry["label"] for entry in facts["candidates"] if entry["in_soup"]] == ["m1", "m2"]
    assert "--report-eval" in done.stderr
    soup("average", models[1], models[2], "-o", "average", cwd=tmp_path)
    assert same_state(read_model(tmp_path / "soup"), read_model(tmp_path / "average"))


def test_greedy_climbs_reports_and_plots(models: list[Path], tmp_path: Path, evaluate: str) -> None:
    log = tmp_path / "log"
    arguments = ["--eval", evaluate, "--report-eval", f"{evaluate} held-out", "-o", "soup", "--json"]
    done = soup("greedy", *models, *arguments, cwd=tmp_path, EVALUATIONS=str(log))
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert [trial["accepted"] for trial in facts["trials"]] == [True, True, True], "noise averages out"
    assert [row["label"] for row in facts["report"]["scores"]][-1] == "this soup"
    assert "--report-eval" not in done.stderr
    assert log.read_text().count("evaluation") == 3 + 2 + 2
    svg = (tmp_path / "soup" / "soup.svg").read_text()
    assert svg.count("<title>") == 3
    assert "soup.svg" in (tmp_path / "soup" / "README.md").read_text()
    assert not (tmp_path / "soup.partial").exists()
    assert verify(tmp_path / "soup").problems == []


def test_greedy_mentions_scores_on_another_scale(models: list[Path], tmp_path: Path, evaluate: str) -> None:
    log = tmp_path / "log"
    (tmp_path / "scores.json").write_text('{"m0": 0.3, "m1": 0.1, "m2": 0.2}')
    arguments = ["--scores", "scores.json", "--eval", evaluate, "-o", "soup", "--json"]
    done = soup("greedy", *models, *arguments, cwd=tmp_path, EVALUATIONS=str(log))
    assert "m0 has 0.3 in scores.json and -" in done.stderr
    assert [trial["candidate"] for trial in json.loads(done.stdout)["trials"]] == ["m0", "m2", "m1"]
    assert log.read_text().count("evaluation") == 3


def kill_when(process: subprocess.Popen[bytes], ready: Path, pattern: str, count: int) -> bool:
    """SIGKILLs the process group once ``count`` files match; False if it ended before."""
    for _ in range(3000):
        if process.poll() is not None:
            return False
        if len(list(ready.glob(pattern))) >= count:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.01)
    raise AssertionError("the run never got there")


def test_killed_greedy_pays_for_no_evaluation_twice(models: list[Path], tmp_path: Path, evaluate: str) -> None:
    words = ["greedy", *map(str, models), "--eval", evaluate, "-o", "soup"]
    log = tmp_path / "log"
    variables = {**ENVIRONMENT, "EVALUATIONS": str(log), "PAUSE_S": "0.5"}
    for kept in (1, 4):
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, *words],
            cwd=tmp_path,
            env=variables,
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )
        assert kill_when(process, tmp_path / "soup.partial" / "parts", "*.json", kept)
        assert not (tmp_path / "soup").exists()
    done = soup(*words, cwd=tmp_path, EVALUATIONS=str(log))
    assert done.returncode == 0, done.stderr
    # Five scores are needed; each of the two kills may have cut one evaluation short.
    assert log.read_text().count("evaluation") <= 5 + 2
    clean = soup(*words[:-1], "clean", cwd=tmp_path, EVALUATIONS=str(tmp_path / "log2"))
    assert clean.returncode == 0
    assert (tmp_path / "log2").read_text().count("evaluation") == 5
    assert same_folder(tmp_path / "soup", tmp_path / "clean")


@pytest.mark.parametrize("after", [1, 9])
def test_killed_average_resumes_to_the_same_bytes(models: list[Path], tmp_path: Path, after: int) -> None:
    words = ["average", *map(str, models), "--max-shard-size", "1MB", "--threads", "1", "-o", "soup"]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *words], cwd=tmp_path, start_new_session=True, env=ENVIRONMENT
    )
    killed = kill_when(process, tmp_path / "soup.partial" / "parts", "*.json", after)
    assert killed or (tmp_path / "soup" / "manifest.json").exists()
    done = soup(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert soup(*words[:-1], "clean", cwd=tmp_path).returncode == 0
    assert same_folder(tmp_path / "soup", tmp_path / "clean")
    assert verify(tmp_path / "soup").problems == []


def test_resume_refuses_files_that_were_written_again(models: list[Path], tmp_path: Path) -> None:
    copies = [write_model(tmp_path / f"c{n}", read_model(model)) for n, model in enumerate(models)]
    words = ["average", *map(str, copies), "--max-shard-size", "1MB", "--threads", "1", "-o", "soup"]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *words], cwd=tmp_path, start_new_session=True, env=ENVIRONMENT
    )
    if not kill_when(process, tmp_path / "soup.partial" / "parts", "*.json", 2):
        pytest.skip("the run was too fast to be killed")
    # One byte in the first tensor, outside what a fingerprint reads.
    with (copies[0] / "model.safetensors").open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(8 + length + 10)
        file.write(b"\x01")
    done = soup(*words, cwd=tmp_path)
    assert done.returncode == 7
    assert "c0" in done.stderr
    assert soup(*words, "--overwrite", cwd=tmp_path).returncode == 0


def test_interrupt_ends_quickly_and_keeps_what_is_done(models: list[Path], tmp_path: Path, evaluate: str) -> None:
    words = ["greedy", *map(str, models), "--eval", evaluate, "-o", "soup"]
    variables = {**ENVIRONMENT, "EVALUATIONS": str(tmp_path / "log"), "PAUSE_S": "30"}
    process = subprocess.Popen([sys.executable, "-c", RUN, *words], cwd=tmp_path, env=variables, stderr=subprocess.PIPE)
    for _ in range(2000):
        if (tmp_path / "log").exists():
            break
        time.sleep(0.01)
    before = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=30)
    assert time.monotonic() - before < 15
    assert process.returncode == 130, talk
    assert b"Traceback" not in talk


def test_resident_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """A model four times as large as another must not cost even one buffer more."""
    peaks = []
    for name, rows in (("small", 4096), ("large", 16384)):
        layout = {"weight": (torch.bfloat16, (rows, 2048))}
        folders = [write_model(tmp_path / f"{name}{n}", random_state(n, layout)) for n in range(2)]
        facts = json.loads(soup("average", *folders, "-o", f"{name}-soup", "--json", cwd=tmp_path).stdout)
        peaks.append(facts["peak_bytes"])
    assert peaks[1] - peaks[0] < 24 << 20
    assert peaks[1] < 1 << 30


def test_resident_memory_does_not_grow_with_the_adapter(tmp_path: Path) -> None:
    """Embeddings that were trained whole travel in adapters and are as large as those of the model."""
    peaks = []
    for name, rows in (("small", 1024), ("large", 32768)):
        base = write_model(tmp_path / name, {"embed.weight": torch.zeros(rows, 1024, dtype=torch.bfloat16)})
        folders = []
        for number in range(2):
            folders.append(tmp_path / f"{name}{number}")
            folders[-1].mkdir()
            (folders[-1] / "adapter_config.json").write_text('{"peft_type": "LORA"}')
            state = {"base_model.model.embed.weight": torch.full((rows, 1024), number, dtype=torch.bfloat16)}
            save_file(state, folders[-1] / "adapter_model.safetensors")
        done = soup("average", *folders, "--base", base, "-o", f"{name}-soup", "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (read_model(tmp_path / f"{name}-soup")["embed.weight"] == 0.5).all()
        peaks.append(json.loads(done.stdout)["peak_bytes"])
    assert peaks[1] - peaks[0] < 48 << 20, "64 MiB would be one adapter"


def test_loads_in_transformers_with_the_logits_of_an_in_memory_average(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=16
    )
    text = LlamaConfig(
        vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        tie_word_embeddings=True,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=98, vision_feature_layer=-1, tie_word_embeddings=True
    )
    torch.manual_seed(0)
    folders, states = [], []
    for number in range(3):
        model = Llava(config).to(torch.float32).eval()
        model.save_pretrained(tmp_path / f"m{number}", max_shard_size="100KB" if number else "5GB")
        folders.append(tmp_path / f"m{number}")
        states.append({name: tensor.double() for name, tensor in model.state_dict().items()})
    done = soup("average", *folders, "-o", "soup", "--max-shard-size", "60KB", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "soup", dtype=torch.float32).eval()
    reference = Llava(config).to(torch.float32).eval()
    reference.load_state_dict({n: (sum(s[n] for s in states) / 3).float() for n in states[0]})
    ids = torch.tensor([[1, 98, 98, 98, 98, 5, 7]])
    pixels = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        a = loaded(input_ids=ids, pixel_values=pixels).logits
        b = reference(input_ids=ids, pixel_values=pixels).logits
    assert torch.equal(a, b)
