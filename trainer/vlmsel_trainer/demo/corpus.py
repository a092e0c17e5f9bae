"""The pool: captioned pictures with planted junk of known kinds and amounts, as WebDataset tars.

A `CorpusPlan` decides every byte: the same plan, Pillow and matplotlib give the same tars. Each sample is an image (`jpg` or
`png`), a `txt` caption and a `json` record whose `kind` says what was planted, so that a report can join on it. Scoring and
selecting never look at it.
"""

from __future__ import annotations

import functools
import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from vlmsel_trainer.demo import glyphs

GOOD = "good"

PLANTED_PER_MILLE: dict[str, int] = {
    "wrong-caption": 50,
    "serial-caption": 50,
    "empty-caption": 50,
    "repeated-picture": 50,
    "repeated-pair": 50,
    "broken-jpeg": 50,
    "tiny-picture": 25,
    "blank-picture": 25,
}
"""Kinds of planted junk and how many of a thousand pairs each one takes."""

KIND_MEANINGS: dict[str, str] = {
    GOOD: "a picture under its own name",
    "wrong-caption": "the name of another character",
    "serial-caption": "a file name or product number for a caption",
    "empty-caption": "nothing, or white space, for a caption",
    "repeated-picture": "one picture under many captions, as 'no image available' on the web",
    "repeated-pair": "an exact copy of a good pair",
    "broken-jpeg": "a good pair whose JPEG was cut off in the download",
    "tiny-picture": "a good pair at 2 to 4 pixels",
    "blank-picture": "a good caption over an empty ground",
}

_CAPTIONS_PER_REPEATED_PICTURE = 25
_TINY_SIDES_PX = (2, 4)  # At 8 pixels many characters can still be read, by people and by the scorer.
_JPEG_QUALITY = 92


