"""Companion files: what is carried over, what is reported, and what stops a soup."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch
from builders import random_state, same_folder, write_model
from vlmsel.errors import NotFoundError, UnreadableError, UsageError
from vlmsel_trainer.soup import Reporter, SoupOptions, make_soup
from vlmsel_trainer.soup.config_files import Companions, compare_companions

LAYOUT = {"w": (torch.float32, (3, 3))}
CONFIG = {"architectures": ["Llava"], "hidden_size": 8, "text_config": {"vocab_size": 9, "tie_word_embeddings": True}}
TOKENIZER = {"model": {"vocab": {"a": 0, "b": 1}}}


def folder(path: Path, seed: int, **changes: str | None) -> Path:
    """A model with the usual companions, some replaced or (None) left out; ``__`` in a name stands for a dot."""
    files: dict[str, str | None] = {
        "config.json": json.dumps(CONFIG),
        "tokenizer.json": json.dumps(TOKENIZER),
        "tokenizer_config.json": json.dumps({"padding_side": "left"}),
        "preprocessor_config.json": json.dumps({"size": 32, "image_mean": [0.5, 0.5]}),
        "generation_config.json": json.dumps({"temperature": 1.0, "eos_token_id": 2}),
        "chat_template.jinja": "{{ x }}",
        **{name.replace("__", "."): text for name, text in changes.items()},
    }
    return write_model(path, random_state(seed, LAYOUT), files={k: v for k, v in files.items() if v is not None})


def soup(tmp_path: Path, models: list[Path], name: str = "soup", **options: object) -> dict:  # type: ignore[type-arg]
    return make_soup(SoupOptions("average", tuple(models), tmp_path / name, **options)).manifest  # type: ignore[arg-type]


def test_everything_useful_is_carried_and_nothing_else(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", 0), folder(tmp_path / "b", 1)
    for model in (a, b):
        (model / "additional_chat_templates").mkdir()
        (model / "additional_chat_templates" / "tools.jinja").write_text("t")
        (model / "optimizer.pt").write_bytes(b"x")
        for record in ("trainer_state.json", "training.json", "notes.txt", ".hidden.json"):
            (model / record).write_text(f'"{model.name}"')
        (model / "README.md").write_text("---\ndatasets:\n- chart2text\n- 'map|qa<b>'\n---\n")
    manifest = soup(tmp_path, [a, b])
    names = sorted(p.relative_to(tmp_path / "soup").as_posix() for p in (tmp_path / "soup").rglob("*") if p.is_file())
    assert names == [
        "README.md", "additional_chat_templates/tools.jinja", "chat_template.jinja", "config.json",
        "generation_config.json", "manifest.json", "model.safetensors", "preprocessor_config.json", "run.json",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert (tmp_path / "soup" / "config.json").read_bytes() == (a / "config.json").read_bytes()
    card = (tmp_path / "soup" / "README.md").read_text()
    assert '- "map|qa<b>"' in card, "front matter is data"
    assert r"map\|qa&lt;b&gt;" in card, "the table's cells cannot hold markup"
    assert manifest["provenance"]["companions"]["differences"] == []


@pytest.mark.parametrize(
    "changes",
    [
        {
            "config__json": json.dumps(
                {**CONFIG, "transformers_version": "9", "_name_or_path": "/x", "use_cache": False}
            )
        },
        {"config__json": json.dumps({**CONFIG, "text_config": {**CONFIG["text_config"], "dtype": "x"}})},  # type: ignore[dict-item]
        {"generation_config__json": json.dumps({"temperature": 0.2, "eos_token_id": 2})},
        {"generation_config__json": None},
        {"tokenizer__json": json.dumps({**TOKENIZER, "truncation": {"max_length": 8}, "padding": None})},
        {"tokenizer_config__json": json.dumps({"padding_side": "right", "model_max_length": 8})},
    ],
)
def test_harmless_differences_are_reported(tmp_path: Path, changes: dict[str, str | None]) -> None:
    a, b = folder(tmp_path / "a", 0), folder(tmp_path / "b", 1, **changes)
    manifest = soup(tmp_path, [a, b])
    assert manifest["provenance"]["companions"]["differences"]
    soup(tmp_path, [b, a], "other")
    assert same_folder(tmp_path / "soup", tmp_path / "other"), "which config is carried must not depend on the order"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config__json": json.dumps({**CONFIG, "hidden_size": 9})}, "hidden_size is"),
        ({"config__json": json.dumps({**CONFIG, "text_config": {"vocab_size": 9}})}, "text_config.tie_word_embeddings"),
        ({"config__json": json.dumps({**CONFIG, "hidden_size": 8.0})}, "hidden_size"),
        ({"tokenizer__json": json.dumps({"model": {"vocab": {"a": 1, "b": 0}}})}, r"tokenizer.json: model.vocab.a"),
        ({"tokenizer__json": None}, "tokenizer.json is"),
        ({"preprocessor_config__json": json.dumps({"size": 64, "image_mean": [0.5, 0.5]})}, "size"),
        ({"preprocessor_config__json": json.dumps({"size": 32, "image_mean": [0.5, 0.4]})}, r"image_mean\[1\]"),
        ({"chat_template__jinja": "{{ y }}"}, "chat template"),
        ({"chat_template__jinja": None}, "chat template"),
        ({"generation_config__json": json.dumps({"temperature": 1.0, "eos_token_id": 3})}, "eos_token_id"),
    ],
)
def test_differences_in_meaning_stop_the_soup(tmp_path: Path, changes: dict[str, str | None], words: str) -> None:
    a, b = folder(tmp_path / "a", 0), folder(tmp_path / "b", 1, **changes)
    with pytest.raises(UsageError, match=words):
        soup(tmp_path, [a, b])
    soup(tmp_path, [a, b], companions_from=a)
    assert (tmp_path / "soup" / "tokenizer.json").read_bytes() == (a / "tokenizer.json").read_bytes()


def test_a_chat_template_may_live_in_either_place(tmp_path: Path) -> None:
    inside = json.dumps({"padding_side": "left", "chat_template": "{{ x }}"})
    a = folder(tmp_path / "a", 0)
    b = folder(tmp_path / "b", 1, chat_template__jinja=None, tokenizer_config__json=inside)
    assert soup(tmp_path, [a, b])["provenance"]["companions"]["differences"] == []


def test_companions_from_must_be_a_models_folder(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", 0)
    with pytest.raises(NotFoundError, match="nothing"):
        soup(tmp_path, [a], companions_from=tmp_path / "nothing")
    with pytest.raises(NotFoundError, match=r"config\.json"):
        soup(tmp_path, [a], companions_from=a / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no config\.json"):
        soup(tmp_path, [a], companions_from=tmp_path / "empty")
    assert not (tmp_path / "soup").exists()


def test_a_soup_without_any_config_is_warned_of(tmp_path: Path) -> None:
    class Listener(Reporter):
        def warn(self, text: str) -> None:
            warnings.append(text)

    warnings: list[str] = []
    models = [folder(tmp_path / name, 0, config__json=None) for name in "ab"]
    make_soup(SoupOptions("average", tuple(models), tmp_path / "soup"), Listener())
    assert any("config.json" in text for text in warnings)


def test_json_nested_as_deeply_as_the_reader_allows_is_no_bug(tmp_path: Path) -> None:
    # Python 3.12 and later parse deeper than their stack is.
    for depth in (*range(900, 1000), 2000, 5000):
        texts = ["[" * depth + leaf + "]" * depth for leaf in "12"]
        pair = [(text, Companions(tmp_path, {"config.json": text.encode()})) for text in texts]
        with contextlib.suppress(UnreadableError):
            assert [difference.changes_meaning for difference in compare_companions(pair)] == [True]


def test_names_that_look_like_numbers_stay_names_in_the_card(tmp_path: Path) -> None:
    soup(tmp_path, [folder(tmp_path / name, seed) for seed, name in enumerate(("1e-5", "yes"))])
    card = (tmp_path / "soup" / "README.md").read_text()
    assert 'base_model:\n- "1e-5"\n- "yes"\n' in card


def test_escapes_in_names_do_not_reach_the_card(tmp_path: Path) -> None:
    a = folder(tmp_path / "a\x1b[31m`<script>", 0)
    soup(tmp_path, [a])
    card = (tmp_path / "soup" / "README.md").read_text()
    assert "\x1b" not in card
    prose = [line for line in card.split("---", 2)[2].splitlines() if not line.startswith("    ")]
    assert not any("<script>" in line for line in prose), "only an indented code block may hold it"
