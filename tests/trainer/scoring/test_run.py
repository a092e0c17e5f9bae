"""`vlmsel score` as a run: every row in its class, kills and faults survived, lies refused."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import vlmsel
from published_recipe import nll_of_caption
from safetensors.torch import load_file, save_file
from small_index import Pair, draw_png, write_index
from vlmsel.errors import (
    LockedError,
    MismatchError,
    NotFoundError,
    ResourceError,
    StrictError,
    UnreadableError,
    UsageError,
)
from vlmsel_trainer.scoring import run, scorer, table
from vlmsel_trainer.scoring.options import ScoreOptions
from vlmsel_trainer.vlm import preprocess as samples
from vlmsel_trainer.vlm.load import LoadedModel

OPTIONS = ScoreOptions(samples_per_unit=5, batch_tokens=256, workers=2)
CONVERSATION = (
    '[{"from":"human","value":"<image>\\nwhat is it?"},{"from":"gpt","value":"a bird"},'
    '{"from":"human","value":"sure?"},{"from":"gpt","value":"yes"}]'
)
GOOD = [Pair([draw_png(i, 30 + 7 * (i % 5))], "a red bird on a branch " * (1 + i % 4)) for i in range(13)]
ODD = [
    Pair([b"not an image"], "broken"),
    Pair([draw_png(1)[:-40]], "cut off"),
    Pair([b""], "zero bytes"),
    Pair([draw_png(2)], ""),
    Pair([draw_png(3)], "a <image> and <|im_end|> in the caption"),
    Pair([], "a text without image"),
    Pair([draw_png(4), draw_png(5, 60)], "two images"),
    Pair([draw_png(6)], conversations=CONVERSATION),
    Pair([draw_png(6)], conversations='[{"from":"gpt","value":7}]'),
    Pair([draw_png(7)], None),
]
EXPECTED = [
    "image_undecodable",
    "image_undecodable",
    "image_undecodable",
    *["ok"] * 5,
    "bad_conversation",
    "no_text",
]


@pytest.fixture
def model(family_folder: Callable[[str], Path]) -> Path:
    return family_folder("llava_qwen2")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return write_index(tmp_path / "index", tmp_path / "data", {"a.tar": GOOD, "b.tar": ODD})


def read_scores(folder: Path) -> dict[bytes, dict[str, Any]]:
    rows = {}
    for part in sorted(folder.glob("*.parquet")):
        for row in pq.read_table(part).to_pylist():
            assert row["uid"] not in rows
            rows[row["uid"]] = row
    return rows


def hash_folder(folder: Path) -> dict[str, str]:
    """Every file but run.json, which holds what differs from run to run."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def test_every_row_ends_in_one_class(model: Path, index: Path, tmp_path: Path) -> None:
    summary = run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=0.5)
    rows = list(read_scores(tmp_path / "scores").values())
    assert len(rows) == len(GOOD) + len(ODD) == summary.counts["input"]
    by_uid = read_scores(tmp_path / "scores")
    order = [row["uid"] for part in ("a", "b") for row in pq.read_table(index / f"{part}.parquet").to_pylist()]
    assert [by_uid[uid]["status"] for uid in order] == ["ok"] * len(GOOD) + EXPECTED
    for row in rows:
        if row["status"] == "ok":
            assert row["n_tokens"] >= 1
            assert row["ppl"] == pytest.approx(math.exp(row["nll_sum"] / row["n_tokens"]), rel=1e-6)
        else:
            assert row["ppl"] is None
            assert row["nll_sum"] is None
    assert by_uid[order[len(GOOD) + 3]]["n_tokens"] == 1, "an empty caption has its end token"
    assert by_uid[order[len(GOOD) + 5]]["n_image_tokens"] == 0
    assert by_uid[order[len(GOOD) + 6]]["n_image_tokens"] == 2 * by_uid[order[0]]["n_image_tokens"] > 0
    assert summary.counts["ok"] + sum(n for s, n in summary.counts.items() if s not in ("ok", "input")) == len(rows)
    assert vlmsel.verify(tmp_path / "scores").problems == []