@dataclass(frozen=True, slots=True)
class CorpusPlan:
    """What the pool holds: `n_pairs` in shards of `pairs_per_shard`, drawn from `seed`."""

    n_pairs: int = 8000
    pairs_per_shard: int = 1000
    seed: int = 0
    per_mille: dict[str, int] = field(default_factory=lambda: dict(PLANTED_PER_MILLE))

    def counts(self) -> dict[str, int]:
        """Pairs of each kind, `good` first; they add up to `n_pairs`."""
        planted = {kind: self.n_pairs * share // 1000 for kind, share in self.per_mille.items()}
        return {GOOD: self.n_pairs - sum(planted.values()), **planted}


@dataclass(frozen=True, slots=True)
class Pair:
    """One sample before it has a key. `extension` is `jpg` or `png`, `image` the encoded bytes."""

    kind: str
    image: bytes
    extension: str
    caption: str
    facts: dict[str, Any]


def make_pairs(plan: CorpusPlan) -> Iterator[Pair]:
    """Every pair of the pool, in the order in which the shards hold them."""
    counts = plan.counts()
    good = [_draw_pair(GOOD, glyph, rng) for glyph, rng in _drawings(plan, GOOD, counts[GOOD])]
    pairs = list(good)
    for kind, n_pairs in counts.items():
        if kind == "repeated-pair":
            pairs.extend(_repeat_pairs(plan, n_pairs, good))
        elif kind != GOOD:
            pairs.extend(_PLANTERS[kind](plan, n_pairs))
    _rng(plan, "order").shuffle(pairs)
    yield from pairs


def write_pool(plan: CorpusPlan, workspace: Path, advance: Callable[[int], None] | None = None) -> Path:
    """Write `<workspace>/pool/*.tar` and, beside it, `corpus.json` with the plan; return the pool folder.

    A finished pool of the same plan is left alone. The folder appears whole or not at all. `advance` is called with the
    number of pairs written so far.
    """
    pool, record = workspace / "pool", workspace / "corpus.json"
    description = _describe(plan)
    if pool.is_dir() and record.is_file() and record.read_text(encoding="utf-8") == description:
        return pool
    workspace.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    partial = workspace / "pool.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    pairs = make_pairs(plan)
    for first in range(0, plan.n_pairs, plan.pairs_per_shard):
        n_pairs = min(plan.pairs_per_shard, plan.n_pairs - first)
        with tarfile.open(
            partial / f"{first // plan.pairs_per_shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT
        ) as tar:
            for number in range(first, first + n_pairs):
                _add_sample(tar, f"{number:06d}", next(pairs))
        if advance is not None:
            advance(first + n_pairs)
    if pool.exists():
        shutil.rmtree(pool)
    os.rename(partial, pool)
    record.write_text(description, encoding="utf-8")
    return pool


def _describe(plan: CorpusPlan) -> str:
    return json.dumps({"plan": asdict(plan), "counts": plan.counts()}, indent=1, sort_keys=True) + "\n"


def _add_sample(tar: tarfile.TarFile, key: str, pair: Pair) -> None:
    facts = json.dumps({"kind": pair.kind, **pair.facts}, sort_keys=True).encode()
    for extension, content in ((pair.extension, pair.image), ("json", facts), ("txt", pair.caption.encode())):
        member = tarfile.TarInfo(f"{key}.{extension}")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def _rng(plan: CorpusPlan, purpose: str) -> random.Random:
    # One stream of numbers for each purpose: changing the amount of one kind leaves the pictures of the others as they are.
    return random.Random(f"{plan.seed}/{purpose}")


class _Glyph(NamedTuple):
    character: str
    name: str
    face: str


@functools.cache
def _pool_glyphs() -> tuple[_Glyph, ...]:
    return tuple(
        _Glyph(character, name, face)
        for face in glyphs.POOL_FACES
        for character, name in glyphs.named_characters()
        if ord(character) in glyphs.charmap(face)
    )


def _drawings(plan: CorpusPlan, kind: str, n_pairs: int) -> Iterator[tuple[_Glyph, random.Random]]:
    """Glyphs, and the numbers to draw each with; every glyph comes once before any comes again."""
    rng = _rng(plan, kind)
    deck: list[_Glyph] = []
    for _ in range(n_pairs):
        if not deck:
            deck = list(_pool_glyphs())
            rng.shuffle(deck)
        yield deck.pop(), rng


def _draw_pair(
    kind: str,
    glyph: _Glyph,
    rng: random.Random,
    *,
    caption: str | None = None,
    extension: str | None = None,
    side_px: int = glyphs.SIDE_PX,
    is_blank: bool = False,
) -> Pair:
    colours = glyphs.pick_colours(glyphs.POOL_HUES, rng)
    picture = glyphs.paint(glyphs.draw_view(glyph.character, glyph.face, rng), colours)
    if is_blank:
        picture = Image.new("RGB", picture.size, colours.ground)
    if side_px != glyphs.SIDE_PX:
        picture = picture.resize((side_px, side_px))
    extension = extension or rng.choice(("jpg", "png"))
    facts = {
        "name": glyph.name,
        "code_point": f"U+{ord(glyph.character):04X}",
        "face": glyph.face,
        "ink": "#{:02x}{:02x}{:02x}".format(*colours.ink),
        "ground": "#{:02x}{:02x}{:02x}".format(*colours.ground),
    }
    return Pair(kind, _encode(picture, extension), extension, glyph.name if caption is None else caption, facts)


def _encode(picture: Image.Image, extension: str) -> bytes:
    content = io.BytesIO()
    if extension == "jpg":
        picture.save(content, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        picture.save(content, "PNG")
    return content.getvalue()


def _plant_wrong_captions(plan: CorpusPlan, n_pairs: int) -> Iterator[Pair]:
    names = [name for _, name in glyphs.named_characters()]
    for glyph, rng in _drawings(plan, "wrong-caption", n_pairs):
        other = rng.choice(names)
        while other == glyph.name:
            other = rng.choice(names)
        yield _draw_pair("wrong-caption", glyph, rng, caption=other)


def _plant_serial_captions(plan: CorpusPlan, n_pairs: int) -> Iterator[Pair]:
    for glyph, rng in _drawings(plan, "serial-caption", n_pairs):
        number = rng.randrange(10_000, 100_000)
        caption = rng.choice(
            ("IMG_{}.jpg", "DSC{}", "item no. {}", "{}-thumb (2)", "SKU {}-XL", "screenshot_{}.png")
        ).format(number)
        yield _draw_pair("serial-caption", glyph, rng, caption=caption)


def _plant_empty_captions(plan: CorpusPlan, n_pairs: int) -> Iterator[Pair]:
    for glyph, rng in _drawings(plan, "empty-caption", n_pairs):
        yield _draw_pair("empty-caption", glyph, rng, caption=rng.choice(("", " \n")))


def _plant_repeated_pictures(plan: CorpusPlan, n_pairs: int) -> Iterator[Pair]:
    names = [name for _, name in glyphs.named_characters()]
    n_pictures = -(-n_pairs // _CAPTIONS_PER_REPEATED_PICTURE)
    for number, (glyph, rng) in enumerate(_drawings(plan, "repeated-picture", n_pictures)):
        original = _draw_pair("repeated-picture", glyph, rng)
        n_captions = min(_CAPTIONS_PER_REPEATED_PICTURE, n_pairs - number * _CAPTIONS_PER_REPEATED_PICTURE)
        for caption in rng.sample([name for name in names if name != glyph.name], n_captions):
            yield Pair(original.kind, original.image, original.extension, caption, original.facts)


def _repeat_pairs(plan: CorpusPlan, n_pairs: int, good: list[Pair]) -> Iterator[Pair]:
    for original in _rng(plan, "repeated-pair").sample(good, n_pairs):
        yield Pair("repeated-pair", original.image, original.extension, original.caption, original.facts)


def _plant_broken_jpegs(plan: CorpusPlan, n_pairs: int) -> Iterator[Pair]:
    for glyph, rng in _drawings(plan, "broken-jpeg", n_pairs):
        whole = _draw_pair("broken-jpeg", glyph, rng, extension="jpg")
        # Cut inside the scan: the header still tells a size, as in an interrupted download.
        scan = whole.image.index(b"\xff\xda") + 12
        end = scan + int(rng.uniform(0.2, 0.6) * (len(whole.image) - scan))
        yield Pair(whole.kind, whole.image[:end], whole.extension, whole.caption, whole.facts)


def _plant_tiny_pictures(plan: CorpusPlan, n_pairs: int) -> Iterator[Pair]:
    for glyph, rng in _drawings(plan, "tiny-picture", n_pairs):
        yield _draw_pair("tiny-picture", glyph, rng, side_px=rng.randint(*_TINY_SIDES_PX))


def _plant_blank_pictures(plan: CorpusPlan, n_pairs: int) -> Iterator[Pair]:
    for glyph, rng in _drawings(plan, "blank-picture", n_pairs):
        yield _draw_pair("blank-picture", glyph, rng, is_blank=True)


_PLANTERS: dict[str, Callable[[CorpusPlan, int], Iterator[Pair]]] = {
    "wrong-caption": _plant_wrong_captions,
    "serial-caption": _plant_serial_captions,
    "empty-caption": _plant_empty_captions,
    "repeated-picture": _plant_repeated_pictures,
    "broken-jpeg": _plant_broken_jpegs,
    "tiny-picture": _plant_tiny_pictures,
    "blank-picture": _plant_blank_pictures,
}
