"""Contact sheets: which samples they show, what they draw for hostile ones, and what they refuse to overwrite."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel as vlmsel_package
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from vlmsel import pictures, tables
from vlmsel._sheet.bands import Reading, choose_bands
from vlmsel._sheet.sheet import plan_sheet, sheet
from vlmsel._sheet.text_layout import Lettering
from vlmsel.cli.main import run
from vlmsel.errors import MismatchError, NotFoundError, ResourceError, StrictError, UnreadableError, UsageError
from vlmsel.outputs import read_manifest

IMAGES = pa.list_(
    pa.struct(
        [
            ("file", pa.string()),
            ("offset", pa.uint64()),
            ("size", pa.uint64()),
            ("width", pa.uint32()),
            ("height", pa.uint32()),
        ]
    )
)
INDEX = pa.schema(
    [
        ("uid", pa.binary(16)),
        ("source", pa.string()),
        ("shard", pa.string()),
        ("images", IMAGES),
        ("text", pa.string()),
        ("conversations", pa.string()),
    ]
)
SMALL = {"rows": 1, "columns": 4, "cell_px": 64}


def uid(number: int) -> bytes:
    return number.to_bytes(16, "big")


def png(colour: str | tuple[int, ...], size: tuple[int, int] = (20, 10), mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.new(mode, size, colour).save(content, "PNG")
    return content.getvalue()


def png_bomb(width: int, height: int) -> bytes:
    """A valid header that claims `width` x `height`, and next to no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def write_folder(folder: Path, command: str, table: pa.Table, **manifest: Any) -> Path:
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "part.parquet")
    parts = [{"unit": "part", "rows": len(table), "files": [{"file": "part.parquet"}, {"file": "uids.npy"}]}]
    (folder / "manifest.json").write_text(
        json.dumps({"schema": 1, "command": command, "config": {}, "parts": parts, **manifest})
    )
    return folder


class Workspace:
    """An index over one file of pictures, scores over it, and a selection of the best."""

    def __init__(
        self, path: Path, samples: list[tuple[bytes | None, str | None]], scores: list[float | None], k: int
    ) -> None:
        self.path = path
        data, rows = b"", []
        for number, (content, text) in enumerate(samples):
            images = (
                []
                if content is None
                else [{"file": None, "offset": len(data), "size": len(content), "width": 1, "height": 1}]
            )
            data += content or b""
            rows.append(
                {
                    "uid": uid(number),
                    "source": "web",
                    "shard": "a.tar",
                    "images": images,
                    "text": text,
                    "conversations": None,
                }
            )
        (path / "data").mkdir()
        (path / "data" / "a.tar").write_bytes(data)
        roots = {"web": {"path": str(path / "data"), "image_root": None}}
        self.index = write_folder(path / "index", "index", pa.Table.from_pylist(rows, INDEX), roots=roots)
        status = ["ok" if score is not None else "image_undecodable" for score in scores]
        table = pa.table(
            {
                "uid": pa.array(map(uid, range(len(scores))), pa.binary(16)),
                "ppl": pa.array(scores, pa.float32()),
                "status": pa.array(status, pa.string()),
            }
        )
        self.scores = write_folder(path / "scores", "score", table)
        ranked = sorted((score, number) for number, score in enumerate(table["ppl"].to_pylist()) if score is not None)[
            :k
        ]
        chosen = {
            "uid": pa.array([uid(n) for _, n in ranked], pa.binary(16)),
            "rank": pa.array(range(len(ranked)), pa.uint64()),
        }
        self.selection = write_folder(
            path / "selection", "select", pa.table({**chosen, "score": pa.array([s for s, _ in ranked], pa.float32())})
        )

    def draw(self, name: str = "sheet.png", **options: Any) -> Any:
        options = {"index": self.index, "scores": self.scores, **SMALL, **options}
        return sheet(options.pop("target", self.selection), output=self.path / name, **options)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    colours = [png((number * 2, 255 - number * 2, 80)) for number in range(100)]
    scores = [float(1 + (number * 37) % 100) for number in range(100)]
    return Workspace(tmp_path, [(colour, f"caption {number}") for number, colour in enumerate(colours)], scores, k=50)


