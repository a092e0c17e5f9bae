"""A small index folder over real tars, written as ARCHITECTURE.md "Tables" says."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from blake3 import blake3
from PIL import Image

IMAGE = pa.struct(
    [
        ("file", pa.string()),
        ("offset", pa.uint64()),
        ("size", pa.uint64()),
        ("width", pa.uint32()),
        ("height", pa.uint32()),
        ("hash", pa.binary(16)),
        ("row", pa.uint64()),
        ("item", pa.uint32()),
    ]
)
SCHEMA = pa.schema(
    [
        ("uid", pa.binary(16)),
        ("key", pa.string()),
        ("source", pa.dictionary(pa.int32(), pa.string())),
        ("shard", pa.dictionary(pa.int32(), pa.string())),
        ("images", pa.list_(IMAGE)),
        ("members", pa.list_(pa.struct([("extension", pa.string()), ("offset", pa.uint64()), ("size", pa.uint64())]))),
        ("text", pa.string()),
        ("conversations", pa.string()),
        ("n_turns", pa.uint32()),
        ("text_hash", pa.binary(16)),
        ("metadata", pa.binary()),
    ]
)


@dataclass
class Pair:
    """One sample to be put into a tar: image files' bytes (None: a text-only sample) and a caption or conversation."""

    images: list[bytes] = field(default_factory=list)
    text: str | None = None
    conversations: str | None = None


def draw_png(seed: int, width: int = 40, height: int = 40) -> bytes:
    """A picture of coloured blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, pairs: Sequence[Pair]) -> list[list[tuple[int, int]]]:
    """Writes the images of ``pairs`` and returns each one's (offset, size) ranges, found by reading the tar again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for i, pair in enumerate(pairs):
            for j, data in enumerate(pair.images):
                member = tarfile.TarInfo(f"{i:06d}.{j}.png")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    ranges: list[list[tuple[int, int]]] = [[] for _ in pairs]
    with tarfile.open(path) as tar:
        for member in tar:
            ranges[int(member.name.split(".")[0])].append((member.offset_data, member.size))
    return ranges


def write_index(folder: Path, data: Path, shards: dict[str, Sequence[Pair]], row_group_size: int = 7) -> Path:
    """Writes one tar and one index part per shard, and the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for shard, pairs in sorted(shards.items()):
        ranges = write_tar(data / shard, pairs)
        rows = []
        for i, (pair, places) in enumerate(zip(pairs, ranges, strict=True)):
            images = []
            for content, (offset, size) in zip(pair.images, places, strict=True):
                try:
                    width, height = Image.open(io.BytesIO(content)).size
                except OSError:
                    width = height = 0
                digest = xxhash.xxh3_128_digest(content)
                place = {"file": None, "offset": offset, "size": size, "width": width, "height": height}
                images.append(place | {"hash": digest, "row": None, "item": None})
            rows.append(
                {
                    "uid": hashlib.blake2b(f"pool\0{shard}\0{i}".encode(), digest_size=16).digest(),
                    "key": f"{i:06d}",
                    "source": "pool",
                    "shard": shard,
                    "images": images,
                    "members": [],
                    "text": pair.text,
                    "conversations": pair.conversations,
                    "n_turns": 2 if pair.conversations else 0,
                    "text_hash": None,
                    "metadata": None,
                }
            )
        name = shard.removesuffix(".tar") + ".parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / name, row_group_size=row_group_size)
        content = (folder / name).read_bytes()
        file = {"file": name, "bytes": len(content), "blake3": blake3(content).hexdigest()}
        parts.append({"unit": shard, "rows": len(rows), "counts": {"ok": len(rows)}, "detail": {}, "files": [file]})
    n_rows = sum(part["rows"] for part in parts)
    manifest = {
        "schema": 1,
        "command": "index",
        "version": "0.1.0",
        "config": {},
        "inputs": [],
        "roots": {"pool": {"path": str(data), "image_root": None}},
        "provenance": {},
        "parts": parts,
        "counts": {"input": n_rows, "ok": n_rows},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, indent=1))
    return folder
