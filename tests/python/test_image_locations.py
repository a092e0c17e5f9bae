"""Images of an index: where their bytes lie, what is read of them, and how each failure is named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from vlmsel import _core, images
from vlmsel.errors import MismatchError, NotFoundError, ResourceError, UnreadableError, UsageError
from vlmsel.images import ByteReader, ImageError, ImageLocation, image_path, locate, open_image, read_image

Special = Callable[[Path, str], Path]
WEB = {"path": "/data/web", "image_root": None}
LLAVA = {"path": "/data/llava", "image_root": "/images"}
# A picture, and what an index keeps of it.
BYTES = b"0123456789"
HASH = _core.image_hash(BYTES)


def test_places_of_the_index() -> None:
    inside = {"file": None, "offset": 512, "size": 9}
    assert locate(WEB, "00/a.tar", inside) == ImageLocation(Path("/data/web/00/a.tar"), 512, 9)
    beside = {"file": "coco/1.jpg", "offset": 0, "size": 9, "hash": HASH, "row": None, "item": None}
    assert locate(LLAVA, "llava.json", beside) == ImageLocation(
        Path("/images/coco/1.jpg"), 0, 9, is_whole_file=True, hash=HASH
    )
    of_the_shard = {"file": None, "offset": 0, "size": 9, "row": 7, "item": None}
    assert locate(WEB, "a.parquet", of_the_shard) == ImageLocation(Path("/data/web/a.parquet"), 0, 9, row=7)
    of_a_table_beside = {"file": "t.parquet", "offset": 0, "size": 9, "row": 7, "item": 2}
    assert locate(LLAVA, "a.jsonl", of_a_table_beside) == ImageLocation(Path("/images/t.parquet"), 0, 9, row=7, item=2)


def test_a_root_that_is_one_file_is_the_shard(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(BYTES)
    assert image_path({"path": str(tmp_path / "a.tar")}, "a.tar", None) == tmp_path / "a.tar"


def test_an_image_root_stands_for_images_alone() -> None:
    assert image_path(LLAVA, "a.tar", None) == Path("/data/llava/a.tar")
    assert image_path(WEB, "a.jsonl", "1.jpg") == Path("/data/web/1.jpg")


@pytest.mark.parametrize("below", ["../../etc/passwd", "/etc/passwd", "a/../../b", "a\0b"])
def test_paths_that_leave_their_root_are_refused(below: str) -> None:
    for shard, file in (("x.json", below), (below, None)):
        with pytest.raises(ImageError, match="leaves its root") as error:
            image_path(LLAVA, shard, file)
        assert (error.value.status, error.value.reason) == ("image_missing", "path leaves its root")


def test_a_source_that_the_index_does_not_know() -> None:
    with pytest.raises(ImageError) as error:
        locate(None, "a.tar", {"file": None, "offset": 0, "size": 9})
    assert (error.value.status, error.value.reason) == ("image_missing", "unknown source")


def test_many_threads_read_many_files(tmp_path: Path) -> None:
    """More files than are kept open, read at once: every range is right though files are closed under way."""
    for i in range(100):
        (tmp_path / f"{i}").write_bytes(bytes([i]) * 1000)
    reader = ByteReader()

    def read(seed: int) -> list[bool]:
        numbers = np.random.default_rng(seed).integers(0, 100, 300).tolist()
        return [reader.read(ImageLocation(tmp_path / f"{i}", 100, 50)) == bytes([i]) * 50 for i in numbers]

    with ThreadPoolExecutor(8) as pool:  # Whose results raise what their thread raised.
        right = [same for found in pool.map(read, range(8), timeout=60) for same in found]
    assert right == [True] * 2400


FORKED = """
import os, signal, sys, threading
from pathlib import Path
from vlmsel.images import ByteReader, ImageLocation

place = ImageLocation(Path(sys.argv[1]), 3, 4)
reader = ByteReader()
assert reader.read(place) == b"3456"
held, over = threading.Event(), threading.Event()

def hold() -> None:
    with reader._lock:
        held.set()
        over.wait()

threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(30)  # A child that waits for a thread of its parent dies of this.
    os._exit(0 if reader.read(place) == b"3456" else 1)
