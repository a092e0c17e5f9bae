"""What ``vlmsel dedup`` must find, by comparing every record with every other one in plain Python.

It reads what the index and its codes hold. What words are is written down in ``rust/vlmsel-core/src/words.rs`` and done here once
more, character by character, with the tables of Python's ``unicodedata``.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from dedup_corpus import part_files

LOW_QUALITY = 20
"""Pictures with less to see are near nothing."""

UNSPACED = ("CJK ", "IDEOGRAPHIC", "HANGZHOU", "HIRAGANA", "KATAKANA", "THAI ", "LAO ", "MYANMAR ", "KHMER ")


def is_invisible(character: str) -> bool:
    """Whether nobody sees a character: it is nothing."""
    point = ord(character)
    return (
        point in (0xAD, 0x61C, 0xFEFF)
        or 0x200C <= point <= 0x200F
        or 0x202A <= point <= 0x202E
        or 0x2060 <= point <= 0x2069
        or 0xFE00 <= point <= 0xFE0F
        or 0xE0100 <= point <= 0xE01EF
    )


def runs_of(text: str) -> list[tuple[bool, list[str]]]:
    """Runs of letters and digits with the marks behind them: whether the script has no spaces, and its characters."""
    seen = "".join(character for character in text if not is_invisible(character))
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    runs: list[tuple[bool, list[str]]] = []
    is_open = False
    for character in folded:
        category = unicodedata.category(character)
        if category[0] == "M":
            if is_open:
                runs[-1][1][-1] += character
        elif category[0] in "LN":
            unspaced = unicodedata.name(character, "").startswith(UNSPACED)
            if not is_open or runs[-1][0] != unspaced:
                runs.append((unspaced, []))
            runs[-1][1].append(character)
            is_open = True
        else:
            is_open = False
    return runs


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    found = set()
    for unspaced, characters in runs_of(text):
        if unspaced and len(characters) > 1:
            found |= {a + b for a, b in pairwise(characters)}
        else:
            found.add("".join(characters))
    return frozenset(found)


def shingle_set(text: str, length: int) -> frozenset[str]:
    """Neighbouring characters of the normalised text."""
    normal = " ".join("".join(characters) for _, characters in runs_of(text))
    if not normal:
        return frozenset()
    return frozenset(normal[at : at + length] for at in range(max(len(normal) - length, 0) + 1))


@dataclass(frozen=True)
class Picture:
    """An image as index and codes know it."""

    content: tuple[bytes, int]
    codes: tuple[int, int, int] | None
    """pHash, dHash and the pHash of the mirrored picture, where there is enough to see."""
    pixels: int


@dataclass(frozen=True)
class Sample:
    """A row of the index."""

    row: int
    uid: bytes
    source: str
    pictures: tuple[Picture, ...]
    text: str | None
    n_turns: int

    @property
    def content(self) -> tuple[tuple[bytes, int], ...]:
        return tuple(picture.content for picture in self.pictures)

    @property
    def normal_text(self) -> str | None:
        """What equal texts have in common; None where nothing is said."""
        return None if self.text is None else " ".join(unicodedata.normalize("NFC", self.text).split()) or None


def read_samples(index: Path, codes: Path | None = None) -> list[Sample]:
    """The rows of an index in the order of its manifest."""
    samples: list[Sample] = []
    for unit, file in part_files(index):
        rows = pq.read_table(index / file).to_pylist()
        coded = iter(pq.read_table(codes / file).to_pylist()) if codes else None
        for row in rows:
            pictures = []
            for image in row["images"]:
                found = next(coded) if coded else None
                assert found is None or found["uid"] == row["uid"]
                good = found is not None and found["status"] == "ok" and found["quality"] >= LOW_QUALITY
                values = (found["phash"], found["dhash"], found["mirror"]) if found and good else None
                pictures.append(Picture((image["hash"], image["size"]), values, image["width"] * image["height"]))
            samples.append(
                Sample(len(samples), row["uid"], unit.split("/")[0], tuple(pictures), spoken(row), row["n_turns"])
            )
        assert coded is None or next(coded, None) is None
    return samples


def spoken(row: dict[str, Any]) -> str | None:
    """What is said in a row."""
    if row["text"] is not None:
        return str(row["text"])
    if row["conversations"] is None:
        return None
    return "\n".join(turn["value"] for turn in json.loads(row["conversations"]))


Distance = Callable[[Sample, Sample], float | None]
"""How far two records are by one kind; None where they are no copies."""


@dataclass(frozen=True)
class Rules:
    """Options that say how near kinds compare."""

    shingles: int | None = None
    image_hash: str = "phash"
    flips: bool = False


def exact(field: str) -> Distance:
    """Equal fields; records without one are no copies."""

    def distance(a: Sample, b: Sample) -> float | None:
        if field != "text" and (not a.pictures or a.content != b.content):
            return None
        if field != "image" and (a.normal_text is None or a.normal_text != b.normal_text):
            return None
        return 0.0

    return distance


def near_text(similarity: str, rules: Rules) -> Distance:
    """Jaccard similarity of word sets; a set of nothing is like none."""
    threshold = Fraction(similarity)
    known: dict[int, frozenset[str]] = {}

    def words_of(sample: Sample) -> frozenset[str]:
        if sample.row not in known:
            text = sample.text or ""
            known[sample.row] = shingle_set(text, rules.shingles) if rules.shingles else word_set(text)
        return known[sample.row]

    def distance(a: Sample, b: Sample) -> float | None:
        x, y = words_of(a), words_of(b)
        if not x or not y:
            return None
        shared = len(x & y)
        union = len(x) + len(y) - shared
        return 1 - shared / union if shared * threshold.denominator >= union * threshold.numerator else None

    return distance


def mirrored(dhash: int) -> int:
    """The dHash of the mirrored picture: each row of 8 differences the other way round and of the other sign.

    That is how the code of a mirror is defined; where neighbours are equal, a real mirror differs.
    """
    rows = [dhash >> 8 * at & 255 for at in range(8)]
    return sum(int(f"{row:08b}"[::-1], 2) << 8 * at for at, row in enumerate(rows)) ^ ((1 << 64) - 1)


def bits_of(a: Picture, b: Picture, rules: Rules) -> int | None:
    """Bits in which two pictures differ; equal bytes or nothing for what has no codes."""
    if a.codes is None or b.codes is None:
        return 0 if a.codes is b.codes and a.content == b.content else None
    pairs = [(a.codes, (b.codes[0], b.codes[1]))]
    if rules.flips:
        pairs += [(a.codes, (b.codes[2], mirrored(b.codes[1]))), (b.codes, (a.codes[2], mirrored(a.codes[1])))]

    def differing(codes: tuple[int, ...], other: tuple[int, int]) -> int:
        phash, dhash = ((codes[at] ^ other[at]).bit_count() for at in (0, 1))
        return {"phash": phash, "dhash": dhash, "both": max(phash, dhash)}[rules.image_hash]

    return min(differing(codes, other) for codes, other in pairs)


def near_image(radius: str, rules: Rules) -> Distance:
    """All images, in order and in number."""

    def distance(a: Sample, b: Sample) -> float | None:
        if not a.pictures or len(a.pictures) != len(b.pictures):
            return None
        most = 0
        for x, y in zip(a.pictures, b.pictures, strict=True):
            bits = bits_of(x, y, rules)
            if bits is None or bits > int(radius):
                return None
            most = max(most, bits)
        return float(most)

    return distance


def near_pair(value: str, rules: Rules) -> Distance:
    """Both; the greater distance, bits as parts of 64."""
    similarity, radius = value.split(":")
    texts, images = near_text(similarity, rules), near_image(radius, rules)

    def distance(a: Sample, b: Sample) -> float | None:
        image = images(a, b)
        text = None if image is None else texts(a, b)
        return None if image is None or text is None else max(text, image / 64)

    return distance


ORDER = ("exact-pair", "exact-text", "exact-image", "near-pair", "near-text", "near-image")
"""Where several kinds would do, the first is named."""


@dataclass(frozen=True)
class Relation:
    """Who is like whom by one kind."""

    kind: str
    near: list[dict[int, float]]
    """For each row its neighbours."""


def relations(samples: Sequence[Sample], kinds: Sequence[tuple[str, str]], rules: Rules) -> list[Relation]:
    """Every record compared with every other one, kind by kind, in the kinds' order of precedence."""
    makers = {"near-text": near_text, "near-image": near_image, "near-pair": near_pair}
    found = []
    for option, value in kinds or [("exact", "pair")]:
        distance = exact(value) if option == "exact" else makers[option](value, rules)
        name = f"exact-{value}" if option == "exact" else option
        near: list[dict[int, float]] = [{} for _ in samples]
        for a in samples:
            for b in samples[a.row + 1 :]:
                how_far = distance(a, b)
                if how_far is not None:
                    near[a.row][b.row] = near[b.row][a.row] = how_far
        found.append(Relation(name, near))
    return sorted(found, key=lambda relation: ORDER.index(relation.kind))