def scores_of(band: Any) -> list[float]:
    return [cell.score for cell in band.cells]


def test_selection_bands_are_best_drawn_cut_and_worst(workspace: Workspace) -> None:
    drawn = workspace.draw()
    best, lot, cut, worst = drawn.bands
    assert scores_of(best) == [1, 2, 3, 4]
    assert scores_of(cut) == [49, 50, 51, 52]
    assert [cell.kept for cell in cut.cells] == [True, True, False, False]
    assert scores_of(worst) == [97, 98, 99, 100]
    assert len(set(scores_of(lot))) == 4
    assert max(scores_of(lot)) <= 50
    assert drawn.bad_pictures == {}
    assert drawn.notes == ()


def test_scores_alone_show_best_middle_and_worst(workspace: Workspace) -> None:
    best, _, middle, worst = workspace.draw(target=workspace.scores, scores=None).bands
    assert (scores_of(best), scores_of(middle), scores_of(worst)) == ([1, 2, 3, 4], [49, 50, 51, 52], [97, 98, 99, 100])


@given(
    scores=st.lists(
        st.one_of(st.none(), st.sampled_from([1.0, 2.0, float("nan"), float("inf"), -1.0]), st.floats(0, 9, width=32)),
        max_size=40,
    ),
    cells=st.integers(1, 9),
)
def test_bands_of_scores_equal_sorting_them_all(
    tmp_path_factory: pytest.TempPathFactory, scores: list[float | None], cells: int
) -> None:
    table = pa.table(
        {
            "uid": pa.array(map(uid, range(len(scores))), pa.binary(16)),
            "ppl": pa.array(scores, pa.float32()),
            "status": pa.array(["ok"] * len(scores), pa.string()),
        }
    )
    folder = write_folder(tmp_path_factory.mktemp("scores") / "scores", "score", table)
    ranked = sorted(
        (s, uid(n)) for n, s in enumerate(table["ppl"].to_pylist()) if s is not None and 0 <= s < float("inf")
    )
    (best, lot, middle, worst), _ = choose_bands(folder, read_manifest(folder), None, Reading(cells))
    found = {
        title: [(e.score, e.uid) for e in band.cells]
        for title, band in zip("blmw", (best, lot, middle, worst), strict=True)
    }
    half = len(ranked) // 2
    assert found["b"] == ranked[:cells]
    assert found["w"] == ranked[max(0, len(ranked) - cells) :]
    assert found["m"] == ranked[max(0, half - cells // 2) : half + cells - cells // 2]
    assert len(found["l"]) == min(cells, len(ranked))
    assert set(found["l"]) <= set(ranked)


def test_what_a_sheet_shows_is_plain_data_and_needs_no_pillow(workspace: Workspace) -> None:
    """An HTML page can be made of the same contents: each cell says whose picture stands there, where it lies, and its caption."""
    code = """
import sys
from vlmsel._sheet.bands import Reading
from vlmsel._sheet.contents import read_contents
from vlmsel.outputs import read_manifest
target, index, scores = sys.argv[1:]
contents = read_contents(target, read_manifest(target), index, read_manifest(index), scores, Reading(4))
assert not any(name.partition(".")[0] == "PIL" for name in sys.modules)
first = contents.bands[0].cells[0]
print(first.uid.hex(), first.score, first.rank, first.kept, first.sample.caption, first.sample.source, first.sample.shard)
print(first.sample.root["path"], first.sample.images[0]["offset"], len(contents.bands), contents.notes)
"""
    places = [workspace.selection, workspace.index, workspace.scores]
    done = subprocess.run([sys.executable, "-c", code, *map(str, places)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, place = done.stdout.splitlines()
    assert first == f"{uid(0).hex()} 1.0 0 True caption 0 web a.tar"
    assert place == f"{workspace.path / 'data'} 0 4 ()"


def test_a_descending_selection_is_cut_at_its_lowest_score(workspace: Workspace) -> None:
    vlmsel_package.select(
        workspace.scores / "part.parquet",
        k=50,
        order="desc",
        output=workspace.path / "highest",
        control=("random", "worst"),
        seed=1,
    )
    best, _, cut, worst = workspace.draw(target=workspace.path / "highest").bands
    assert scores_of(best) == [100, 99, 98, 97]
    assert scores_of(cut) == [52, 51, 50, 49]
    assert [cell.kept for cell in cut.cells] == [True, True, False, False]
    assert scores_of(worst) == [4, 3, 2, 1]
    # A control was not cut off at a score, so nothing was "just left out".
    for control in ("highest-random-s1", "highest-worst"):
        titles = [band.title for band in workspace.draw(f"{control}.png", target=workspace.path / control).bands]
        assert titles == ["best of 50 kept", "drawn at random from 50 kept (seed 0)", "last of those kept"]


def test_many_files_and_row_groups_are_one_table(tmp_path: Path) -> None:
    """What is found does not depend on how rows lie in files, on threads, or on a memory limit."""
    rng = random.Random(0)
    rows = [(float(rng.randrange(40)), uid(number)) for number in range(900)]
    rng.shuffle(rows)

    def write(name: str, per_file: int, per_group: int) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        parts = []
        for start in range(0, len(rows), per_file):
            chunk = rows[start : start + per_file]
            columns = [pa.array([u for _, u in chunk], pa.binary(16)), pa.array([s for s, _ in chunk], pa.float32())]
            table = pa.table([*columns, pa.array(["ok"] * len(chunk))], ["uid", "ppl", "status"])
            pq.write_table(table, folder / f"{start}.parquet", row_group_size=per_group)
            parts.append({"unit": str(start), "rows": len(chunk), "files": [{"file": f"{start}.parquet"}]})
        (folder / "manifest.json").write_text(json.dumps({"command": "score", "config": {}, "parts": parts}))
        return folder

    def bands(folder: Path, **how: int) -> Any:
        return choose_bands(folder, read_manifest(folder), None, Reading(7, seed=3, **how))[0]

    one = bands(write("one", 900, 900))
    assert [(e.score, e.uid) for e in one[0].cells] == sorted(rows)[:7]
    many = write("many", 70, 11)
    assert bands(many, threads=1) == bands(many, threads=4) == bands(many, memory_limit=1) == one


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"uid": pa.array(map(uid, range(40)), pa.binary(16)), "text": [f"caption {n}" for n in range(40)]})
    pq.write_table(table, path, row_group_size=10, compression="none", use_dictionary=False)
    # The text of the third row group is damaged: what lies before it is read, and so are ids beside it.
    content = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(2).column(1)
    content[place.data_page_offset : place.data_page_offset + place.total_compressed_size] = (
        b"\xff" * place.total_compressed_size
    )
    path.write_bytes(content)
    stream = tables.rows(path)
    assert [next(stream)["text"] for _ in range(20)] == [f"caption {n}" for n in range(20)]
    with pytest.raises(UnreadableError, match=r"a\.parquet"):
        next(stream)
    assert len(list(tables.rows(path, ["uid"]))) == 40
    # Rows that are looked for by id cost no other column of their neighbours' groups.
    assert list(tables.rows(path, uids=[uid(35), uid(3), uid(99)])) == [
        {"uid": uid(3), "text": "caption 3"},
        {"uid": uid(35), "text": "caption 35"},
    ]


def test_rows_by_id_need_ids_of_bytes_or_strings(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uid": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="Int64"):
        list(tables.rows(tmp_path / "a.parquet", uids=[uid(1)]))
    pq.write_table(pa.table({"uid": ["a", "b"]}), tmp_path / "b.parquet")
    assert list(tables.rows(tmp_path / "b.parquet", uids=["b"])) == [{"uid": "b"}]


def test_a_memory_limit_refuses_what_does_not_fit_and_changes_nothing_else(tmp_path: Path) -> None:
    samples: list[tuple[bytes | None, str | None]] = [(png("red", (1000, 500)), "large"), (png("blue"), "small")]
    workspace = Workspace(tmp_path, samples, [1.0, 2.0], k=1)
    needed = 12 * 1000 * 500
    with pytest.raises(ResourceError, match=r"a\.tar, offset 0: a picture of 1,000 x 500 px takes .* --memory-limit"):
        workspace.draw(memory_limit=needed)
    with pytest.raises(ResourceError, match=r"a sheet of .* pixels takes .* --memory-limit"):
        workspace.draw(memory_limit=100_000)
    assert not list(tmp_path.glob("*.png"))
    assert workspace.draw(memory_limit=3 * needed).path.read_bytes() == workspace.draw("free.png").path.read_bytes()


def test_memory_of_a_sheet_stays_under_its_limit(tmp_path: Path) -> None:
    """Twelve large pictures of every kind: the peak above that of a sheet of small ones is one picture's, within the limit."""
    forms = [("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("I;16", "PNG"), ("L", "JPEG"), ("RGB", "JPEG")] * 2

    def peak(name: str, side: int) -> int:
        samples: list[tuple[bytes | None, str | None]] = []
        for mode, form in forms:
            content = io.BytesIO()
            Image.new(mode, (side, side)).save(content, form)
            samples.append((content.getvalue(), name))
        folder = tmp_path / name
        folder.mkdir()
        workspace = Workspace(folder, samples, [float(n) for n in range(len(samples))], k=12)
        code = (
            "import re, sys; from vlmsel.cli.main import run; code = run(sys.argv[1:]);"
            "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]); sys.exit(code)"
        )
        words = ["sheet", "-w", str(workspace.path), "--memory-limit", "120MiB", "--threads", "1", "-q"]
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1]) * 1024

    taken = peak("large", 3000) - peak("small", 30)
    assert taken <= 120 << 20


def test_pictures_come_from_their_byte_ranges(tmp_path: Path) -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)]
    workspace = Workspace(tmp_path, [(png(colour), "x") for colour in colours], [1.0, 2.0, 3.0, 4.0], k=4)
    workspace.draw()
    shown = Image.open(tmp_path / "sheet.png")
    places = [(10 + column * (64 + 4 + 10) + 34, 33 + 34) for column in range(4)]
    assert [shown.getpixel(place) for place in places] == colours


def test_same_bytes_again_and_another_draw_by_seed(workspace: Workspace) -> None:
    """The bytes differ by the seed in the title alone, so the samples that were drawn are compared."""
    first, again = workspace.draw("a.png"), workspace.draw("b.png")
    assert again.path.read_bytes() == first.path.read_bytes()
    assert again.bands == first.bands
    best, _, cut, worst = first.bands
    draws = []
    for seed in range(5):
        drawn = workspace.draw(f"{seed}.png", seed=seed)
        assert (drawn.bands[0], *drawn.bands[2:]) == (best, cut, worst)
        draws.append(frozenset(cell.uid for cell in drawn.bands[1].cells))
    # Two of 230,300 possible draws of 4 out of 50 are hardly ever the same.
    assert len(set(draws)) == len(draws)
    assert draws[0] == {cell.uid for cell in first.bands[1].cells}
    # A draw of the whole is not the best by another name.
    assert all(draw != {cell.uid for cell in best.cells} for draw in draws)


HOSTILE = {
    "zero bytes": b"",
    "truncated": png("red", (500, 500))[:-400],
    "too large to decode": png_bomb(2**31 - 1, 2**31 - 1),
    "cannot be decoded": b"%!PS-Adobe-3.0 EPSF-3.0\n",
}


@pytest.mark.parametrize("reason", HOSTILE)
def test_bad_pictures_become_marked_cells(reason: str) -> None:
    assert pictures.decode(HOSTILE[reason], 64) == pictures.BadPicture(reason)


def test_a_picture_over_a_limit_of_the_callers_says_its_size() -> None:
    found = pictures.decode(png_bomb(9_000, 9_000), 64, max_decode_pixels=64_000_000)
    assert found == pictures.BadPicture("too large: 9,000 x 9,000 px")


def test_a_sheet_of_nothing_but_bad_samples_is_drawn(tmp_path: Path) -> None:
    samples: list[tuple[bytes | None, str | None]] = [(content, "caption") for content in HOSTILE.values()]
    samples += [
        (None, "text only"),
        (png("red"), None),
        (png("red"), " \n"),
        (png((1, 2, 3, 4), mode="RGBA"), "\u202e\x1b[31m"),
    ]
    workspace = Workspace(tmp_path, samples, [float(n) for n in range(len(samples))], k=len(HOSTILE))
    drawn = workspace.draw()
    assert set(drawn.bad_pictures) == {uid(n).hex() for n in range(len(HOSTILE))}
    (tmp_path / "data" / "a.tar").unlink()
    again = workspace.draw("again.png")
    assert set(again.bad_pictures.values()) == {"No such file or directory"}


def test_strict_refuses_bad_pictures_and_writes_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, [(png("red"), "good"), (b"", "bad")], [1.0, 2.0], k=1)
    with pytest.raises(StrictError, match=f"{uid(1).hex()}: zero bytes"):
        workspace.draw(strict=True)
    assert not list(tmp_path.glob("*.png"))
    assert not list(tmp_path.glob(".*"))