def test_scores_are_the_published_recipes(
    model: Path, index: Path, tmp_path: Path, family: Callable[[str], LoadedModel]
) -> None:
    run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=0.5)
    scores = read_scores(tmp_path / "scores")
    loaded = family("llava_qwen2")
    for row, pair in zip(pq.read_table(index / "a.parquet").to_pylist(), GOOD, strict=True):
        nll_sum, n_tokens = nll_of_caption(loaded.model, loaded.processor, pair.images, OPTIONS.prompt, pair.text or "")
        assert scores[row["uid"]]["n_tokens"] == n_tokens
        assert scores[row["uid"]]["nll_sum"] / n_tokens == pytest.approx(nll_sum / n_tokens, abs=1e-5)


def test_schema_and_provenance_of_every_part(model: Path, index: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, no_image_pass=True)
    run.score(model, index=index, output=tmp_path / "scores", options=options, max_bad_fraction=0.5)
    manifest = json.loads((tmp_path / "scores" / "manifest.json").read_text())
    parts = list((tmp_path / "scores").glob("*.parquet"))
    assert len(parts) == 5
    for part in parts:
        schema = pq.read_schema(part)
        assert json.loads(schema.metadata[b"vlmsel.provenance"]) == manifest["provenance"]
        assert {field.name: field.type for field in schema} == {
            "uid": pa.binary(16),
            "source": pa.string(),
            "ppl": pa.float32(),
            "nll_sum": pa.float64(),
            "n_tokens": pa.uint32(),
            "n_image_tokens": pa.uint32(),
            "truncated": pa.bool_(),
            "status": pa.string(),
            "nll_sum_no_image": pa.float64(),
        }
    assert manifest["provenance"]["dtype"] == "float32"
    assert manifest["provenance"]["image_backend"] == "pil"
    assert manifest["provenance"]["end_token"] == "<|im_end|>"
    assert str(tmp_path) not in (tmp_path / "scores" / "manifest.json").read_text()


def test_no_image_pass_is_the_text_alone(model: Path, tmp_path: Path) -> None:
    pairs = [Pair([draw_png(1)], "a red bird"), Pair([], "a red bird")]
    index = write_index(tmp_path / "index", tmp_path / "data", {"a.tar": pairs})
    run.score(model, index=index, output=tmp_path / "scores", options=replace(OPTIONS, no_image_pass=True))
    with_image, bare = pq.read_table(next((tmp_path / "scores").glob("*.parquet"))).to_pylist()
    assert with_image["nll_sum_no_image"] == pytest.approx(bare["nll_sum"], abs=1e-4)
    assert bare["nll_sum_no_image"] == pytest.approx(bare["nll_sum"], abs=1e-4)
    assert abs(with_image["nll_sum"] - bare["nll_sum"]) > 0.01


@pytest.mark.parametrize("seed", [0])
def test_killed_at_any_moment_and_resumed_gives_the_same_bytes(
    model: Path, index: Path, tmp_path: Path, seed: int
) -> None:
    from kill_loop import OPTIONS as options

    golden = tmp_path / "golden"
    run.score(model, index=index, output=golden, options=options, max_bad_fraction=1.0)
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(here / "kill_loop.py"), str(model), str(index), str(tmp_path / "killed"), str(seed)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0, "nothing was killed"
    assert hash_folder(tmp_path / "killed") == hash_folder(golden)
    assert not (tmp_path / "killed.partial").exists()


