"""Images in rows of a table score as the same images in a tar do, and a picture that is not read is never scored as text."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import vlmsel
from small_index import draw_png

CAPTIONS = [f"a bird number {n}" for n in range(11)]


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def scores_of(folder: Path, data: Path, model: Path) -> list[tuple[str, float | None]]:
    vlmsel.index(data, output=folder / "index", max_bad_fraction=1.0)
    vlmsel.score(
        model, index=folder / "index", output=folder / "scores", dtype="float32", threads=1, max_bad_fraction=1.0
    )
    table = pa.concat_tables(pq.read_table(part) for part in sorted((folder / "scores").glob("*.parquet")))
    return list(zip(table["status"].to_pylist(), table["ppl"].to_pylist(), strict=True))


def test_a_table_scores_as_a_tar_does(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    model = family_folder("llava_qwen2")
    pictures = [draw_png(n) for n in range(11)]
    members = [m for n in range(11) for m in ((f"{n:02}.png", pictures[n]), (f"{n:02}.txt", CAPTIONS[n].encode()))]
    write_tar(tmp_path / "tar/0.tar", members)
    cells = [{"bytes": data, "path": None} for data in pictures]
    (tmp_path / "table").mkdir()
    pq.write_table(pa.table({"image": cells, "caption": CAPTIONS}), tmp_path / "table/0.parquet", row_group_size=4)
    by_tar = scores_of(tmp_path / "a", tmp_path / "tar", model)
    assert {status for status, _ in by_tar} == {"ok"}
    assert scores_of(tmp_path / "b", tmp_path / "table", model) == by_tar


def test_a_picture_that_is_not_read_has_no_score(tmp_path: Path, family_folder: Callable[[str], Path]) -> None:
    members = [
        ("a.png", draw_png(1)),
        ("a.txt", b"a bird"),
        ("b.tif", b"II*\0".ljust(900, b"\1")),
        ("b.txt", b"a fish"),
    ]
    write_tar(tmp_path / "tar/0.tar", members)
    found = scores_of(tmp_path, tmp_path / "tar", family_folder("llava_qwen2"))
    assert [status for status, _ in found] == ["ok", "unsupported"]
    assert found[1][1] is None