def test_empty_selection_and_empty_scores_make_a_sheet(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, [], [], k=0)
    assert workspace.draw().path.is_file()
    assert workspace.draw("scores.png", target=workspace.scores, scores=None).path.is_file()


WHITE = (255, 255, 255)
# Mode, value of each of two pixels, how it is stored, and the colours on white that a reader must see.
MODES: dict[str, tuple[str, Any, Any, dict[str, Any], tuple[int, ...], tuple[int, ...]]] = {
    "1": ("1", 0, 1, {}, (0, 0, 0), WHITE),
    "L": ("L", 100, 7, {}, (100, 100, 100), (7, 7, 7)),
    "L, one grey transparent": ("L", 100, 7, {"transparency": 100}, WHITE, (7, 7, 7)),
    "LA": ("LA", (100, 128), (100, 255), {}, (177, 177, 177), (100, 100, 100)),
    "P": ("P", 1, 2, {}, (10, 200, 30), (255, 0, 9)),
    "P, one entry transparent": ("P", 1, 2, {"transparency": 1}, WHITE, (255, 0, 9)),
    "RGB": ("RGB", (1, 2, 3), (250, 128, 0), {}, (1, 2, 3), (250, 128, 0)),
    "RGB, one colour transparent": ("RGB", (1, 2, 3), (9, 9, 9), {"transparency": (1, 2, 3)}, WHITE, (9, 9, 9)),
    "RGBA": ("RGBA", (200, 0, 0, 128), (0, 0, 0, 0), {}, (227, 127, 127), WHITE),
    "I;16": ("I;16", 25700, 65535, {}, (100, 100, 100), WHITE),
    "I;16, dark": ("I;16", 0, 300, {}, (0, 0, 0), (1, 1, 1)),
    # Its lower byte is that of the other grey.
    "I;16, one grey transparent": ("I;16", 0x1234, 0x3434, {"transparency": 0x1234}, WHITE, (52, 52, 52)),
    "P as GIF": ("P", 1, 2, {"format": "GIF"}, (10, 200, 30), (255, 0, 9)),
    "L as JPEG": ("L", 100, 100, {"format": "JPEG"}, (100, 100, 100), (100, 100, 100)),
    "CMYK as JPEG": ("CMYK", (0, 255, 255, 0), (0, 255, 255, 0), {"format": "JPEG"}, (255, 0, 0), (255, 0, 0)),
    "RGBA as WebP": (
        "RGBA",
        (200, 0, 0, 128),
        (0, 0, 9, 255),
        {"format": "WEBP", "lossless": True},
        (227, 127, 127),
        (0, 0, 9),
    ),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_of_picture_is_shown(name: str) -> None:
    mode, left, right, how, *expected = MODES[name]
    picture = Image.new(mode, (16, 8), left)
    for x, y in product(range(8, 16), range(8)):
        picture.putpixel((x, y), right)
    if mode == "P":
        picture.putpalette([0, 0, 0, 10, 200, 30, 255, 0, 9])
    content = io.BytesIO()
    picture.save(content, how.get("format", "PNG"), **{key: value for key, value in how.items() if key != "format"})
    shown = pictures.decode(content.getvalue(), 64)
    assert isinstance(shown, Image.Image)
    assert shown.mode == "RGB"
    for x, colour in zip((3, 12), expected, strict=True):
        found = shown.getpixel((x, 4))
        # A step is what blending and JPEG may round away.
        assert all(abs(a - b) <= 1 for a, b in zip(found, colour, strict=True)), (x, found, colour)


def test_mutated_pictures_never_raise() -> None:
    rng = random.Random(0)
    seeds, outcomes = [], set()
    for form in ("PNG", "JPEG", "GIF", "WEBP"):
        content = io.BytesIO()
        Image.effect_noise((24, 24), 40).convert("RGB").save(content, form)
        seeds.append(content.getvalue())
    for _ in range(800):
        content = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        shown = pictures.decode(bytes(content[: rng.randint(1, len(content))] if rng.random() < 0.3 else content), 16)
        if isinstance(shown, Image.Image):
            assert shown.mode == "RGB"
            assert max(shown.size) <= 16
        outcomes.add(type(shown))
    assert outcomes == {Image.Image, pictures.BadPicture}


def test_paths_that_leave_their_root_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png("red"))
    root = {"path": str(tmp_path / "data"), "image_root": str(tmp_path / "data")}
    for file in ("../secret.png", str(tmp_path / "secret.png"), "a/../../secret.png", "a\0b"):
        image = {"file": file, "offset": 0, "size": 10}
        assert pictures.read_picture(root, "a.tar", image, 64) == pictures.BadPicture("path leaves its root")


