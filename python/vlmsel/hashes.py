"""Whether an image is still the one that was indexed: an index keeps a hash of the bytes of each."""

from __future__ import annotations

from collections.abc import Callable

from vlmsel import _core

# xxh3-128, most significant byte first. Not every build of the extension module has it.
_image_hash: Callable[[bytes], bytes] | None = getattr(_core, "image_hash", None)


def is_as_indexed(data: bytes, stored: bytes) -> bool:
    """Whether ``data`` are the bytes whose hash is ``stored``, an entry of the index's ``images``.

    True as well where this build of the extension module cannot hash an image.
    """
    return _image_hash is None or _image_hash(data) == stored
