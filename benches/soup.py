"""``vlmsel soup average`` beside mergekit's linear merge and the floor of reading all and writing one.

    python benches/soup.py --size 2GB --models 5 --out benches/runs/<date>-<machine>/soup.json

Models are Llama-shaped bf16 checkpoints made from a seed. Every contender is a fresh process on a warm page cache; all of
them sync what they write, because a soup that is not on the disk is not finished. vlmsel's result is compared bit for
bit with a mean in fp32 rounded once; the peer's difference from it is counted. ``--kernels`` measures the arithmetic
alone, as used, in numpy and in torch.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
HIDDEN, INNER, HEADS, VOCABULARY = 2048, 5632, 16, 32000
#: The command line, found without an installed entry point.
_VLMSEL = """
import sys
from vlmsel.cli.main import commands, run
from vlmsel_trainer.cli.soup import command
commands.add_command(command)
sys.exit(run())
"""
_FLOOR = """
import os, sys
target, *files = sys.argv[1:]
buffer = memoryview(bytearray(16 << 20))
for path in files:
    descriptor = os.open(path, os.O_RDONLY)
    while os.readv(descriptor, [buffer]):
        pass
    os.close(descriptor)
source, sink = os.open(files[0], os.O_RDONLY), os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
while count := os.readv(source, [buffer]):
    os.write(sink, buffer[:count])
os.fsync(sink)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default="2GB", help="bytes per model, such as 2GB or 500MB")
    parser.add_argument("--models", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-repeats", type=int, default=1, help="runs of the peer, which takes minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "bench-data" / "soup")
    installed = ROOT / ".venv" / "bin" / "vlmsel"
    parser.add_argument(
        "--vlmsel", default=str(installed) if installed.exists() else None, help="the installed command"
    )
    parser.add_argument("--no-peer", action="store_true", help="only the floor and vlmsel")
    parser.add_argument("--mergekit", default=shutil.which("mergekit-yaml") or _beside("mergekit-yaml"))
    parser.add_argument("--out", type=Path, help="where the raw numbers go (JSON)")
    parser.add_argument("--kernels", action="store_true", help="measure the arithmetic alone")
    options = parser.parse_args()
    if options.kernels:
        result: dict[str, Any] = {"kernels": measure_kernels()}
        for row in result["kernels"]:
            print(f"{row['dtype']:5} {row['how']:22} {row['read_gb_per_s']:6.2f} GB/s of input, one thread")
    else:
        result = measure_soups(options)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({**facts(), **result}, indent=1) + "\n")


def measure_soups(options: argparse.Namespace) -> dict[str, Any]:
    """Runs every contender ``repeats`` times in turns, checks the answers and prints the table."""
    size_bytes = options.size
    check_disk(options.work, size_bytes * (options.models + 3))
    models = make_models(options.work, size_bytes, options.models, options.seed)
    files = [model / "model.safetensors" for model in models]
    target = Path(tempfile.mkdtemp(prefix="out-", dir=options.work))
    recipe = target / "linear.yml"
    lines = [f"  - model: {model}\n    parameters: {{weight: 1.0}}" for model in models]
    recipe.write_text("models:\n" + "\n".join(lines) + "\nmerge_method: linear\ndtype: bfloat16\n")
    vlmsel = [options.vlmsel] if options.vlmsel else [sys.executable, "-c", _VLMSEL]
    contenders: dict[str, tuple[list[str], Path]] = {
        "floor": ([sys.executable, "-c", _FLOOR, str(target / "floor"), *map(str, files)], target / "floor"),
        "vlmsel": (
            [*vlmsel, "soup", "average",
             *map(str, models), "-o", str(target / "vlmsel"), "-q"],
            target / "vlmsel",
        ),
    }  # fmt: skip
    if options.mergekit and not options.no_peer:
        contenders["mergekit linear"] = (
            [options.mergekit, str(recipe), str(target / "mergekit"), "--no-copy-tokenizer", "--out-shard-size", "5B"],
            target / "mergekit",
        )
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    try:
        for repeat in range(options.repeats):
            for name, (command, output) in contenders.items():
                last = repeat == options.repeats - 1
                if name not in ("floor", "vlmsel") and repeat < options.repeats - options.peer_repeats:
                    continue
                remove(output)
                warm(files)
                runs[name].append(run(command, output))
                print(f"{name}: {runs[name][-1]['wall_s']:.1f} s, {runs[name][-1]['cpu_s']:.1f} CPU s", file=sys.stderr)
                if not last or name == "floor":
                    remove(output)
        answers = check(target, files)
    finally:
        shutil.rmtree(target, ignore_errors=True)
    print_table(runs, options.models, size_bytes)
    print(", ".join(f"{key.replace('_', ' ')}: {value:,}" for key, value in answers.items()))
    return {"size_bytes": size_bytes, "models": options.models, "seed": options.seed, "runs": runs, "answers": answers}


