"""Images for a model: headers before pixels, and every way to be broken ends in a status."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_index import draw_png
from vlmsel.images import ImageError
from vlmsel_trainer.vlm.images import ImageLimits, decode, shrunk_size


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb_png(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes of pixels do not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_every_mode_of_every_format_becomes_rgb(kind: str, mode: str) -> None:
    picture = Image.open(io.BytesIO(draw_png(3))).convert(mode)
    if (kind, mode) in {("JPEG", "RGBA"), ("JPEG", "P"), ("JPEG", "1"), ("WEBP", "1")}:
        picture = picture.convert("RGB")
    result = decode(encode(picture, kind), ImageLimits())
    assert result.mode == "RGB"
    assert result.size == (40, 40)


def test_sixteen_bits_become_eight_and_not_white() -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    shown = np.asarray(decode(encode(Image.fromarray(ramp), "PNG"), ImageLimits()))
    assert np.abs(shown[..., 0].ravel().astype(int) - np.arange(256)).max() <= 1


def test_animations_are_their_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        shown = decode(encode(frames[0], kind, save_all=True, append_images=frames[1:]), ImageLimits())
        assert shown.getpixel((0, 0))[0] > 200, kind


def test_cmyk_is_shown_in_its_colours() -> None:
    shown = decode(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95), ImageLimits())
    red, green, blue = shown.getpixel((4, 4))
    assert red > 200
    assert max(green, blue) < 60


def test_exif_orientation_is_applied() -> None:
    picture = Image.new("RGB", (40, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    assert decode(encode(picture, "JPEG", exif=exif), ImageLimits()).size == (20, 40)


def test_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(ImageError) as error:
        decode(bomb_png(60_000, 60_000), ImageLimits())
    assert error.value.status == "image_too_large"


def test_max_pixels_shrinks_and_keeps_the_shape() -> None:
    result = decode(draw_png(1, 400, 100), ImageLimits(max_pixels=10_000))
    assert result.width * result.height <= 10_000
    assert result.width / result.height == pytest.approx(4, rel=0.05)


@given(st.integers(1, 50_000), st.integers(1, 50_000), st.integers(1, 10**8))
def test_law_shrunk_size(width: int, height: int, max_pixels: int) -> None:
    new_width, new_height = shrunk_size(width, height, max_pixels)
    assert 1 <= new_width <= width
    assert 1 <= new_height <= height
    # A line one pixel wide cannot keep its shape; everything else holds the limit.
    assert new_width * new_height <= max_pixels or 1 in (new_width, new_height)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_never_raise_anything_else(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]))
    content = bytearray(encode(Image.open(io.BytesIO(draw_png(1))).convert("RGB"), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        decode(bytes(content[:cut]), ImageLimits(max_decode_pixels=10_000_000))
    except ImageError as error:
        assert error.status in {"image_undecodable", "image_too_large"}  # noqa: PT017


@pytest.mark.parametrize("content", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg/>", b"GIF89a"])
def test_what_is_no_picture_is_undecodable(content: bytes) -> None:
    with pytest.raises(ImageError, match="image_undecodable"):
        decode(content, ImageLimits())


FORKED = """
import os, signal, sys, threading
from vlmsel_trainer.vlm.memory import ByteBudget

budget = ByteBudget(10)
held, over = threading.Event(), threading.Event()

def hold() -> None:
    with budget.hold(10):
        held.set()
        over.wait()

threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(30)  # A child that waits for a thread of its parent dies of this.
    with budget.hold(10):
        os._exit(0)
_, status = os.waitpid(child, 0)
over.set()
with budget.hold(10):
    pass
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_has_the_whole_budget() -> None:
    """As the workers of a DataLoader do, also where a thread of the parent held all of it at that moment."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-W", "ignore", "-c", FORKED]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
