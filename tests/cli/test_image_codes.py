"""`vlmsel index --image-codes` against imagehash's definition, for every kind of picture that is read."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_code_oracle import Codes, codes
from pair_corpus import COMMAND, picture, run, run_json, tree, write_tar
from PIL import Image, ImageDraw, ImageFilter

RANDOM = np.random.default_rng(7)


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    """No pixel like its neighbours."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(RANDOM.integers(0, 256, shape, dtype=np.uint8))


def photo(width: int = 300, height: int = 220, channels: int = 3) -> Image.Image:
    """Broad light and shade, some edges, a little grain."""
    shade = noise(9, 7, channels).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(shade)
    draw.ellipse((width // 5, height // 4, width // 2, height // 2), fill=(40,) * channels if channels > 1 else 40)
    return Image.blend(shade.filter(ImageFilter.GaussianBlur(1)), noise(width, height, channels), 0.05)


def ramp(width: int, height: int) -> Image.Image:
    """From dark to bright, both ways."""
    across, down = np.meshgrid(np.linspace(0, 180, width), np.linspace(0, 70, height))
    return Image.fromarray((across + down).astype(np.uint8))


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture's bytes in a format."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def turned(orientation: int, kind: str) -> bytes:
    """A picture whose EXIF data say how the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return stored(photo(), kind, exif=exif)


def animated(kind: str) -> bytes:
    """Two frames that have nothing in common."""
    return stored(photo(120, 90), kind, save_all=True, append_images=[noise(120, 90)], duration=100, lossless=True)


def sixteen_bits() -> bytes:
    """Grey of 16 bits, as medical pictures have it."""
    return stored(Image.fromarray((np.asarray(photo(90, 70, 1)).astype(np.uint16) << 8) + 77))


# What loses nothing has just the oracle's codes.
EXACT: dict[str, Callable[[], bytes]] = {
    "noise": lambda: stored(noise(200, 100)),
    "photo": lambda: stored(photo()),
    "photo of 512": lambda: stored(photo(512, 512)),
    "photo, tall": lambda: stored(photo(100, 900)),
    "photo, wide": lambda: stored(photo(1500, 40)),
    "ramp": lambda: stored(ramp(256, 200)),
    "white": lambda: stored(Image.new("RGB", (80, 60), "white")),
    "grey": lambda: stored(photo(150, 150, 1)),
    "grey and alpha": lambda: stored(noise(40, 30, 4).convert("LA")),
    "RGBA": lambda: stored(photo(200, 150, 4)),
    "palette": lambda: stored(photo().quantize(64)),
    "transparent palette": lambda: stored(photo().quantize(64), transparency=3),
    "transparent colour": lambda: stored(Image.new("RGB", (50, 50), (9, 9, 9)), transparency=(9, 9, 9)),
    "two colours": lambda: stored(photo().convert("1")),
    "16 bits": sixteen_bits,
    "1 x 1": lambda: stored(noise(1, 1)),
    "1 x 90": lambda: stored(noise(1, 90)),
    "90 x 1": lambda: stored(noise(90, 1)),
    "9 x 8": lambda: stored(noise(9, 8)),
    "32 x 32": lambda: stored(noise(32, 32)),
    "GIF": lambda: stored(photo(), "GIF"),
    "GIF, animated": lambda: animated("GIF"),
    "WebP without loss": lambda: stored(photo(), "WEBP", lossless=True),
    "WebP with alpha": lambda: stored(photo(120, 80, 4), "WEBP", lossless=True, exact=True),
    "BMP": lambda: stored(photo(), "BMP"),
    "BMP, palette": lambda: stored(photo().quantize(200), "BMP"),
    "BMP, grey": lambda: stored(photo(61, 43, 1), "BMP"),
    "BMP, two colours": lambda: stored(photo(61, 43).convert("1"), "BMP"),
    "BMP, alpha": lambda: stored(photo(61, 43, 4), "BMP"),
    **{f"PNG turned {n}": lambda n=n: turned(n, "PNG") for n in range(1, 9)},  # type: ignore[misc]
    **{f"WebP turned {n}": lambda n=n: stored_turned_webp(n) for n in (3, 6)},  # type: ignore[misc]
}


def stored_turned_webp(orientation: int) -> bytes:
    """Lossless, so that only the orientation matters."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return stored(photo(), "WEBP", lossless=True, exif=exif)


# Decoders of what loses something round differently.
CLOSE: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: stored(photo(), "JPEG", quality=85),
    "JPEG of 512": lambda: stored(photo(512, 512), "JPEG", quality=60),
    "JPEG, all of the colours": lambda: stored(photo(), "JPEG", quality=95, subsampling=0),
    "JPEG, progressive": lambda: stored(photo(), "JPEG", progressive=True),
    "JPEG, grey": lambda: stored(photo(channels=1), "JPEG"),
    "JPEG, CMYK": lambda: stored(photo().convert("CMYK"), "JPEG"),
    "JPEG of RGB": lambda: stored(photo(), "JPEG", keep_rgb=True),
    "JPEG, noise": lambda: stored(noise(333, 251), "JPEG", quality=50),
    "JPEG, 17 x 9": lambda: stored(photo(17, 9), "JPEG"),
    "WebP": lambda: stored(photo(), "WEBP", quality=80),
    "WebP, animated": lambda: animated("WEBP"),
    **{f"JPEG turned {n}": lambda n=n: turned(n, "JPEG") for n in range(1, 9)},  # type: ignore[misc]
}
MOST_BITS = 2
"""That may differ in a code of what loses something: decoders round differently."""
MOST_BITS_OF_NOISE = 8
"""Noise in colour has many that no RGB has: Pillow cuts them off before they become grey, the plane Y is as it is."""


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder of codes, in the order of its parts."""
    manifest = json.loads((folder / "manifest.json").read_text())
    names = [file["file"] for part in manifest["parts"] for file in part["files"]]
    return [row for name in names for row in pq.read_table(folder / name).to_pylist()]


def coded(tmp_path: Path, pictures: dict[str, bytes], *options: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The result of an index with codes, and the rows by name."""
    members = [(f"{n:04}.png", content) for n, content in enumerate(pictures.values())]
    write_tar(tmp_path / "pool" / "a.tar", members)
    done = run_json("index", tmp_path / "pool", "-o", tmp_path / "index", "--image-codes", *options)
    index = json.loads((tmp_path / "index" / "manifest.json").read_text())
    keys = [
        key for part in index["parts"] for key in pq.read_table(tmp_path / "index" / part["files"][0]["file"])["key"]
    ]
    rows = rows_of(tmp_path / "codes")
    assert len(rows) == len(keys)
    names = list(pictures)
    return done, {names[int(str(key))]: row for key, row in zip(keys, rows, strict=True)}


def test_codes_are_those_of_imagehash(tmp_path: Path) -> None:
    pictures = {name: make() for name, make in (EXACT | CLOSE).items()}
    done, rows = coded(tmp_path, pictures)
    assert done["image_codes"]["ok"] == done["image_codes"]["images"] == len(pictures)
    for name, content in pictures.items():
        row, expected = rows[name], codes(content)
        found = Codes(row["phash"], row["dhash"], row["mirror"], row["quality"])
        assert row["status"] == "ok"
        if name in EXACT:
            assert found == expected, name
        most = MOST_BITS_OF_NOISE if name == "JPEG, noise" else MOST_BITS
        for code in ("phash", "dhash", "mirror"):
            differing = (getattr(found, code) ^ getattr(expected, code)).bit_count()
            assert differing <= most, f"{name}: {code} differs in {differing} bits"
        assert abs(found.quality - expected.quality) <= 3, name


def test_blank_pictures_are_of_low_quality(tmp_path: Path) -> None:
    _, rows = coded(tmp_path, {"white": EXACT["white"](), "photo": EXACT["photo"]()})
    assert rows["white"]["quality"] < 20 <= rows["photo"]["quality"]


def hostile() -> dict[str, tuple[bytes, str]]:
    """Pictures that cannot be decoded, and the reason of each."""
    jpeg, png, webp = (stored(photo(), kind) for kind in ("JPEG", "PNG", "WEBP"))
    gif, bmp = stored(photo(), "GIF"), stored(photo(), "BMP")
    header = png[16:24]
    bomb = png.replace(header, (40_000).to_bytes(4, "big") * 2, 1)
    bomb = bomb[:29] + zlib.crc32(bomb[12:29]).to_bytes(4, "big") + bomb[33:]
    long_row = png.replace(header, (1 << 20).to_bytes(4, "big") + (1).to_bytes(4, "big"), 1)
    long_row = long_row[:29] + zlib.crc32(long_row[12:29]).to_bytes(4, "big") + long_row[33:]
    return {
        "JPEG, cut": (jpeg[: len(jpeg) // 2], "truncated_image"),
        "PNG, cut": (png[: len(png) // 2], "truncated_image"),
        "WebP, cut": (webp[: len(webp) // 2], "truncated_image"),
        "GIF, cut": (gif[: len(gif) // 2], "truncated_image"),
        "BMP, cut": (bmp[: len(bmp) // 2], "truncated_image"),
        "PNG, flipped": (png[:200] + bytes([png[200] ^ 255]) + png[201:], "corrupt_image"),
        "PNG, a bomb": (bomb, "huge_image"),
        "PNG, a row of a million": (long_row, "huge_image"),
        "JPEG, garbage": (jpeg[:700] + bytes(range(256)) * 20, "corrupt_image"),
    }


def test_what_cannot_be_decoded_has_a_reason(tmp_path: Path) -> None:
    bad = hostile()
    good = {f"good {n}": picture(n) for n in range(3)}
    pictures = {name: content for name, (content, _) in bad.items()} | good
    done, rows = coded(tmp_path, pictures, "--max-bad-fraction", "1")
    assert {name: rows[name]["status"] for name in bad} == {name: reason for name, (_, reason) in bad.items()}
    assert all(rows[name]["phash"] is None and rows[name]["quality"] is None for name in bad)
    assert all(rows[name]["status"] == "ok" for name in good)
    made = done["image_codes"]
    assert made["images"] == made["ok"] + sum(made["reasons"].values()) == len(pictures)
    # Without leave it is too much; what was made is kept.
    for part in ("codes", "index"):
        (tmp_path / part).rename(tmp_path / f"{part}-before")
    refused = run("index", tmp_path / "pool", "-o", tmp_path / "index", "--image-codes")
    assert refused.returncode == 3
    assert "truncated_image" in refused.stderr
    assert not (tmp_path / "codes").exists()
    assert (
        run("index", tmp_path / "pool", "-o", tmp_path / "index", "--image-codes", "--max-bad-fraction", "1").returncode
        == 0
    )
    assert [row["status"] for row in rows_of(tmp_path / "codes")] == [
        row["status"] for row in rows_of(tmp_path / "codes-before")
    ]


def pool(folder: Path, tars: int = 5, each: int = 30) -> Path:
    """Tars, a Parquet file and JSON lines with images of their own."""
    for n in range(tars):
        members = [(f"{i:03}.jpg", picture(100 * n + i, 96, 64)) for i in range(each)]
        write_tar(folder / "tars" / f"{n}.tar", [*members, ("text.txt", b"no image here")])
    (folder / "json").mkdir()
    lines = []
    for i in range(each):
        (folder / "json" / f"{i}.png").write_bytes(picture(i, kind="PNG"))
        lines.append(json.dumps({"images": [f"{i}.png", f"{(i + 1) % each}.png"], "text": f"{i}"}))
    (folder / "json" / "list.jsonl").write_text("\n".join(lines))
    (folder / "parquet").mkdir()
    cells = pa.array([{"bytes": picture(i), "path": None} for i in range(each)])
    pq.write_table(pa.table({"image": cells, "text": [str(i) for i in range(each)]}), folder / "parquet" / "0.parquet")
    return folder


def sources(folder: Path) -> list[Path]:
    return [folder / "tars", folder / "json", folder / "parquet"]


def test_the_pass_of_the_index_and_the_stage_give_the_same_bytes_on_any_number_of_threads(tmp_path: Path) -> None:
    data = sources(pool(tmp_path / "data"))
    expected = None
    for name, options, later in (("a", (), False), ("b", ("--threads", "1"), False), ("c", ("--threads", "3"), True)):
        if later:
            run_json("index", *data, "-o", tmp_path / name / "index", *options)
        done = run_json("index", *reversed(data), "-o", tmp_path / name / "index", "--image-codes", *options)
        assert (done["image_codes"]["images"], done["image_codes"]["ok"]) == (240, 240)
        found = tree(tmp_path / name / "codes")
        expected = expected or found
        assert found == expected, name
    # A sample of several images has as many rows, one without images none.
    rows = rows_of(tmp_path / "a" / "codes")
    assert sorted(row["image"] for row in rows) == [0] * 210 + [1] * 30
    assert run("verify", tmp_path / "a" / "codes").returncode == 0


def test_an_index_that_grows_takes_its_codes_along(tmp_path: Path) -> None:
    data = pool(tmp_path / "data") / "tars"
    first = [data / f"{n}.tar" for n in range(2)]
    run_json("index", *first, "-o", tmp_path / "index", "--image-codes")
    again = run_json("index", *first, "-o", tmp_path / "index", "--image-codes")
    assert again["image_codes"]["already_done"]
    run_json("index", data, "-o", tmp_path / "index")
    more = run_json("index", data, "-o", tmp_path / "index", "--image-codes")
    assert (more["image_codes"]["parts"], more["image_codes"]["ok"]) == (5, 150)
    run_json("index", data, "-o", tmp_path / "clean" / "index", "--image-codes")
    assert rows_of(tmp_path / "codes") == rows_of(tmp_path / "clean" / "codes")


def test_images_that_are_no_longer_what_was_indexed_are_named(tmp_path: Path) -> None:
    data = pool(tmp_path / "data") / "json"
    run_json("index", data, "-o", tmp_path / "index")
    (data / "3.png").write_bytes((data / "4.png").read_bytes())
    (data / "5.png").unlink()
    # The index is asked nothing of: only the codes are made, as dedup does.
    before = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert before["counts"]["ok"] == 30
    refused = run("index", data, "-o", tmp_path / "index", "--image-codes")
    assert refused.returncode == 7
    assert not (tmp_path / "codes").exists()


@pytest.mark.parametrize("after_s", [0.15, 0.3, 0.5, 0.8])
def test_killed_at_any_moment_the_next_run_ends_in_the_bytes_of_a_clean_one(tmp_path: Path, after_s: float) -> None:
    data = sources(pool(tmp_path / "data", tars=8))
    words = ["index", *data, "-o", tmp_path / "index", "--image-codes", "--threads", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [*COMMAND, *map(os.fspath, words)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(after_s)
    child.send_signal(signal.SIGKILL)
    child.wait()
    run_json(*words)
    words[words.index(tmp_path / "index")] = tmp_path / "clean" / "index"
    run_json(*words)
    assert tree(tmp_path / "codes") == tree(tmp_path / "clean" / "codes")
