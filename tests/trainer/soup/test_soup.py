"""Whole soups on disk: against a long-double mean, under any sharding, order, thread count and memory limit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import vlmsel
from builders import (
    DTYPES,
    assert_rounded,
    oracle_mean,
    random_state,
    read_model,
    same_bits,
    same_folder,
    same_state,
    write_model,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from vlmsel import verify
from vlmsel.errors import LockedError, MismatchError, NotFoundError, ResourceError, UnreadableError, UsageError
from vlmsel_trainer.soup import Soup, SoupOptions, make_soup
from vlmsel_trainer.soup.average import Blender
from vlmsel_trainer.soup.report.reporting import Reporter
from vlmsel_trainer.soup.weights.weight_shards import Shard

#: Crosses leaf (1 MiB) and chunk borders, odd sizes, scalars and empty tensors, every averaged dtype.
LAYOUT = {
    "language_model.layers.0.weight": (torch.bfloat16, (900, 1201)),
    "language_model.norm.bias": (torch.float16, (7,)),
    "scale": (torch.float32, ()),
    "empty": (torch.float32, (0, 3)),
    "vision_tower.weight": (torch.float32, (513, 600)),
    "half": (torch.float16, (3, 5, 7)),
    "double": (torch.float64, (11,)),
}


def average(models: list[Path], out: Path, **options: object) -> Path:
    return make_soup(SoupOptions("average", tuple(models), out, **options)).path  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [write_model(root / f"m{n}", random_state(n, LAYOUT), n_shards=n % 3 + 1) for n in range(3)]


def check_against_oracle(soup: Path, models: list[Path], weights: list[float] | None = None) -> None:
    states = [read_model(model) for model in models]
    exact = oracle_mean(states, weights)
    found = read_model(soup)
    assert found.keys() == exact.keys()
    for name, tensor in found.items():
        largest = np.max([np.abs(state[name].double().numpy()) for state in states], axis=0)
        assert tensor.dtype == states[0][name].dtype
        assert_rounded(name, tensor, exact[name], len(models), largest)


def test_average_equals_oracle(models: list[Path], tmp_path: Path) -> None:
    soup = average(models, tmp_path / "soup")
    check_against_oracle(soup, models)
    assert verify(soup).problems == []


def test_weighted_average_equals_oracle(models: list[Path], tmp_path: Path) -> None:
    soup = average(models, tmp_path / "soup", weights=(0.2, 0.5, 1.5))
    check_against_oracle(soup, models, [0.2, 0.5, 1.5])
    other = average([models[2], models[0], models[1]], tmp_path / "other", weights=(1.5, 0.2, 0.5))
    assert same_folder(soup, other)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_soup_of_one_model_is_that_model(models: list[Path], tmp_path: Path, count: int) -> None:
    assert same_state(read_model(average([models[0]] * count, tmp_path / "soup")), read_model(models[0]))


def test_soup_of_a_model_and_its_copy_is_that_model(models: list[Path], tmp_path: Path) -> None:
    copy = write_model(tmp_path / "copy", read_model(models[1]), n_shards=3)
    manifest = make_soup(SoupOptions("average", (models[1], copy), tmp_path / "soup")).manifest
    assert same_state(read_model(tmp_path / "soup"), read_model(models[1]))
    hashes = {entry["content_hash"] for entry in manifest["provenance"]["candidates"]}
    assert hashes == {manifest["provenance"]["content_hash"]}, "re-sharding does not change what a model is"


def test_no_order_thread_count_or_memory_limit_changes_a_byte(models: list[Path], tmp_path: Path) -> None:
    first = average(models, tmp_path / "a", threads=1)
    for number, (order, threads, memory) in enumerate(
        [((2, 1, 0), 4, 64 << 20), ((1, 0, 2), 2, 8 << 20), ((0, 2, 1), 8, 1 << 30)]
    ):
        other = average([models[n] for n in order], tmp_path / f"b{number}", threads=threads, memory_limit=memory)
        assert same_folder(first, other)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shapes_dtypes_and_shardings(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("any")
    n_tensors = data.draw(st.integers(1, 5))
    shapes = st.lists(st.integers(0, 9), max_size=3)
    layout = {
        f"t{n}": (DTYPES[data.draw(st.sampled_from(sorted(DTYPES)))], data.draw(shapes)) for n in range(n_tensors)
    }
    spread = data.draw(st.sampled_from([1e-40, 1e-6, 1.0, 1e3]))
    count = data.draw(st.integers(1, 4))
    models = [
        write_model(root / f"m{n}", random_state(n, layout, spread), n_shards=data.draw(st.integers(1, n_tensors)))
        for n in range(count)
    ]
    size = data.draw(st.sampled_from([1, 64, 1 << 20]))
    soup = average(models, root / "soup", max_shard_bytes=size)
    check_against_oracle(soup, models)
    assert same_folder(soup, average(models[::-1], root / "again", max_shard_bytes=size))


def test_output_shards_keep_to_their_size(models: list[Path], tmp_path: Path) -> None:
    limit = 1_300_000
    soup = average(models, tmp_path / "soup", max_shard_bytes=limit)
    assert json.loads((soup / "model.safetensors.index.json").read_text())["metadata"]["total_size"] == sum(
        t.numel() * t.element_size() for t in read_model(models[0]).values()
    )
    files = list(soup.glob("*.safetensors"))
    assert len(files) > 1
    for file in files:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
        header.pop("__metadata__")
        assert len(header) == 1 or file.stat().st_size - length - 8 <= limit
        # The format wants tensors aligned to their element.
        sizes = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
        assert length % 8 == 0
        assert all(entry["data_offsets"][0] % sizes[entry["dtype"]] == 0 for entry in header.values())


def test_every_tensor_is_accounted_for(models: list[Path], tmp_path: Path) -> None:
    manifest = make_soup(SoupOptions("average", tuple(models), tmp_path / "soup")).manifest
    parts = [part["detail"]["tensors"] for part in manifest["parts"] if part["unit"].endswith(".safetensors")]
    names = [name for part in parts for name in part]
    assert sorted(names) == sorted(read_model(models[0]))
    assert sum(manifest["provenance"]["tensors"].values()) == len(names)


def test_keep_takes_one_model_unblended(models: list[Path], tmp_path: Path) -> None:
    soup = average(models, tmp_path / "soup", keep=("vision_tower.*", "ha??"), keep_from=models[1])
    found, kept = read_model(soup), read_model(models[1])
    assert same_bits(found["vision_tower.weight"], kept["vision_tower.weight"])
    assert same_bits(found["half"], kept["half"])
    assert not same_bits(found["scale"], kept["scale"])
    outside = write_model(tmp_path / "outside", random_state(99, LAYOUT))
    soup = average(models, tmp_path / "soup2", keep=("vision_tower.*",), keep_from=outside)
    assert same_bits(read_model(soup)["vision_tower.weight"], read_model(outside)["vision_tower.weight"])
    with pytest.raises(UsageError, match="matches no tensor"):
        average(models, tmp_path / "none", keep=("visual.*",), keep_from=models[1])


# What must be refused.


def pair(tmp_path: Path, change: dict[str, torch.Tensor | None]) -> list[Path]:
    """A small model and a copy in which some tensors are replaced or (None) missing."""
    layout = {"a": (torch.bfloat16, (4, 4)), "b": (torch.float32, (3,))}
    state = {**random_state(0, layout), "position_ids": torch.arange(4)}
    other = {**random_state(1, layout), "position_ids": torch.arange(4), **change}
    return [
        write_model(tmp_path / "one", state),
        write_model(tmp_path / "two", {name: tensor for name, tensor in other.items() if tensor is not None}),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"b": None}, "only in one: b"),
        ({"c": torch.zeros(1)}, "only in two: c"),
        ({"a": torch.zeros(4, 5, dtype=torch.bfloat16)}, r"a \(BF16 .* in .*, BF16 .* in .*\)"),
        ({"a": torch.zeros(2, 8, dtype=torch.bfloat16)}, r"\[2, 8\]"),
        ({"a": torch.zeros(4, 4, dtype=torch.float16)}, "F16"),
        ({"position_ids": torch.arange(4) + 1}, "position_ids is I64"),
    ],
)
def test_tensors_that_do_not_match(tmp_path: Path, change: dict[str, torch.Tensor | None], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        average(pair(tmp_path, change), tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("models", [1, 2])
def test_nan_in_an_ingredient_names_tensor_and_model(tmp_path: Path, bad: float, models: int) -> None:
    spoilt = torch.zeros(3)
    spoilt[2] = bad
    folders = pair(tmp_path, {"b": spoilt})
    with pytest.raises(UnreadableError, match="b of two"):
        average(folders[-models:], tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_tied_in_one_and_not_in_the_other(tmp_path: Path) -> None:
    weight = torch.randn(6, 4)
    one = {"model.embed_tokens.weight": weight, "lm_head.weight": weight.clone()}
    two = {"model.embed_tokens.weight": weight + 1, "lm_head.weight": weight + 2}
    folders = [write_model(tmp_path / "one", one), write_model(tmp_path / "two", two)]
    with pytest.raises(UsageError, match="tied tensor in one and two in two"):
        average(folders, tmp_path / "soup")
    three = write_model(tmp_path / "three", {name: tensor + 1 for name, tensor in one.items()})
    soup = read_model(average([folders[0], three], tmp_path / "tied"))
    assert same_bits(soup["lm_head.weight"], soup["model.embed_tokens.weight"])


def test_refuses_to_write_into_an_ingredient(models: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(models[0])
    for out in (models[0], models[0] / "soup", models[0].parent, link / "soup"):
        with pytest.raises(UsageError):
            average(models[:2], out)


def test_a_finished_soup_is_left_alone_and_another_refused(models: list[Path], tmp_path: Path) -> None:
    first = make_soup(SoupOptions("average", tuple(models[:2]), tmp_path / "soup"))
    again = make_soup(SoupOptions("average", (models[1], models[0]), tmp_path / "soup"))
    assert not first.already_done
    assert again.already_done
    with pytest.raises(MismatchError):
        average(models, tmp_path / "soup")
    assert not make_soup(SoupOptions("average", tuple(models), tmp_path / "soup", overwrite=True)).already_done


def test_the_public_function_makes_the_same_soup(models: list[Path], tmp_path: Path) -> None:
    calls: list[tuple[int, ...]] = []
    made = vlmsel.soup(models, output=tmp_path / "soup", threads=2, progress=lambda *numbers: calls.append(numbers))
    assert not made.already_done
    assert same_folder(made.path, average(models, tmp_path / "engine"))
    assert calls and calls[-1][2] == calls[-1][3] > 0 and calls[-1][:2] == (0, 0)
    assert vlmsel.soup(models, output=tmp_path / "soup").already_done
    with pytest.raises(UsageError, match="--top 9"):
        vlmsel.soup(models, method="maximum", top=9, output=tmp_path / "other")


def test_locked_output(models: list[Path], tmp_path: Path) -> None:
    options = SoupOptions("average", tuple(models), tmp_path / "soup")

    class Second(Reporter):
        def progress(self, title: str, total_bytes: int):  # type: ignore[no-untyped-def]
            with pytest.raises(LockedError):
                make_soup(options)
            return super().progress(title, total_bytes)

    make_soup(options, Second())


def test_checks_the_disk_first(models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmsel_trainer.soup import run as making

    usage = making.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(making.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ResourceError, match=r"bytes free, the soup needs \d+"):
        average(models, tmp_path / "soup")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_names_path_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlmsel_trainer.soup.weights import write_behind

    # ``/dev/full`` takes no bytes and cannot be cut to a size.
    monkeypatch.setattr(write_behind, "create_plain", lambda _: os.open("/dev/full", os.O_WRONLY))
    monkeypatch.setattr(os, "ftruncate", lambda *_: None)
    words = r"model\.safetensors \(12 bytes\).*full"
    with (
        pytest.raises(ResourceError, match=words),
        write_behind.WriteBehind(Path("model.safetensors"), 12) as file,
    ):
        file.write(b"x" * 12, 0)


def test_memory_limit_too_small_says_so(models: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="--memory-limit"):
        average(models, tmp_path / "soup", memory_limit=1 << 20)


@pytest.mark.parametrize(
    "options",
    [
        {"weights": (1.0,)},
        {"weights": (1.0, -1.0)},
        {"weights": (1.0, float("nan"))},
        {"weights": (1.0, 0.0)},
        {"keep": ("x",)},
        {"max_shard_bytes": 0},
        {"eval_timeout_s": 0.0},
        {"eval_timeout_s": float("nan")},
        {"accept_margin": float("nan")},
    ],
)
def test_senseless_options(models: list[Path], tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        average(models[:2], tmp_path / "soup", **options)
    with pytest.raises(UsageError):
        make_soup(SoupOptions("maximum", tuple(models), tmp_path / "soup", top=4, scores=tmp_path / "s.json"))


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing"):
        average([tmp_path / "nothing"], tmp_path / "soup")


def test_plan_names_what_it_would_write(models: list[Path], tmp_path: Path) -> None:
    with Soup(SoupOptions("average", tuple(models), tmp_path / "soup"), Reporter()) as soup:
        plan = soup.plan()
    assert plan.shards == ("model.safetensors",)
    made = average(models, tmp_path / "soup")
    assert plan.write_bytes == (made / "model.safetensors").stat().st_size
    assert not (tmp_path / "soup.partial").exists()


def test_more_than_one_file_per_model_and_an_eight_bit_float(tmp_path: Path) -> None:
    states = [{"w": torch.randn(4, 4).to(torch.float8_e4m3fn)} for _ in range(2)]
    folders = []
    for number, state in enumerate(states):
        folder = tmp_path / f"m{number}"
        folder.mkdir()
        save_file(state, folder / "model.safetensors")
        folders.append(folder)
    with pytest.raises(UsageError, match="F8_E4M3, which is not averaged"):
        average(folders, tmp_path / "soup")


def test_a_run_that_dies_while_it_notes_its_files_can_be_resumed(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note of what the files were is written anew by every run, and the next one reads it."""

    def die(descriptor: int) -> None:
        os.ftruncate(descriptor, 10)
        raise KeyboardInterrupt

    options = SoupOptions("average", tuple(models), tmp_path / "soup", max_shard_bytes=1_300_000)
    original = Blender.write

    def write_two(self: Blender, shard: Shard, path: Path) -> dict[str, object]:
        if shard.file_name.startswith("model-00003"):
            raise KeyboardInterrupt
        return original(self, shard, path)

    with monkeypatch.context() as patch:
        patch.setattr(Blender, "write", write_two)
        with pytest.raises(KeyboardInterrupt):
            make_soup(options)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", die)
        with pytest.raises(KeyboardInterrupt):
            make_soup(options)
    assert not make_soup(options).already_done
    assert same_folder(tmp_path / "soup", average(models, tmp_path / "clean", max_shard_bytes=1_300_000))


def test_nan_in_an_eight_bit_float_is_found(tmp_path: Path) -> None:
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        good = torch.tensor([448.0, -448.0, 0.0, 2.0**-6]).to(dtype)
        root = tmp_path / str(dtype)
        average([write_model(root / name, {"w": good}) for name in "ab"], root / "soup")
        spoilt = good.clone()
        spoilt[1] = float("nan")
        folders = [write_model(root / name, {"w": spoilt}) for name in "cd"]
        with pytest.raises(UnreadableError, match="w of c holds 1 "):
            average(folders, root / "other")


def test_a_run_that_failed_with_nothing_done_does_not_stand_in_the_way(tmp_path: Path) -> None:
    folders = pair(tmp_path, {"position_ids": torch.arange(4) + 1})
    with pytest.raises(UsageError, match="--keep position_ids"):
        average(folders, tmp_path / "soup")
    assert not (tmp_path / "soup.partial").exists()
    average(folders, tmp_path / "soup", keep=("position_ids",), keep_from=folders[0])