def print_table(runs: dict[str, list[dict[str, float]]], n_models: int, size_bytes: int) -> None:
    """The fastest run of each contender, the median of its wall times, and both beside the floor's."""
    print(
        f"{n_models} bf16 models of {size_bytes / 1e9:.3g} GB, page cache warm, synced to disk; "
        "CPU, memory and bytes are those of the fastest run"
    )
    print(
        f"{'':16}{'runs':>5}{'fastest s':>11}{'x floor':>9}{'median s':>10}{'x floor':>9}{'CPU s':>8}{'peak MB':>9}"
        f"{'read GB':>9}{'written GB':>12}"
    )
    fastest = {name: min(rows, key=lambda row: row["wall_s"]) for name, rows in runs.items()}
    median = {name: statistics.median(row["wall_s"] for row in rows) for name, rows in runs.items()}
    for name, row in fastest.items():
        print(
            f"{name:16}{len(runs[name]):5}{row['wall_s']:11.1f}{row['wall_s'] / fastest['floor']['wall_s']:9.2f}"
            f"{median[name]:10.1f}{median[name] / median['floor']:9.2f}{row['cpu_s']:8.1f}{row['peak_bytes'] / 1e6:9.0f}"
            f"{row['read_bytes'] / 1e9:9.1f}{row['written_bytes'] / 1e9:12.1f}"
        )


def check_disk(work: Path, needed_bytes: int) -> None:
    """Ends the bench where models and outputs would not fit beside what is there."""
    work.mkdir(parents=True, exist_ok=True)
    present = sum(path.stat().st_size for path in work.rglob("*.safetensors"))
    free = shutil.disk_usage(work).free + present
    if free < needed_bytes:
        raise SystemExit(f"{work} has room for {free:,} bytes, the bench needs {needed_bytes:,}; use --size or --work")


def make_models(work: Path, size_bytes: int, count: int, seed: int) -> list[Path]:
    """Checkpoints with Llama's names, so that every peer accepts them; kept between runs of the same size."""
    per_layer = 2 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER + 2 * HIDDEN)
    fixed = 2 * (2 * VOCABULARY * HIDDEN + HIDDEN)
    n_layers = max(1, round((size_bytes - fixed) / per_layer))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(n_layers):
        prefix = f"model.layers.{layer}"
        for name in "qkvo":
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = shapes[f"{prefix}.mlp.up_proj.weight"] = (INNER, HIDDEN)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (HIDDEN, INNER)
        shapes[f"{prefix}.input_layernorm.weight"] = shapes[f"{prefix}.post_attention_layernorm.weight"] = (HIDDEN,)
    shapes["model.norm.weight"] = (HIDDEN,)
    shapes["lm_head.weight"] = (VOCABULARY, HIDDEN)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": n_layers, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "rms_norm_eps": 1e-6,
        "vocab_size": VOCABULARY, "tie_word_embeddings": False, "dtype": "bfloat16",
    }  # fmt: skip
    folders = []
    for number in range(count):
        folder = work / f"size{size_bytes}-seed{seed}-model{number}"
        folders.append(folder)
        if (folder / "config.json").exists():
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_checkpoint(folder / "model.safetensors", shapes, np.random.default_rng([seed, number]))
        (folder / "config.json").write_text(json.dumps(config))
    return folders


