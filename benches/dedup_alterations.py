"""Which altered copies dedup finds, alteration by alteration: recall of planted copies, and what else it takes for one.

    python benches/dedup_alterations.py FOLDER_OF_PICTURES [--radius 6] [--jaccard 0.8] [--out FILE]

Each picture is planted once under each alteration; each caption (the picture's path in words) likewise. Recall is the share of
pictures whose altered copy is near the original; "others" are edges between pictures that were not planted as copies, for each
picture: pictures that people may or may not call copies, such as icons of one family.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import vlmsel
from PIL import Image, ImageDraw, ImageEnhance


def on_white(path: Path) -> Image.Image:
    """The picture in RGB, its transparent parts white."""
    with Image.open(path) as opened:
        picture = opened.convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture).convert("RGB")


def cropped(picture: Image.Image, share: float) -> Image.Image:
    """Without this share of each side, at the size it had."""
    dx, dy = max(1, round(picture.width * share)), max(1, round(picture.height * share))
    return picture.crop((dx, dy, picture.width - dx, picture.height - dy)).resize(
        picture.size, Image.Resampling.BICUBIC
    )


def marked(picture: Image.Image) -> Image.Image:
    """With a grey box in a corner, a quarter of the width and 8 % of the height."""
    copy = picture.copy()
    width, height = max(2, picture.width // 4), max(2, picture.height * 8 // 100)
    ImageDraw.Draw(copy).rectangle((0, 0, width, height), fill=(128, 128, 128))
    return copy


PICTURES: dict[str, Callable[[Image.Image], tuple[Image.Image, dict[str, int | str]]]] = {
    "quality 50": lambda p: (p, {"format": "JPEG", "quality": 50}),
    "half size": lambda p: (p.resize((max(1, p.width // 2), max(1, p.height // 2)), Image.Resampling.BICUBIC), {}),
    "crop 2 %": lambda p: (cropped(p, 0.02), {}),
    "crop 5 %": lambda p: (cropped(p, 0.05), {}),
    "brighter by 20 %": lambda p: (ImageEnhance.Brightness(p).enhance(1.2), {}),
    "mark in a corner": lambda p: (marked(p), {}),
    "mirror": lambda p: (p.transpose(Image.Transpose.FLIP_LEFT_RIGHT), {}),
}


def swapped(words: list[str], rng: random.Random) -> list[str]:
    """Two neighbours change places."""
    at = rng.randrange(len(words) - 1)
    return [*words[:at], words[at + 1], words[at], *words[at + 2 :]]


def replaced(words: list[str], rng: random.Random) -> list[str]:
    """One word is another."""
    at = rng.randrange(len(words))
    return [*words[:at], f"thing{rng.randrange(10**6)}", *words[at + 1 :]]


TEXTS: dict[str, Callable[[list[str], random.Random], str]] = {
    "two words swapped": lambda words, rng: " ".join(swapped(words, rng)),
    "upper case": lambda words, _: " ".join(words).upper(),
    "punctuation": lambda words, _: ", ".join(words) + "!",
    "another Unicode form": lambda words, _: unicodedata.normalize("NFD", " ".join(words)),
    "one word more": lambda words, rng: " ".join([*words, f"thing{rng.randrange(10**6)}"]),
    "one word replaced": lambda words, rng: " ".join(replaced(words, rng)),
}


def made(folder: Path, count: int) -> None:
    """Pictures with the spectrum of photographs: noise of many scales, in colour, with an edge or two. 384 x 288 pixels."""
    rng = np.random.default_rng(0)
    for number in range(count):
        picture = np.zeros((288, 384, 3))
        for octave in range(1, 8):
            side = 2**octave
            noise = rng.standard_normal((side * 3 // 4 + 1, side + 1, 3)) * 0.6**octave
            scaled = [
                np.asarray(
                    Image.fromarray(noise[..., c].astype(np.float32)).resize((384, 288), Image.Resampling.BICUBIC)
                )
                for c in range(3)
            ]
            picture += np.stack(scaled, -1)
        low, high = picture.min(), picture.max()
        drawn = Image.fromarray(((picture - low) / (high - low) * 255).astype(np.uint8))
        x, y = (int(v) for v in rng.integers(0, 200, 2))
        ImageDraw.Draw(drawn).ellipse((x, y, x + 120, y + 80), fill=tuple(int(v) for v in rng.integers(0, 256, 3)))
        drawn.save(folder / f"made-{number:05d}.png")


def plant(pictures: list[Path], root: Path, folder: Path) -> int:
    """Writes originals and altered copies as records of images and texts; how many originals there are."""
    rng = random.Random(0)
    (folder / "images").mkdir(parents=True)
    records, seen = [], set()
    for path in pictures:
        picture = on_white(path)
        if min(picture.size) < 32 or picture.tobytes() in seen:
            continue
        seen.add(picture.tobytes())
        number = len(seen) - 1
        place = re.sub(r"[^a-z0-9]+", " ", str(path.relative_to(root).with_suffix("")).lower()).split()
        words = f"an icon of a {' '.join(place)} n{number} déjà vu".split()
        copies: list[tuple[str, Image.Image, dict[str, int | str]]] = [("original", picture, {})]
        copies += [(name, *alter(picture)) for name, alter in PICTURES.items()]
        for name, altered, how in copies:
            data = io.BytesIO()
            altered.save(data, **{"format": "PNG", **how})
            file = f"images/{number}-{name.replace(' ', '-').replace('%', 'percent')}.{'jpg' if how.get('format') == 'JPEG' else 'png'}"
            (folder / file).write_bytes(data.getvalue())
            records.append(
                {"id": f"{number}|{name}", "image": file, "caption": f"picture {number} {name} {rng.random()}"}
            )
        records.append({"id": f"{number}|text", "caption": " ".join(words)})
        for name, rewrite in TEXTS.items():
            records.append({"id": f"{number}|{name}", "caption": rewrite(words, rng)})
    (folder / "all.json").write_text(json.dumps(records))
    return len(seen)


def edges_of(edges: Path, unit: str) -> tuple[dict[int, int], list[tuple[int, int]]]:
    """The class of each row that has one, and pairs of classes."""
    classes = pq.read_table(edges / f"{unit}.classes.parquet")
    class_of = dict(zip(classes["row"].to_pylist(), classes["class"].to_pylist(), strict=True))
    pairs = pq.read_table(edges / f"{unit}.edges.parquet")
    return class_of, list(zip(pairs["a"].to_pylist(), pairs["b"].to_pylist(), strict=True))


def recall(keys: list[str], edges: Path, unit: str, base: str, names: list[str]) -> tuple[dict[str, float], float]:
    """The share of copies found of each alteration, and other edges for each original."""
    class_of, pairs = edges_of(edges, unit)
    near = set(pairs) | {(b, a) for a, b in pairs}
    row = {key: at for at, key in enumerate(keys)}
    originals = sorted({key.split("|")[0] for key in keys}, key=int)

    def found(a: int, b: int) -> bool:
        first, second = class_of.get(a, a), class_of.get(b, b)
        return first == second or (first, second) in near

    shares = {
        name: sum(found(row[f"{n}|{base}"], row[f"{n}|{name}"]) for n in originals) / len(originals) for name in names
    }
    others = {
        tuple(sorted((keys[a].split("|")[0], keys[b].split("|")[0])))
        for a, b in pairs
        if keys[a].split("|")[0] != keys[b].split("|")[0]
    }
    return shares, len(others) / len(originals)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="?", help="PNG and JPEG below this folder")
    parser.add_argument("--made", type=int, default=0, help="so many pictures with the spectrum of photographs instead")
    parser.add_argument("--radius", type=int, default=6)
    parser.add_argument("--jaccard", default="0.8")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    drawn = tempfile.TemporaryDirectory()
    if asked.made:
        asked.pictures = Path(drawn.name)
        made(asked.pictures, asked.made)
    paths = sorted(path for path in asked.pictures.rglob("*") if path.suffix.lower() in {".png", ".jpg", ".jpeg"})
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        count = plant(paths, asked.pictures, folder / "data")
        vlmsel.index([folder / "data"], output=folder / "index", image_root=folder / "data")
        table = [pq.read_table(path) for path in sorted((folder / "index").glob("*.parquet"))]
        keys = [key for part in table for key in part["key"].to_pylist()]
        lines.append(
            f"{count} distinct pictures of {asked.pictures.name}; radius {asked.radius}, Jaccard {asked.jaccard}"
        )
        ways = {
            "phash": {},
            "dhash": {"image_hash": "dhash"},
            "both": {"image_hash": "both"},
            "phash, --flips": {"flips": True},
        }
        for name, how in ways.items():
            done = vlmsel.dedup(
                folder / "index", output=folder / f"d-{name[:5]}-{len(how)}{name[-3:]}", near_image=[asked.radius],
                max_removed=1, max_bad_fraction=1, codes=folder / "codes", **how,
            )  # fmt: skip
            shares, others = recall(keys, done.edges, f"near-image-{asked.radius}", "original", list(PICTURES))
            told = ", ".join(f"{alteration} {share:.3f}" for alteration, share in shares.items())
            lines.append(f"{name}: {told}; others {others:.2f} a picture")
        done = vlmsel.dedup(folder / "index", output=folder / "d-text", near_text=[asked.jaccard], max_removed=1)
        shares, others = recall(keys, done.edges, f"near-text-{asked.jaccard}", "text", list(TEXTS))
        told = ", ".join(f"{alteration} {share:.3f}" for alteration, share in shares.items())
        lines.append(f"words: {told}; others {others:.2f} a text")
    print("\n".join(lines))
    drawn.cleanup()
    if asked.out:
        with asked.out.open("a") as out:
            out.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    main()
