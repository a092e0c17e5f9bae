"""Files that lie: every one of them ends in an error that names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from vlmsel.errors import NotFoundError, ResourceError, UnreadableError, UsageError, VlmselError
from vlmsel_trainer.soup.weights.checkpoint import Checkpoint

STATE = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", STATE)


def rewrite(model: Path, change: Callable[[dict[str, Any]], None], data: bytes | None = None) -> None:
    """Changes the header of a model's only file and keeps (or replaces) its data."""
    path = model / "model.safetensors"
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + (raw[8 + length :] if data is None else data))


def test_reads_what_safetensors_wrote(model: Path) -> None:
    with Checkpoint(model) as checkpoint:
        assert {n: (t.dtype, t.shape) for n, t in checkpoint.tensors.items()} == {
            "a": ("F32", (2, 3)),
            "b": ("BF16", (4,)),
        }
        buffer = bytearray(8)
        checkpoint.read_into(checkpoint.tensors["a"], 4, memoryview(buffer))
        assert buffer == STATE["a"].numpy().tobytes()[4:12]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h["b"].update(data_offsets=[20, 28]), "overlap"),
        (lambda h: h["a"].update(data_offsets=[0, 24]) or h["b"].update(data_offsets=[0, 8]), "overlap"),
        (lambda h: h["a"].update(shape=[2, 4]), "occupies"),
        (lambda h: h["a"].update(shape=[2, -3]), "shape"),
        (lambda h: h["a"].update(shape=[True, 6]), "shape"),
        (lambda h: h["a"].update(shape=[2**61, 2**61]), "occupies"),
        (lambda h: h["a"].update(dtype="F7"), "F7"),
        (lambda h: h["a"].update(dtype=["F32"]), "dtype"),
        (lambda h: h["a"].update(data_offsets=[24, 0]), "occupies"),
        (lambda h: h["a"].update(extra=1), "not described"),
        (lambda h: h.pop("b"), "behind its last tensor"),
        (lambda h: h.update({"c": {"dtype": "F32", "shape": [2], "data_offsets": [32, 40]}}), "cut short"),
        (lambda h: h.update({"c\x1b[31m": {"dtype": "F32", "shape": [0], "data_offsets": [32, 32]}}), "control"),
        (lambda h: h.update({"__metadata__": {"a": 1}}), "__metadata__"),
    ],
)
def test_tampered_headers(model: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    rewrite(model, change)
    with pytest.raises(UnreadableError, match=words) as caught:
        Checkpoint(model)
    assert "model.safetensors" in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_unclaimed_bytes(model: Path) -> None:
    rewrite(model, lambda h: h["b"].update(data_offsets=[28, 36]), data=bytes(36))
    with pytest.raises(UnreadableError, match="unclaimed"):
        Checkpoint(model)


@pytest.mark.parametrize("keep", [0, 4, 8, 20, -1])
def test_truncated_file(model: Path, keep: int) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UnreadableError, match="cut short"):
        Checkpoint(model)


def test_a_doubled_key_is_named(model: Path) -> None:
    entry = b'"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}'
    text = b"{" + entry + b", " + entry + b"}"
    (model / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    with pytest.raises(UnreadableError, match="the key 'a' occurs twice"):
        Checkpoint(model)


def test_an_adapters_config_beside_a_full_model_is_named(model: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no adapter_model\.safetensors; it does hold model\.safetensors, which is no adapter"
    ):
        Checkpoint(model, single_file="adapter_model.safetensors")


def test_too_many_open_files_says_so(tmp_path: Path) -> None:
    import resource

    folder = write_model(tmp_path / "many", {f"t{n}": torch.zeros(1) for n in range(200)}, n_shards=200)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        with pytest.raises(ResourceError, match="ulimit -n"):
            Checkpoint(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    Checkpoint(folder).close()


def test_huge_header_is_refused_without_reading_it(model: Path) -> None:
    with (model / "model.safetensors").open("wb") as file:
        file.write((2 << 30).to_bytes(8, "little"))
        file.truncate(3 << 30)  # sparse: costs no disk
    with pytest.raises(UnreadableError, match="header of"):
        Checkpoint(model)


@pytest.mark.parametrize("text", [b"[" * 200_000, b'{"a": 1, "a": 2}', b"\xff\xfe", b"[]", b'{"a": NaN}', b""])
def test_headers_that_are_no_json_object(model: Path, text: bytes) -> None:
    (model / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(UnreadableError):
        Checkpoint(model)


@given(st.binary(max_size=200), st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_random_damage_is_an_error_or_harmless(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    folder = write_model(tmp_path_factory.mktemp("noise") / "model", STATE)
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[at : at + len(noise)] = noise
    path.write_bytes(raw)
    try:
        with Checkpoint(folder) as checkpoint:
            for tensor in checkpoint.tensors.values():
                checkpoint.read_into(tensor, 0, memoryview(bytearray(tensor.size_bytes)))
    except VlmselError:
        pass


def test_missing_folder_file_and_pickle(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        Checkpoint(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="folder"):
        Checkpoint(tmp_path / "file")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    torch.save(STATE, pickled / "pytorch_model.bin")
    with pytest.raises(UsageError, match="save_pretrained"):
        Checkpoint(pickled)


def test_index_must_agree_with_the_files(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", STATE, n_shards=2)
    index = model / "model.safetensors.index.json"
    good = json.loads(index.read_text())

    def broken(weight_map: dict[str, str], words: str) -> None:
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(UnreadableError, match=words):
            Checkpoint(model)

    first, second = good["weight_map"]["a"], good["weight_map"]["b"]
    broken({"a": second, "b": second}, "says that 'a'")
    broken({"a": first, "b": second, "c": second}, "says that 'c'")
    broken({"b": second, "a": "model-00009-of-00009.safetensors"}, "not there")
    broken({"a": first, "b": "../b.safetensors"}, "not a safetensors file of this folder")
    broken({"a": first, "b": "/etc/b.safetensors"}, "not a safetensors file of this folder")
    os.link(model / first, model / "again.safetensors")
    broken({"a": first, "b": "again.safetensors"}, "both")


def test_both_single_file_and_index_is_ambiguous(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", STATE, n_shards=2)
    os.link(next(model.glob("*.safetensors")), model / "model.safetensors")
    with pytest.raises(UsageError, match="both"):
        Checkpoint(model)


def test_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    os.mkfifo(model / "model.safetensors")
    with pytest.raises(UsageError, match=r"model\.safetensors is a named pipe, not a plain file"):
        Checkpoint(model)


def test_file_that_shrinks_while_it_is_read(model: Path) -> None:
    with Checkpoint(model) as checkpoint:
        os.truncate(model / "model.safetensors", 150)
        with pytest.raises(UnreadableError, match="shorter"):
            checkpoint.read_into(checkpoint.tensors["a"], 0, memoryview(bytearray(24)))
        with pytest.raises(UnreadableError, match="written to"):
            checkpoint.check_unchanged()
