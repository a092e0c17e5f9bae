"""Images of indexed samples: where their bytes lie, how large they may be, and the one way to read and open them.

Scoring and contact sheets both come through here, so that a path is checked, a limit held and a changed file noticed in one
place. Whatever is wrong with an image is an `ImageError`; what becomes of its sample is the caller's to say.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vlmsel.errors import MismatchError, NotFoundError, UnreadableError, UsageError, VlmselError
from vlmsel.files import NotPlainError, open_descriptor, path_below

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is decoded, whatever a file calls itself. Pillow's other readers stay shut: EPS starts a program, others have had holes."""

MAX_IMAGE_BYTES = 1 << 30
"""No larger file is read."""

MAX_DECODE_PIXELS = 178_956_970
"""No larger picture is decoded, unless the caller says so: what Pillow itself takes for a bomb, and `vlmsel doctor` for huge."""

_MAX_OPEN_FILES = 64


class ImageError(UnreadableError):
    """An image that cannot be had.

    `status` is one of ``image_missing``, ``image_unreadable``, ``image_changed``, ``image_too_large``, ``image_undecodable``;
    `reason` says it in the few words that fit into a cell of a contact sheet.
    """

    def __init__(self, status: str, detail: str, reason: str = "not readable") -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ImageLocation:
    """Where an image's bytes lie, and what the index knows of them.

    One of: a file of its own (`is_whole_file`: the file has just these bytes), `size` bytes from `offset` of a shard, or a
    cell of a table (`row`, and where the cell is a list the `item` of it). `size` is None where nobody knows it: everything
    from `offset` on. `hash` is that of the bytes when they were indexed (xxh3-128), None where the index has none.
    """

    path: Path
    offset: int = 0
    size: int | None = None
    is_whole_file: bool = False
    row: int | None = None
    item: int | None = None
    hash: bytes | None = None

    def __str__(self) -> str:
        if self.row is not None:
            return f"{self.path}, row {self.row:,}" + ("" if self.item is None else f", item {self.item:,}")
        return str(self.path) if self.is_whole_file else f"{self.path}, offset {self.offset:,}"


def image_path(root: Mapping[str, Any] | None, shard: str, file: str | None) -> Path:
    """The file that holds an image: `file` below the source's image root, or (None) the shard itself.

    `root` is the source's entry in the index manifest's ``roots``, None where there is none. Links are followed: the folder
    is the user's own. Raises ImageError ``image_missing`` for a path that begins at the file system's root or climbs out.
    """
    if root is None:
        raise ImageError("image_missing", f"{shard}: the index does not say where its source lies", "unknown source")
    below = shard if file is None else file
    if os.path.isabs(below) or "\0" in below or ".." in PurePosixPath(below).parts:
        raise ImageError("image_missing", f"{below!r:.200} leaves its root", "path leaves its root")
    base = path_below("", (root["path"] if file is None else root.get("image_root") or root["path"]) or ".")
    # A root that is one file is the shard.
    if not below or (file is None and base.is_file()):
        return base
    return path_below(base, below)


def locate(root: Mapping[str, Any] | None, shard: str, image: Mapping[str, Any]) -> ImageLocation:
    """The place of `image`, an entry of the index's ``images`` in a row of this `shard`; raises as `image_path`."""
    file, row, size, item = (image.get(key) for key in ("file", "row", "size", "item"))
    return ImageLocation(
        path=image_path(root, shard, file),
        offset=int(image["offset"]) if file is None and row is None else 0,
        size=None if size is None else int(size),
        is_whole_file=file is not None and row is None,
        row=None if row is None else int(row),
        item=None if item is None else int(item),
        hash=image.get("hash"),
    )


def read_image(location: ImageLocation, *, check: bool = True) -> bytes:
    """The bytes at `location`, as `ByteReader.read` gives them; for many images keep a `ByteReader`."""
    return ByteReader().read(location, check=check)


