"""`vlmsel doctor` finds what was planted, and nothing where nothing is."""

from __future__ import annotations

import io
import json
import zlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pair_corpus import corpus, pairs, picture, run, run_json, write_tar
from PIL import Image


def counts(result: dict[str, dict[str, dict[str, int]]]) -> dict[str, int]:
    return {kind: finding["count"] for kind, finding in result["findings"].items()}


def test_a_healthy_set(tmp_path: Path) -> None:
    corpus(tmp_path / "p")
    result = run_json("doctor", tmp_path / "p", "--strict")
    assert result["healthy"] and result["findings"] == {} and result["records"] == 36
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]


def test_what_was_planted_is_found(tmp_path: Path) -> None:
    members = pairs(0, 6)
    members += [("z0.jpg", b""), ("z0.txt", b"t")]
    members += [("z1.jpg", picture(50)[:-30]), ("z1.txt", b"cut")]
    members += [("z2.jpg", b"<html>"), ("z2.txt", b"page")]
    members += [("z3.jpg", picture(3)), ("z3.txt", b"another caption of picture 3")]
    members += [("z4.jpg", picture(4)), ("z4.txt", b" caption 4 ")]
    members += [("z5.jpg", picture(55)), ("z5.txt", b" \n")]
    members += [("z6.jpg", picture(56, 5, 5)), ("z6.txt", b"tiny")]
    members += [("000001.txt", b"a key that comes back")]
    path = write_tar(tmp_path / "p" / "00000.tar", members)
    rows = [f"{n:06d}" for n in range(6)] + [f"z{n}" for n in range(7)] + ["gone", "failed"]
    status = ["success"] * (len(rows) - 1) + ["failed_to_download"]
    pq.write_table(pa.table({"key": rows, "status": status}), path.with_suffix(".parquet"))
    whole = write_tar(tmp_path / "p" / "00001.tar", pairs(100, 3))
    whole.write_bytes(whole.read_bytes()[:5000])
    result = run_json("doctor", tmp_path / "p")
    assert counts(result) == {
        "empty_image": 1, "truncated_image": 1, "unknown_image_format": 1, "one_image_many_captions": 1, "repeated_pair": 1,
        "empty_caption": 1, "tiny_image": 1, "repeated_key": 1, "row_without_member": 1, "failed_download": 1, "truncated_tar": 1,
    }  # fmt: skip
    assert "z1" in result["findings"]["truncated_image"]["examples"][0]
    assert run("doctor", tmp_path / "p", "--strict").returncode == 5