@given(st.text(alphabet=st.characters(), max_size=600), st.integers(20, 300), st.integers(1, 4))
def test_any_text_wraps_into_lines_that_fit(text: str, width: int, max_lines: int) -> None:
    lettering = Lettering(11)
    lines = lettering.wrap(text, width, max_lines)
    assert len(lines) <= max_lines
    widest = max((lettering.font.getlength(unit) for unit in lettering.printable(text)), default=0)
    for line in lines:
        assert line.isprintable()
        # One unit stands on a line however wide it is, and an ellipsis may follow it.
        assert lettering.font.getlength(line) <= max(width, widest + lettering.font.getlength("...")) + 3


def test_what_cannot_be_seen_is_escaped() -> None:
    lettering = Lettering(11)
    assert "".join(lettering.printable("a\u202eb\x1b[0m\u200b\n c")) == r"a\u{202e}b\u{1b}[0m\u{200b} c"
    assert not lettering.escaped
    assert "".join(lettering.printable("漢")) == r"\u{6f22}"
    assert lettering.escaped


def test_words_break_at_spaces_and_long_texts_end_in_an_ellipsis() -> None:
    lettering = Lettering(11)
    lines = lettering.wrap("a photograph of two brown dogs running over wet sand " * 99, 120, 3)
    assert len(lines) == 3
    assert lines[-1].endswith("...")
    assert " ".join(lines).startswith("a photograph of two brown dogs")


