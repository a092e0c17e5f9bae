"""Makes the golden folder: small data, and what this version of vlmsel makes of it, stage by stage.

    python tests/golden/make.py DATA OUT

DATA must be `/golden/data` for folders that are committed: the index says where its sources lie, and that path is neutral.
Run it with the version whose output is to be kept; `test_golden.py` compares later versions with it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / name) for name in ("cli", "trainer/scoring", "trainer/soup")]

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
from pair_corpus import pairs, picture, run, write_tar  # noqa: E402


def make_data(data: Path) -> None:
    """Tars, an img2dataset tar with its table, and LLaVA JSON with images in files; some of it bad."""
    write_tar(data / "pairs/00000.tar", pairs(0, 12))
    write_tar(data / "pairs/00001.tar", [*pairs(12, 6), ("bad.jpg", b"no picture"), ("bad.txt", b"x")])
    keys = [f"{n:09d}" for n in range(6)]
    write_tar(data / "laion/00000.tar", [(f"{key}.jpg", picture(100 + n)) for n, key in enumerate(keys) if n != 2])
    table = {
        "key": keys,
        "status": ["success" if n != 2 else "failed_to_download" for n in range(6)],
        "uid": [f"{n:032x}" for n in range(6)],
        "caption": [f"a caption of {n}" for n in range(6)],
        "similarity": [0.1 * n for n in range(6)],
    }
    pq.write_table(pa.table(table), data / "laion/00000.parquet")
    images = data / "llava/images"
    images.mkdir(parents=True)
    records = []
    for n in range(5):
        (images / f"{n}.png").write_bytes(picture(200 + n, kind="PNG"))
        turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": f"Number {n}."}]
        records.append({"id": f"r{n}", "image": f"images/{n}.png", "conversations": turns, "extra": n})
    records.append({"id": "text", "caption": "no picture at all"})
    records.append({"id": "two", "image": ["images/0.png", "images/1.png"], "caption": "two pictures"})
    (data / "llava/train.json").write_text(json.dumps(records))


def vlmsel(*words: str | Path) -> None:
    done = run(*words)
    assert done.returncode == 0, done.stderr


def make_stages(data: Path, model: Path, soup: list[Path], out: Path, *more: str) -> None:
    """Index, scores, selection with a control, shards, and a soup."""
    sources = [data / "pairs", data / "laion", data / "llava/train.json"]
    vlmsel("index", *sources, "-w", out, "--max-bad-fraction", "0.1")
    vlmsel("score", "--model", model, "-w", out, "--dtype", "float32", "--max-bad-fraction", "0.1", *more)
    columns = ["--keep-columns", "n_tokens,source"]
    vlmsel("select", "-w", out, "-k", "14", "--control", "random", "--control", "worst", *columns)
    vlmsel("shard", "-w", out, "--samples-per-shard", "5", "--max-bad-fraction", "0.1", *more)
    vlmsel("soup", "average", *soup, "-o", out / "soup")


def make_models(out: Path) -> tuple[Path, list[Path]]:
    """A tiny VLM that scores, and two tiny models to be averaged."""
    import torch
    from builders import random_state, write_model
    from tiny_models import save_family

    torch.set_num_threads(1)
    model = save_family("llava_qwen2", out / "model")
    layout = {"a.weight": (torch.bfloat16, [33, 7]), "b.weight": (torch.float32, [5]), "c": (torch.float16, [4, 4])}
    soup = [out / f"soup-{seed}" for seed in (1, 2)]
    for seed, folder in enumerate(soup):
        write_model(folder, random_state(seed, layout))
    return model, soup


def main(data: Path, out: Path) -> None:
    for folder in (data, out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    make_data(data)
    model, soup = make_models(out / "models")
    make_stages(data, model, soup, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
