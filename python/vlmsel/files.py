"""Opening files that somebody names: plain files alone, and without waiting.

``open`` waits for ever on a named pipe that nobody writes to, and reads a device such as ``/dev/zero`` without an end. Here
both are refused by name. What is written goes to files that are made anew, never through a link that lies in their place.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import IO

from vlmsel.errors import NotFoundError, UsageError
from vlmsel.types import PathLike

MAX_CONFIG_BYTES = 256 << 20
"""More than any configuration, tokenizer or list of weights has."""

# A terminal that is opened must not become the one whose Ctrl-C ends this process.
_READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
    stat.S_IFREG: "a plain file",
}

# The path itself cannot be: no folder on the way, links in a circle, a name that no file system takes.
IMPOSSIBLE_PATH_ERRNOS = frozenset({errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


class NotPlainError(UsageError):
    """A folder, pipe, socket or device where a plain file has to be."""

    def __init__(self, path: PathLike, kind: str) -> None:
        super().__init__(f"{os.fspath(path)} is {kind}, not a plain file")
        self.kind = kind
        """What it is, in words: ``a named pipe``."""


def kind_of(mode: int) -> str:
    """What a file of this ``st_mode`` is, in words."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def check_plain(path: PathLike) -> os.stat_result:
    """Raises NotPlainError unless ``path`` (or what it links to) is a plain file, and OSError as ``stat`` does.

    For files that a library opens by itself; :func:`open_plain` leaves no time between the check and the opening.
    """
    facts = os.stat(path)
    if not stat.S_ISREG(facts.st_mode):
        raise NotPlainError(path, kind_of(facts.st_mode))
    return facts


def open_descriptor(path: PathLike) -> int:
    """A descriptor of a plain file, for reading; never waits. Raises NotPlainError, and OSError as ``open`` does."""
    # Asked first, because opening alone can do something: it wakes who waits to write into a pipe, and starts some devices.
    check_plain(path)
    descriptor = os.open(path, _READING)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise NotPlainError(path, kind_of(mode))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_plain(path: PathLike) -> IO[bytes]:
    """A plain file, for reading its bytes. Raises NotPlainError, and OSError as ``open`` does."""
    return os.fdopen(open_descriptor(path), "rb")


def read_plain(path: PathLike, max_bytes: int = MAX_CONFIG_BYTES) -> bytes:
    """The bytes of a plain file that the user named or that lies in a folder the user named.

    Raises NotFoundError, and UsageError for what is no plain file, cannot be reached or has more than ``max_bytes``.
    """
    try:
        with open_plain(path) as file:
            # As much as there is and a byte more: asked for the limit, Python would set that much memory aside.
            data = file.read(min(os.fstat(file.fileno()).st_size, max_bytes) + 1)
    except OSError as error:
        raise explain(error, path) from error
    if len(data) > max_bytes:
        raise UsageError(f"{os.fspath(path)} has more than {max_bytes:,} bytes, which is too much for such a file")
    return data


def check_folder(path: PathLike) -> None:
    """Raises NotFoundError unless ``path`` is there, and UsageError unless it is a folder."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise explain(error, path, "no such folder") from error
    if not stat.S_ISDIR(mode):
        raise UsageError(f"{os.fspath(path)} is {kind_of(mode)}, not a folder")


def explain(error: OSError, path: PathLike, missing: str = "no such file") -> Exception:
    """The error of the family for a path that the user named and that cannot be opened; others are returned as they are.

    ``missing`` is what to say of a path that does not exist.
    """
    name = os.fspath(path)
    if isinstance(error, FileNotFoundError):
        what = "a link to what is not there" if os.path.islink(path) else missing
        return NotFoundError(f"{name}: {what}")
    if isinstance(error, PermissionError) or error.errno in IMPOSSIBLE_PATH_ERRNOS:
        return UsageError(f"{shortened(name)}: {error.strerror}")
    return error


def shortened(path: PathLike) -> str:
    """A path as a message can show it: the middle of a very long one is left out."""
    name = os.fspath(path)
    return name if len(name) <= 300 else f"{name[:200]}...{name[-40:]} ({len(name)} characters)"


def create_plain(path: PathLike) -> int:
    """A descriptor of a new, empty file for writing, in place of a file or a link that had that name; follows no link.

    For temporary files whose names can be foreseen: a link planted there must not lead the bytes elsewhere. Raises
    NotPlainError for a folder, a pipe or a device, which are left alone, and OSError as ``open`` does.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileExistsError:
        mode = os.lstat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            raise NotPlainError(path, kind_of(mode)) from None
        os.unlink(path)
        return os.open(path, flags, 0o666)


def write_plain(path: PathLike, data: bytes) -> None:
    """Writes a file by :func:`create_plain`."""
    with os.fdopen(create_plain(path), "wb") as file:
        file.write(data)


def real_place(path: PathLike) -> Path:
    """Where ``path`` leads: links are followed as far as it exists, and beyond that ``..`` takes back one name.

    ``new/../sel`` is ``sel`` where ``new`` does not exist, so that nothing has to be made to know what is meant: the rule of
    every output. Raises UsageError for links in a circle, a file in a folder's place, and names too long for the file system.
    """
    from vlmsel import _core  # Here, because `vlmsel --help` needs this module and not that one.

    place = Path(os.fsdecode(_core.real_place(os.fspath(path))))
    try:
        os.lstat(place)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise explain(error, path) from error
    return place


def path_below(root: PathLike, text: str) -> Path:
    """The file that a manifest or an index writes as ``text`` below ``root``; there, bytes that are no UTF-8 are ``\\xHH``."""
    from vlmsel import _core

    return Path(os.fsdecode(_core.path_below(os.fspath(root), text)))
