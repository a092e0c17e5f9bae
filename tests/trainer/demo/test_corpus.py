"""The demo's pool: the same bytes from the same plan, and exactly the junk that it says."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vlmsel_trainer.demo import glyphs
from vlmsel_trainer.demo.corpus import GOOD, PLANTED_PER_MILLE, CorpusPlan, write_pool

PLAN = CorpusPlan(n_pairs=800, pairs_per_shard=300)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(PLAN, tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def samples(pool: Path) -> dict[str, list[dict[str, Any]]]:
    """Samples by planted kind: `image`, `extension`, `txt`, and the fields of `json`."""
    members: dict[str, dict[str, bytes]] = defaultdict(dict)
    for shard in sorted(pool.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, extension = member.name.split(".")
                content = tar.extractfile(member)
                assert content is not None
                members[key][extension] = content.read()
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for parts in members.values():
        facts = json.loads(parts.pop("json"))
        caption = parts.pop("txt").decode()
        ((extension, image),) = parts.items()
        by_kind[facts["kind"]].append({**facts, "txt": caption, "extension": extension, "image": image})
    return by_kind


def picture(sample: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(sample["image"])).convert("RGB")


def test_same_plan_gives_the_same_bytes_and_another_seed_others(pool: Path, tmp_path: Path) -> None:
    again = write_pool(PLAN, tmp_path / "again")
    other = write_pool(CorpusPlan(n_pairs=800, pairs_per_shard=300, seed=1), tmp_path / "other")
    names = sorted(path.name for path in pool.iterdir())
    assert names == [f"{number:05d}.tar" for number in range(3)]
    assert [(again / name).read_bytes() for name in names] == [(pool / name).read_bytes() for name in names]
    assert all((other / name).read_bytes() != (pool / name).read_bytes() for name in names)


def test_amounts_are_those_of_the_plan(samples: dict[str, list[dict[str, Any]]], pool: Path) -> None:
    expected = {kind: 800 * share // 1000 for kind, share in PLANTED_PER_MILLE.items()}
    assert {kind: len(found) for kind, found in samples.items()} == {GOOD: 800 - sum(expected.values()), **expected}
    assert json.loads((pool.parent / "corpus.json").read_text())["counts"] == PLAN.counts()


def test_good_pairs_have_their_own_name_and_a_whole_picture(samples: dict[str, list[dict[str, Any]]]) -> None:
    names = {f"U+{ord(character):04X}": name for character, name in glyphs.named_characters()}
    for sample in samples[GOOD]:
        assert sample["txt"] == sample["name"] == names[sample["code_point"]]
        shown = picture(sample)
        assert shown.size == (64, 64)
        assert len(shown.getcolors(64 * 64) or ()) >= 2


def test_every_planted_pair_is_the_junk_it_says(samples: dict[str, list[dict[str, Any]]]) -> None:
    names = {name for _, name in glyphs.named_characters()}
    good = Counter((sample["image"], sample["txt"]) for sample in samples[GOOD])
    for sample in samples["wrong-caption"]:
        assert sample["txt"] in names
        assert sample["txt"] != sample["name"]
    for sample in samples["serial-caption"]:
        assert sample["txt"] not in names
        assert re.search(r"\d{5}", sample["txt"])
    assert {sample["txt"].strip() for sample in samples["empty-caption"]} == {""}
    for sample in samples["repeated-pair"]:
        assert good[sample["image"], sample["txt"]] == 1
    repeated = Counter(sample["image"] for sample in samples["repeated-picture"])
    assert sorted(repeated.values()) == [15, 25]
    assert len({(sample["image"], sample["txt"]) for sample in samples["repeated-picture"]}) == 40
    assert all(sample["txt"] in names - {sample["name"]} for sample in samples["repeated-picture"])
    assert all(max(picture(sample).size) <= 4 for sample in samples["tiny-picture"])
    assert all(len(picture(sample).getcolors() or ()) == 1 for sample in samples["blank-picture"])


def test_broken_jpegs_tell_their_size_and_then_fail(samples: dict[str, list[dict[str, Any]]]) -> None:
    for sample in samples["broken-jpeg"]:
        opened = Image.open(io.BytesIO(sample["image"]))
        assert (opened.format, opened.size) == ("JPEG", (64, 64))
        with pytest.raises(OSError, match="truncated"):
            opened.load()


def test_pool_and_training_share_no_face_and_no_hue() -> None:
    assert set(glyphs.TRAINING_FACES).isdisjoint(glyphs.POOL_FACES)
    assert len({*glyphs.TRAINING_FACES, *glyphs.POOL_FACES}) == 16
    assert set(glyphs.TRAINING_HUES).isdisjoint(glyphs.POOL_HUES)
    assert all(glyphs.face_path(face).is_file() for face in (*glyphs.TRAINING_FACES, *glyphs.POOL_FACES))


def test_samples_are_drawn_from_pool_faces_and_hues(samples: dict[str, list[dict[str, Any]]]) -> None:
    import colorsys

    for sample in (sample for found in samples.values() for sample in found):
        assert sample["face"] in glyphs.POOL_FACES
        for colour in (sample["ink"], sample["ground"]):
            hue, lightness, saturation = colorsys.rgb_to_hls(*(part / 255 for part in bytes.fromhex(colour[1:])))
            # Rounding to 8 bits moves the hue of a nearly white ground by some degrees.
            if saturation > 0.5 and lightness < 0.5:
                assert min(abs(hue * 360 - degree) % 360 for degree in glyphs.POOL_HUES) < 3


def test_names_are_unique_and_so_are_their_pictures() -> None:
    characters = glyphs.named_characters()
    assert len(characters) > 1000
    assert len({name for _, name in characters}) == len(characters)
    assert len({glyphs.draw_mask(character, "DejaVuSans", 48).tobytes() for character, _ in characters}) == len(
        characters
    )


def test_a_finished_pool_is_left_alone_and_a_broken_off_one_made_again(tmp_path: Path) -> None:
    plan = CorpusPlan(n_pairs=40, pairs_per_shard=40)
    pool = write_pool(plan, tmp_path)
    content, stamp = (pool / "00000.tar").read_bytes(), (pool / "00000.tar").stat().st_mtime_ns
    write_pool(plan, tmp_path, lambda n_pairs: pytest.fail("the pool was finished"))
    assert (pool / "00000.tar").stat().st_mtime_ns == stamp

    def interrupt(n_pairs: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pool(CorpusPlan(n_pairs=80, pairs_per_shard=40), tmp_path, interrupt)
    assert (pool / "00000.tar").read_bytes() == content
    write_pool(plan, tmp_path)
    assert (pool / "00000.tar").read_bytes() == content
    assert not (tmp_path / "pool.partial").exists()