_, status = os.waitpid(child, 0)
over.set()
assert reader.read(place) == b"3456"
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_reads_with_the_reader_of_its_parent(tmp_path: Path) -> None:
    """As the workers of a DataLoader do, also where a thread of the parent was reading at that moment."""
    (tmp_path / "a").write_bytes(b"0123456789")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-W", "ignore", "-c", FORKED, str(tmp_path / "a")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_no_plain_file_is_unreadable_and_not_waited_for(kind: str, tmp_path: Path, special: Special) -> None:
    place = special(tmp_path / "a.jpg", kind)
    for location in (ImageLocation(place), ImageLocation(place, 0, 10), ImageLocation(place, 0, 10, True)):
        with pytest.raises(ImageError) as error:
            ByteReader().read(location)
        assert error.value.status == "image_unreadable"


def test_a_file_of_another_size_is_not_the_one_that_was_indexed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    assert ByteReader().read(ImageLocation(tmp_path / "a", 0, 10, is_whole_file=True)) == b"0123456789"
    for size in (0, 9, 11):
        with pytest.raises(ImageError, match="image_changed"):
            ByteReader().read(ImageLocation(tmp_path / "a", 0, size, is_whole_file=True))


def test_whole_file_and_short_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    reader = ByteReader()
    assert reader.read(ImageLocation(tmp_path / "a")) == b"0123456789"
    with pytest.raises(ImageError, match="image_unreadable"):
        reader.read(ImageLocation(tmp_path / "a", 5, 10))
    with pytest.raises(ImageError, match="image_missing"):
        reader.read(ImageLocation(tmp_path / "b"))


def test_links_below_a_root_are_followed(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "elsewhere").write_bytes(BYTES)
    (tmp_path / "images" / "a.jpg").symlink_to(tmp_path / "elsewhere")
    root = {"path": str(tmp_path), "image_root": str(tmp_path / "images")}
    assert read_image(locate(root, "a.jsonl", {"file": "a.jpg", "offset": 0, "size": 10, "hash": HASH})) == BYTES


def test_bytes_are_those_that_were_indexed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" + BYTES)
    assert read_image(ImageLocation(tmp_path / "a", 1, 10, hash=HASH)) == BYTES
    with pytest.raises(ImageError) as error:
        read_image(ImageLocation(tmp_path / "a", 0, 10, hash=HASH))
    assert (error.value.status, error.value.reason) == ("image_changed", "changed since it was indexed")
    assert read_image(ImageLocation(tmp_path / "a", 0, 10, hash=HASH), check=False) == b"x012345678"
    # Of a whole file too, whose size alone may tell.
    assert read_image(ImageLocation(tmp_path / "a", 0, 10, is_whole_file=True), check=False) == b"x012345678"


@pytest.mark.parametrize(
    ("offset", "size", "status", "reason"),
    [
        (5, 10, "image_unreadable", "file ends too early"),
        (1 << 70, 10, "image_unreadable", "not readable"),
        (0, (1 << 30) + 1, "image_too_large", "too large: 1,073,741,825 bytes"),
    ],
)
def test_ranges_that_cannot_be_read(tmp_path: Path, offset: int, size: int, status: str, reason: str) -> None:
    (tmp_path / "a").write_bytes(BYTES)
    with pytest.raises(ImageError) as error:
        read_image(ImageLocation(tmp_path / "a", offset, size))
    assert (error.value.status, error.value.reason) == (status, reason)


# --- rows of tables --------------------------------------------------------------------------------------------------


def answer_tables(monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception) -> list[tuple[Any, ...]]:
    """Stands in for the compiled half; gives the calls that were made."""
    calls: list[tuple[Any, ...]] = []

    class Answers:
        def read(self, path: str, row: int, item: int | None) -> bytes:
            calls.append((path, row, item))
            if isinstance(answer, Exception):
                raise answer
            return answer

    monkeypatch.setattr(_core, "TableReader", Answers)
    return calls


