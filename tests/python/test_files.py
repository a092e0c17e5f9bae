"""Files that somebody names: plain ones are opened, everything else is named and never waited for; where a path leads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vlmsel import files
from vlmsel._sheet.text_layout import Lettering
from vlmsel.errors import MismatchError, NotFoundError, UsageError
from vlmsel.outputs import read_manifest
from vlmsel.pictures import BadPicture, read_picture

Special = Callable[[Path, str], Path]
# A hang is what these tests are about.
pytestmark = pytest.mark.timeout(60)

KINDS = {
    "pipe": "a named pipe",
    "link to a pipe": "a named pipe",
    "socket": "a socket",
    "device": "a device",
    "folder": "a folder",
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_is_named(kind: str, tmp_path: Path, special: Special) -> None:
    place = special(tmp_path / "a.json", kind)
    for open_it in (files.open_plain, files.read_plain, files.check_plain, files.open_descriptor):
        with pytest.raises(files.NotPlainError) as error:
            open_it(place)
        assert str(error.value) == f"{place} is {KINDS[kind]}, not a plain file"


def test_plain_files_and_links_to_them_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        with files.open_plain(tmp_path / name) as file:
            assert file.read() == b"0123456789"
            assert not os.get_inheritable(file.fileno())
        assert files.read_plain(tmp_path / name, 10) == b"0123456789"
        with pytest.raises(UsageError, match="more than 9 bytes"):
            files.read_plain(tmp_path / name, 9)


def test_paths_that_cannot_be_are_usage_errors(tmp_path: Path, special: Special) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(NotFoundError, match="no such file"):
        files.read_plain(tmp_path / "nothing")
    with pytest.raises(NotFoundError, match="a link to what is not there"):
        files.read_plain(special(tmp_path / "dangling", "link to nothing"))
    for name, words in (("file/x", "Not a directory"), ("circle", "symbolic links"), ("x" * 300, "name too long")):
        with pytest.raises(UsageError, match=words):
            files.read_plain(tmp_path / name)


def test_a_pipe_that_somebody_writes_to_is_not_touched(tmp_path: Path) -> None:
    """Opening it, even without waiting, would wake the writer, who then dies of a pipe without a reader."""
    os.mkfifo(tmp_path / "pipe")
    code = "import sys; file = open(sys.argv[1], 'wb', 0); file.write(b'x'); print('woken')"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "pipe")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as writer:
        for _ in range(50):
            with pytest.raises(files.NotPlainError):
                files.open_plain(tmp_path / "pipe")
        with open(tmp_path / "pipe", "rb", 0) as reader:
            assert reader.read(1) == b"x"
        out, error = writer.communicate(timeout=30)
    assert (out, error) == (b"woken\n", b"")
    assert writer.returncode not in (-signal.SIGPIPE, 1)


# --- files that are written ------------------------------------------------------------------------------------------


def test_a_temporary_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    for name, link in (("link", Path.symlink_to), ("hard-link", Path.hardlink_to)):
        link(tmp_path / name, tmp_path / "precious")
        files.write_plain(tmp_path / name, b"new")
        assert (tmp_path / name).read_bytes() == b"new"
        assert not (tmp_path / name).is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder"])
def test_what_is_no_file_is_not_replaced(kind: str, tmp_path: Path, special: Special) -> None:
    place = special(tmp_path / "a", kind)
    before = place.lstat()
    with pytest.raises(files.NotPlainError):
        files.write_plain(place, b"new")
    assert place.lstat().st_ino == before.st_ino


# --- where a path leads ----------------------------------------------------------------------------------------------


def test_places_that_do_not_exist_are_cleaned_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path.resolve()
    (tmp_path / "deep" / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to("deep/folder")
    (tmp_path / "dangling").symlink_to("new/place")
    monkeypatch.chdir(tmp_path)
    places = {
        "new/../sel": "sel",
        "new/a/b/../../../deep/x": "deep/x",
        "deep/../sel": "sel",
        # What exists is resolved first, as the system does it.
        "link/../sel": "deep/sel",
        "link/new/../../x": "deep/x",
        "dangling/x": "new/place/x",
        "dangling/../x": "new/x",
        "./deep//folder/.": "deep/folder",
        "": ".",
    }
    for path, place in places.items():
        assert files.real_place(path) == real / place, path
        assert files.real_place(tmp_path / path) == real / place, path
    assert files.real_place("/../..") == Path("/")


@given(st.lists(st.sampled_from(["a", "link", "..", ".", "b"]), max_size=7))
def test_law_places_that_exist_are_those_of_the_system(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    root = tmp_path_factory.mktemp("place")
    (root / "a" / "a" / "b").mkdir(parents=True)
    (root / "a" / "link").symlink_to("a/b")
    (root / "link").symlink_to("a/a")
    path = os.path.join(root, *names)
    if os.path.exists(path):
        assert str(files.real_place(path)) == os.path.realpath(path)
    else:
        assert ".." not in files.real_place(path).parts


def test_places_that_cannot_be_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    for path in ("file/x", "circle/x", f"{'x' * 300}/y"):
        with pytest.raises(UsageError):
            files.real_place(tmp_path / path)


# --- who uses it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_that_is_no_file_is_named(kind: str, tmp_path: Path, special: Special) -> None:
    place = special(tmp_path / "manifest.json", kind)
    with pytest.raises(UsageError) as error:
        read_manifest(tmp_path)
    assert str(error.value) == f"{place} is {KINDS[kind]}, not a plain file"


@pytest.mark.parametrize("content", [b"[]", b"7", b"\xff", b"{", b"[" * 100_000])
def test_a_manifest_of_somebody_else_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(MismatchError, match="not a manifest that vlmsel wrote"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "folder"])
def test_a_folder_that_is_none_is_named(kind: str, tmp_path: Path, special: Special) -> None:
    with pytest.raises(UsageError, match=f"is {KINDS[kind]}, not a folder"):
        read_manifest(special(tmp_path / "scores", kind))
    with pytest.raises(NotFoundError, match="no such folder"):
        read_manifest(tmp_path / "nothing")
    with pytest.raises(UsageError, match="name too long"):
        read_manifest(tmp_path / ("x" * 300))


@pytest.mark.parametrize("kind", KINDS)
def test_a_font_that_is_no_file_is_named(kind: str, tmp_path: Path, special: Special) -> None:
    place = special(tmp_path / "font.ttf", kind)
    with pytest.raises(UsageError, match=KINDS[kind]):
        Lettering(11, str(place))


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_is_no_file_is_a_bad_one(kind: str, tmp_path: Path, special: Special) -> None:
    special(tmp_path / "a.jpg", kind)
    image = {"file": "a.jpg", "offset": 0, "size": 10}
    found = read_picture({"path": str(tmp_path), "image_root": str(tmp_path)}, "x.jsonl", image, 64)
    assert found == BadPicture(f"is {KINDS[kind]}")