def write_checkpoint(path: Path, shapes: dict[str, tuple[int, ...]], rng: np.random.Generator) -> None:
    """Normal numbers: a pool of four million, turned by a random distance for each tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pool = ((rng.standard_normal(1 << 22, np.float32) * 0.02).view(np.uint32) >> 16).astype(np.uint16)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            left = int(np.prod(shape))
            while left:
                turned = np.roll(pool, int(rng.integers(pool.size)))[:left]
                file.write(turned.tobytes())
                left -= turned.size


def run(command: Sequence[str], output: Path) -> dict[str, float]:
    """One contender in its own process: wall and CPU seconds, peak memory, bytes read and written."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    os.sync()
    load = os.getloadavg()[0]
    before = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    moved = {"rchar": 0, "wchar": 0}
    talk = b""
    peak_bytes = 0
    while True:
        peak_bytes = max(peak_bytes, high_water_bytes(process.pid))
        if select.select([process.stderr], [], [], 0.05)[0]:
            block = os.read(process.stderr.fileno(), 1 << 16)
            if not block:
                break
            talk = (talk + block)[-4000:]
    # After stderr closed the process is a zombie or about to be one; its counters are still there.
    try:
        for line in Path(f"/proc/{process.pid}/io").read_text().splitlines():
            key, _, value = line.partition(": ")
            moved[key] = int(value)
    except OSError:
        pass
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} failed with {process.returncode}:\n{talk.decode('utf-8', 'replace')}")
    folder_files = [output] if output.is_file() else [p for p in output.rglob("*") if p.is_file()]
    for path in folder_files:  # a peer that does not sync is made to
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return {
        "load_before": load,
        "wall_s": time.monotonic() - before,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": peak_bytes,
        "read_bytes": moved["rchar"],
        "written_bytes": moved["wchar"],
    }


