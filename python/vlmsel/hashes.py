"""Whether an image is still the one that was indexed: an index keeps a hash of the bytes of each."""

from __future__ import annotations

from vlmsel import _core


def is_as_indexed(data: bytes, stored: bytes) -> bool:
    """Whether ``data`` are the bytes whose hash is ``stored``, an entry of the index's ``images`` (xxh3-128)."""
    return _core.image_hash(data) == stored