def test_batch_size_and_workers_do_not_matter(model: Path, index: Path, tmp_path: Path) -> None:
    scores = []
    for i, (batch_tokens, workers) in enumerate([(1, 1), (256, 3), (100_000, 2)]):
        options = replace(OPTIONS, batch_tokens=batch_tokens, workers=workers)
        run.score(model, index=index, output=tmp_path / f"s{i}", options=options, max_bad_fraction=0.5)
        scores.append(read_scores(tmp_path / f"s{i}"))
    for uid, row in scores[0].items():
        for other in scores[1:]:
            assert other[uid]["status"] == row["status"]
            if row["status"] == "ok":
                assert other[uid]["nll_sum"] / row["n_tokens"] == pytest.approx(
                    row["nll_sum"] / row["n_tokens"], abs=1e-5
                )


def test_out_of_memory_halves_the_batch_and_loses_no_row(
    model: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, batch_tokens=100_000)
    run.score(model, index=index, output=tmp_path / "golden", options=options, max_bad_fraction=0.5)
    sizes: list[int] = []
    original = scorer.answer_nll

    def starved(model: Any, inputs: dict[str, Any], labels: Any, keep: Any) -> Any:
        sizes.append(len(labels))
        if len(labels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return original(model, inputs, labels, keep)

    monkeypatch.setattr(scorer, "answer_nll", starved)
    run.score(model, index=index, output=tmp_path / "starved", options=options, max_bad_fraction=0.5)
    assert max(sizes) == 5
    assert sizes.count(1) >= len(GOOD)
    golden, starved_scores = read_scores(tmp_path / "golden"), read_scores(tmp_path / "starved")
    for uid, row in golden.items():
        assert starved_scores[uid]["status"] == row["status"]
        if row["status"] == "ok":
            assert starved_scores[uid]["ppl"] == pytest.approx(row["ppl"], rel=1e-4)


def test_row_too_large_alone_stays_as_a_row(
    model: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = scorer.answer_nll

    def starved(model: Any, inputs: dict[str, Any], labels: Any, keep: Any) -> Any:
        if labels.shape[1] > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, inputs, labels, keep)

    monkeypatch.setattr(scorer, "answer_nll", starved)
    summary = run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=0.9)
    assert 0 < summary.counts["out_of_memory"] < len(GOOD)
    assert summary.counts["input"] == len(GOOD) + len(ODD)


def test_failure_of_one_row_is_its_own(
    model: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = scorer.answer_nll

    def moody(model: Any, inputs: dict[str, Any], labels: Any, keep: Any) -> Any:
        if (labels.sum(1) == 1).any():  # the empty caption
            raise ValueError("the model does not like this row")
        return original(model, inputs, labels, keep)

    monkeypatch.setattr(scorer, "answer_nll", moody)
    summary = run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=0.5)
    assert summary.counts["model_error"] == 1
    assert summary.counts["ok"] == len(GOOD) + EXPECTED.count("ok") - 1


def test_scores_that_are_not_finite_are_a_class(
    model: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = scorer.answer_nll
    monkeypatch.setattr(scorer, "answer_nll", lambda *args: original(*args) * torch.nan)
    summary = run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=1.0)
    assert summary.counts["ok"] == 0
    assert summary.counts["not_finite"] == len(GOOD) + EXPECTED.count("ok")


def test_too_many_bad_rows_publish_nothing_and_go_on_later(model: Path, index: Path, tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="image_undecodable"):
        run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS)
    assert not (tmp_path / "scores").exists()
    summary = run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=0.5)
    assert summary.scored_rows < summary.counts["input"], "what was scored before was kept"
    run.score(model, index=index, output=tmp_path / "clean", options=OPTIONS, max_bad_fraction=0.5)
    assert hash_folder(tmp_path / "scores") == hash_folder(tmp_path / "clean")


def test_strict_stops_at_the_first_bad_row_and_names_it(model: Path, index: Path, tmp_path: Path) -> None:
    with pytest.raises(StrictError, match=r"row 0 of .*b\.parquet \(uid [0-9a-f]{32}\): image_undecodable"):
        run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, strict=True, max_bad_fraction=1.0)
    assert not (tmp_path / "scores").exists()


def test_finished_output_is_left_alone(model: Path, index: Path, tmp_path: Path) -> None:
    run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=0.5)
    before = hash_folder(tmp_path / "scores")
    summary = run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=0.5)
    assert summary.scored_rows == 0
    assert hash_folder(tmp_path / "scores") == before