def test_an_existing_picture_is_replaced_only_under_overwrite(workspace: Workspace) -> None:
    (workspace.path / "sheet.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="--overwrite"):
        workspace.draw()
    assert (workspace.path / "sheet.png").read_bytes() == b"mine"
    workspace.draw(overwrite=True)
    assert (workspace.path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert not list(workspace.path.glob("*.partial"))
    assert not list(workspace.path.glob(".*"))


def test_a_failed_write_leaves_the_old_picture(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.draw()
    old = (workspace.path / "sheet.png").read_bytes()

    def fail(self: Image.Image, file: Any, form: str) -> None:
        file.write(b"\x89PNG")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        workspace.draw(overwrite=True, seed=5)
    assert (workspace.path / "sheet.png").read_bytes() == old
    assert not list(workspace.path.glob(".*"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "socket", "device", "folder", "link to nothing"])
def test_what_is_no_picture_is_not_written_to(
    kind: str, overwrite: bool, workspace: Workspace, special: Callable[[Path, str], Path]
) -> None:
    place = special(workspace.path / "sheet.png", kind)
    before = place.lstat()
    with pytest.raises(UsageError, match=r"sheet\.png is a (named pipe|link|socket|folder); -o wants"):
        workspace.draw(overwrite=overwrite)
    assert place.lstat().st_ino == before.st_ino
    assert not (workspace.path / "nothing").exists()


def test_a_link_to_a_picture_is_neither_followed_nor_replaced(workspace: Workspace) -> None:
    (workspace.path / "mine.png").write_bytes(b"mine")
    (workspace.path / "sheet.png").symlink_to("mine.png")
    with pytest.raises(UsageError, match="is a link"):
        workspace.draw(overwrite=True)
    assert (workspace.path / "mine.png").read_bytes() == b"mine"


def test_a_place_behind_a_folder_that_is_not_there(workspace: Workspace) -> None:
    """`new/..` is where `new` would be made, so that a way round a guard by a folder that does not exist is none."""
    for way in ("new/../scores", "new/a/../../scores", "scores/new/.."):
        with pytest.raises(UsageError, match="inside the input"):
            workspace.draw(f"{way}/sheet.png")
    drawn = workspace.draw("new/../sheet.png")
    assert drawn.path == workspace.path.resolve() / "sheet.png"
    assert drawn.path.read_bytes().startswith(b"\x89PNG")
    assert not (workspace.path / "new").exists()
    (workspace.path / "link").symlink_to("scores")
    with pytest.raises(UsageError, match="inside the input"):
        workspace.draw("link/sheet.png")
    with pytest.raises(UsageError, match="is a folder"):
        workspace.draw("new/..")


def test_places_that_cannot_be_are_usage_errors(workspace: Workspace) -> None:
    (workspace.path / "file").touch()
    (workspace.path / "circle").symlink_to("circle")
    for name, words in (
        (f"{'x' * 300}.png", r"\.png \(\d+ characters\): File name too long"),
        (f"{'x' * 300}/sheet.png", "File name too long"),
        ("file/sheet.png", "Not a directory"),
        ("circle/sheet.png", "symbolic links"),
    ):
        for overwrite in (False, True):
            with pytest.raises(UsageError, match=words):
                workspace.draw(name, overwrite=overwrite)
    # As long as a name may be: what is written on the way has a name of its own.
    longest = f"{'x' * 251}.png"
    assert workspace.draw(longest).path.name == longest
    assert not list(workspace.path.glob(".*"))


def test_the_font_is_not_replaced(workspace: Workspace) -> None:
    from matplotlib import get_data_path

    font = workspace.path / "font.ttf"
    font.write_bytes((Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf").read_bytes())
    before = font.read_bytes()
    (workspace.path / "linked.png").hardlink_to(font)
    for name in ("font.ttf", "linked.png"):
        with pytest.raises(UsageError, match="is the font"):
            workspace.draw(name, font=str(font), overwrite=True)
    assert font.read_bytes() == before


def test_outputs_inside_or_linked_to_inputs_are_refused(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="inside the input"):
        workspace.draw("scores/sheet.png")
    (workspace.path / "linked.png").hardlink_to(workspace.path / "data" / "a.tar")
    with pytest.raises(UsageError, match="indexed files"):
        workspace.draw("linked.png", overwrite=True)
    with pytest.raises(UsageError, match="is a folder"):
        workspace.draw("data")
    with pytest.raises(NotFoundError):
        workspace.draw("nowhere/sheet.png")


def test_inputs_that_are_not_finished_or_not_ours_are_named(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="vlmsel index"):
        workspace.draw(target=workspace.index)
    with pytest.raises(NotFoundError):
        workspace.draw(target=workspace.path / "nothing")
    (workspace.scores / "manifest.json").unlink()
    with pytest.raises(MismatchError, match="not finish"):
        workspace.draw()


def test_scores_of_another_table_are_noticed(workspace: Workspace) -> None:
    table = pq.read_table(workspace.scores / "part.parquet")
    other = table.set_column(1, "ppl", pa.array([200 - score.as_py() for score in table["ppl"]], pa.float32()))
    pq.write_table(other, workspace.scores / "part.parquet")
    assert "made from another table" in workspace.draw().notes[0]


def test_a_plan_counts_and_writes_nothing(workspace: Workspace) -> None:
    places = {"index": workspace.index, "output": workspace.path / "sheet.png", **SMALL}
    plan = plan_sheet(workspace.selection, scores=workspace.scores, **places)
    assert plan == {"rows_read": 150, "index_rows": 100, "bands": 4, "cells": 16}
    plan = plan_sheet(workspace.scores, **places)
    assert plan == {"rows_read": 200, "index_rows": 100, "bands": 4, "cells": 16}
    assert not list(workspace.path.glob("*.png"))
    (workspace.path / "sheet.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="--overwrite"):
        plan_sheet(workspace.selection, **places)


def vlmsel(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = run([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_finds_the_workspace_and_prints_the_path(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = vlmsel(capsys, "sheet", "-w", workspace.path, "--rows", "1", "--columns", "4", "--cell", "64")
    assert (code, out) == (0, f"{workspace.path / 'sheet.png'}\n")
    assert (workspace.path / "sheet.png").read_bytes() == workspace.draw("api.png").path.read_bytes()
    code, out, err = vlmsel(capsys, "sheet", "-w", workspace.path)
    assert (code, out) == (2, "")
    assert "--overwrite" in err


def test_the_command_shows_scores_as_json(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    output = workspace.path / "scores.png"
    code, out, _ = vlmsel(capsys, "sheet", workspace.scores, "-w", workspace.path, "-o", output, "--json", "-q")
    document = json.loads(out)
    assert code == 0
    assert document["output"] == str(output)
    assert [band["title"].split()[0] for band in document["bands"]] == ["best", "drawn", "around", "worst"]
    with Image.open(output) as drawn:
        assert drawn.size == (document["width"], document["height"])


def test_a_dry_run_says_what_it_would_read(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = vlmsel(capsys, "sheet", "-w", workspace.path, "--dry-run")
    assert code == 0
    assert "would read 150 rows" in out
    assert not (workspace.path / "sheet.png").exists()
    code, out, _ = vlmsel(capsys, "sheet", "-w", workspace.path, "--dry-run", "--json")
    assert json.loads(out)["rows_read"] == 150


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere"], 2, "nowhere: no such folder"),
        (["--rows", "0"], 2, "--rows must be from 1 to 100"),
        (["--font", "nowhere.ttf"], 2, "no such font file"),
        (["--index", "nowhere"], 2, "nowhere"),
    ],
)
def test_usage_errors_have_exit_code_2(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    found, out, err = vlmsel(capsys, "sheet", "-w", workspace.path, *words)
    assert (found, out) == (code, "")
    assert said in err


def test_the_bench_runs_small(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "benches" / "sheet.py"
    words = ["--rows", "1k,3k", "--scratch", str(tmp_path), "--out", str(tmp_path / "out.json")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(script), *words], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert [(run["rows"], run["target"]) for run in runs] == [
        (rows, target) for rows in (1000, 3000) for target in ("selection", "scores")
    ]
    assert all(run["peak_bytes"] > 1 << 20 for run in runs)
