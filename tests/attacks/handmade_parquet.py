"""Parquet files made page by page, to hold what no writer writes."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

TYPES = {"FLOAT": 4, "FIXED_LEN_BYTE_ARRAY": 7}


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def zigzag(number: int) -> bytes:
    return varint(number << 1)


class Struct:
    """A struct in Thrift's compact protocol; fields are added in the order of their numbers."""

    def __init__(self) -> None:
        self.bytes = b""
        self.last = 0

    def add(self, number: int, kind: int, value: bytes) -> Struct:
        self.bytes += bytes([number - self.last << 4 | kind]) + value
        self.last = number
        return self

    def i32(self, number: int, value: int) -> Struct:
        return self.add(number, 5, zigzag(value))

    def i64(self, number: int, value: int) -> Struct:
        return self.add(number, 6, zigzag(value))

    def flag(self, number: int, value: bool) -> Struct:
        return self.add(number, 1 if value else 2, b"")

    def text(self, number: int, value: str) -> Struct:
        return self.add(number, 8, varint(len(value)) + value.encode())

    def struct(self, number: int, value: Struct) -> Struct:
        return self.add(number, 12, value.end())

    def items(self, number: int, kind: int, items: list[bytes]) -> Struct:
        return self.add(number, 9, bytes([len(items) << 4 | kind]) + b"".join(items))

    def end(self) -> bytes:
        return self.bytes + b"\0"


def levels(*runs: tuple[int, int]) -> bytes:
    """Definition levels as runs of (level, how often)."""
    return b"".join(varint(count << 1) + bytes([level]) for level, count in runs)


def snappy_literal(data: bytes) -> bytes:
    """Compressed to itself; at most 256 bytes."""
    length = len(data) - 1
    return varint(len(data)) + (bytes([length << 2]) if length < 60 else bytes([60 << 2, length])) + data


@dataclass
class Page:
    """A data page as it lies in the file."""

    stored: bytes
    values: int
    plain_bytes: int


def page_v1(values: int, body: bytes, plain_bytes: int) -> Page:
    """Plain values without levels."""
    data = Struct().i32(1, values).i32(2, 0).i32(3, 3).i32(4, 3)
    header = Struct().i32(1, 0).i32(2, plain_bytes).i32(3, len(body)).struct(5, data).end()
    return Page(header + body, values, len(header) + plain_bytes)


def page_v2(values: int, nulls: int, level_bytes: bytes, body: bytes, plain_bytes: int) -> Page:
    """Plain values; ``plain_bytes`` are those of ``body`` alone."""
    sizes = (plain_bytes + len(level_bytes), len(body) + len(level_bytes))
    data = Struct().i32(1, values).i32(2, nulls).i32(3, values).i32(4, 0).i32(5, len(level_bytes)).i32(6, 0)
    header = Struct().i32(1, 3).i32(2, sizes[0]).i32(3, sizes[1]).struct(8, data.flag(7, True)).end()
    return Page(header + level_bytes + body, values, len(header) + sizes[0])


@dataclass
class Column:
    """A column chunk; ``width`` is that of fixed values, ``decimal`` their (precision, scale)."""

    name: str
    kind: str
    pages: list[Page]
    nullable: bool = False
    snappy: bool = False
    gzip: bool = False
    width: int | None = None
    decimal: tuple[int, int] | None = None


def ids(rows: int) -> Column:
    """``uid``: 0, 1, 2, ... as 16 bytes."""
    body = b"".join(row.to_bytes(16, "big") for row in range(rows))
    return Column("uid", "FIXED_LEN_BYTE_ARRAY", [page_v1(rows, body, len(body))], width=16)


def write(path: Path, rows: int, columns: list[Column]) -> Path:
    """One row group of these columns."""
    data, chunks, total = bytearray(b"PAR1"), [], 0
    schema = [Struct().text(4, "schema").i32(5, len(columns)).end()]
    for column in columns:
        start = len(data)
        data += b"".join(page.stored for page in column.pages)
        plain = sum(page.plain_bytes for page in column.pages)
        total += plain
        meta = Struct().i32(1, TYPES[column.kind]).items(2, 5, [zigzag(0), zigzag(3)])
        meta.items(3, 8, [varint(len(column.name)) + column.name.encode()]).i32(
            4, 2 if column.gzip else int(column.snappy)
        )
        meta.i64(5, sum(page.values for page in column.pages)).i64(6, plain).i64(7, len(data) - start).i64(9, start)
        chunks.append(Struct().i64(2, start).struct(3, meta).end())
        element = Struct().i32(1, TYPES[column.kind])
        if column.width:
            element.i32(2, column.width)
        element.i32(3, int(column.nullable)).text(4, column.name)
        if column.decimal:
            element.i32(6, 5).i32(7, column.decimal[1]).i32(8, column.decimal[0])
        schema.append(element.end())
    group = Struct().items(1, 12, chunks).i64(2, total).i64(3, rows).end()
    footer = Struct().i32(1, 1).items(2, 12, schema).i64(3, rows).items(4, 12, [group]).end()
    path.write_bytes(bytes(data) + footer + struct.pack("<I", len(footer)) + b"PAR1")
    return path
