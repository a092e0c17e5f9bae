"""What a score depends on, as one JSON object: two scores may be compared only where it is equal.

It stands in the manifest and in every part's Parquet metadata under ``vlmsel.provenance``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlmsel.files import check_plain, explain, open_plain

METADATA_KEY = b"vlmsel.provenance"

# What can change a score. Everything else in a model folder (README, training state, other formats' weights) cannot.
_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py", ".tiktoken")
_FOLDERS = ("additional_chat_templates",)
_CHUNK_BYTES = 1 << 22


def list_model_files(model: Path) -> list[Path]:
    """The files of a model folder that a score depends on, by name."""
    return sorted(path for path in model.iterdir() if path.is_file() and path.suffix in _SUFFIXES)


def check_model_files(model: Path) -> None:
    """Raises UsageError where a file that a library would open is a pipe, a device, a folder or a link to nothing.

    A library that opens such a thing waits for ever, or takes it for missing and goes on with a default.
    """
    for place in (model, *(model / name for name in _FOLDERS)):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if path.suffix in _SUFFIXES:
                try:
                    check_plain(path)
                except OSError as error:
                    raise explain(error, path) from error


def hash_model(model: Path) -> str:
    """sha256 over names, sizes and contents of `list_model_files`, in hex."""
    whole = hashlib.sha256()
    for path in list_model_files(model):
        one = hashlib.sha256()
        with open_plain(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                one.update(chunk)
        whole.update(f"{path.name}\0{path.stat().st_size}\0{one.hexdigest()}\n".encode())
    return whole.hexdigest()


def hash_texts(texts: Iterable[str]) -> str:
    """sha256 of some texts, borders included, in hex."""
    return hashlib.sha256(json.dumps(list(texts), ensure_ascii=True).encode()).hexdigest()


def encode(provenance: dict[str, Any]) -> bytes:
    """The provenance as bytes that are the same on every run."""
    return json.dumps(provenance, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()
