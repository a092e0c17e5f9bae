"""One model on disk: a folder of safetensors files, with an index where there are several.

A tensor in two files, an index that does not tell the truth and names that lead out of the folder are errors that name the
file. Tensor bytes are read with ``pread`` into the caller's buffers; a mapped page would count as resident memory.
"""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmsel.errors import NotFoundError, ResourceError, UnreadableError, UsageError
from vlmsel.files import kind_of, open_descriptor, read_plain

from vlmsel_trainer.soup.weights.header import Tensor, read_header
from vlmsel_trainer.soup.weights.strict_json import parse_json

MAX_INDEX_BYTES = 25_000_000
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One safetensors file as it was when the checkpoint was opened."""

    path: Path
    size_bytes: int
    modified_ns: int
    inode: int


class Checkpoint:
    """An opened model folder. Keeps file descriptors, not bytes; close it (or use it as a context manager).

    Raises:
        NotFoundError: the folder does not exist.
        UsageError: it holds no safetensors (only pickles, say), an ambiguous set of them, or pipes and devices in their place.
        UnreadableError: a header, an offset or the index is not what the format allows.
        ResourceError: more files than this process may open.
    """

    def __init__(self, path: str | os.PathLike[str], single_file: str = SINGLE_FILE) -> None:
        self.path = Path(path)
        self._descriptors: list[int] = []
        self._close_lock = threading.Lock()
        names, self._index_map = _files_of(self.path, single_file)
        self.files: list[StoredFile] = []
        self.tensors: dict[str, Tensor] = {}
        self.format_metadata: dict[str, str] = {}
        try:
            for name in names:
                self._open(name)
            self._check_index()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the descriptors; safe to call twice."""
        with self._close_lock:
            descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors, headers not counted."""
        return sum(tensor.size_bytes for tensor in self.tensors.values())

    def read_into(self, tensor: Tensor, start: int, buffer: memoryview) -> None:
        """Fills ``buffer`` with the tensor's bytes from ``start`` on. Safe to call from many threads."""
        descriptor, offset, done = self._descriptors[tensor.file], tensor.offset + start, 0
        while done < len(buffer):
            count = os.preadv(descriptor, [buffer[done:]], offset + done)
            if count == 0:
                raise UnreadableError(
                    f"{self.files[tensor.file].path} ended inside tensor {tensor.name!r}: "
                    "the file became shorter while it was read; write the model again and rerun"
                )
            done += count

    def advise(self, tensor: Tensor, start: int, size_bytes: int) -> None:
        """Tells the kernel that these bytes are wanted soon."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptors[tensor.file], tensor.offset + start, size_bytes, os.POSIX_FADV_WILLNEED)

    def identity(self) -> list[list[Any]]:
        """What changes when a file is written again: place, size, modification time and inode of each."""
        return [[str(f.path.resolve()), f.size_bytes, f.modified_ns, f.inode] for f in self.files]

    def check_unchanged(self) -> None:
        """Raises UnreadableError if a file was written to since it was opened."""
        for descriptor, file in zip(self._descriptors, self.files, strict=True):
            now = os.fstat(descriptor)
            if (now.st_size, now.st_mtime_ns) != (file.size_bytes, file.modified_ns):
                raise UnreadableError(f"{file.path} was written to while it was read; rerun when the writer is done")

    def _open(self, name: str) -> None:
        path = self.path / name
        try:
            descriptor = open_descriptor(path)
        except FileNotFoundError as error:
            raise UnreadableError(
                f"{self.path / INDEX_FILE} names {name}, which is not there: copy it again"
            ) from error
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise ResourceError(
                    f"cannot open {path}: {error.strerror}. All files of all models stay open while they are blended; raise "
                    "the limit with ulimit -n"
                ) from error
            raise UnreadableError(f"cannot open {path}: {error.strerror}") from error
        self._descriptors.append(descriptor)
        facts = os.fstat(descriptor)
        tensors, metadata = read_header(path, descriptor, facts.st_size, len(self.files))
        self.files.append(StoredFile(path, facts.st_size, facts.st_mtime_ns, facts.st_ino))
        for tensor in tensors:
            other = self.tensors.get(tensor.name)
            if other is not None:
                first = self.files[other.file].path.name
                raise UnreadableError(f"tensor {tensor.name!r} is in both {first} and {name} of {self.path}")
            self.tensors[tensor.name] = tensor
        self.format_metadata.update(metadata)

    def _check_index(self) -> None:
        if self._index_map is None:
            return
        place = self.path / INDEX_FILE
        for name, file_name in self._index_map.items():
            tensor = self.tensors.get(name)
            if tensor is None or self.files[tensor.file].path.name != file_name:
                raise UnreadableError(f"{place} says that {name!r} is in {file_name}, and it is not")
        extra = sorted(self.tensors.keys() - self._index_map.keys())
        if extra:
            raise UnreadableError(f"{place} does not list {len(extra)} stored tensor(s), the first is {extra[0]!r}")


def _files_of(folder: Path, single_file: str) -> tuple[list[str], dict[str, str] | None]:
    """The safetensors files of a folder, and the index's tensor -> file map where it has one."""
    if not folder.exists():
        raise NotFoundError(f"{folder} does not exist: a model is a folder with {single_file} or {INDEX_FILE} in it")
    if not folder.is_dir():
        raise UsageError(f"{folder} is {kind_of(folder.stat().st_mode)}: give the folder that holds the model")
    has_index = single_file == SINGLE_FILE and (folder / INDEX_FILE).exists()
    wanted = f"neither {SINGLE_FILE} nor {INDEX_FILE}" if single_file == SINGLE_FILE else f"no {single_file}"
    if (folder / single_file).exists():
        if has_index:
            raise UsageError(f"{folder} holds both {single_file} and {INDEX_FILE}: remove the one that is stale")
        return [single_file], None
    if has_index:
        weight_map = _read_index(folder / INDEX_FILE)
        return sorted(set(weight_map.values())), weight_map
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLED)
    if pickled:
        raise UsageError(
            f"{folder} holds pickled weights ({pickled[0]}) and no safetensors. A pickle can run code when it is read, so "
            "vlmsel does not. Convert once, where you trust the file: load it with transformers' from_pretrained and "
            "call save_pretrained(NEW_FOLDER)"
        )
    stray = sorted(p.name for p in folder.glob("*.safetensors"))
    hint = f"; it does hold {stray[0]}, which " if stray else ""
    if stray:
        hint += "no index names" if single_file == SINGLE_FILE else "is no adapter: take its config out of the folder"
    raise UsageError(f"{folder} holds {wanted}{hint}")


def _read_index(path: Path) -> dict[str, str]:
    document = parse_json(read_plain(path, MAX_INDEX_BYTES), path)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UnreadableError(f"{path} has no weight_map")
    for name, file_name in weight_map.items():
        if (
            not isinstance(file_name, str)
            or not file_name.endswith(".safetensors")
            or Path(file_name).name != file_name
        ):
            raise UnreadableError(f"{path} places {name!r} in {file_name!r}: not a safetensors file of this folder")
    return weight_map