class ByteReader:
    """Reads images from files that it keeps open (the 64 used last), by pread; safe to use from many threads."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()
        self._tables: Any = None  # Opened with the first row of one.
        _readers.add(self)

    def read(self, location: ImageLocation, *, check: bool = True) -> bytes:
        """The bytes at `location`.

        With `check` they are those that were indexed: a file of another size, or bytes with another hash, are ImageError
        ``image_changed``. Otherwise ``image_missing``, ``image_unreadable`` (which includes what ends early and what is no
        plain file) or ``image_too_large``. Raises ResourceError where memory or open files run out inside a table.
        """
        try:
            if location.row is not None:
                data = self._read_cell(location, location.row)
            else:
                data = self._read_range(location, check=check)
        except ImageError:
            raise
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ImageError("image_missing", str(error), error.strerror or "no such file") from error
        except NotPlainError as error:
            raise ImageError("image_unreadable", str(error), f"is {error.kind}") from error
        except VlmselError:
            raise
        except OSError as error:
            raise ImageError("image_unreadable", str(error), error.strerror or "not readable") from error
        except (OverflowError, ValueError) as error:  # an offset or a name that no file can have
            raise ImageError("image_unreadable", f"{location}: {error}") from error
        if check:
            _check_indexed(data, location)
        return data

    def _read_range(self, location: ImageLocation, *, check: bool) -> bytes:
        file = self._open(location.path)
        file_size = os.fstat(file.number).st_size
        size = max(file_size - location.offset, 0) if location.size is None else location.size
        if check and location.is_whole_file and file_size != size:
            raise _changed(f"{location.path}: {file_size} bytes, {size} were indexed")
        check_size(size, location)
        parts, done = [], 0
        while done < size:
            part = os.pread(file.number, size - done, location.offset + done)
            if not part:
                raise ImageError(
                    "image_unreadable", f"{location.path} ends {size - done} bytes early", "file ends too early"
                )
            parts.append(part)
            done += len(part)
        return b"".join(parts)

    def _read_cell(self, location: ImageLocation, row: int) -> bytes:
        from vlmsel import _core  # Here, because limits and locations alone need nothing compiled.

        check_size(location.size or 0, location)
        if self._tables is None:
            self._tables = _core.TableReader()
        try:
            data: bytes = self._tables.read(os.fspath(location.path), row, location.item)
        except NotFoundError as error:
            raise ImageError("image_missing", str(error), "no such file") from error
        except MismatchError as error:
            raise _changed(str(error)) from error
        except (UnreadableError, UsageError) as error:
            raise ImageError("image_unreadable", str(error)) from error
        check_size(len(data), location)
        return data

    def _open(self, path: Path) -> _Descriptor:
        with self._lock:
            file = self._files.pop(path, None)
            if file is None:
                file = _Descriptor(path)
            self._files[path] = file
            if len(self._files) > _MAX_OPEN_FILES:
                # Dropped, not closed: a thread may be reading it; the last reference closes it.
                self._files.popitem(last=False)
            return file


class _Descriptor:
    """An open file that closes itself when the last thread that reads it lets go."""

    def __init__(self, path: Path) -> None:
        self.number = open_descriptor(path)

    def __del__(self) -> None:
        number = getattr(self, "number", None)
        if number is not None:
            os.close(number)


_readers: weakref.WeakSet[ByteReader] = weakref.WeakSet()


def _after_fork() -> None:
    # A thread that held the lock is not in the child, where nobody would ever give it back. Descriptors stay good: pread
    # has no position that two processes could share.
    for reader in _readers:
        reader._lock = threading.Lock()
        reader._tables = None


os.register_at_fork(after_in_child=_after_fork)


def check_size(size_bytes: int, location: ImageLocation) -> None:
    """Raises ImageError ``image_too_large`` for more than `MAX_IMAGE_BYTES`."""
    if size_bytes > MAX_IMAGE_BYTES:
        raise ImageError("image_too_large", f"{location}: {size_bytes} bytes", f"too large: {size_bytes:,} bytes")


def _check_indexed(data: bytes, location: ImageLocation) -> None:
    from vlmsel.hashes import is_as_indexed

    # Every index of vlmsel keeps a hash; what somebody else's entry lacks cannot be compared.
    if location.size is not None and len(data) != location.size:
        raise _changed(f"{location}: {len(data)} bytes, {location.size} were indexed")
    if location.hash is not None and not is_as_indexed(data, location.hash):
        raise _changed(f"{location}: its bytes are not those that were indexed")


def _changed(detail: str) -> ImageError:
    return ImageError("image_changed", detail, "changed since it was indexed")


@contextmanager
def open_image(data: bytes, max_decode_pixels: int = MAX_DECODE_PIXELS) -> Iterator[Image.Image]:
    """The image that `data` is a file of, opened: its header is read, its pixels are not.

    What goes wrong here or inside the ``with`` is an ImageError: ``image_too_large`` for a header that claims more than
    `max_decode_pixels` and where memory runs out, ``image_undecodable`` for everything else. Errors of the family pass.
    """
    # Named, because Pillow knows WebP only once this is imported, and would import all its forty readers to find it.
    from PIL import Image, WebPImagePlugin  # noqa: F401

    if not data:
        raise ImageError("image_undecodable", "no bytes", "zero bytes")
    Image.preinit()  # The other four: threads that open their first images together must find them complete.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning: the limit below decides
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > max_decode_pixels:
                    size = f"{image.width:,} x {image.height:,} px"
                    raise ImageError("image_too_large", size, f"too large: {size}")
                yield image
    except VlmselError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("image_too_large", str(error), "too large to decode") from error
    except MemoryError as error:
        raise ImageError("image_too_large", "not enough memory to decode it", "cannot be decoded") from error
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, struct.error, ...
        reason = "truncated" if "truncated" in str(error) else "cannot be decoded"
        raise ImageError("image_undecodable", f"{type(error).__name__}: {error}", reason) from error