@dataclass(frozen=True)
class Gone:
    """A record that goes: for which row, by which kind, how far (None in a chain)."""

    keeper: int
    kind: str
    distance: float | None


def cover(order: Sequence[int], found: Sequence[Relation]) -> dict[int, Gone]:
    """Best first: who is not yet covered stays and covers its neighbours."""
    keepers: list[int] = []
    gone: dict[int, Gone] = {}
    for row in order:
        for keeper in keepers:
            kind = next((relation for relation in found if keeper in relation.near[row]), None)
            if kind:
                gone[row] = Gone(keeper, kind.kind, kind.near[row][keeper])
                break
        else:
            keepers.append(row)
    return gone


def chains(order: Sequence[int], found: Sequence[Relation]) -> dict[int, Gone]:
    """Of everything that hangs together, the best stays."""
    place = {row: at for at, row in enumerate(order)}
    gone: dict[int, Gone] = {}
    seen: set[int] = set()
    for start in order:
        if start in seen:
            continue
        component, waiting = {start}, [start]
        while waiting:
            row = waiting.pop()
            new = {other for relation in found for other in relation.near[row]} - component
            component |= new
            waiting += new
        seen |= component
        assert min(component, key=place.__getitem__) == start
        for row in component - {start}:
            direct = next((relation for relation in found if start in relation.near[row]), None)
            first = next(relation for relation in found if relation.near[row])
            gone[row] = Gone(start, direct.kind, direct.near[row][start]) if direct else Gone(start, first.kind, None)
    return gone


def keep_order(samples: Sequence[Sample], keep: Sequence[str], scores: dict[str, list[Any]]) -> list[int]:
    """Rows, the best first; ties by id, then by row."""

    def number(rule: str, column: str, sample: Sample) -> tuple[int, float]:
        of_index = {"n_turns": sample.n_turns, "n_images": len(sample.pictures)}
        value = of_index[column] if column in of_index else scores[column][sample.row]
        if value is None or math.isnan(value):
            return (1, 0.0)
        return (0, value if rule == "lowest" else -value)

    def key(sample: Sample) -> tuple[Any, ...]:
        keys: list[Any] = []
        for criterion in keep or (["lowest:ppl"] if scores else ["largest"]):
            rule, _, column = criterion.partition(":")
            if rule == "largest":
                text = len((sample.text or "").encode())
                keys.append((-sum(picture.pixels for picture in sample.pictures), -text))
            elif rule == "first":
                keys.append(sample.row)
            elif rule == "source":
                names = column.split(",")
                keys.append(names.index(sample.source) if sample.source in names else len(names))
            else:
                keys.append(number(rule, column, sample))
        return (*keys, sample.uid, sample.row)

    return [sample.row for sample in sorted(samples, key=key)]
