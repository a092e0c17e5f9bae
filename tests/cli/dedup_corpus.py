"""A pool with planted copies of every kind, small enough for a quadratic oracle."""

from __future__ import annotations

import io
import json
import random
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import vlmsel
from pair_corpus import run_json, write_tar
from PIL import Image, ImageOps

Choices = random.Random

WIDE = {ord("a") + n: ord("\uff41") + n for n in range(26)}
"""To full-width letters."""


def photo(draw: np.random.Generator, width: int = 64, height: int = 48) -> Image.Image:
    """Broad light and shade."""
    noise = Image.fromarray(draw.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return noise.resize((width, height), Image.Resampling.BICUBIC)


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture's bytes."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def altered(image: Image.Image) -> list[bytes]:
    """A picture and its copies: equal bytes come from drawing one of these twice."""
    width, height = image.size
    edge = (width // 50 + 1, height // 50 + 1)
    return [
        stored(image),
        stored(image, "JPEG", quality=50),
        stored(image, "JPEG", quality=90),
        stored(image.resize((width // 2, height // 2), Image.Resampling.LANCZOS)),
        stored(image.crop((*edge, width - edge[0], height - edge[1]))),
        stored(ImageOps.mirror(image)),
    ]


def blanks() -> list[bytes]:
    """Pictures with nothing to see, some of them with the same codes."""
    return [stored(Image.new("RGB", size, colour)) for size in ((40, 30), (41, 30)) for colour in ("white", "black")]


def words(choose: Choices, count: int, vocabulary: int = 400) -> list[str]:
    """Frequent words and rare ones; no number stands for two words."""
    return [f"w{int(vocabulary ** choose.random())}" for _ in range(count)]


def reworded(choose: Choices, text: str) -> str:
    """A copy of a text as people make them."""
    tokens = text.split(" ")
    at = choose.randrange(len(tokens))
    way = choose.randrange(9)
    if way == 0:
        tokens[at] = "another"
    elif way == 1:
        tokens.insert(at, "added")
    elif way == 2:
        choose.shuffle(tokens)
    elif way == 3:
        return f"  {text.upper()}!! "
    elif way == 4:
        return ", ".join(tokens).translate(WIDE)
    elif way == 5:
        tokens[at] += " caf\u00e9 stra\u00dfe"
        return unicodedata.normalize(choose.choice(("NFC", "NFD")), " ".join(tokens))
    elif way == 6:
        tokens[at] = tokens[at][:1] + "\u00ad\u200d" + tokens[at][1:]
    elif way == 7:
        tokens[at] += "\u624b\u673a\u58f3" if choose.random() < 0.5 else " \u0e01\u0e34\u0e19\u0e02\u0e49\u0e32\u0e27"
    return " ".join(tokens)


WORDLESS = ["!!!", "\u2026 ?", "\U0001f600\U0001f600", "-"]
BLANK = ["", "   ", "\n\t"]


class Texts:
    """Draws texts, many of them copies of one that was drawn before."""

    def __init__(self, choose: Choices) -> None:
        self.choose = choose
        self.drawn = [" ".join(words(choose, choose.randint(3, 20))) for _ in range(20)]

    def draw(self) -> str:
        choose = self.choose
        way = choose.random()
        if way < 0.04:
            return choose.choice(WORDLESS)
        if way < 0.07:
            return choose.choice(BLANK)
        if way < 0.25:
            return choose.choice(self.drawn)
        if way < 0.6:
            text = reworded(choose, choose.choice(self.drawn))
        else:
            text = " ".join(words(choose, choose.randint(3, 20)))
        # Beyond 24 words of a caption, copies of copies would reach what MinHash finds, which is no exact answer.
        if len(text.split()) < 25:
            self.drawn.append(text)
        return text


class Pictures:
    """Draws pictures, most of them one of the copies of a few."""

    def __init__(self, choose: Choices, scenes: int) -> None:
        self.choose = choose
        draw = np.random.default_rng(choose.randrange(1 << 30))
        self.scenes = [altered(photo(draw)) for _ in range(scenes)]
        self.blanks = blanks()

    def draw(self) -> bytes:
        if self.choose.random() < 0.06:
            return self.choose.choice(self.blanks)
        return self.choose.choice(self.choose.choice(self.scenes))


class Pairs:
    """Draws pictures with texts, some of them copies of a pair that was drawn before, in one, the other, both or neither."""

    def __init__(self, choose: Choices, scenes: int) -> None:
        self.choose = choose
        self.texts, self.pictures = Texts(choose), Pictures(choose, scenes)
        self.drawn: list[tuple[list[bytes], bytes, str]] = []

    def draw(self) -> tuple[bytes, str]:
        choose = self.choose
        if self.drawn and choose.random() < 0.4:
            scene, picture, text = choose.choice(self.drawn)
            picture = picture if choose.random() < 0.5 else choose.choice(scene)
            return picture, text if choose.random() < 0.5 else reworded(choose, text)
        if choose.random() < 0.2:
            return self.pictures.draw(), self.texts.draw()
        scene = choose.choice(self.pictures.scenes)
        self.drawn.append((scene, choose.choice(scene), " ".join(words(choose, choose.randint(3, 20)))))
        return self.drawn[-1][1:]


@dataclass(frozen=True)
class Pool:
    """Where the pool lies."""

    tars: Path
    json: Path
    images: Path

    def sources(self, *, reverse: bool = False) -> list[str]:
        """Words of the command line that index it."""
        found = [self.tars, self.json]
        return [str(path) for path in (reversed(found) if reverse else found)]

    def index(self, output: Path, *options: str, reverse: bool = False) -> Path:
        """Makes an index."""
        tolerant = ("--max-bad-fraction", "0.2", "--image-root", str(self.images))
        run_json("index", *self.sources(reverse=reverse), "-o", output, *tolerant, *options)
        return output


def make_pool(folder: Path, samples: int = 600, seed: int = 5) -> Pool:
    """Tars of pairs and a JSON list of conversations, captions, lists of images, texts and images alone."""
    choose = Choices(seed)
    pairs = Pairs(choose, max(samples // 12, 3))
    texts, pictures = pairs.texts, pairs.pictures
    of_tars = samples * 6 // 10
    for tar in range(3):
        members: list[tuple[str, bytes]] = []
        for n in range(of_tars // 3):
            way = choose.random()
            picture, text = pairs.draw()
            if way > 0.05:
                members.append((f"{n:05}.jpg", picture))
            if way < 0.92:
                members.append((f"{n:05}.txt", text.encode()))
        # Bytes that are a picture by their header and cannot be decoded, three times.
        broken = stored(photo(np.random.default_rng(1)), "JPEG")[:-300]
        members += [(f"broken{n}.jpg", broken) for n in range(2)]
        write_tar(folder / "tars" / f"{tar}.tar", members)
    images = folder / "images"
    images.mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for n in range(samples - of_tars):
        record: dict[str, Any] = {"id": n // 3 if choose.random() < 0.3 else f"r{n}"}
        way = choose.random()
        count = 0 if way < 0.15 else 1 if way < 0.75 else 2 + (choose.random() < 0.3)
        names = []
        picture, text = pairs.draw()
        for item in range(count):
            names.append(f"{n}-{item}.png")
            (images / names[-1]).write_bytes(picture if item == 0 else pictures.draw())
        if len(names) > 1:
            # Copies of lists: a few scenes, blank pictures among them, in several orders.
            few = [choose.choice(choose.choice((*pictures.scenes[:2], pictures.blanks))) for _ in names]
            for name, content in zip(names, few, strict=True):
                (images / name).write_bytes(content)
        if names:
            record["image"] = names[0] if len(names) == 1 else names
        if count == 0 or choose.random() < 0.9:
            if choose.random() < 0.5:
                record["caption"] = text
            else:
                turns = [texts.draw() for _ in range(choose.choice((2, 2, 4)))]
                # Three short turns are still less than what is found by MinHash.
                turns = [" ".join(turn.split()[:12]) if len(turn.split()) > 12 else turn for turn in turns]
                speakers = ("human", "gpt", "human", "gpt")
                record["conversations"] = [
                    {"from": who, "value": turn} for who, turn in zip(speakers, turns, strict=False)
                ]
        records.append(record)
    (folder / "json").mkdir()
    (folder / "json" / "list.json").write_text(json.dumps(records))
    return Pool(folder / "tars", folder / "json", images)


def part_files(folder: Path) -> list[tuple[str, str]]:
    """Units and Parquet files of an output, in the order of its manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return [
        (part["unit"], file["file"])
        for part in manifest["parts"]
        for file in part["files"]
        if file["file"].endswith(".parquet")
    ]


def make_scores(index: Path, output: Path, columns: dict[str, Any], *, unit_rows: int = 50) -> Path:
    """A folder as ``vlmsel score`` leaves it: ``columns`` have a value for each row of the index, in order."""
    files = [file for _, file in part_files(index)]
    inputs = [vlmsel.fingerprint(index / file, file) for file in files]
    start_of_part = 0
    with vlmsel.Output.begin(output, command="score", config={}, inputs=inputs) as writing:
        for file in files:
            table = pq.read_table(index / file, columns=["uid", "source"])
            for start in range(0, table.num_rows, unit_rows):
                rows = table.slice(start, unit_rows)
                name = f"{Path(file).stem}-{start:09}"
                at = start_of_part + start
                for column, values in columns.items():
                    rows = rows.append_column(column, [values[at : at + rows.num_rows]])
                pq.write_table(
                    rows.replace_schema_metadata({"vlmsel.provenance": "{}"}), writing.temporary(f"{name}.parquet")
                )
                writing.commit(name, [f"{name}.parquet"], rows=rows.num_rows, counts={"ok": rows.num_rows})
            start_of_part += table.num_rows
        writing.finish(counts={"input": start_of_part, "ok": start_of_part})
    return output


def flags(kinds: Sequence[tuple[str, str]]) -> list[str]:
    """Kinds as the command line has them."""
    return [word for option, value in kinds for word in (f"--{option}", value)]
