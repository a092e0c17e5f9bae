"""Makes the kept seeds anew, one folder of them for each fuzz target: small files of every form that the readers know.

python seeds.py FOLDER

`make fuzz` begins with what is under seeds/, and so does tests/kept_seeds.rs.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import sys
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import vlmsel
import zstandard
from PIL import Image

RANDOM = random.Random(7)


def picture(kind: str, **options: object) -> bytes:
    """A small image of one kind."""
    out = io.BytesIO()
    image = Image.frombytes("RGB", (12, 9), RANDOM.randbytes(12 * 9 * 3))
    image.convert("P" if kind == "GIF" else "RGB").save(out, kind, **options)
    return out.getvalue()


def archive(form: int) -> bytes:
    """A tar with images, texts, a long name and members that are no files."""
    members = [
        ("a.jpg", picture("JPEG")),
        ("a.txt", b"a caption"),
        ("a.json", b'{"uid": "000102030405060708090a0b0c0d0e0f", "x": NaN}'),
        ("b.jpg", picture("JPEG", progressive=True, quality=30)),
        ("c.png", picture("PNG")),
        ("d.gif", picture("GIF")),
        ("e.webp", picture("WEBP")),
        ("f" * 90 + "/" + "g" * 60 + ".txt", b"a long name"),
    ]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if form == tarfile.PAX_FORMAT:
                info.pax_headers = {"comment": "x" * 40}
            tar.addfile(info, io.BytesIO(data))
        for kind, name in ((tarfile.SYMTYPE, "l.jpg"), (tarfile.DIRTYPE, "d"), (tarfile.CHRTYPE, "t.txt")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            tar.addfile(info)
    return out.getvalue().rstrip(b"\0") + bytes(1024)


def tars() -> dict[str, bytes]:
    """Every format that Python writes, a second archive behind the first, a cut."""
    forms = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
    made = {f"{name}.tar": archive(form) for name, form in forms.items()}
    return made | {"twice.tar": made["gnu.tar"][:2048] + made["ustar.tar"][:3072], "cut.tar": made["pax.tar"][:3000]}


def sidecar(rows: int) -> pa.Table:
    """What img2dataset leaves beside a tar, with a column of each type that it may have."""
    numbers = range(rows)
    return pa.table(
        {
            "url": [f"http://example.org/{n}.jpg" for n in numbers],
            "caption": [None if n % 7 == 0 else f"caption {n % 5}" for n in numbers],
            "key": [f"{n:09d}" for n in numbers],
            "status": ["success" if n % 3 else "failed_to_download" for n in numbers],
            "width": pa.array([n if n % 3 else None for n in numbers], pa.int32()),
            "similarity": pa.array([n / 7 for n in numbers], pa.float64()),
            "safe": [n % 2 == 0 for n in numbers],
            "exif": ['{"Image Make": "x"}' for _ in numbers],
            "labels": [["a", f"b{n}"][: n % 3] for n in numbers],
            "face_bboxes": [[[0.5, n / 10]] if n % 4 else None for n in numbers],
            "uid": [f"{n:032x}" for n in numbers],
        }
    )


def scores(rows: int) -> pa.Table:
    """What `vlmsel score` writes."""
    return pa.table(
        {
            "uid": pa.array([RANDOM.randbytes(16) for _ in range(rows)], pa.binary(16)),
            "source": pa.array(["laion"] * rows).dictionary_encode(),
            "ppl": pa.array([None if n % 11 == 0 else 1 + n % 13 / 4 for n in range(rows)], pa.float32()),
            "n_tokens": pa.array([n % 40 for n in range(rows)], pa.uint32()),
            "truncated": [n % 5 == 0 for n in range(rows)],
            "status": ["too_long" if n % 11 == 0 else "ok" for n in range(rows)],
        }
    )


def odd() -> pa.Table:
    """Types that are rare: decimals, dates, structs, maps, lists of lists, large strings."""
    return pa.table(
        {
            "decimal": pa.array([1, None, 3], pa.decimal128(20, 2)),
            "when": pa.array([0, 1, None], pa.timestamp("ms")),
            "place": pa.array([{"x": 1, "name": "a"}, None, {"x": None, "name": "b"}]),
            "pairs": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int8())),
            "lists": pa.array([[[1], []], None, [[2, None]]], pa.list_(pa.list_(pa.int16()))),
            "large": pa.array(["a", None, "b"], pa.large_string()),
            "half": pa.array([1.5, None, 0], pa.float16()),
            "fixed": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
            "bytes": pa.array([b"a", None, b"\xff"]),
        }
    )


def tables() -> dict[str, bytes]:
    """Sidecars, scores and index parts in every codec, page version and encoding that the readers tell apart."""

    def written(table: pa.Table, **options: object) -> bytes:
        out = io.BytesIO()
        pq.write_table(table, out, **{"row_group_size": 40, **options})
        return out.getvalue()

    delta = {
        "uid": "PLAIN",
        "url": "DELTA_BYTE_ARRAY",
        "caption": "DELTA_LENGTH_BYTE_ARRAY",
        "width": "DELTA_BINARY_PACKED",
    }
    plain = ["uid", "url", "caption", "width"]
    made = {
        "sidecar-snappy": written(sidecar(30)),
        "sidecar-plain": written(sidecar(12), compression="none", use_dictionary=False, write_statistics=False),
        "sidecar-v2-zstd": written(sidecar(30), compression="zstd", data_page_version="2.0", row_group_size=16),
        "sidecar-delta": written(sidecar(30).select(plain), use_dictionary=False, column_encoding=delta),
        "scores-zstd": written(scores(90), compression="zstd"),
        "scores-v2": written(scores(60), compression="none", data_page_version="2.0"),
        "scores-gzip": written(scores(40), compression="gzip", use_dictionary=False, write_page_checksum=True),
        "scores-lz4": written(scores(40), compression="lz4"),
        "scores-brotli": written(scores(40), compression="brotli"),
        "odd": written(odd(), compression="none"),
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        root.mkdir()
        (root / "a.tar").write_bytes(archive(tarfile.PAX_FORMAT))
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
        (root / "a.jpg").write_bytes(picture("JPEG"))
        lines = [{"id": n, "image": ["a.jpg"] * (n % 3), "conversations": turns, "x": n} for n in range(12)]
        (root / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
        index = vlmsel.index([root / "a.tar", root / "b.jsonl"], output=Path(folder) / "index", max_bad_fraction=1.0)
        for part in sorted(Path(index.path).rglob("*.parquet")):
            made[f"index-{part.name.split('.')[0]}"] = part.read_bytes()
    return {f"{name}.parquet": data for name, data in made.items()}


def records() -> dict[str, bytes]:
    """Records as lines and as a list, plain and compressed."""
    turns = [{"from": "human", "value": '<image>\n\u00e9 \\ "?'}, {"from": "gpt", "value": "\U0001f600"}]
    made = [
        {"id": 1, "image": "a/b.jpg", "conversations": turns},
        {"id": "x", "images": ["a.jpg", "b.jpg"], "caption": "two", "score": float("nan"), "more": {"y": [1, [2, {}]]}},
        {"uid": "000102030405060708090a0b0c0d0e0f", "text": "t", "n": -float("inf")},
        {"image": "../a.jpg"},
    ]
    lines = "\n".join(map(json.dumps, made)).encode()
    return {
        "lines.jsonl": b"\xef\xbb\xbf" + lines + b"\n\n{\n",
        "list.json": json.dumps(made, indent=1).encode(),
        "lines.jsonl.gz": gzip.compress(lines, mtime=0),
        "lines.jsonl.zst": zstandard.compress(lines),
        "deep.json": b"[" * 140 + b"]" * 140,
    }


def text_tables() -> dict[str, bytes]:
    """Scores as CSV and as JSON lines, plain and compressed."""
    rows = [("a", 1.5, 3, "x"), ('b"c', -2e300, 4, "y,\n"), ("\u00e9", None, 0, ""), ("d", float("nan"), 2**63, "x")]
    lines = "\n".join(json.dumps({"uid": i, "ppl": p, "n_tokens": n, "source": s}) for i, p, n, s in rows).encode()
    csv = b'uid,ppl,n_tokens,source\na,1.5,3,x\n"b""c",-2e300,4,"y,\n"\n\xc3\xa9,,0,\nd,nan,1,x,too,many\ne,1e,-1,x\n'
    return {
        "table.csv": csv,
        "table.jsonl": lines + b'\n{"uid": 3}\n[]\n\xff\n',
        "table.csv.gz": gzip.compress(csv, mtime=0) + gzip.compress(csv, mtime=0),
        "table.jsonl.zst": zstandard.compress(lines) + zstandard.compress(lines),
    }


def manifests() -> dict[str, bytes]:
    """A manifest with a checksum of itself and one without, what an unfinished output says, and the record of a part."""
    with tempfile.TemporaryDirectory() as folder:
        with vlmsel.Output.begin(Path(folder) / "out", command="index", config={"a": 1}, inputs=[]) as output:
            output.temporary("a.parquet").write_bytes(b"not what the manifest says")
            output.commit("a", ["a.parquet"], rows=2, counts={"ok": 2}, detail={"x": [1, None]})
            output.finish(counts={"input": 2, "ok": 2})
        manifest = (Path(folder) / "out" / "manifest.json").read_bytes()
    without = {key: value for key, value in json.loads(manifest).items() if key != "checksum"}
    outside = json.loads(json.dumps(without).replace("a.parquet", "../a"))
    begun = {"command": "index", "config": {"a": 1}, "inputs": [{"name": "a", "bytes": 1, "fingerprint": "00"}]}
    made = {"manifest": without, "outside": outside, "begun": begun, "part": without["parts"][0]}
    return {"checked.json": manifest} | {f"{name}.json": json.dumps(value).encode() for name, value in made.items()}


def main() -> None:
    """Write the seeds into the folder that is named."""
    made = {
        "tar": tars(),
        "parquet": tables(),
        "json": records(),
        "text_tables": text_tables(),
        "manifests": manifests(),
    }
    for target, files in made.items():
        folder = Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
