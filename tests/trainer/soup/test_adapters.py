"""LoRA adapters as ingredients: against peft's own merge, and against the arithmetic written out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from builders import read_model, same_bits, same_state, write_model
from safetensors.torch import load_file, save_file
from vlmsel.errors import UnreadableError, UsageError
from vlmsel_trainer.soup import SoupOptions, make_soup

RANK = 4
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "bias": "none", "use_dora": False}


def base_model(path: Path, dtype: torch.dtype) -> Path:
    generator = torch.Generator().manual_seed(0)
    state = {
        "language_model.model.layers.0.q_proj.weight": torch.randn(700, 900, generator=generator).to(dtype),
        "vision_tower.layers.0.q_proj.weight": torch.randn(6, 5, generator=generator).to(dtype),
        "norm.weight": torch.randn(5, generator=generator).to(dtype),
    }
    return write_model(path, state)


def adapter(path: Path, seed: int, base: Path, **config: object) -> Path:
    """An adapter as peft names its tensors in transformers 5: paths in memory, not on disk."""
    path.mkdir()
    generator = torch.Generator().manual_seed(seed)
    module = "base_model.model.model.language_model.layers.0.q_proj"
    state = {
        f"{module}.lora_A.weight": torch.randn(RANK, 900, generator=generator),
        f"{module}.lora_B.weight": torch.randn(700, RANK, generator=generator) * 0.1,
    }
    save_file(state, path / "adapter_model.safetensors")
    document = {**CONFIG, "base_model_name_or_path": str(base), **config}
    (path / "adapter_config.json").write_text(json.dumps(document))
    return path


def merged(base: Path, adapters: list[Path], scale: float) -> torch.Tensor:
    name = "language_model.model.layers.0.q_proj.weight"
    weight = read_model(base)[name].double()
    total = torch.zeros_like(weight)
    for path in adapters:
        factors = load_file(path / "adapter_model.safetensors")
        a, b = (next(v for k, v in factors.items() if f"lora_{side}" in k).double() for side in "AB")
        total += weight + scale * (b @ a)
    return total / len(adapters)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_equals_the_arithmetic_written_out(tmp_path: Path, dtype: torch.dtype, count: int) -> None:
    base = base_model(tmp_path / "base", dtype)
    adapters = [adapter(tmp_path / f"a{n}", n + 1, base) for n in range(count)]
    found = read_model(make_soup(SoupOptions("average", tuple(adapters), tmp_path / "soup")).path)
    exact = merged(base, adapters, scale=16 / RANK)
    name = "language_model.model.layers.0.q_proj.weight"
    unit = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-22}[dtype]
    assert ((found[name].double() - exact).abs() <= exact.abs() * unit + 1e-6).all()
    assert (found[name].double() == exact.to(dtype).double()).float().mean() > (
        0.999 if dtype != torch.float32 else 0.5
    )
    for other in ("vision_tower.layers.0.q_proj.weight", "norm.weight"):
        assert same_bits(found[other], read_model(base)[other])


def test_order_and_copies_do_not_matter(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base", torch.bfloat16)
    a, b = (adapter(tmp_path / name, seed, base) for seed, name in enumerate("ab"))
    one = read_model(make_soup(SoupOptions("average", (a,), tmp_path / "s1")).path)
    two = read_model(make_soup(SoupOptions("average", (a, a), tmp_path / "s2")).path)
    assert same_state(one, two)
    ab = read_model(make_soup(SoupOptions("average", (a, b), tmp_path / "s3")).path)
    ba = read_model(make_soup(SoupOptions("average", (b, a), tmp_path / "s4", threads=1)).path)
    assert same_state(ab, ba)
    assert not same_state(one, ab)


def test_base_and_adapter_mix(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base", torch.float32)
    a = adapter(tmp_path / "a", 1, base)
    found = read_model(make_soup(SoupOptions("average", (a, base), tmp_path / "soup")).path)
    name = "language_model.model.layers.0.q_proj.weight"
    exact = (merged(base, [a], 16 / RANK) + read_model(base)[name].double()) / 2
    assert torch.allclose(found[name].double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"an_option_of_tomorrow": {"a": 1}}, "an_option_of_tomorrow"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"base_model_name_or_path": "org/model"}, "--base"),
        ({"alpha_pattern": {"(a+)+b": 3}}, "expression"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(tmp_path: Path, config: dict[str, object], words: str) -> None:
    base = base_model(tmp_path / "base", torch.float32)
    a = adapter(tmp_path / "a", 1, base, **config)
    with pytest.raises(UsageError, match=words):
        make_soup(SoupOptions("average", (a,), tmp_path / "soup"))


def test_wrong_base(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base", torch.float32)
    other = write_model(tmp_path / "other", {"language_model.model.layers.0.q_proj.weight": torch.zeros(3, 4)})
    empty = write_model(tmp_path / "empty", {"w": torch.zeros(3)})
    a = adapter(tmp_path / "a", 1, base)
    with pytest.raises(UsageError, match="right base"):
        make_soup(SoupOptions("average", (a,), tmp_path / "soup", base=other))
    with pytest.raises(UsageError, match="no such tensor"):
        make_soup(SoupOptions("average", (a,), tmp_path / "soup", base=empty))


def test_nan_in_an_adapter_names_it(tmp_path: Path) -> None:
    base = base_model(tmp_path / "base", torch.float32)
    a, b = adapter(tmp_path / "a", 1, base), adapter(tmp_path / "b", 2, base)
    state = load_file(b / "adapter_model.safetensors")
    next(tensor for name, tensor in state.items() if "lora_B" in name)[3, 1] = float("nan")
    save_file(state, b / "adapter_model.safetensors")
    with pytest.raises(UnreadableError, match=r"q_proj.weight of b holds NaN"):
        make_soup(SoupOptions("average", (a, b), tmp_path / "soup"))


def test_adapters_of_different_ranks_and_bases(tmp_path: Path) -> None:
    """Each is merged into its own base; what is averaged are the merged models."""
    name = "language_model.model.layers.0.q_proj.weight"
    bases = [base_model(tmp_path / f"base{n}", torch.float32) for n in range(2)]
    state = {key: tensor + 1 for key, tensor in read_model(bases[0]).items()}
    save_file(state, bases[1] / "model.safetensors", metadata={"format": "pt"})
    a, b = adapter(tmp_path / "a", 1, bases[0]), adapter(tmp_path / "b", 2, bases[1], r=2)
    factors = {
        key: (tensor[:2] if "lora_A" in key else tensor[:, :2]).contiguous()
        for key, tensor in load_file(b / "adapter_model.safetensors").items()
    }
    save_file(factors, b / "adapter_model.safetensors")
    found = read_model(make_soup(SoupOptions("average", (a, b), tmp_path / "soup")).path)[name].double()
    exact = (merged(bases[0], [a], 16 / RANK) + merged(bases[1], [b], 16 / 2)) / 2
    assert torch.allclose(found, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rslora", [False, True])
def test_equals_pefts_merge(tmp_path: Path, rslora: bool) -> None:
    peft = pytest.importorskip("peft")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).float()
    model.save_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj", "embed_tokens"],
        modules_to_save=["lm_head"],
        rank_pattern={"q_proj": 2},
        alpha_pattern={"down_proj": 24},
        use_rslora=rslora,
        init_lora_weights=False,
    )
    wrapped = peft.get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lm_head" in name and "modules_to_save" in name:
                parameter.add_(0.5)
    wrapped.save_pretrained(tmp_path / "adapter")
    wrapped.merge_and_unload().save_pretrained(tmp_path / "merged")
    options = SoupOptions("average", (tmp_path / "adapter",), tmp_path / "soup", base=tmp_path / "base")
    found, expected = read_model(make_soup(options).path), read_model(tmp_path / "merged")
    assert found.keys() == expected.keys()
    for name in found:
        assert torch.allclose(found[name], expected[name], rtol=1e-6, atol=1e-6), name
