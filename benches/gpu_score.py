"""Score row of the speed targets: a LLaVA of random weights at 2 B and 7 B, on one GPU.

Three ways score the same pairs, JPEG bytes and captions in, NLL out:

* ``one``: the published recipe, one sample at a time, full logits, softmax in fp32 (POINTS, arXiv 2409.04828, section 3.2);
* ``padded``: batches of 16 through the processor and the plain transformers forward, full logits;
* ``vlmsel``: this project's planner, decoding threads and batches (everything of `vlmsel score` but the Parquet files).

The peers may score a part of the pairs (``--peer-pairs``); rates are compared, and answers on the pairs that all three scored.
MFU counts the model's FLOPs on real tokens only (vision, language with causal attention, head at scored tokens) over the
peak of the GPU. ``--tiny`` runs the same code on a CPU with a model of a few hundred thousand parameters.

    python benches/gpu_score.py --shape 7b --out benches/runs/<date>-<machine>/score-7b.json

It needs torch, transformers, Pillow, and vlmsel with its trainer: installed from wheels, or this checkout after ``make build``.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import math
import platform
import random
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# What is installed goes first: a checkout that was not built would hide a wheel's compiled half.
sys.path += [str(ROOT / "trainer"), str(ROOT / "python")]

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import (  # noqa: E402
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from vlmsel_trainer.scoring.scorer import BatchScorer  # noqa: E402
from vlmsel_trainer.vlm.chat_template import ChatTemplate  # noqa: E402
from vlmsel_trainer.vlm.images import ImageLimits  # noqa: E402
from vlmsel_trainer.vlm.load import LoadedModel  # noqa: E402
from vlmsel_trainer.vlm.prefetch import Prefetch, TokenRules  # noqa: E402
from vlmsel_trainer.vlm.preprocess import Preprocessor  # noqa: E402
from vlmsel_trainer.vlm.records import Sample, Unit  # noqa: E402

PROMPT = "Describe this image in one sentence."
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaVA: language model, then vision tower."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    image_side: int
    patch: int

    @property
    def image_tokens(self) -> int:
        return (self.image_side // self.patch) ** 2


SHAPES = {
    # CLIP ViT-L/14 at 336 px before language models of the sizes of Qwen2.5-1.5B and Qwen2.5-7B.
    "7b": Shape(3584, 28, 28, 4, 18944, 152064, 1024, 24, 16, 336, 14),
    "2b": Shape(1536, 28, 12, 2, 8960, 151936, 1024, 24, 16, 336, 14),
    "cpu": Shape(160, 7, 4, 2, 448, 8192, 128, 4, 4, 64, 16),
    "tiny": Shape(32, 2, 2, 1, 64, 2048, 32, 2, 2, 32, 16),
}
# Dense bf16 FLOP/s by a part of the GPU's name.
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12}


def build_processor(shape: Shape) -> LlavaProcessor:
    """A stock LLaVA processor over a byte-level BPE trained on the standard library's text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(read_words_source().splitlines(), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="right",
    )
    side = shape.image_side
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer=tokenizer,
        patch_size=shape.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


def build_model(shape: Shape, processor: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """The model of a shape, random weights made on the device in the type that it runs in."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=shape.vision_hidden,
            intermediate_size=4 * shape.vision_hidden,
            num_hidden_layers=shape.vision_layers,
            num_attention_heads=shape.vision_heads,
            image_size=shape.image_side,
            patch_size=shape.patch,
        ),
        text_config=Qwen2Config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.mlp,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
        ),
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        image_seq_length=shape.image_tokens,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    # Not to(dtype): the frequencies of the rotary positions are made in fp32 and stay so, as in a loaded model.
    model = model.to(device).eval().requires_grad_(False)
    model.config.use_cache = False
    model.config.get_text_config().use_cache = False
    return model


@functools.lru_cache
def read_words_source() -> str:
    folder = Path(functools.__file__).parent
    return "\n".join((folder / name).read_text() for name in ("argparse.py", "functools.py", "typing.py", "tarfile.py"))


@dataclass(frozen=True)
class Pool:
    """Pairs in one tar: samples as the index has them, and the same as bytes and captions for the peers."""

    path: Path
    samples: list[Sample]
    images: list[bytes]
    captions: list[str]


def make_pool(folder: Path, n_pairs: int, side: int, seed: int = 0) -> Pool:
    """JPEGs of up to twice ``side`` pixels and captions of 5 to 60 words, from a seed."""
    chance = random.Random(seed)
    words = [word for word in read_words_source().split() if word.isalpha()]
    images, captions, samples = [], [], []
    drawn = []
    for _ in range(min(n_pairs, 256)):
        size = chance.randint(side, 2 * side), chance.randint(side, 2 * side)
        blocks = Image.frombytes("RGB", (12, 12), chance.randbytes(12 * 12 * 3))
        buffer = io.BytesIO()
        blocks.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        drawn.append((buffer.getvalue(), size))
    path = folder / "pool.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(n_pairs):
            data, size = drawn[i % len(drawn)]
            member = tarfile.TarInfo(f"{i:08d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            image = {"file": None, "offset": tar.offset - (-(-len(data) // 512) * 512), "size": len(data)}
            images.append(data)
            # Most captions are short and a few are long, as on the web.
            captions.append(" ".join(chance.choices(words, k=min(60, 5 + int(chance.expovariate(1 / 12))))))
            image |= {"width": size[0], "height": size[1]}
            samples.append(Sample(i.to_bytes(16, "big"), "pool", "pool.tar", (image,), captions[-1], None))
    return Pool(path, samples, images, captions)


@dataclass(frozen=True)
class Result:
    """One way's answers (NLL sum and scored tokens by pair) and what they cost."""

    sums: list[tuple[float, int]]
    wall_s: float
    cpu_s: float
    tokens: int
    peak_gpu_bytes: int


def messages_of(caption: str) -> list[dict[str, Any]]:
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}
    return [question, {"role": "assistant", "content": [{"type": "text", "text": caption}]}]


