"""An output file that many threads write into while another thread pushes it to the disk.

Without the push the kernel keeps gigabytes of dirty pages and the fsync that ends every output file waits for all of
them at once, after the last byte was computed.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from vlmsel.errors import ResourceError
from vlmsel.files import create_plain

#: Bytes written between two pushes.
_PUSH_BYTES = 64 << 20


class WriteBehind:
    """A file of known size. Writes may come in any order and from any thread.

    Raises ResourceError (naming path and size) when the disk is full or does not take the bytes.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self._size_bytes = size_bytes
        self._failure: OSError | None = None
        try:
            self._descriptor = create_plain(path)
            os.ftruncate(self._descriptor, size_bytes)
        except OSError as error:
            raise self._explain(error) from error
        self._pending_bytes = 0
        self._closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._push, name="soup-write-behind", daemon=True)
        self._thread.start()

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        os.close(self._descriptor)
        if self._failure is not None and kind is None:
            raise self._explain(self._failure) from self._failure

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Writes all of ``data`` at ``offset``."""
        view = memoryview(data)
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._descriptor, view[done:], offset + done)
        except OSError as error:
            raise self._explain(error) from error
        with self._wake:
            self._pending_bytes += done
            if self._pending_bytes >= _PUSH_BYTES:
                self._wake.notify()
        if self._failure is not None:
            raise self._explain(self._failure)

    def _push(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._pending_bytes >= _PUSH_BYTES, timeout=1.0)
                if self._closing:
                    return
                if self._pending_bytes < _PUSH_BYTES:
                    continue
                self._pending_bytes = 0
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                self._failure = error
                return

    def _explain(self, error: OSError) -> ResourceError:
        hint = {
            errno.ENOSPC: "the disk is full; free space and run again, what is finished is kept",
            errno.EDQUOT: "the quota is used up; free space and run again, what is finished is kept",
            errno.EROFS: "the file system is read-only; choose another output with -o",
            errno.EACCES: "no permission to write there; choose another output with -o",
            errno.EMFILE: "too many open files; raise the limit with ulimit -n",
        }.get(error.errno or 0, error.strerror or "the write failed")
        return ResourceError(f"cannot write {self.path} ({self._size_bytes} bytes): {hint}")
