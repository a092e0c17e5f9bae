"""Our tar reader and Python's `tarfile` on the same hostile bytes.

Where `tarfile` raises, ours reports; where it reads to the end, ours gives the same members, or says why it stopped. It
never stops without a word, which `tarfile` does at a bad header that is not the first.
"""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest
from vlmsel.indexing import TarMember, tar_members


def archive(form: int) -> bytearray:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8") as tar:
        names = ["a.jpg", "a.txt", "d/" * 30 + "b.jpg", "x" * 180 + ".txt", "漢字é.json", "e.txt", "f.jpg"]
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = [0, 1, 511, 512, 513, 1500, 7][number]
            if form == tarfile.PAX_FORMAT and number == 4:
                info.pax_headers = {"comment": "x" * 300}
            if form == tarfile.USTAR_FORMAT and number in {2, 3, 4}:
                info.name = f"s{number}.txt"
            tar.addfile(info, io.BytesIO(b"z" * info.size))
        for kind, name in [(tarfile.SYMTYPE, "l"), (tarfile.DIRTYPE, "dir/"), (tarfile.FIFOTYPE, "p.txt")]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            tar.addfile(info)
    return bytearray(out.getvalue())


def mutate(data: bytearray, rng: random.Random) -> bytes:
    """Flips, swaps, cuts; half of the flips in headers get a correct checksum again, so that they are believed."""
    for _ in range(rng.randint(1, 3)):
        block = rng.randrange(len(data) // 512) * 512
        kind = rng.randrange(6)
        if kind == 0:
            data[block + rng.randrange(512)] = rng.randrange(256)
        elif kind in {1, 2}:
            field = rng.choice([range(100), range(124, 136), range(156, 157), range(257, 265), range(345, 500)])
            data[block + rng.choice(field)] = rng.choice([0, 32, 48, 49, 55, 57, 65, 128, 255, rng.randrange(256)])
            total = sum(data[block : block + 512]) - sum(data[block + 148 : block + 156]) + 256
            data[block + 148 : block + 156] = b"%06o\0 " % total
        elif kind == 3:
            data[block : block + 512] = bytes(512)
        elif kind == 4:
            other = rng.randrange(len(data) // 512) * 512
            data[block : block + 512] = data[other : other + 512]
        else:
            del data[rng.randrange(512, len(data)) :]
            break
    return bytes(data)


def by_tarfile(data: bytes) -> list[tarfile.TarInfo] | None:
    """Its members, or None where it raises."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            return tar.getmembers()
    except (tarfile.TarError, ValueError, OverflowError, EOFError, IndexError, MemoryError):
        return None


def same(theirs: tarfile.TarInfo, ours: TarMember) -> bool:
    if ours.kind not in {"file", "folder"}:
        # A class of its own: what it is called and how long it claims to be is nobody's concern.
        return theirs.offset == ours.header_offset
    return (theirs.name, theirs.offset_data, theirs.size if theirs.isreg() else 0, theirs.isreg()) == (
        ours.name, ours.offset, ours.size_bytes, ours.kind == "file",
    )  # fmt: skip


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_agreement_on_a_mutation_corpus(tmp_path: Path, form: int) -> None:
    path = tmp_path / "x.tar"
    rng = random.Random(form)
    ends: dict[str, int] = {}
    for number in range(1500):
        data = bytes(archive(form)) if number == 0 else mutate(archive(form), rng)
        path.write_bytes(data)
        ours, ended, _ = tar_members(path)
        theirs = by_tarfile(data)
        ends[ended] = ends.get(ended, 0) + 1
        if theirs is None:
            assert ended != "end", f"mutation {number}: tarfile raises, ours says nothing"
            continue
        for a, b in zip(theirs, ours, strict=False):
            assert same(a, b), f"mutation {number}: {a.name!r} {a.offset_data} {a.size} against {b}"
        if ended in {"end", "trailing_garbage"}:
            assert len(ours) == len(theirs), f"mutation {number}"
        else:
            assert len(ours) <= len(theirs), f"mutation {number}"
    # The corpus reaches what it is for.
    assert ends["end"] > 100 and ends["bad_checksum"] > 100 and ends["truncated"] > 100, ends


def test_claims_of_terabytes_cost_nothing(tmp_path: Path) -> None:
    info = tarfile.TarInfo("huge.jpg")
    info.size = 1 << 44
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    assert tar_members(tmp_path / "x.tar")[1:] == ("truncated", 0)
    sparse = tarfile.TarInfo("sparse.jpg")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 44)}
    (tmp_path / "x.tar").write_bytes(sparse.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    members, ended, _ = tar_members(tmp_path / "x.tar")
    assert ([member.kind for member in members], ended) == (["sparse_member"], "end")