def high_water_bytes(pid: int) -> int:
    """The most memory that was resident at once so far. ``ru_maxrss`` would count what this process holds, too."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def check(target: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Up to two million elements of every tensor against fp32 sums rounded once; the peer also against fp64."""
    import torch
    from safetensors import safe_open

    torch.set_num_threads(1)
    sources = [safe_open(file, framework="pt") for file in files]
    ours = _open_all(target / "vlmsel")
    theirs = _open_all(target / "mergekit") if (target / "mergekit").exists() else None
    counts = {"elements": 0, "vlmsel_unlike_fp32_mean": 0, "vlmsel_unlike_fp64_mean": 0}
    if theirs is not None:
        counts |= {"peer_unlike_fp64_mean": 0, "tensors_missing_in_peer": 0}
    for name in sources[0].keys():  # noqa: SIM118 - safe_open is no dict
        rows = [source.get_slice(name) for source in sources]
        limit = max(1, 2_000_000 // (rows[0].get_shape()[-1] if len(rows[0].get_shape()) > 1 else 1))
        parts = [row[:limit] for row in rows]
        total, exact = parts[0].float(), parts[0].double()
        for part in parts[1:]:
            total, exact = total + part.float(), exact + part.double()
        expected, ideal = (total / len(parts)).bfloat16(), (exact / len(parts)).bfloat16()
        found = ours[name].get_slice(name)[:limit]
        counts["elements"] += found.numel()
        counts["vlmsel_unlike_fp32_mean"] += int((found.view(torch.int16) != expected.view(torch.int16)).sum())
        counts["vlmsel_unlike_fp64_mean"] += int((found != ideal).sum())
        if theirs is not None:
            if name in theirs:
                counts["peer_unlike_fp64_mean"] += int((theirs[name].get_slice(name)[:limit] != ideal).sum())
            else:
                counts["tensors_missing_in_peer"] += 1
    if counts["vlmsel_unlike_fp32_mean"]:
        raise SystemExit(f"vlmsel's answer is wrong: {counts}")
    return counts


def _open_all(folder: Path) -> dict[str, Any]:
    from safetensors import safe_open

    opened = [safe_open(file, framework="pt") for file in sorted(folder.glob("*.safetensors"))]
    return {name: file for file in opened for name in file.keys()}  # noqa: SIM118


def measure_kernels() -> list[dict[str, Any]]:
    """The mean of five chunks of 1 MiB on one thread: as used, by the numpy of other dtypes, and by torch."""
    import torch
    from vlmsel_trainer.soup import arithmetic

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    wide = {"BF16": torch.float32, "F16": torch.float32, "F32": torch.float64}
    rows = []
    for dtype, accumulate in wide.items():
        normal = [
            rng.standard_normal((1 << 20) // (4 if dtype == "F32" else 2)).astype(np.float32) * 0.02 for _ in range(5)
        ]
        kind = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[dtype]
        tensors = [torch.from_numpy(x).to(kind) for x in normal]
        bits = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}[dtype]
        chunks = [(t.view(torch.int16) if dtype == "BF16" else t).numpy().view(bits) for t in tensors]

        def in_torch(tensors: list[torch.Tensor] = tensors, accumulate: torch.dtype = accumulate) -> torch.Tensor:
            total = tensors[0].to(accumulate)
            for tensor in tensors[1:]:
                total.add_(tensor.to(accumulate))
            total.div_(len(tensors))
            if not torch.isfinite(total).all():
                raise ArithmeticError
            return total.to(tensors[0].dtype)

        def as_used(dtype: str = dtype, chunks: list[Any] = chunks) -> Any:
            return arithmetic.mean(dtype, chunks, arithmetic.Weights(None, len(chunks)))

        def in_numpy(dtype: str = dtype, chunks: list[Any] = chunks) -> Any:
            weights, sums = arithmetic.Weights(None, len(chunks)), arithmetic.WIDE[dtype]
            return arithmetic._mean_blocks(dtype, [(dtype, chunk) for chunk in chunks], weights, sums)

        for how, function in (("Rust, as used", as_used), ("numpy", in_numpy), ("torch", in_torch)):
            seconds = best_cpu_s(function)
            rows.append({"dtype": dtype, "how": how, "read_gb_per_s": 5 * (1 << 20) / seconds / 1e9})
    import hashlib

    from blake3 import blake3

    block = rng.bytes(1 << 20)
    for how, digest in (("BLAKE3", blake3), ("SHA-256", hashlib.sha256)):
        seconds = best_cpu_s(lambda digest=digest: digest(block).digest())  # type: ignore[misc]
        rows.append({"dtype": "hash", "how": how, "read_gb_per_s": (1 << 20) / seconds / 1e9})
    return rows


def best_cpu_s(function: Callable[[], Any], repeats: int = 40) -> float:
    """CPU seconds of one call: the best of five averages."""
    function()
    best = float("inf")
    for _ in range(5):
        before = time.process_time()
        for _ in range(repeats):
            function()
        best = min(best, (time.process_time() - before) / repeats)
    return best


def facts() -> dict[str, Any]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    return {"cpu": model.strip(), "cores": os.cpu_count(), "load_before": os.getloadavg()[0], "python": sys.version.split()[0],
            "numpy": np.__version__}  # fmt: skip


def warm(files: Sequence[Path]) -> None:
    """Reads the files once, so that every contender finds them in the page cache."""
    for file in files:
        with file.open("rb", buffering=0) as opened:
            buffer = bytearray(16 << 20)
            while opened.readinto(buffer):
                pass


def remove(path: Path) -> None:
    """Removes a file or folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def parse_size(text: str) -> int:
    """``2GB`` in bytes, for argparse."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
    try:
        return int(float(text[:-2]) * units[text[-2:].upper()])
    except (KeyError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 2GB or 500MB") from error


def _beside(name: str) -> str | None:
    place = Path(sys.executable).parent / name
    return str(place) if place.exists() else None


if __name__ == "__main__":
    main()
