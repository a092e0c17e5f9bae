"""Tables as other tools leave them: folders that mean more than their files, columns of unknown types, shards without values."""

from __future__ import annotations

import base64
import ctypes
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
import zstandard
from vlmsel.cli.main import run
from vlmsel.errors import UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, columns: dict[str, Any]) -> None:
    """A table in the format that the name says."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    names, rows = table.column_names, table.to_pylist()
    separator = "\t" if ".tsv" in path else ","
    if path.endswith(".parquet"):
        pq.write_table(table, path)
        return
    if ".csv" in path or ".tsv" in path:
        lines = [separator.join(names), *(separator.join(str(row[name]) for name in names) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    data = "".join(line + "\n" for line in lines).encode()
    Path(path).write_bytes(
        gzip.compress(data) if path.endswith(".gz") else zstandard.compress(data) if path.endswith(".zst") else data
    )


def selected(scores: Any, **options: Any) -> list[dict[str, Any]]:
    found = vlmsel.select(scores, output="out", overwrite=True, **{"k": 9, **options})
    return [{k: v for k, v in row.items() if k != "rank"} for row in pa.table(found.table()).to_pylist()]


@pytest.mark.parametrize("end", ["parquet", "csv", "jsonl"])
def test_folders_of_the_form_name_value_are_columns(end: str) -> None:
    write(f"t/source=laion/day=1/a.{end}", {"uid": ["a"], "ppl": [1.0]})
    write(f"t/source=coyo%20700m/day=2/a.{end}", {"uid": ["b"], "ppl": [2.0]})
    write(f"t/source=__HIVE_DEFAULT_PARTITION__/day=1/a.{end}", {"uid": ["c"], "ppl": [3.0]})
    rows = [("a", 1.0, "laion", "1"), ("b", 2.0, "coyo 700m", "2"), ("c", 3.0, None, "1")]
    expected = [dict(zip(("uid", "score", "source", "day"), row, strict=True)) for row in rows]
    for scores in ("t", f"t/*/*/*.{end}", f"@{Path('list').name}"):
        Path("list").write_text("t\n")
        assert selected(scores, keep_columns="day") == expected
    without_day = [{k: v for k, v in row.items() if k != "day"} for row in expected]
    assert selected("t", keep_columns="source") == without_day == selected("t")
    # Also where a filter or the order of a control looks at every column.
    write("ids.csv", {"uid": ["a", "c"]})
    assert selected("t", include="ids.csv") == [without_day[0], without_day[2]]
    with pytest.raises(UsageError, match="no column"):
        selected("t", id_column="day")


def test_a_folder_that_is_renamed_is_another_input() -> None:
    write("t/source=laion/a.parquet", {"uid": ["a"], "ppl": [1.0]})
    assert run(["select", "t/source=laion/a.parquet", "-k", "1", "-o", "out"]) == 0
    Path("t/source=laion").rename("t/source=coyo")
    assert run(["select", "t/source=coyo/a.parquet", "-k", "1", "-o", "out"]) == 7


@pytest.mark.parametrize("end", ["parquet", "csv", "jsonl"])
def test_a_column_in_path_and_file_must_say_the_same(end: str) -> None:
    write(f"t/source=laion/year=2024/a.{end}", {"uid": ["a"], "ppl": [1.0], "source": ["laion"], "year": [2024]})
    assert selected("t")[0]["source"] == "laion"
    assert selected("t", keep_columns="year")[0]["year"] == (2024 if end == "parquet" else "2024")
    write(f"t/source=coyo/year=2024/b.{end}", {"uid": ["b"], "ppl": [2.0], "source": ["laion"], "year": [2024]})
    with pytest.raises(UsageError, match='"source" is "laion" in its rows and "coyo" in its path'):
        selected("t")


def test_ids_of_several_sources_are_not_repeats_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    for source in ("laion", "coyo"):
        write(f"t/source={source}/a.parquet", {"uid": list(range(50)), "ppl": [float(n) for n in range(50)]})
    assert run(["select", "t", "-k", "60", "-o", "out", "-q", "--json"]) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)
    assert (record["selected"], record["rejected"]["repeated"], record["short_by"]) == (50, 49, 10)
    assert record["repeated_across_sources"] == 49
    assert "warning: out: 49 rows were left out as repeated though they are of another source" in said.err
    assert "50 rows, not 60" in said.err
    write("one.csv", {"uid": ["a", "a", "b"], "source": ["x", "x", "x"], "ppl": [1.0, 2.0, 3.0]})
    assert run(["select", "one.csv", "-k", "2", "-o", "one", "-q", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["rejected"] == {"repeated": 1} and said.err == ""


@pytest.mark.parametrize(
    ("kind", "log"),
    [
        ("Delta Lake", "_delta_log/00000000000000000001.json"),
        ("Apache Iceberg", "metadata/v2.metadata.json"),
        ("Apache Hudi", ".hoodie/hoodie.properties"),
    ],
)
def test_a_folder_whose_log_says_which_files_count_is_refused(
    kind: str, log: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("all/t/old.parquet", {"uid": ["a"], "ppl": [1.0]})
    Path("all/t", log).parent.mkdir(parents=True)
    Path("all/t", log).write_text("{}")
    for named in ("all/t", "all"):
        assert run(["select", named, "-k", "1", "-o", "out"]) == 2
        said = capsys.readouterr().err
        assert f"all/t: a table of {kind}" in said and "vlmsel.select" in said
    assert not Path("out").exists()


def with_unknown_column(path: str) -> None:
    """Says in the footer that an ``int64`` column has 128 bits, as Polars does of its ``Int128``."""
    encoded = pq.ParquetFile(path).metadata.metadata[b"ARROW:schema"]
    message = base64.b64decode(encoded)
    for at in range(len(message) - 3):
        changed = message[:at] + b"\x80\0\0\0" + message[at + 4 :]
        if message[at : at + 4] == b"\x40\0\0\0" and is_unknown(changed):
            Path(path).write_bytes(Path(path).read_bytes().replace(encoded, base64.b64encode(changed)))
            return
    raise AssertionError("no such column")


def is_unknown(message: bytes) -> bool:
    try:
        pa.ipc.read_schema(pa.py_buffer(message))
    except pa.ArrowNotImplementedError as error:
        return "64 bits" in str(error)
    except pa.ArrowException:
        return False
    return False


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_a_column_that_nobody_asked_for_may_be_of_any_type(text: pa.DataType) -> None:
    columns = {"uid": pa.array(["a", "b"], text), "ppl": [1.0, 2.0], "n": pa.array([1, 2], pa.int64())}
    write("plain.parquet", columns)
    before = selected("plain.parquet"), pq.read_schema("out/selection.parquet").types
    write("s.parquet", columns)
    with_unknown_column("s.parquet")
    assert (selected("s.parquet"), pq.read_schema("out/selection.parquet").types) == before
    for options in ({"score_column": "n"}, {"id_column": "n"}, {"keep_columns": "n"}):
        with pytest.raises(UsageError, match=r's.parquet: column "n" is Int128, which this version cannot read'):
            selected("s.parquet", **options)


class ArrowSchema(ctypes.Structure):
    _fields_ = (
        ("format", ctypes.c_char_p), ("name", ctypes.c_char_p), ("metadata", ctypes.c_char_p),
        ("flags", ctypes.c_int64), ("n_children", ctypes.c_int64), ("children", ctypes.c_void_p),
    )  # fmt: skip


GET_SCHEMA = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ArrowSchema))


class UnknownColumn:
    """A table whose last column is of a type that only its library knows."""

    def __init__(self, table: pa.Table) -> None:
        self.table, self.calls = table, []  # type: ignore[var-annotated]

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        capsule = self.table.__arrow_c_stream__()
        pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
        pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        first = ctypes.cast(pointer_of(capsule, b"arrow_array_stream"), ctypes.POINTER(ctypes.c_void_p))
        original = GET_SCHEMA(first[0])

        def get_schema(stream: Any, out: Any) -> int:
            code: int = original(stream, out)
            children = ctypes.cast(out[0].children, ctypes.POINTER(ctypes.POINTER(ArrowSchema)))
            children[out[0].n_children - 1][0].format = b"_pli128"
            return code

        call: Callable[..., int] = GET_SCHEMA(get_schema)
        self.calls.append(call)
        first[0] = ctypes.cast(call, ctypes.c_void_p).value  # type: ignore[arg-type]
        return capsule


@pytest.mark.parametrize("memory_limit", [None, 1])
def test_a_column_of_a_frame_that_nobody_asked_for_may_be_of_any_type(memory_limit: int | None) -> None:
    table = pa.table({
        "uid": ["a", None, "c"], "ppl": [3.0, 2.0, 1.0], "n": pa.array([b"0" * 16] * 3, pa.binary(16))
    })  # fmt: skip
    several = pa.concat_tables([table.slice(1), table.slice(0, 1)])
    frame = UnknownColumn(several)
    rows = [{"uid": "c", "score": 1.0}, {"uid": "a", "score": 3.0}]
    assert selected(frame, memory_limit=memory_limit) == rows
    assert selected([UnknownColumn(several), several.select(["uid", "ppl"])], repeats="keep") == sorted(
        [*rows, *rows], key=lambda row: row["score"]
    )
    with pytest.raises(UsageError, match='column "n" is of Arrow\'s format "_pli128", which this version cannot read'):
        selected(UnknownColumn(several), score_column="n", memory_limit=memory_limit)


IDS = {
    "string": pa.array(["a", "b"]),
    "binary": pa.array([b"a", b"b"]),
    "fixed": pa.array([b"a" * 16, b"b" * 16], pa.binary(16)),
    "integer": pa.array([1, 2], pa.int64()),
}


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("score", [pa.float32(), pa.int16(), pa.decimal128(9, 2)])
@pytest.mark.parametrize("in_memory", [False, True])
def test_shards_without_values_agree_with_every_type(ids: str, score: pa.DataType, in_memory: bool) -> None:
    good = {"uid": IDS[ids], "ppl": pa.array([1, 2], pa.int16()).cast(score), "source": ["x", "y"], "kept": [5, 6]}
    float_ids = pa.array([None, None], pa.float64())
    shards = [
        # What pandas writes where it sees no value: float64, object (null), or what a column was cast to before.
        {"uid": pa.array([], pa.float64()), "ppl": pa.array([], pa.null()), "source": pa.array([], pa.float64())},
        {"uid": pa.nulls(2), "ppl": pa.nulls(2), "source": pa.nulls(2), "kept": pa.nulls(2)},
        {"uid": float_ids, "ppl": pa.array([None] * 2, pa.float64()), "source": float_ids, "kept": float_ids},
        good,
        {"uid": IDS[ids][:1], "ppl": pa.nulls(1), "source": pa.nulls(1), "kept": pa.nulls(1)},
    ]
    if in_memory:
        scores: Any = [pa.table(shard) for shard in shards]
    else:
        for at, shard in enumerate(shards):
            write(f"t/{at}.parquet", shard)
        scores = "t"
    found = vlmsel.select(scores, k=9, keep_columns="kept", output="out")
    assert (found.input, found.selected, found.rejected) == (7, 2, {"missing": 5})
    table = pa.table(found.table())
    assert (table["uid"].combine_chunks(), table["kept"].to_pylist()) == (IDS[ids], [5, 6])
    assert table.schema.field("score").type == score
    for at, options in enumerate([{"repeats": "keep"}, {"order": "desc"}, {"fraction": 1, "k": None}]):
        assert vlmsel.select(scores, **{"k": 9, "output": f"o{at}", **options}).selected == 2  # type: ignore[arg-type]


def test_tables_of_nulls_alone_are_empty() -> None:
    write("t/a.parquet", {"uid": pa.array([], pa.float64()), "ppl": pa.array([], pa.null())})
    write("t/b.parquet", {"uid": pa.nulls(2), "ppl": pa.nulls(2)})
    found = vlmsel.select("t", k=9, output="out")
    assert (found.input, found.selected, found.rejected) == (2, 0, {"missing": 2})


def test_values_of_another_type_are_no_nulls() -> None:
    write("t/a.parquet", {"uid": ["a"], "ppl": [1.0], "source": ["x"]})
    write("t/b.parquet", {"uid": ["b"], "ppl": [1.0], "source": [0.5]})
    with pytest.raises(UsageError, match=r"select needs one type|must hold strings"):
        selected("t", keep_columns="source")


@pytest.mark.parametrize(
    "name", ["t.ndjson", "t.json.gz", "t.jsonl.gz", "t.json.zst", "t.tsv", "t.tsv.gz", "t.ndjson.zst"]
)
def test_more_names_of_text_tables(name: str) -> None:
    write(f"d/{name}", {"uid": ["a", "b, c"], "ppl": [2.0, 1.0], "note": ["x", "y"]})
    Path("d/statistics.json").write_text("{}")
    rows = [{"uid": "b, c", "score": 1.0, "note": "y"}, {"uid": "a", "score": 2.0, "note": "x"}]
    assert selected("d", keep_columns="note") == rows
    assert selected(f"d/{name}", include=f"d/{name}", keep_columns="note") == rows


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.csv", "uid,ppl,ppl\na,1,9\n"),
        ("s.tsv", "uid\tppl\tppl\na\t1\t9\n"),
        ("s.csv", "uid,uid,ppl\na,b,9\n"),
        ("s.jsonl", '{"uid": "a", "ppl": 1, "ppl": 9}\n'),
        ("s.jsonl", '{"uid": "a", "ppl": 1}\n{"ppl": 1, "uid": "b", "uid": "c"}\n'),
    ],
)
def test_a_wanted_column_that_stands_there_twice_is_refused(name: str, text: str) -> None:
    Path(name).write_text(text)
    with pytest.raises(UsageError, match=r'column "(ppl|uid)" stands there twice'):
        selected(name)


def test_a_column_that_nobody_asked_for_may_stand_there_twice() -> None:
    Path("s.csv").write_text("x,uid,x,ppl\n1,a,2,3\n")
    Path("t.jsonl").write_text('{"x": 1, "uid": "b", "x": 2, "ppl": 4}\n')
    assert selected(["s.csv", "t.jsonl"]) == [{"uid": "a", "score": 3.0}, {"uid": "b", "score": 4.0}]


@pytest.mark.parametrize("end", ["parquet", "csv", "jsonl"])
def test_columns_are_compared_by_name(end: str) -> None:
    """Two columns of one type in another order in each file."""
    write(f"t/a.{end}", {"uid": ["a"], "ppl": [1.0], "clip": [9.0], "source": ["x"], "note": ["p"]})
    write(f"t/b.{end}", {"note": ["q"], "clip": [8.0], "source": ["y"], "ppl": [2.0], "uid": ["b"]})
    rows = [
        {"uid": "a", "score": 1.0, "source": "x", "note": "p"}, {"uid": "b", "score": 2.0, "source": "y", "note": "q"}
    ]  # fmt: skip
    assert selected("t", keep_columns="note") == rows
    assert [row["score"] for row in selected("t", score_column="clip")] == [8.0, 9.0]
