"""Parquet with images in its rows, as Hugging Face's `datasets` writes it: indexed, examined, shown and sharded by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
import xxhash
from pair_corpus import picture, run
from vlmsel.errors import UnreadableError

PICTURES = [picture(n, kind="PNG") for n in range(9)]
CAPTIONS = [f"caption {n}" for n in range(9)]


def rows(index: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(index.glob("*.parquet")) for row in pq.read_table(part).to_pylist()]


def cells(form: str) -> list[Any]:
    """One image in each row, in the forms that tables have."""
    if form == "binary":
        return list(PICTURES)
    if form == "path-bytes":
        return [{"path": f"{n}.png", "bytes": data} for n, data in enumerate(PICTURES)]
    one = [{"bytes": data, "path": None} for data in PICTURES]
    return [[cell] for cell in one] if form == "list" else one


@pytest.mark.parametrize("form", ["binary", "bytes-path", "path-bytes", "list"])
def test_a_column_of_images(tmp_path: Path, form: str) -> None:
    table = pa.table({"image": cells(form), "caption": CAPTIONS, "n": range(9)})
    pq.write_table(table, tmp_path / "0.parquet", row_group_size=4)
    done = vlmsel.index(tmp_path / "0.parquet", output=tmp_path / "index")
    assert done.classes == {tmp_path.name: {"pair": 9}}
    for n, row in enumerate(rows(tmp_path / "index")):
        image = row["images"][0]
        assert (image["row"], image["item"], image["file"]) == (n, 0 if form == "list" else None, None)
        assert (image["width"], image["height"], image["size"]) == (48, 36, len(PICTURES[n]))
        assert image["hash"] == xxhash.xxh3_128_digest(PICTURES[n])
        assert (row["key"], row["text"], json.loads(row["metadata"])["n"]) == (str(n), CAPTIONS[n], n)
    assert vlmsel.doctor(tmp_path / "0.parquet").healthy


def test_what_the_library_itself_writes(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    made = datasets.Dataset.from_dict({"image": cells("bytes-path"), "text": CAPTIONS}, features=features)
    (tmp_path / "data").mkdir()
    made.to_parquet(tmp_path / "data/train-00000-of-00001.parquet")
    done = vlmsel.index(tmp_path / "data", output=tmp_path / "index")
    assert done.classes == {"data": {"pair": 9}}
    assert [row["text"] for row in rows(tmp_path / "index")] == CAPTIONS


def conversation(form: str) -> Any:
    turns = [("human", "<image>What?"), ("gpt", "A dot.")]
    roles = {"human": "user", "gpt": "assistant"}
    if form == "conversations":
        return [{"from": who, "value": said} for who, said in turns]
    if form == "messages":
        return [{"role": roles[who], "content": said} for who, said in turns]
    if form == "sequence":
        return {"from": [who for who, _ in turns], "value": [said for _, said in turns]}
    return [{"user": "<image>What?", "assistant": "A dot."}]


@pytest.mark.parametrize("form", ["conversations", "messages", "sequence", "texts"])
def test_columns_of_turns(tmp_path: Path, form: str) -> None:
    name = "conversations" if form == "sequence" else form
    table = pa.table({"images": cells("list"), name: [conversation(form)] * 9, "source": ["s"] * 9})
    pq.write_table(table, tmp_path / "0.parquet")
    done = vlmsel.index(tmp_path / "0.parquet", output=tmp_path / "index")
    assert done.classes == {tmp_path.name: {"conversation": 9}}
    assert done.notes == {}
    row = rows(tmp_path / "index")[0]
    said = [turn.get("value", turn.get("content")) for turn in json.loads(row["conversations"])]
    assert (row["n_turns"], said) == (2, ["<image>What?", "A dot."])


def test_several_images_in_a_row_keep_their_order_and_number(tmp_path: Path) -> None:
    lists = [[{"bytes": PICTURES[m], "path": None} for m in range(n)] for n in range(4)]
    pq.write_table(pa.table({"images": lists, "caption": CAPTIONS[:4]}), tmp_path / "0.parquet")
    done = vlmsel.index(tmp_path / "0.parquet", output=tmp_path / "index")
    assert done.classes == {tmp_path.name: {"multi-image": 2, "pair": 1, "text-only": 1}}
    found = rows(tmp_path / "index")
    assert [[image["item"] for image in row["images"]] for row in found] == [[], [0], [0, 1], [0, 1, 2]]
    assert found[3]["images"][2]["hash"] == xxhash.xxh3_128_digest(PICTURES[2])


def test_a_caption_column_of_ones_own(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": PICTURES, "recaption": CAPTIONS, "text": ["x"] * 9}), tmp_path / "0.parquet")
    vlmsel.index(tmp_path / "0.parquet", output=tmp_path / "index", caption_column="recaption")
    assert [row["text"] for row in rows(tmp_path / "index")] == CAPTIONS
    refused = run("index", tmp_path / "0.parquet", "-o", tmp_path / "other", "--caption-column", "captoin")
    assert refused.returncode == 3
    assert "recaption" in refused.stderr


def test_ids_that_rows_declare(tmp_path: Path) -> None:
    uids = [f"{n:032x}" for n in range(9)]
    pq.write_table(
        pa.table({"image": PICTURES, "caption": CAPTIONS, "uid": uids, "id": range(9)}), tmp_path / "0.parquet"
    )
    vlmsel.index(tmp_path / "0.parquet", output=tmp_path / "index")
    assert [row["uid"].hex() for row in rows(tmp_path / "index")] == uids


def test_bad_rows_are_put_aside_by_name(tmp_path: Path) -> None:
    images = [
        None,
        {"bytes": None, "path": "far.png"},
        {"bytes": b"no picture", "path": None},
        {"bytes": PICTURES[0], "path": None},
    ]
    table = pa.table({"image": images, "caption": [None, "a", "b", "c"]})
    pq.write_table(table, tmp_path / "0.parquet")
    done = vlmsel.index(tmp_path / "0.parquet", output=tmp_path / "index", max_bad_fraction=1.0)
    assert done.reasons == {"no_content": 1, "no_image_bytes": 1, "unknown_image_format": 1}
    assert done.classes == {tmp_path.name: {"pair": 1}}


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"url": ["u"], "caption": ["x"]}, "list of URLs"),
        ({"key": ["0"], "status": ["success"], "caption": ["x"]}, "not beside it"),
    ],
)
def test_tables_without_images_are_called_by_their_name(tmp_path: Path, columns: dict[str, Any], word: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "0.parquet")
    with pytest.raises(UnreadableError, match=word):
        vlmsel.index(tmp_path / "0.parquet", output=tmp_path / "index")


def test_shards_and_sheets_of_rows(tmp_path: Path) -> None:
    lists = [[{"bytes": PICTURES[n], "path": None}] for n in range(8)] + [
        [{"bytes": PICTURES[n], "path": None} for n in (0, 8)]
    ]
    # Longer than what shard writes at once, so that it is taken in parts.
    lists[7] = [{"bytes": picture(7, 900, 900, kind="BMP"), "path": None}]
    pq.write_table(pa.table({"images": lists, "caption": CAPTIONS, "score": [float(n) for n in range(9)]}),
                   tmp_path / "0.parquet", row_group_size=4)  # fmt: skip
    vlmsel.index(tmp_path / "0.parquet", output=tmp_path / "index")
    found = rows(tmp_path / "index")
    scores = pa.table({"uid": [row["uid"] for row in found], "ppl": [float(n) for n in range(9)]})
    pq.write_table(scores.cast(pa.schema([("uid", pa.binary(16)), ("ppl", pa.float64())])), tmp_path / "scores.parquet")
    vlmsel.select(tmp_path / "scores.parquet", k=9, output=tmp_path / "selection")
    vlmsel.shard(tmp_path / "selection", index=tmp_path / "index", output=tmp_path / "shards", samples_per_shard=4)
    assert vlmsel.verify(tmp_path / "shards").problems == []
    vlmsel.index(tmp_path / "shards", output=tmp_path / "again", strict=True)
    again = {row["key"]: row for row in rows(tmp_path / "again")}
    for row in found:
        other = again[row["uid"].hex()]
        assert [image["hash"] for image in other["images"]] == [image["hash"] for image in row["images"]]
        assert (other["text"], other["class"]) == (row["text"], row["class"])
    sheet = vlmsel.sheet(tmp_path / "selection", output=tmp_path / "sheet.png", index=tmp_path / "index")
    assert sheet.bad_pictures == {}