def damaged_images() -> dict[str, tuple[bytes, str]]:
    """Images whose headers are good, by name, with the kind of finding that each is."""
    jpeg, png, gif, webp = (picture(7, 640, 480, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP"))
    middle = len(jpeg) // 2
    progressive = io.BytesIO()
    Image.effect_noise((400, 300), 50).save(progressive, "JPEG", progressive=True)
    slow = progressive.getvalue()
    noise = io.BytesIO()
    Image.effect_noise((1400, 1100), 90).save(noise, "JPEG", quality=95)
    # Longer than what is read at one time.
    long = noise.getvalue()
    assert len(long) > 1 << 20
    stream = bytearray(png)
    start = png.index(b"IDAT") + 4
    length = int.from_bytes(png[start - 8 : start - 4], "big")
    stream[start + 10 : start + 20] = bytes(10)
    stream[start + length : start + length + 4] = zlib.crc32(stream[start - 4 : start + length]).to_bytes(4, "big")
    bomb = png[12:16] + (1 << 20).to_bytes(4, "big") * 2 + png[24:29]
    return {
        "entropy.jpg": (jpeg[:middle] + bytes(512) + jpeg[middle + 512 :], "corrupt_image"),
        "progressive.jpg": (slow[: len(slow) // 2] + bytes(512) + slow[len(slow) // 2 + 512 :], "corrupt_image"),
        "long.jpg": (long[:700_000] + bytes(4096) + long[704_096:], "corrupt_image"),
        "cut.jpg": (jpeg[:-100] + b"\xff\xd9", "corrupt_image"),
        "short.jpg": (jpeg[:-100], "truncated_image"),
        "sum.png": (png[: start + 20] + bytes([png[start + 20] ^ 1]) + png[start + 21 :], "corrupt_image"),
        "stream.png": (bytes(stream), "corrupt_image"),
        "short.png": (png[:-40], "truncated_image"),
        "short.gif": (gif[: len(gif) // 2], "truncated_image"),
        "short.webp": (webp[: len(webp) // 2], "truncated_image"),
        "bomb.png": (png[:12] + bomb + zlib.crc32(bomb).to_bytes(4, "big") + png[33:], "huge_image"),
        "size.png": (png[:18] + bytes([png[18] ^ 1]) + png[19:], "bad_image_header"),
    }


def test_images_are_read_to_their_last_code(tmp_path: Path) -> None:
    images = damaged_images()
    members = []
    for name, (data, _) in images.items():
        key, extension = name.split(".")
        members += [(f"{key}-{extension}.{extension}", data), (f"{key}-{extension}.txt", name.encode())]
    write_tar(tmp_path / "p" / "0.tar", members)
    (tmp_path / "j").mkdir()
    for name, (data, _) in images.items():
        (tmp_path / "j" / name).write_bytes(data)
    lines = [json.dumps({"image": name, "caption": name}) for name in images]
    (tmp_path / "j" / "d.jsonl").write_text("\n".join(lines))
    expected = dict(Counter(kind for _, kind in images.values()))
    for source in (tmp_path / "p", tmp_path / "j" / "d.jsonl"):
        for threads in ("1", "4"):
            assert counts(run_json("doctor", source, "--threads", threads)) == expected


def test_whole_images_of_every_kind_are_whole(tmp_path: Path) -> None:
    members = []
    noise = Image.effect_noise((211, 97), 80)
    forms: list[tuple[str, str, str, dict[str, object]]] = [
        ("jpg", "JPEG", "RGB", {"quality": 90, "subsampling": 0}),
        ("jpg", "JPEG", "RGB", {"quality": 30, "subsampling": 2}),
        ("jpg", "JPEG", "RGB", {"progressive": True}),
        ("jpg", "JPEG", "L", {"progressive": True, "optimize": True}),
        ("jpg", "JPEG", "CMYK", {}),
        ("jpg", "JPEG", "RGB", {"restart_marker_blocks": 5}),
        *[("png", "PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
        ("gif", "GIF", "P", {}),
        ("gif", "GIF", "P", {"save_all": True, "append_images": [Image.effect_noise((211, 97), 20).convert("P")]}),
        ("webp", "WEBP", "RGB", {}),
        ("webp", "WEBP", "RGBA", {"lossless": True}),
    ]
    for number, (extension, kind, mode, options) in enumerate(forms):
        out = io.BytesIO()
        noise.convert("I" if mode == "I;16" else mode).convert(mode).save(out, kind, **options)
        members += [(f"{number}.{extension}", out.getvalue()), (f"{number}.txt", f"t{number}".encode())]
    write_tar(tmp_path / "p" / "0.tar", members)
    result = run_json("doctor", tmp_path / "p")
    assert result["images"] == len(forms) and result["findings"] == {}


def test_examples_cannot_steer_the_terminal(tmp_path: Path) -> None:
    write_tar(tmp_path / "p" / "0.tar", [("a\x1b[31m\nb.jpg", b""), ("c.txt", b"t")])
    done = run("doctor", tmp_path / "p")
    assert done.returncode == 0 and "\x1b" not in done.stdout and "empty_image" in done.stdout


def test_json_sources(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture(1))
    rows = [
        {"id": 1, "image": "a.jpg", "caption": "x"},
        {"id": 1, "image": "b.jpg", "caption": "y"},
        {"id": 2, "image": "a.jpg", "caption": ""},
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n")
    found = counts(run_json("doctor", tmp_path / "d.jsonl"))
    assert found == {
        "repeated_key": 1,
        "missing_image": 1,
        "empty_caption": 1,
        "one_image_many_captions": 1,
        "bad_json": 1,
    }