def test_new_shards_extend_to_the_bytes_of_one_run(model: Path, tmp_path: Path) -> None:
    small = write_index(tmp_path / "index", tmp_path / "data", {"b.tar": ODD})
    run.score(model, index=small, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=0.5)
    shutil.rmtree(small)
    large = write_index(tmp_path / "index", tmp_path / "data", {"a.tar": GOOD, "b.tar": ODD})
    summary = run.score(model, index=large, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=0.5)
    assert summary.scored_rows == len(GOOD)
    run.score(model, index=large, output=tmp_path / "clean", options=OPTIONS, max_bad_fraction=0.5)
    assert hash_folder(tmp_path / "scores") == hash_folder(tmp_path / "clean")


def test_resume_refuses_a_changed_index(model: Path, tmp_path: Path) -> None:
    index = write_index(tmp_path / "index", tmp_path / "data", {"a.tar": GOOD})
    run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS)
    shutil.rmtree(index)
    write_index(index, tmp_path / "data", {"a.tar": GOOD[:-1]})
    with pytest.raises(MismatchError, match=r"a\.parquet"):
        run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS)


def test_resume_refuses_another_model_or_prompt(
    model: Path, index: Path, tmp_path: Path, family_folder: Callable[[str], Path]
) -> None:
    with pytest.raises(UnreadableError):
        run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS)
    with pytest.raises(MismatchError, match="prompt"):
        run.score(model, index=index, output=tmp_path / "scores", options=replace(OPTIONS, prompt="Other."))
    with pytest.raises(MismatchError, match="model_sha256"):
        run.score(family_folder("llava_llama"), index=index, output=tmp_path / "scores", options=OPTIONS)


def test_resume_refuses_other_conditions(
    model: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnreadableError):
        run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS)
    monkeypatch.setattr(run, "version", lambda name: "99.0")
    with pytest.raises(MismatchError, match="other conditions"):
        run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=0.5)


def test_second_run_is_refused_by_name(model: Path, index: Path, tmp_path: Path) -> None:
    with vlmsel.Output.begin(tmp_path / "scores", command="score", config={}, inputs=[]), pytest.raises(LockedError):
        run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS)