def test_a_cell_of_a_table_is_read_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = answer_tables(monkeypatch, BYTES)
    image = {"file": None, "offset": 0, "size": 10, "hash": HASH, "row": 5, "item": 1}
    place = locate(WEB, "a.parquet", image)
    assert str(place) == "/data/web/a.parquet, row 5, item 1"
    assert read_image(place) == BYTES
    assert read_image(locate(WEB, "a.parquet", image | {"item": None, "row": 0})) == BYTES
    assert calls == [("/data/web/a.parquet", 5, 1), ("/data/web/a.parquet", 0, None)]
    for other in ({"hash": bytes(16)}, {"size": 9}):
        with pytest.raises(ImageError, match="image_changed"):
            read_image(locate(WEB, "a.parquet", image | other))
        assert read_image(locate(WEB, "a.parquet", image | other), check=False) == BYTES


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (NotFoundError("a.parquet: no such file"), "image_missing"),
        (UnreadableError("a.parquet: damaged"), "image_unreadable"),
        (UsageError("a.parquet has no row 5"), "image_unreadable"),
        (MismatchError("a.parquet changed while it was read"), "image_changed"),
    ],
)
def test_failures_of_tables_are_statuses(monkeypatch: pytest.MonkeyPatch, raised: Exception, status: str) -> None:
    answer_tables(monkeypatch, raised)
    with pytest.raises(ImageError) as error:
        read_image(ImageLocation(Path("a.parquet"), row=5))
    assert error.value.status == status


def test_no_memory_for_a_table_is_no_fault_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_tables(monkeypatch, ResourceError("no memory"))
    with pytest.raises(ResourceError):
        read_image(ImageLocation(Path("a.parquet"), row=5))


def test_a_cell_over_the_limit_is_refused_with_and_without_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = answer_tables(monkeypatch, BYTES)
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 9)
    for size, n_calls in ((10, 0), (None, 1)):
        with pytest.raises(ImageError, match="image_too_large"):
            read_image(ImageLocation(Path("a.parquet"), size=size, row=5))
        assert len(calls) == n_calls


# --- opening ---------------------------------------------------------------------------------------------------------


def test_errors_of_the_family_pass_through_an_open_image() -> None:
    picture = b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\1\0\0\0\1\0\0\0\1\0\x18\0" + bytes(28)
    with open_image(picture) as opened:
        assert (opened.format, opened.size) == ("BMP", (1, 1))
    with pytest.raises(ResourceError), open_image(picture):
        raise ResourceError("no room")
    with pytest.raises(ImageError) as error, open_image(picture, max_decode_pixels=0):
        pass
    assert (error.value.status, error.value.reason) == ("image_too_large", "too large: 1 x 1 px")


@pytest.mark.parametrize("in_list", [False, True], ids=["cell", "list"])
@pytest.mark.parametrize("form", ["binary", "bytes-path", "path-bytes"])
def test_a_real_table_gives_its_images(tmp_path: Path, form: str, in_list: bool) -> None:
    pictures = [f"picture {n}".encode() * 50 for n in range(7)]
    if form == "binary":
        cells: list[Any] = list(pictures)
    else:
        order = form.split("-")
        cells = [{name: {"bytes": data, "path": f"{n}.png"}[name] for name in order} for n, data in enumerate(pictures)]
    table = pa.table({"n": range(7), "image": [[cells[0], cell] for cell in cells] if in_list else cells})
    path = tmp_path / "0.parquet"
    pq.write_table(table, path, row_group_size=3)
    root = {"path": str(tmp_path), "image_root": None}
    for row, data in enumerate(pictures):
        image = {"file": None, "offset": 0, "size": len(data), "row": row, "item": 1 if in_list else None}
        image["hash"] = xxhash.xxh3_128_digest(data)
        location = images.locate(root, "0.parquet", image)
        assert images.read_image(location) == data
        changed = images.locate(root, "0.parquet", image | {"hash": b"\0" * 16})
        with pytest.raises(images.ImageError, match="image_changed"):
            images.read_image(changed)
    behind = images.locate(root, "0.parquet", image | {"row": 7})
    with pytest.raises(images.ImageError, match="image_unreadable"):
        images.read_image(behind)
    gone = images.locate(root, "1.parquet", image)
    with pytest.raises(images.ImageError, match="image_missing"):
        images.read_image(gone)