def score_in_batches(model: Any, processor: Any, pool: Pool, n_pairs: int, n_batch: int) -> list[tuple[float, int]]:
    """Batches of ``n_batch`` in the pool's order, full logits, softmax in fp32; spans from the prompt's own length."""
    sums = []
    prompt = processor.apply_chat_template(messages_of("")[:1], tokenize=False, add_generation_prompt=True)
    picture = Image.open(io.BytesIO(pool.images[0])).convert("RGB")
    n_prompt = processor(text=[prompt], images=[picture], return_tensors="pt")["input_ids"].shape[1]
    for start in range(0, n_pairs, n_batch):
        stop = min(start + n_batch, n_pairs)
        pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in pool.images[start:stop]]
        texts = [
            processor.apply_chat_template(messages_of(caption), tokenize=False).removesuffix("\n")
            for caption in pool.captions[start:stop]
        ]
        inputs = processor(text=texts, images=pictures, padding=True, return_tensors="pt").to(model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        with torch.inference_mode():
            logits = model(**inputs).logits
        for row, mask, line in zip(inputs["input_ids"], inputs["attention_mask"], logits, strict=True):
            stop_at = int(mask.sum())
            probabilities = torch.softmax(line[n_prompt - 1 : stop_at - 1].float(), dim=-1)
            chosen = probabilities.gather(1, row[n_prompt:stop_at, None])
            sums.append((float(-chosen.log().sum()), stop_at - n_prompt))
    return sums


def score_with_vlmsel(
    model: Any, processor: Any, pool: Pool, n_pairs: int, batch_tokens: int, n_workers: int
) -> list[tuple[float, int]]:
    """The project's own way, in units of 2,048 rows."""
    loaded = LoadedModel(model, processor, model.device, model.dtype, "sdpa", "torchvision", "CLIPImageProcessor")
    template = ChatTemplate(processor)
    roots = {"pool": {"path": str(pool.path.parent), "image_root": None}}
    preprocessor = Preprocessor(loaded, template, roots, ImageLimits())
    prefetch = Prefetch(preprocessor, TokenRules(template, PROMPT, None, batch_tokens, with_no_image=False), n_workers)
    scorer = BatchScorer(loaded)
    n_threads = torch.get_num_threads()
    if model.device.type == "cuda":
        torch.set_num_threads(1)  # as `vlmsel score` does: the workers are threads already
    units = [
        (
            Unit(pool.path, f"u{start}", start, min(start + 2048, n_pairs)),
            pool.samples[start : min(start + 2048, n_pairs)],
        )
        for start in range(0, n_pairs, 2048)
    ]
    sums: list[tuple[float, int]] = [(math.nan, 0)] * n_pairs
    pending: list[Any] = []
    for ready in prefetch.run(units):
        pending.append((ready, scorer.score(ready.prepared)))
        if ready.is_last:
            for batch, pieces in pending:
                for piece in pieces:
                    for i, outcome in piece.fetch():
                        row = batch.rows[i]
                        value = math.nan if outcome.nll_sum is None else outcome.nll_sum
                        sums[batch.planned.unit.start + row] = value, batch.planned.scores[row].n_tokens
            pending.clear()
    torch.set_num_threads(n_threads)
    return sums


def measure(score: Callable[[], list[tuple[float, int]]], device: torch.device, n_prompt: int) -> Result:
    """Runs one way; tokens are the real ones: image, prompt and scored."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    began, began_cpu = time.perf_counter(), time.process_time()
    sums = score()
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return Result(sums, wall_s, cpu_s, sum(n_prompt + n for _, n in sums), peak)


def count_flops(shape: Shape, model: Any, n_prompt: int, scored: list[int]) -> float:
    """Multiply-adds times two of all pairs: vision tower and projector, language layers with causal attention, head.

    ``scored`` are the scored tokens of each pair, which follow ``n_prompt`` positions of image and prompt.
    """
    weights = {name: p.numel() for name, p in model.named_parameters() if "embed" not in name}
    vision, projector, language = (
        sum(n for name, n in weights.items() if part in name) for part in ("vision", "projector", "language_model")
    )
    n_patches = shape.image_tokens + 1
    of_image = 2.0 * vision * n_patches + 4.0 * shape.vision_layers * n_patches**2 * shape.vision_hidden
    of_image += 2.0 * projector * shape.image_tokens
    total = 0.0
    for n_scored in scored:
        n_positions = n_prompt + n_scored
        total += of_image + 2.0 * language * n_positions + 2.0 * shape.layers * n_positions**2 * shape.hidden
        total += 2.0 * shape.hidden * shape.vocabulary * n_scored
    return total


def compare(ours: Result, theirs: Result) -> tuple[float, float]:
    """Largest and mean difference of NLL per token over the pairs that both scored; every pair must have an answer."""
    gaps = []
    for (our_sum, our_n), (their_sum, their_n) in zip(ours.sums, theirs.sums, strict=False):
        if our_n != their_n or not math.isfinite(our_sum):
            raise SystemExit(f"answers differ: {our_sum} over {our_n} tokens against {their_sum} over {their_n}")
        gaps.append(abs(our_sum - their_sum) / our_n)
    return max(gaps), sum(gaps) / len(gaps)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="2b")
    parser.add_argument("--tiny", action="store_true", help="the tiny shape on the CPU, few pairs")
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--peer-pairs", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=32_768)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument(
        "--peak-tflops", type=float, help="dense bf16 peak of the GPU, where its name is not known here"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.tiny:
        options.shape, options.device = "tiny", "cpu"
        options.pairs, options.peer_pairs, options.workers = min(options.pairs, 48), min(options.peer_pairs, 32), 2
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shape = SHAPES[options.shape]
    processor = build_processor(shape)
    model = build_model(shape, processor, device, dtype)
    parameters = sum(p.numel() for p in model.parameters())
    prompt = processor.apply_chat_template(messages_of("")[:1], tokenize=False, add_generation_prompt=True)
    n_prompt = len(processor.tokenizer(prompt)["input_ids"]) - 1 + shape.image_tokens
    with tempfile.TemporaryDirectory() as folder:
        pool = make_pool(Path(folder), options.pairs, shape.image_side)
        n_peer = min(options.peer_pairs, options.pairs)
        ways: dict[str, Callable[[int], list[tuple[float, int]]]] = {
            "one": lambda n: score_in_batches(model, processor, pool, n, 1),
            "padded": lambda n: score_in_batches(model, processor, pool, n, 16),
            "vlmsel": lambda n: score_with_vlmsel(model, processor, pool, n, options.batch_tokens, options.workers),
        }
        results = {}
        for name, way in ways.items():
            way(min(64, n_peer))  # kernels are chosen and memory is taken before the clock runs
            n = options.pairs if name == "vlmsel" else n_peer
            results[name] = measure(functools.partial(way, n), device, n_prompt)
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu"
    peak = (options.peak_tflops or 0) * 1e12 or next((v for k, v in PEAK_FLOPS.items() if k in gpu), None)
    rows = {}
    print(f"{options.shape}: {parameters / 1e9:.3f} B parameters, {dtype}, {gpu}, torch {torch.__version__}")
    print(
        f"{'way':8} {'pairs':>6} {'pairs/s':>9} {'tokens/s':>10} {'MFU':>6} {'cpu s':>7} {'peak GB':>8} {'max |d|':>9} {'mean |d|':>9}"
    )
    for name, result in results.items():
        flops = count_flops(shape, model, n_prompt, [n for _, n in result.sums])
        mfu = flops / result.wall_s / peak if peak else None
        largest, mean = compare(results["vlmsel"], result)
        rate = len(result.sums) / result.wall_s
        rows[name] = {
            "pairs": len(result.sums),
            "wall_s": result.wall_s,
            "pairs_per_s": rate,
            "tokens_per_s": result.tokens / result.wall_s,
            "mfu": mfu,
            "cpu_s": result.cpu_s,
            "peak_gpu_bytes": result.peak_gpu_bytes,
            "max_gap_nats_per_token": largest,
            "mean_gap_nats_per_token": mean,
        }
        shown = f"{mfu:.1%}" if mfu is not None else "-"
        print(
            f"{name:8} {len(result.sums):6} {rate:9.2f} {result.tokens / result.wall_s:10.0f} {shown:>6} {result.cpu_s:7.1f} "
            f"{result.peak_gpu_bytes / 1e9:8.1f} {largest:9.1e} {mean:9.1e}"
        )
    ratio = rows["vlmsel"]["pairs_per_s"] / rows["padded"]["pairs_per_s"]
    print(
        f"vlmsel is {ratio:.2f}x padded batches of 16, {rows['vlmsel']['pairs_per_s'] / rows['one']['pairs_per_s']:.2f}x one by one"
    )
    record = {
        "bench": "gpu_score",
        "shape": options.shape,
        "parameters": parameters,
        "device": gpu,
        "torch": torch.__version__,
        "batch_tokens": options.batch_tokens,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rows": rows,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n")
    return record


if __name__ == "__main__":
    main()
