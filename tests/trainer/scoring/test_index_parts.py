"""Parts of the index as scoring reads them: the rows that pyarrow reads, and a damaged part is named with what to run."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import vlmsel
from vlmsel.errors import UnreadableError
from vlmsel_trainer.vlm.index_reader import _COLUMNS, Index


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index that vlmsel wrote, of a source with a folder in it and texts alone."""
    folder = tmp_path_factory.mktemp("parts")
    data = folder / "data"
    (data / "below").mkdir(parents=True)
    for name, n in (("a.jsonl", 700), ("below/b.jsonl", 30)):
        (data / name).write_text("".join(f'{{"id": {k}, "text": "caption {name} {k}"}}\n' for k in range(n)))
    made = vlmsel.index(data, output=folder / "index")
    return Index(Path(made.path), vlmsel.read_manifest(made.path))


def test_units_are_the_rows_of_their_parts(index: Index) -> None:
    for size in (1, 64, 700, 10_000):
        units = index.units(size)
        read = [(unit.part, sample) for unit, samples in index.read(units) for sample in samples]
        assert len(read) == index.n_rows == 730
        for part in {unit.part for unit in units}:
            rows = pq.read_table(part, columns=[*_COLUMNS, "class"]).to_pylist()
            for row in rows:
                row["sample_class"] = row.pop("class")
            assert [vars(sample) | {"images": list(sample.images)} for of, sample in read if of == part] == rows


def test_a_changed_byte_anywhere_in_a_part_is_told(index: Index) -> None:
    unit = next(unit for unit in index.units(100) if "below" in unit.part.name)
    whole = unit.part.read_bytes()
    rng = random.Random(3)
    for at in [0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(50))]:
        data = bytearray(whole)
        data[at] ^= 1 << rng.randrange(8)
        unit.part.write_bytes(data)
        with pytest.raises(UnreadableError, match=rf"below-b.*vlmsel verify {index.path}"):
            list(index.read([unit]))
    unit.part.unlink()
    with pytest.raises(UnreadableError, match=r"below-b.*vlmsel verify"):
        list(index.read([unit]))
    unit.part.write_bytes(whole)
    assert len(next(index.read([unit]))[1]) == 30
