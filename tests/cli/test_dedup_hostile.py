"""``vlmsel dedup`` with what nobody should have, and somebody has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import vlmsel
from dedup_corpus import part_files, photo, stored
from dedup_oracle import Rules, cover, keep_order, read_samples, relations
from pair_corpus import picture, run_json, write_tar
from test_dedup import assert_edges, assert_equal

ALL: dict[str, Any] = {
    "exact": ["pair", "text", "image"],
    "near_text": ["0.8"],
    "near_image": [6],
    "near_pair": [("0.8", 6)],
}
KINDS = (
    ("exact", "pair"),
    ("exact", "text"),
    ("exact", "image"),
    ("near-pair", "0.8:6"),
    ("near-text", "0.8"),
    ("near-image", "6"),
)


def index_of(folder: Path, records: Sequence[dict[str, Any]], name: str = "pool") -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "list.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return vlmsel.index(folder / name, output=folder / "index", max_bad_fraction=1.0).path


def dedup(folder: Path, **options: Any) -> vlmsel.Deduplication:
    found = vlmsel.dedup(
        folder / "index", output=folder / "dedup", max_removed=1.0, max_bad_fraction=1.0, keep=["first"], **options
    )
    assert vlmsel.verify(found.path).problems == []
    assert vlmsel.verify(found.edges).problems == []
    return found


def table(folder: Path, columns: list[str]) -> list[dict[str, Any]]:
    return [row for _, file in part_files(folder) for row in pq.read_table(folder / file, columns=columns).to_pylist()]


def check(folder: Path) -> vlmsel.Deduplication:
    """All kinds, against the oracle."""
    found = dedup(folder, **ALL)
    samples = read_samples(folder / "index", folder / "codes")
    expected = relations(samples, KINDS, Rules())
    assert_edges(folder / "dedup-edges", expected)
    assert_equal(folder / "dedup", samples, cover(keep_order(samples, ["first"], {}), expected))
    return found


def test_texts_of_a_megabyte(tmp_path: Path) -> None:
    """Of many words, of one word, and of scripts that put no spaces between them."""
    many = " ".join(f"w{n}" for n in range(150_000))
    one, unspaced = "x" * 1_000_000, "".join(chr(0x4E00 + n % 20_000) for n in range(350_000))
    lines = [many, many + " more", many[: len(many) // 2], one, one + "y", one, unspaced, unspaced + "\u4e00", "short"]
    index_of(tmp_path, [{"caption": line} for line in lines])
    assert check(tmp_path).dropped == {"exact-text": 1, "near-text": 2}


def test_one_caption_20_000_times(tmp_path: Path) -> None:
    """They are one class and not 200 million pairs."""
    index_of(tmp_path, [{"caption": "image unavailable" if n else "Image, unavailable!"} for n in range(20_001)])
    found = dedup(tmp_path, exact=["text"], near_text=["0.8"], memory_limit=8 << 20)
    assert (found.kept, found.dropped) == (1, {"near-text": 20_000})
    assert found.groups[0]["dropped"] == 20_000
    assert sum(part["edges"] for part in found.compared.values()) == 0


def test_texts_without_words_are_copies_by_their_bytes_alone(tmp_path: Path) -> None:
    index_of(tmp_path, [{"caption": line} for line in ["!!!", "!!!", "???", "\U0001f600", "", " ", "\u00ad", "-"] * 2])
    found = check(tmp_path)
    assert set(found.dropped) == {"exact-text"}
    assert found.compared["near-text-0.8"]["rows"] == 0


def test_pictures_that_cannot_be_decoded_are_copies_by_their_bytes_alone(tmp_path: Path) -> None:
    import numpy as np

    whole = stored(photo(np.random.default_rng(1)), "JPEG")
    cut, other_cut = whole[:-300], whole[:-310]
    members = [(f"{n}.jpg", content) for n, content in enumerate([cut, whole, cut, other_cut, whole])]
    write_tar(tmp_path / "pool" / "0.tar", members)
    vlmsel.index(tmp_path / "pool", output=tmp_path / "index", max_bad_fraction=1.0)
    found = check(tmp_path)
    assert found.dropped == {"exact-image": 2}


def test_lists_of_images_of_which_some_are_blank(tmp_path: Path) -> None:
    """A blank picture has to be the same; what is beside it may be near."""
    import numpy as np
    from PIL import Image

    scene = photo(np.random.default_rng(4), 128, 96)
    pictures = {
        "a.png": stored(scene),
        "b.jpg": stored(scene, "JPEG", quality=50),
        "white.png": stored(Image.new("RGB", (30, 30), "white")),
        "black.png": stored(Image.new("RGB", (30, 30), "black")),
    }
    (tmp_path / "pool").mkdir()
    for name, content in pictures.items():
        (tmp_path / "pool" / name).write_bytes(content)
    lists = [
        ["white.png", "a.png"],
        ["white.png", "b.jpg"],
        ["black.png", "b.jpg"],
        ["a.png", "white.png"],
        ["b.jpg", "white.png"],
        ["white.png", "white.png"],
        ["white.png"],
        ["a.png", "b.jpg"],
        ["b.jpg", "a.png"],
        ["a.png"],
    ]
    index_of(tmp_path, [{"images": names, "caption": f"n{n}"} for n, names in enumerate(lists)])
    assert check(tmp_path).dropped == {"near-image": 3}


def test_ids_that_repeat(tmp_path: Path) -> None:
    """Rows are known by their place: of two with one id, one may stay and the other go."""
    import pyarrow as pa

    uid = "0" * 32
    table = pa.table(
        {
            "key": [f"{n:06}" for n in range(4)],
            "caption": ["a", "a", "b", "c"],
            "status": ["success"] * 4,
            "uid": [uid, uid, uid, "1" * 32],
        }
    )
    for name in ("one", "two"):
        write_tar(tmp_path / name / "0.tar", [(f"{n:06}.jpg", picture(n % 2)) for n in range(4)])
        pq.write_table(table, tmp_path / name / "0.parquet")
    vlmsel.index([tmp_path / "one", tmp_path / "two"], output=tmp_path / "index")
    samples = read_samples(tmp_path / "index")
    assert len({sample.uid for sample in samples}) == 2 and len(samples) == 8
    found = check(tmp_path)
    assert found.kept + sum(found.dropped.values()) == 8


@pytest.mark.parametrize("rows", [0, 1])
def test_an_index_of_next_to_nothing(tmp_path: Path, rows: int) -> None:
    (tmp_path / "pool").mkdir()
    index_of(tmp_path, [{"caption": "alone"}] * rows or [{"image": "gone.jpg", "caption": "a"}])
    found = check(tmp_path)
    assert (found.input, found.kept, found.dropped) == (rows, rows, {})
    assert (tmp_path / "dedup" / "keep.bits").read_bytes() == b"\x01" * rows


def test_parts_without_rows(tmp_path: Path) -> None:
    """Between parts that have some."""
    bad = [{"image": "gone.jpg", "caption": "a"}]
    for name, records in (("a", [{"caption": "x"}] * 9), ("b", bad), ("c", [{"caption": "x"}] * 2), ("d", bad)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "list.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    sources = [tmp_path / name for name in "abcd"]
    vlmsel.index(sources, output=tmp_path / "index", max_bad_fraction=1.0)
    assert [pq.read_metadata(tmp_path / "index" / file).num_rows for _, file in part_files(tmp_path / "index")] == [
        9,
        0,
        2,
        0,
    ]
    assert check(tmp_path).kept == 1
    assert (tmp_path / "dedup" / "keep.bits").read_bytes() == b"\x01\x00"


def test_names_of_sources_with_odd_characters(tmp_path: Path) -> None:
    """The list of names is divided at commas; a name is what the index has."""
    for name in ("a b", "c:d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "list.jsonl").write_text(json.dumps({"caption": "x"}) + "\n")
    vlmsel.index([tmp_path / "a b", tmp_path / "c:d"], output=tmp_path / "index")
    for best, gone in (("a b", "c:d"), ("c:d", "a b")):
        done = run_json(
            "dedup", "--index", tmp_path / "index", "-o", tmp_path / "dedup", "--exact", "text", "--max-removed", "1",
            "--keep", f"source:{best}", "--overwrite",
        )  # fmt: skip
        assert done["sources"][gone]["dropped"] == {"exact-text": 1}
        assert done["sources"][best]["dropped"] == {}


@pytest.mark.parametrize(
    ("hubs", "most", "gone", "is_kept"),
    [("keep-one", 10, 30, True), ("leave", 10, 0, True), ("keep-one", 30, 1, False)],
)
def test_hubs_are_named_and_bounded(tmp_path: Path, hubs: str, most: int, gone: int, is_kept: bool) -> None:
    """One text in the middle of thirty that are near it, and not near each other."""
    middle = "one two three four five six seven eight nine ten"
    records = [{"id": str(n), "caption": f"{middle} other{n}"} for n in range(30)]
    index_of(tmp_path, [*records, {"id": "middle", "caption": middle}])
    found = dedup(tmp_path, near_text=["0.85"], max_neighbours=most, hubs=hubs)
    assert found.input - found.kept == gone
    rows = [row for row in table(tmp_path / "index", ["uid", "key"]) if row["key"] == "middle"]
    uid = rows[0]["uid"]
    kept = {row["uid"]: row["keep"] for row in table(found.path, ["uid", "keep"])}
    # Without a hub the first of its neighbours stays for it.
    assert kept[uid] is is_kept
    named = [(hub["kind"], hub["neighbours"], hub["record"]["uid"]) for hub in found.hubs]
    assert named == ([("near-text", 30, uid.hex())] if most == 10 else [])
    assert found.hub_count == len(named)


def test_images_alone_say_how_many_texts_they_would_drop(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    records = []
    for n, text in enumerate(["a dog", "a dog", "a cat"]):
        (tmp_path / "pool" / f"{n}.png").write_bytes(picture(7, kind="PNG"))
        records.append({"id": str(n), "image": f"{n}.png", "caption": text})
    index_of(tmp_path, records)
    assert dedup(tmp_path, exact=["image"]).other_texts == 1