def test_output_inside_an_input_is_refused(model: Path, index: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        run.score(model, index=index, output=index / "scores", options=OPTIONS)


def test_model_with_pickled_weights_is_refused(model: Path, index: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(model, pickled)
    weights = next(pickled.glob("*.safetensors"))
    torch.save({}, pickled / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UsageError, match="pickle"):
        run.score(pickled, index=index, output=tmp_path / "scores", options=OPTIONS)
    assert not (tmp_path / "scores").exists()
    assert not (tmp_path / "scores.partial").exists()


def test_model_with_code_of_its_own_is_refused(model: Path, index: Path, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    shutil.copytree(model, remote)
    config = json.loads((remote / "config.json").read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}
    (remote / "config.json").write_text(json.dumps(config))
    (remote / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UsageError, match="--trust-remote-code"):
        run.score(remote, index=index, output=tmp_path / "scores", options=OPTIONS)


def test_full_disk_names_the_file_and_keeps_what_was_committed(
    model: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, parts = table.create_plain, []

    def fill_up(path: Path) -> int:
        parts.append(path)
        return os.open("/dev/full", os.O_WRONLY) if len(parts) == 3 else original(path)

    monkeypatch.setattr(table, "create_plain", fill_up)
    with pytest.raises(ResourceError, match=r"\.parquet\.tmp, .* bytes of scores, cannot be written .*No space left"):
        run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=0.5)
    assert not (tmp_path / "scores").exists()
    summary = run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=0.5)
    assert 0 < summary.scored_rows < summary.counts["input"]
    run.score(model, index=index, output=tmp_path / "clean", options=OPTIONS, max_bad_fraction=0.5)
    assert hash_folder(tmp_path / "scores") == hash_folder(tmp_path / "clean")


def test_processor_that_breaks_on_one_image_costs_one_row(
    model: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = samples.Preprocessor._processor

    def moody(self: Any) -> Any:
        processor = original(self)

        def process(**inputs: Any) -> Any:
            if inputs["images"][0].size == (60, 40):  # the one picture of this size among the rows
                raise IndexError("tiles")
            return processor(**inputs)

        return process

    monkeypatch.setattr(samples.Preprocessor, "_processor", moody)
    summary = run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=0.5)
    assert summary.counts["image_unusable"] == 1
    assert summary.counts["ok"] == len(GOOD) + EXPECTED.count("ok") - 1


def test_model_that_lacks_a_tensor_is_refused(model: Path, index: Path, tmp_path: Path) -> None:
    """transformers would fill it with random numbers and go on."""
    holed = tmp_path / "holed"
    shutil.copytree(model, holed)
    weights = next(holed.glob("*.safetensors"))
    tensors = load_file(weights)
    lost = next(name for name in tensors if "layers.0" in name and "q_proj.weight" in name and "language" in name)
    del tensors[lost]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks 1 of the model's tensors .*q_proj\.weight"):
        run.score(holed, index=index, output=tmp_path / "scores", options=OPTIONS)
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("config.json", "{", "no JSON"),
        ("config.json", "[]", "no object"),
        ("config.json", '{"model_type": "nonesuch"}', "cannot be loaded|no processor"),
        ("model.safetensors", "", "no safetensors file"),
        ("model.safetensors", "x" * 100, "no safetensors file"),
        ("chat_template.jinja", None, "no chat template"),
        ("tokenizer.json", None, "no processor"),
        ("processor_config.json", None, "no processor"),
    ],
)
def test_damaged_model_folder_is_named(
    model: Path, index: Path, tmp_path: Path, file: str, content: str | None, complaint: str
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(model, damaged)
    if content is None:
        (damaged / file).unlink()
    else:
        (damaged / file).write_text(content)
    with pytest.raises(UsageError, match=complaint):
        run.score(damaged, index=index, output=tmp_path / "scores", options=OPTIONS)


@pytest.mark.parametrize("missing", ["model", "index"])
def test_missing_folders_are_named(model: Path, index: Path, tmp_path: Path, missing: str) -> None:
    places = {"model": model, "index": index, missing: tmp_path / "nowhere"}
    with pytest.raises(NotFoundError, match="nowhere"):
        run.score(places["model"], index=places["index"], output=tmp_path / "scores", options=OPTIONS)


def test_unfinished_index_is_refused(model: Path, index: Path, tmp_path: Path) -> None:
    (index / "manifest.json").unlink()
    with pytest.raises(MismatchError):
        run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS)


def test_limit_scores_the_first_rows(model: Path, index: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, limit=7)
    summary = run.score(model, index=index, output=tmp_path / "scores", options=options)
    assert summary.counts == {"input": 7, "ok": 7}


def test_missing_shard_is_a_status_of_its_rows(model: Path, index: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "a.tar").unlink()
    summary = run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=1.0)
    assert summary.counts["image_missing"] == len(GOOD)
    with pytest.raises(UnreadableError):
        run.score(model, index=index, output=tmp_path / "none", options=OPTIONS, max_bad_fraction=0.2)
    allowed = run.score(
        model, index=index, output=tmp_path / "one", options=OPTIONS, max_bad_fraction=0.2, allow_bad_files=1
    )
    assert allowed.counts == summary.counts


def test_shard_that_became_shorter_is_a_status_of_its_rows(model: Path, index: Path, tmp_path: Path) -> None:
    os.truncate(tmp_path / "data" / "a.tar", 1000)
    summary = run.score(model, index=index, output=tmp_path / "scores", options=OPTIONS, max_bad_fraction=1.0)
    assert summary.counts["image_unreadable"] > 0
