"""`vlmsel sheet` of a dedup: what it shows is what the tables say, and pairs just outside are those that comparing all finds."""

from __future__ import annotations

import io
import json
import random
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pair_corpus import write_tar
from PIL import Image, ImageDraw
from vlmsel._sheet.bands import Reading
from vlmsel._sheet.cells import Cell, Cluster, ClusterBand, Copy
from vlmsel._sheet.contents import read_contents
from vlmsel._sheet.wording import describe_copy
from vlmsel.cli.main import run
from vlmsel.outputs import part_files, read_manifest

KINDS = ["--near-text", "0.6", "--near-image", "5", "--near-pair", "0.6:5", "--exact", "pair"]
WORDS = [
    "red",
    "blue",
    "green",
    "old",
    "small",
    "large",
    "dog",
    "cat",
    "bird",
    "house",
    "tree",
    "car",
    "boat",
    "road",
    "river",
    "field",
    "stone",
    "bridge",
    "window",
    "door",
]


class Command:
    """``vlmsel ARGS`` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str] | None = None) -> None:
        self._capsys = capsys

    def __call__(self, *words: str | Path) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        code = run([*map(str, words)])
        return (code, *self._capsys.readouterr()) if self._capsys else (code, "", "")

    def json(self, *words: str | Path) -> dict[str, Any]:
        """What a run that succeeds says of itself."""
        code, out, err = self(*words, "--json")
        assert code == 0, err
        said: dict[str, Any] = json.loads(out or "{}")
        return said


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def picture(rng: random.Random) -> Image.Image:
    """Broad light and shade, unlike any other."""
    pixels = np.frombuffer(rng.randbytes(9 * 9 * 3), np.uint8).reshape(9, 9, 3)
    return Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)


def altered(image: Image.Image, rng: random.Random) -> Image.Image:
    """The same picture with a mark, some bits of its code away."""
    copy = image.copy()
    x, y, side = rng.randrange(70), rng.randrange(70), rng.randrange(4, 24)
    ImageDraw.Draw(copy).rectangle((x, y, x + side, y + side), fill=(rng.randrange(256),) * 3)
    return copy


def stored(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def samples(rng: random.Random, count: int) -> list[tuple[bytes | None, str]]:
    """Pictures with texts, each with copies that are changed more or less in one or both; some equal ones, some without pictures."""
    rows: list[tuple[bytes | None, str]] = []
    for _ in range(count):
        image, words = picture(rng), [f"{word}{rng.randrange(9)}" for word in rng.sample(WORDS, 9)]
        rows.append((stored(image), " ".join(words)))
        for _ in range(rng.randrange(4)):
            other = picture(rng) if rng.random() < 0.3 else altered(image, rng)
            text = list(words) if rng.random() < 0.7 else rng.sample(WORDS, 9)
            for at in rng.sample(range(9), rng.randrange(4)):
                text[at] = rng.choice(WORDS)
            rows.append((stored(other), " ".join(text)))
    equal = [(stored(picture(rng)), f"equal pair {number} of three") for number in range(3)]
    return [*rows, *equal, *equal, *((None, text) for _, text in rows[:9])]


def members(rows: list[tuple[bytes | None, str]], first: int) -> list[tuple[str, bytes]]:
    found = []
    for number, (image, text) in enumerate(rows, first):
        if image is not None:
            found.append((f"{number:06d}.png", image))
        found.append((f"{number:06d}.txt", text.encode()))
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose data were indexed and compared by every kind."""
    workspace = tmp_path_factory.mktemp("workspace")
    rows = samples(random.Random(5), 50)
    write_tar(workspace / "data" / "a.tar", members(rows[:60], 0))
    write_tar(workspace / "data" / "b.tar", members(rows[60:], 60))
    run_json = Command().json
    run_json("index", workspace / "data", "-w", workspace, "--image-codes")
    run_json("dedup", "-w", workspace, *KINDS, "--max-removed", "1")
    # By one kind alone, so that pairs beyond its threshold do not go for another reason.
    for option, value in (("--near-text", "0.6"), ("--near-image", "5"), ("--near-pair", "0.6:5")):
        run_json("dedup", "-w", workspace, option, value, "--max-removed", "1", "-o", workspace / option[2:])
    return workspace


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A copy to change; its index still names the data of the original."""
    for name in ("index", "dedup", "dedup-edges"):
        shutil.copytree(finished / name, tmp_path / name)
    return tmp_path


def table(folder: Path) -> list[dict[str, Any]]:
    return [row for file in part_files(folder, read_manifest(folder)) for row in pq.read_table(file).to_pylist()]


def bands_of(workspace: Path, cells: int, name: str = "dedup") -> tuple[tuple[ClusterBand, ...], tuple[str, ...]]:
    places = workspace / name, workspace / "index"
    manifests = [read_manifest(place) for place in places]
    contents = read_contents(places[0], manifests[0], places[1], manifests[1], None, Reading(cells))
    assert all(isinstance(band, ClusterBand) for band in contents.bands)
    return contents.bands, contents.notes  # type: ignore[return-value]


def named(bands: tuple[ClusterBand, ...], start: str) -> list[ClusterBand]:
    return [band for band in bands if band.title.startswith(start)]


def codes_of(workspace: Path) -> dict[bytes, int]:
    """pHash by uid; every picture can be compared."""
    (folder,) = (place for place in workspace.iterdir() if place.is_dir() and place.name.endswith("codes"))
    rows = table(folder)
    assert all(row["quality"] >= 20 for row in rows)
    return {row["uid"]: row["phash"] for row in rows}


@pytest.mark.parametrize("cells", [2, 8, 400])
def test_what_goes_is_shown_beside_its_keeper_the_farthest_first(finished: Path, cells: int) -> None:
    bands, notes = bands_of(finished, cells)
    assert notes == ()
    rows = table(finished / "dedup")
    for kind in ("exact-pair", "near-pair", "near-text", "near-image"):
        gone = sorted((row for row in rows if row["kind"] == kind), key=lambda row: (row["distance"], row["uid"]))
        assert gone
        (band,) = named(bands, f"{kind}: ")
        assert band.title.startswith(f"{kind}: {len(gone):,} go")
        shown = [(*(cell.uid for cell in cluster.members), cluster.copy) for cluster in band.clusters]
        farthest = gone[::-1][: cells // 2]
        assert shown == [(row["keeper"], row["uid"], Copy(kind, row["distance"])) for row in farthest]
        assert all([cell.kept for cell in cluster.members] == [True, False] for cluster in band.clusters)


def test_every_cell_is_the_sample_of_the_index(finished: Path) -> None:
    known = {row["uid"]: row for row in table(finished / "index")}
    cells = [cell for band in bands_of(finished, 40)[0] for cell in band.cells]
    assert any(not cell.sample.images for cell in cells if cell.sample)
    for cell in cells:
        assert cell.sample is not None
        row = known[cell.uid]
        assert (cell.sample.caption, cell.sample.source, cell.sample.shard) == (
            row["text"],
            row["source"],
            row["shard"],
        )
        assert [image["offset"] for image in cell.sample.images] == [image["offset"] for image in row["images"]]


def test_largest_groups_are_those_of_the_table(finished: Path) -> None:
    sizes: dict[bytes, list[bytes]] = {}
    rows = table(finished / "dedup")
    order = {row["uid"]: number for number, row in enumerate(rows)}
    for row in rows:
        if not row["keep"]:
            sizes.setdefault(row["keeper"], []).append(row["uid"])
    largest = sorted(sizes, key=lambda uid: (-len(sizes[uid]), order[uid]))
    for cells, count in ((2, 1), (16, 4), (400, 10)):
        band = bands_of(finished, cells)[0][-1]
        shown = [(cluster.members[0].uid, cluster.dropped) for cluster in band.clusters]
        assert shown == [(uid, len(sizes[uid])) for uid in largest[:count]]
        for cluster in band.clusters:
            keeper, *gone = cluster.members
            assert [cell.uid for cell in gone] == sizes[keeper.uid][:3]
            assert keeper.kept is True
            assert all(cell.kept is False and cell.copy is not None for cell in gone)


def outside_by_comparing_all(workspace: Path, unit: str) -> dict[tuple[int, int], float]:
    """Pairs of rows beyond the threshold and not far beyond: each row against each, equal ones through the first of them."""
    index, codes = table(workspace / "index"), codes_of(workspace)
    words = [frozenset(row["text"].split()) for row in index]
    seen = [codes.get(row["uid"]) for row in index]
    kind = "-".join(unit.split("-")[:2])
    firsts: dict[Any, int] = {}
    for number, key in enumerate(zip(words, seen, strict=True)):
        text, code = key
        of_kind = {"near-text": text, "near-image": code, "near-pair": key if code is not None else None}[kind]
        if of_kind is not None:
            firsts.setdefault(of_kind, number)
    found = {}
    for a, b in combinations(sorted(firsts.values()), 2):
        apart = 1 - len(words[a] & words[b]) / len(words[a] | words[b])
        bits = 0 if seen[a] is None or seen[b] is None else (seen[a] ^ seen[b]).bit_count()
        looks_at_text, looks_at_image = kind != "near-image", kind != "near-text"
        inside = (not looks_at_text or apart <= 0.4 + 1e-6) and (not looks_at_image or bits <= 5)
        wide = (not looks_at_text or apart <= 0.5 + 1e-6) and (not looks_at_image or bits <= 7)
        distance = {"near-text": apart, "near-image": bits, "near-pair": max(apart, bits / 64)}[kind]
        if wide and not inside:
            found[a, b] = distance
    return found


@pytest.mark.parametrize("unit", ["near-text-0.6", "near-image-5", "near-pair-0.6-5"])
def test_pairs_just_outside_are_the_nearest_of_all(finished: Path, unit: str) -> None:
    expected = outside_by_comparing_all(finished, unit)
    assert expected
    nearest = sorted(expected.items(), key=lambda pair: (round(pair[1], 5), pair[0]))[:64]
    kind = "-".join(unit.split("-")[:2])
    equal = {"near-text": "exact-text", "near-image": "exact-image", "near-pair": ""}[kind]
    for name in ("dedup", kind):
        stored_rows = pq.read_table(finished / f"{name}-edges" / f"{unit}.outside.parquet").to_pylist()
        found = [((row["a"], row["b"]), row["distance"]) for row in stored_rows]
        assert [pair for pair, _ in found] == [pair for pair, _ in nearest]
        assert [distance for _, distance in found] == pytest.approx([distance for _, distance in nearest], abs=1e-6)
        rows = table(finished / name)

        def kept(number: int, rows: list[dict[str, Any]] = rows) -> bytes | None:
            row = rows[number]
            if row["keep"]:
                return row["uid"]
            return row["keeper"] if row["distance"] == 0 and row["kind"] in ("exact-pair", kind, equal) else None

        both = [(kept(row["a"]), kept(row["b"]), Copy(kind, row["distance"])) for row in stored_rows]
        both = [pair for pair in both if None not in pair and pair[0] != pair[1]]
        assert both or name == "dedup"
        (band,) = named(bands_of(finished, 400, name)[0], f"{unit}: just outside")
        assert [(*(cell.uid for cell in cluster.members), cluster.copy) for cluster in band.clusters] == both
        assert all(cell.kept is True for cell in band.cells)
        more = len(stored_rows) - len(both)
        assert (f"({more:,} more where one goes" in band.title) == (more > 0)
        few = named(bands_of(finished, 4, name)[0], f"{unit}: just outside")[0].clusters
        assert list(few) == list(band.clusters[:2])


def test_json_says_what_was_shown_and_the_same_bytes_come_again(
    command: Command, finished: Path, tmp_path: Path
) -> None:
    words = ["sheet", finished / "dedup", "-w", finished, "--rows", "1", "--cell", "64"]
    first = command.json(*words, "-o", tmp_path / "first.png")
    second = command.json(*words, "-o", tmp_path / "second.png", "--threads", "1")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    assert first["bands"] == second["bands"]
    shown, _ = bands_of(finished, 8)
    assert [band["title"] for band in first["bands"]] == [band.title for band in shown]
    assert first["input"] == sum(len(band.cells) for band in shown)
    for said, band in zip(first["bands"], shown, strict=True):
        for cluster, expected in zip(said["clusters"], band.clusters, strict=True):
            uids = [(cell["uid"], cell["kept"], cell["source"]) for cell in cluster["members"]]
            assert uids == [(cell.uid.hex(), cell.kept, "data") for cell in expected.members]
            assert cluster.get("dropped") == expected.dropped
    assert first["bad_pictures"] == {}
    plan = command.json(*words, "-o", tmp_path / "third.png", "--dry-run")
    assert plan["bands"] == len(shown)
    assert plan["cells"] >= first["input"]
    with Image.open(tmp_path / "first.png") as drawn:
        assert drawn.size == (first["width"], first["height"])
        colours = {colour for _, colour in drawn.getcolors(1 << 24)}
    assert {(0x2E, 0x8B, 0x57), (0xC0, 0x39, 0x2B)} <= colours


def test_pictures_that_moved_are_marked_counted_and_found_again(
    command: Command, finished: Path, workspace: Path
) -> None:
    data = workspace / "data"
    shutil.copytree(finished / "data", workspace / "elsewhere")
    manifest = json.loads((workspace / "index" / "manifest.json").read_text())
    manifest["roots"]["data"].update(path=str(data), image_root=str(data))
    (workspace / "index" / "manifest.json").write_text(json.dumps(manifest))
    words = ["sheet", workspace / "dedup", "-w", workspace, "--rows", "1", "--cell", "64"]
    code, _, err = command(*words, "-o", workspace / "lost.png")
    assert code == 0
    assert "cannot be shown: No such file or directory" in err
    assert "--source NAME=PATH" in err
    assert command(*words, "-o", workspace / "strict.png", "--strict")[0] == 5
    found = command.json(*words, "-o", workspace / "found.png", "--source", f"data={workspace / 'elsewhere'}")
    assert found["bad_pictures"] == {}
    command.json(
        "sheet", finished / "dedup", "-w", finished, "--rows", "1", "--cell", "64", "-o", workspace / "original.png"
    )
    assert (workspace / "found.png").read_bytes() == (workspace / "original.png").read_bytes()
    code, _, err = command(*words, "-o", workspace / "other.png", "--source", f"web={workspace}")
    assert code == 2
    assert "the index has no source 'web', only data" in err


def test_edges_that_are_not_those_of_the_result_are_said_and_not_shown(workspace: Path) -> None:
    whole, _ = bands_of(workspace, 8)
    manifest = json.loads((workspace / "dedup-edges" / "manifest.json").read_text())
    (workspace / "dedup-edges" / "manifest.json").write_text(json.dumps({**manifest, "checksum": "0" * 64}))
    inside = [band for band in whole if "just outside" not in band.title]
    for state in ("is of another run", "is not there"):
        bands, (note,) = bands_of(workspace, 8)
        assert list(bands) == inside
        assert state in note
        shutil.rmtree(workspace / "dedup-edges", ignore_errors=True)


def test_nothing_is_written_into_inputs(command: Command, workspace: Path) -> None:
    for place in ("dedup", "dedup-edges", "index"):
        code, _, err = command("sheet", workspace / "dedup", "-w", workspace, "-o", workspace / place / "sheet.png")
        assert code == 2
        assert "lies inside the input" in err


def test_a_damaged_summary_is_named(command: Command, workspace: Path) -> None:
    (workspace / "dedup" / "summary.json").write_text('{"groups": [{"dropped": 1}]}')
    code, _, err = command("sheet", workspace / "dedup", "-w", workspace)
    assert code == 3
    assert "summary.json: not a summary that vlmsel wrote" in err


def index_and_dedup(
    command: Command, workspace: Path, rows: list[tuple[bytes | None, str]], *kinds: str
) -> dict[str, Any]:
    write_tar(workspace / "data" / "a.tar", members(rows, 0))
    command.json("index", workspace / "data", "-w", workspace)
    command.json("dedup", "-w", workspace, *kinds, "--max-removed", "1")
    return command.json("sheet", workspace / "dedup", "-w", workspace)


def test_only_exact_kinds_and_nothing_found(command: Command, tmp_path: Path) -> None:
    said = index_and_dedup(command, tmp_path, [(None, "one"), (None, "two")], "--exact", "text")
    assert [band["title"] for band in said["bands"]] == ["exact-text: 0 go", "no groups: nothing goes"]
    assert said["input"] == 0
    assert not list((tmp_path / "dedup-edges").glob("*.outside.parquet"))
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.size == (said["width"], said["height"])


def test_hostile_captions_and_pictures(command: Command, tmp_path: Path) -> None:
    hostile = "\x1b[31m\u202e<script>alert(1)</script> \x00\u200b red dog in a field "
    rows: list[tuple[bytes | None, str]] = [(b"\x89PNG\r\n\x1a\nnothing", hostile + word) for word in ("one", "two")]
    rows += [(None, hostile * 2000), (None, hostile * 2000), (None, ""), (None, "")]
    write_tar(tmp_path / "data" / "a.tar", members(rows, 0))
    command.json("index", tmp_path / "data", "-w", tmp_path, "--max-bad-fraction", "1")
    tolerant = ["-w", tmp_path, "--max-bad-fraction", "1"]
    command.json("dedup", *tolerant, "--near-text", "0.5", "--exact", "text", "--max-removed", "1")
    code, out, err = command("sheet", tmp_path / "dedup", *tolerant, "--json")
    assert code == 0, err
    assert not {"\x1b", "\u202e", "\0"} & set(out + err)
    with Image.open(tmp_path / "sheet.png") as drawn:
        drawn.load()


def test_words_for_distances() -> None:
    said = [
        (Copy("near-image", 1.0), "near-image, 1 bit"),
        (Copy("near-image", 0.0), "near-image, 0 bits"),
        (Copy("near-text", 0.25), "near-text, similarity 0.75"),
        (Copy("near-pair", 7 / 64), "near-pair, images 7 bits, texts 0.891 or more"),
        (Copy("near-pair", 0.2), "near-pair, texts 0.8, images nearer"),
        (Copy("near-pair", 0.5), "near-pair, texts 0.5, images nearer"),
        (Copy("near-pair", 0.0), "near-pair, equal"),
        (Copy("exact-pair", 0.0), "exact-pair, equal"),
        (Copy("near-text", None), "near-text, distance not known"),
        (Copy("against", 2.0, "MMBench 17"), "against MMBench 17"),
    ]
    for copy, words in said:
        assert describe_copy(copy) == words
    assert ClusterBand("", (Cluster((Cell(b"a", None), Cell(b"b", None))),), 2).cells[1].uid == b"b"
