"""Images of samples as pictures: read by byte range, measured before they are decoded, failures named.

Nothing here raises for a bad image: `ImageError` carries the status that the sample's row gets.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from vlmsel.files import NotPlainError, open_descriptor, path_below
from vlmsel.hashes import is_as_indexed

from vlmsel_trainer.vlm.memory import ByteBudget

# Decoders that have no business in a crawl stay off: EPS starts a shell, others have had their share of holes.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_IMAGE_BYTES = 1 << 30
# Pillow knows a format only once its plugin is imported, and a search by name fails before that.
Image.init()
_MAX_OPEN_FILES = 64
# Pillow keeps four bytes for a pixel: as decoded, turned, and in RGB.
_BYTES_PER_PIXEL = 12


class ImageError(Exception):
    """An image that cannot be scored; ``status`` is the row's status."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status


@dataclass(frozen=True)
class ImageLocation:
    """Where an image's bytes lie: a path, and the byte range (the whole file where ``size`` is None).

    ``is_whole_file`` says that the file has just these bytes: one of another size is not the one that was indexed.
    """

    path: Path
    offset: int = 0
    size: int | None = None
    is_whole_file: bool = False


@dataclass(frozen=True)
class ImageLimits:
    """``max_decode_pixels``: a header that claims more is refused; ``max_pixels``: a larger picture is shrunk to it."""

    max_decode_pixels: int = 178_956_970
    max_pixels: int | None = None


class _Descriptor:
    """An open file that closes itself when the last thread that reads it lets go."""

    def __init__(self, path: Path) -> None:
        self.number = open_descriptor(path)

    def __del__(self) -> None:
        number = getattr(self, "number", None)
        if number is not None:
            os.close(number)


class ByteReader:
    """Reads byte ranges with pread from files that it keeps open (the 64 used last); safe to use from many threads."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()
        _readers.add(self)

    def read(self, location: ImageLocation) -> bytes:
        """The bytes at ``location``; `ImageError` ``image_missing`` or ``image_unreadable`` where they are not there.

        ``image_changed`` where the file has another size than was indexed.
        """
        try:
            file = self._open(location.path)
            file_size = os.fstat(file.number).st_size
            size = file_size if location.size is None else location.size
            if location.is_whole_file and file_size != size:
                raise ImageError("image_changed", f"{location.path}: {file_size} bytes, {size} were indexed")
            if size > MAX_IMAGE_BYTES:
                raise ImageError("image_too_large", f"{location.path}: {size} bytes")
            parts, done = [], 0
            while done < size:
                part = os.pread(file.number, size - done, location.offset + done)
                if not part:
                    raise ImageError("image_unreadable", f"{location.path} ends {size - done} bytes early")
                parts.append(part)
                done += len(part)
            return b"".join(parts)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ImageError("image_missing", str(error)) from error
        except (OSError, NotPlainError) as error:
            raise ImageError("image_unreadable", str(error)) from error

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


_readers: weakref.WeakSet[ByteReader] = weakref.WeakSet()


def _after_fork() -> None:
    # A thread that held the lock is not in the child, where nobody would ever give it back. Descriptors stay good: pread
    # has no position that two processes could share.
    for reader in _readers:
        reader._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def locate(
    roots: Mapping[str, Mapping[str, str | None]], source: str, shard: str, image: Mapping[str, object]
) -> ImageLocation:
    """The place of one entry of the index's ``images``: in its shard, or a file below the source's image root."""
    root = roots[source]
    file = image["file"]
    if file is None:
        return ImageLocation(_below(root["path"], shard), int(str(image["offset"])), int(str(image["size"])))
    size = int(str(image["size"]))
    return ImageLocation(_below(root.get("image_root") or root["path"], str(file)), 0, size, is_whole_file=True)


def check_indexed(data: bytes, image: Mapping[str, Any]) -> None:
    """Raises `ImageError` ``image_changed`` unless ``data`` are the bytes that the entry of the index was made of.

    Every index of vlmsel keeps a hash; an entry of somebody else's that has none cannot be compared.
    """
    stored = image.get("hash")
    if stored is not None and not is_as_indexed(data, stored):
        raise ImageError("image_changed", "its bytes are not those that were indexed")


def _below(root: str | None, relative: str) -> Path:
    base = path_below("", root or ".")
    if base.is_file() or not relative:
        return base
    if os.path.isabs(relative) or ".." in Path(relative).parts:
        raise ImageError("image_missing", f"{relative!r:.200} leaves its root")
    return path_below(base, relative)


def decode(data: bytes, limits: ImageLimits, decoding: ByteBudget | None = None) -> Image.Image:
    """A picture in RGB, turned as its EXIF orientation says, no larger than ``limits.max_pixels``.

    Its pixels are held in ``decoding`` while they are. Raises `ImageError`: ``image_too_large`` from the header alone, ``image_undecodable`` for everything else.
    """
    if not data:
        raise ImageError("image_undecodable", "no bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bomb warning: the limit below decides
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > limits.max_decode_pixels:
                    raise ImageError("image_too_large", f"{width}x{height} pixels")
                if limits.max_pixels is not None and width * height > limits.max_pixels:
                    picture.draft("RGB", shrunk_size(width, height, limits.max_pixels))
                needed = picture.width * picture.height * _BYTES_PER_PIXEL
                with contextlib.nullcontext() if decoding is None else decoding.hold(needed):
                    return _in_rgb(picture, limits.max_pixels)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("image_too_large", str(error)) from error
    except MemoryError as error:
        raise ImageError("image_too_large", "not enough memory to decode it") from error
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, struct.error, ...
        raise ImageError("image_undecodable", f"{type(error).__name__}: {error}") from error


def _in_rgb(picture: Image.Image, max_pixels: int | None) -> Image.Image:
    picture.load()
    turned = ImageOps.exif_transpose(picture)
    if turned.mode.startswith("I"):  # `I;16`; in older Pillows `I`
        # Pillow cuts 16 bits off at 255, which is white; the upper 8 are the picture.
        turned = turned.convert("I").point(lambda value: value / 257).convert("L")
    colour = turned.convert("RGB")
    if max_pixels is not None and colour.width * colour.height > max_pixels:
        colour = colour.resize(shrunk_size(colour.width, colour.height, max_pixels), Image.Resampling.BICUBIC)
    return colour


def shrunk_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """The size with the same shape and at most ``max_pixels`` pixels, sides at least 1."""
    if width * height <= max_pixels:
        return width, height
    scale = (max_pixels / (width * height)) ** 0.5
    return max(1, int(width * scale)), max(1, int(height * scale))
