"""``vlmsel.select`` equals sort-and-take, for every type, size and layout."""

from __future__ import annotations

import itertools
import math
import random
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from selection_oracle import Expected, Row, select

ID_TYPES = {
    "binary16": (pa.binary(16), lambda n: n.to_bytes(16, "big")),
    "string": (pa.string(), lambda n: f"id-{n}" if n % 3 else f"{'x' * n}é\u202e{n}"),
    "large_string": (pa.large_string(), lambda n: f"{n:032x}"),
    "binary": (pa.binary(), lambda n: bytes([n % 256]) * (n % 40) + struct.pack(">H", n)),
    "int32": (pa.int32(), lambda n: n - 3),
    "uint64": (pa.uint64(), lambda n: 2**64 - 1 - n),
    "int64": (pa.int64(), lambda n: -(2**63) + n),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), lambda n: f"d{n % 7}-{n}"),
}
FLOATS = [0.0, -0.0, 1.5, 1.5, -2.25, math.nan, math.inf, -math.inf, None, 3.0, 0.1, 5e-324, 1e30]


def decimal(unscaled: int) -> Decimal:
    """With 18 digits behind the point; arithmetic would round to 28 in all."""
    return Decimal(f"{unscaled}e-18")


# Unscaled they have 37 digits and agree in all but the last ones.
WIDE = [decimal(sign * (1234567890123456789 * 10**18 + n)) for sign in (1, -1) for n in (0, 1, 2, 10**9)]
SCORE_TYPES = {
    "float32": (pa.float32(), [struct.unpack("f", struct.pack("f", f))[0] if f is not None else None for f in FLOATS]),
    "float64": (pa.float64(), FLOATS),
    "int8": (pa.int8(), [0, 1, -128, 127, 1, None]),
    "int64": (pa.int64(), [2**63 - 1, -(2**63), 2**53 + 1, 2**53, 0, None]),
    "uint64": (pa.uint64(), [2**64 - 1, 2**64 - 2, 2**53 + 1, 0, None]),
    "uint16": (pa.uint16(), [0, 7, 7, 65535, None]),
    "decimal64": (pa.decimal64(18, 4), [Decimal("-0.5"), Decimal("99999999999999.9999"), Decimal(0), None]),
    "decimal128": (pa.decimal128(38, 18), [*WIDE, Decimal("1.5"), Decimal("-1.5"), Decimal(0), None]),
    "decimal256": (pa.decimal256(60, 18), [*WIDE, Decimal("1.5"), Decimal(0), None]),
}


def write(
    rows: list[Row],
    folder: Path,
    id_type: pa.DataType,
    score_type: pa.DataType,
    *,
    files: int = 1,
    group_rows: int = 7,
    version: str = "1.0",
    kept: bool = True,
) -> Path:
    """Rows as Parquet files, spread in order."""
    folder.mkdir(parents=True, exist_ok=True)
    share = max(1, -(-len(rows) // files))
    for at in range(files):
        part = rows[at * share : (at + 1) * share]
        columns = {
            "uid": pa.array([r.id for r in part], pa.string() if pa.types.is_dictionary(id_type) else id_type),
            "score": pa.array([r.score for r in part], score_type),
            "source": pa.array([r.source for r in part], pa.string()),
            "n_tokens": pa.array([r.n_tokens for r in part], pa.uint32()),
        }
        if pa.types.is_dictionary(id_type):
            columns["uid"] = columns["uid"].dictionary_encode()
        if kept:
            columns["extra"] = pa.array([r.kept[0] if r.kept else None for r in part], pa.int16())
        pq.write_table(
            pa.table(columns),
            folder / f"part-{at}.parquet",
            row_group_size=group_rows,
            data_page_version=version,
            compression=["snappy", "zstd", "none", "gzip"][at % 4],
        )
    return folder


def check(selection: vlmsel.Selection, expected: Expected, total: int) -> None:
    """Same ids, scores, sources in the same order, and the same classes."""
    table = pa.table(selection.table())
    found = list(zip(table["uid"].to_pylist(), table["score"].to_pylist(), table["source"].to_pylist(), strict=True))
    wanted = [(row.id, row.score or abs(row.score), row.source) for row in expected.rows]
    assert found == wanted
    assert table["rank"].to_pylist() == list(range(len(wanted)))
    assert selection.rejected == expected.rejected
    assert selection.input == total == selection.selected + sum(selection.rejected.values()) + selection.quarantined


def make_rows(seed: int, count: int, id_of: Any, scores: list[Any], *, ids: int) -> list[Row]:
    """Rows with repeated ids and tied scores."""
    rng = random.Random(seed)
    return [
        Row(
            None if rng.random() < 0.03 else id_of(rng.randrange(ids)),
            rng.choice(scores),
            rng.choice([None, "a", "b"]),
            (rng.choice([None, 1, -5]),),
            rng.choice([1, 2, 3, 10]),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("id_name", ID_TYPES)
@pytest.mark.parametrize("score_name", SCORE_TYPES)
def test_every_id_and_score_type(tmp_path: Path, id_name: str, score_name: str) -> None:
    id_type, id_of = ID_TYPES[id_name]
    score_type, scores = SCORE_TYPES[score_name]
    rows = make_rows(1, 120, id_of, scores, ids=50)
    folder = write(rows, tmp_path / "in", id_type, score_type, files=3)
    for at, (order, k) in enumerate(itertools.product(["asc", "desc"], [0, 1, 13, 120, 500])):
        found = vlmsel.select(
            folder, k=k, order=order, score_column="score", output=tmp_path / f"out{at}", keep_columns=["extra"]
        )
        check(found, select(rows, k=k, descending=order == "desc"), len(rows))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_larger_tables_in_many_pages(tmp_path: Path, version: str, threads: int) -> None:
    rng = random.Random(5)
    rows = [
        Row(rng.randrange(40_000).to_bytes(16, "big"), rng.choice([rng.random() * 100, 7.0, 3.5]))
        for _ in range(60_000)
    ]
    folder = write(
        rows, tmp_path / "in", pa.binary(16), pa.float64(), files=4, group_rows=9_000, version=version, kept=False
    )
    for k in (1_000, 30_000):
        found = vlmsel.select(folder, k=k, score_column="score", output=tmp_path / f"out-{k}", threads=threads)
        check(found, select(rows, k=k), len(rows))


@pytest.mark.parametrize("score_name", ["float32", "int64", "decimal128"])
@pytest.mark.parametrize("descending", [False, True])
def test_long_row_groups_of_odd_scores(tmp_path: Path, score_name: str, descending: bool) -> None:
    """Rows enough that scores are sifted where they lie; odd ones in some pages and in others none."""
    rng = random.Random(6)
    score_type, odd = SCORE_TYPES[score_name]
    usual = {
        "float32": lambda: struct.unpack("f", struct.pack("f", rng.gauss(20, 5)))[0],
        "int64": lambda: rng.randrange(-(10**6), 10**6),
        "decimal128": lambda: decimal(rng.randrange(10**20, 10**20 + 50)),
    }[score_name]
    rows = [
        Row(rng.randrange(20_000).to_bytes(16, "big"), rng.choice(odd) if n % 9_000 < 200 else usual())
        for n in range(26_000)
    ]
    folder = write(rows, tmp_path / "in", pa.binary(16), score_type, files=2, group_rows=13_000, kept=False)
    sizes: list[dict[str, Any]] = [{"k": 700}, {"threshold": 17.5}, {"band": ("30", "31.5")}, {"fraction": "0.9"}]
    for at, size in enumerate(sizes):
        for non_negative in (False, True):
            found = vlmsel.select(
                folder,
                score_column="score",
                order="desc" if descending else "asc",
                non_negative=non_negative,
                output=tmp_path / f"out{at}{non_negative}",
                **size,
            )
            check(found, select(rows, descending=descending, non_negative=non_negative, **size), len(rows))


SIZES = st.one_of(
    st.fixed_dictionaries({"k": st.integers(0, 40)}),
    st.fixed_dictionaries({"fraction": st.sampled_from(["0", "0.29", "1", "0.5", "0.3333"])}),
    st.fixed_dictionaries({"threshold": st.sampled_from([-1.0, 0.0, 0.1, 1.5, math.inf, -math.inf, 2.9999999])}),
    st.fixed_dictionaries(
        {"band": st.sampled_from([("0", "100"), ("10", "30"), ("33.3", "66.6"), ("50", "50"), ("0", "0.5")])}
    ),
    st.fixed_dictionaries({"token_budget": st.integers(0, 60)}),
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 40),
    ids=st.integers(1, 30),
    size=SIZES,
    descending=st.booleans(),
    repeats=st.sampled_from(["drop", "keep"]),
    scores=st.sampled_from([FLOATS, [1.0], [math.nan], [0.0, -0.0], [1.0, 2.0, 3.0]]),
    tokens=st.sampled_from([(None, None), (2, None), (None, 3), (2, 3)]),
    lists=st.sampled_from(["none", "include", "exclude", "both"]),
    memory_limit=st.sampled_from([1, 1 << 30]),
    where=st.sampled_from(["parquet", "memory"]),
)
def test_any_request(tmp_path_factory: pytest.TempPathFactory, **case: Any) -> None:
    tmp_path = tmp_path_factory.mktemp("case")
    rows = make_rows(case["seed"], case["count"], lambda n: f"i{n}", case["scores"], ids=case["ids"])
    source: Any = write(rows, tmp_path / "in", pa.string(), pa.float64(), files=2)
    if case["where"] == "memory":
        source = pq.read_table(source)
    listed = {f"i{n}" for n in range(0, 30, 2)}
    (tmp_path / "ids.txt").write_text("\n".join(sorted(listed)))
    include = listed if case["lists"] in ("include", "both") else None
    exclude = {"i0", "i1"} if case["lists"] in ("exclude", "both") else set()
    (tmp_path / "no.txt").write_text("i0\ni1\n")
    low, high = case["tokens"]
    found = vlmsel.select(
        source,
        score_column="score",
        order="desc" if case["descending"] else "asc",
        repeats=case["repeats"],
        min_tokens=low,
        max_tokens=high,
        include=[tmp_path / "ids.txt"] if include else None,
        exclude=[tmp_path / "no.txt"] if exclude else None,
        allow_unmatched=True,
        keep_columns=["extra"],
        output=tmp_path / "out",
        memory_limit=case["memory_limit"],
        **case["size"],
    )
    expected = select(
        rows,
        descending=case["descending"],
        repeats=case["repeats"],
        min_tokens=low,
        max_tokens=high,
        include=include,
        exclude=exclude,
        **case["size"],
    )
    check(found, expected, len(rows))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scores=st.lists(
        st.builds(
            lambda front, back: decimal(front * 10**36 + back),
            st.sampled_from([0, 0, 1, -1, 12]),
            st.integers(-5, 5),
        ),
        min_size=1,
        max_size=8,
    ),
    size=st.one_of(
        st.fixed_dictionaries({"k": st.integers(0, 40)}),
        st.fixed_dictionaries({"threshold": st.sampled_from([0.0, 1e18, -1e18, 2e-18, 1e300, -math.inf])}),
        st.fixed_dictionaries({"band": st.sampled_from([("10", "30"), ("33.3", "66.6")])}),
        st.fixed_dictionaries({"token_budget": st.integers(0, 60)}),
    ),
    seed=st.integers(0, 10**6),
    descending=st.booleans(),
    memory_limit=st.sampled_from([1, 1 << 30]),
    streamed=st.booleans(),
)
def test_scores_that_share_a_key_are_compared_in_full(tmp_path_factory: pytest.TempPathFactory, **case: Any) -> None:
    tmp_path = tmp_path_factory.mktemp("case")
    rows = make_rows(case["seed"], 40, lambda n: f"i{n}", case["scores"], ids=25)
    source: Any = write(rows, tmp_path / "in", pa.string(), pa.decimal128(38, 18), files=2)
    if case["streamed"]:
        source = pq.read_table(source)
    found = vlmsel.select(
        source,
        score_column="score",
        order="desc" if case["descending"] else "asc",
        output=tmp_path / "out",
        memory_limit=case["memory_limit"],
        control=["random", "worst"],
        **case["size"],
    )
    check(found, select(rows, descending=case["descending"], **case["size"]), len(rows))
    worst = select(rows, k=found.selected, descending=not case["descending"])
    check(found.controls["worst"], worst, len(rows))
    drawn = pa.table(found.controls["random-s0"].table())
    assert {*zip(drawn["uid"].to_pylist(), drawn["score"].to_pylist(), strict=True)} <= {
        (row.id, row.score) for row in rows
    }


@pytest.mark.parametrize("repeats", ["drop", "keep"])
@pytest.mark.parametrize("memory_limit", [4 << 30, 4 << 20])
def test_a_budget_ends_at_the_same_row_however_rows_arrive(tmp_path: Path, repeats: str, memory_limit: int) -> None:
    """Rows enough for cuts; one large row, and a cheap better copy of an id that arrives before it or after."""
    count, last = 90_000, 100
    first = [Row((2 * n).to_bytes(16, "big"), 1.0, None, (), 10) for n in range(count)]
    first[last].n_tokens = 995
    second = [Row(first[5].id, 0.5, None, (), 1), Row((2 * last + 1).to_bytes(16, "big"), 1.0, None, (), 5000)]
    for at, rows in enumerate([first + second, second + first]):
        rng = random.Random(at)
        paths = []
        for name, part in (("a", rows[: len(rows) // 2]), ("b", rows[len(rows) // 2 :])):
            paths.append(
                write(part, tmp_path / f"{at}{name}", pa.binary(16), pa.float64(), group_rows=30_000, kept=False)
            )
        expected = select(rows, token_budget=last * 10 + 990, repeats=repeats)
        for threads in (1, 2, 8):
            rng.shuffle(paths)
            found = vlmsel.select(
                paths,
                token_budget=last * 10 + 990,
                score_column="score",
                repeats=repeats,
                threads=threads,
                memory_limit=memory_limit,
                output=tmp_path / f"out{at}-{threads}",
            )
            check(found, expected, len(rows))


def test_budgets_over_rows_in_any_order(tmp_path: Path) -> None:
    rng = random.Random(2)
    rows = [
        Row(
            rng.randrange(150_000).to_bytes(16, "big"),
            rng.choice([rng.random(), 0.25]),
            None,
            (),
            rng.choice([1, 3, 900]),
        )
        for _ in range(200_000)
    ]
    folder = write(rows, tmp_path / "in", pa.binary(16), pa.float64(), files=4, group_rows=9_000, kept=False)
    for budget in (1_000, 300_000, 20_000_000):
        expected = select(rows, token_budget=budget)
        for threads in (1, 8):
            out = tmp_path / f"out-{budget}-{threads}"
            found = vlmsel.select(folder, token_budget=budget, score_column="score", threads=threads, output=out)
            check(found, expected, len(rows))


SAMPLED_REPEATS = {(300, "shuffled")}


@pytest.mark.parametrize(
    ("ids", "arrangement"),
    [
        pytest.param(ids, arrangement, marks=() if (ids, arrangement) in SAMPLED_REPEATS else pytest.mark.heavy)
        for ids in (1, 300, 50_000)
        for arrangement in ("sorted", "reversed", "shuffled")
    ],
)
def test_massive_repeats_within_any_memory(tmp_path: Path, ids: int, arrangement: str) -> None:
    """Rows enough to be cut back, set aside and spilled many times: equal ones, of few ids, and of ids that fill the memory."""
    rng = random.Random(ids)
    numbers = (rng.randrange(ids) for _ in range(120_000))
    rows = [Row(n.to_bytes(16, "big"), float(rng.randrange(40)), None, (), rng.choice([1, 1, 7])) for n in numbers]
    if arrangement != "shuffled":
        rows.sort(key=lambda row: (row.score, row.id), reverse=arrangement == "reversed")
    folder = write(rows, tmp_path / "in", pa.binary(16), pa.float64(), files=2, group_rows=20_000, kept=False)
    sizes: list[dict[str, Any]] = [
        {"k": 200},
        {"k": 60_000},
        {"token_budget": 900},
        {"token_budget": 10**9},
        {"threshold": 12.0},
        {"band": ("10", "60")},
    ]
    for at, size in enumerate(sizes):
        expected = select(rows, **size)
        for memory_limit in (1, 16 << 20, 4 << 30):
            found = vlmsel.select(
                folder,
                score_column="score",
                memory_limit=memory_limit,
                threads=2,
                output=tmp_path / f"out{at}-{memory_limit}",
                **size,
            )
            check(found, expected, len(rows))


@pytest.mark.parametrize("band", [("0", "50"), ("20", "50"), ("0", "100")])
def test_a_band_may_end_among_ties(tmp_path: Path, band: tuple[str, str]) -> None:
    rows = [Row(f"{n:05}", 1.0) for n in range(60_000)]
    folder = write(rows, tmp_path / "in", pa.string(), pa.float64(), group_rows=20_000, kept=False)
    for at, limit in enumerate([1, 4 << 30]):
        found = vlmsel.select(folder, band=band, score_column="score", memory_limit=limit, output=tmp_path / f"out{at}")
        check(found, select(rows, band=band), len(rows))


def test_decimals_of_two_widths_are_two_types(tmp_path: Path) -> None:
    tables = []
    for width in (20, 60):
        tables.append(pa.table({"uid": [f"{width}"], "score": pa.array([Decimal("1.5")], pa.decimal256(width, 2))}))
    for order in (tables, tables[::-1]):
        with pytest.raises(vlmsel.errors.UsageError, match="select needs one type"):
            vlmsel.select(order, k=1, score_column="score", output=tmp_path / "out")
    with pytest.raises(vlmsel.errors.UsageError, match="scale from 0 to 38"):
        vlmsel.select(
            pa.table({"uid": ["a"], "score": pa.array([Decimal(1)], pa.decimal256(76, 50))}),
            k=1,
            score_column="score",
            output=tmp_path / "out",
        )


@pytest.mark.parametrize("score_type", [pa.decimal128(38, 2), pa.decimal256(40, 2), pa.float16(), pa.float32()])
@pytest.mark.parametrize("memory_limit", [1, 4 << 30])
def test_a_stream_of_scores_in_a_dictionary(tmp_path: Path, score_type: pa.DataType, memory_limit: int) -> None:
    scores = pa.array([Decimal(n % 3) if pa.types.is_decimal(score_type) else n % 3 for n in range(50)], score_type)
    table = pa.table({"uid": [f"{n:02}" for n in range(50)], "score": scores.dictionary_encode()})
    found = vlmsel.select(table, k=17, score_column="score", memory_limit=memory_limit, output=tmp_path / "out")
    assert pa.table(found.table())["uid"].to_pylist() == [f"{n:02}" for n in range(0, 50, 3)]


def test_spilling_changes_nothing(tmp_path: Path) -> None:
    rng = random.Random(9)
    rows = [Row(f"{rng.randrange(30_000):032x}", rng.choice([1.0, 2.0, rng.random()]), "s") for _ in range(50_000)]
    folder = write(rows, tmp_path / "in", pa.string(), pa.float64(), files=3, group_rows=5_000)
    hashes = set()
    for at, limit in enumerate([1, 3 << 20, 4 << 30]):
        found = vlmsel.select(folder, k=25_000, score_column="score", output=tmp_path / f"out{at}", memory_limit=limit)
        hashes.add((found.path / "selection.parquet").read_bytes() + (found.path / "uids.npy").read_bytes())
    assert len(hashes) == 1
    check(found, select(rows, k=25_000), len(rows))


def test_a_stream_is_selected_like_a_table_wherever_it_is_held(tmp_path: Path) -> None:
    """Whole tables, one batch at a time, and more than may be held: the same bytes, down to the manifest."""
    rows = make_rows(11, 3_000, lambda n: f"id {n}", [1.0, 2.5, None, float("nan"), -3.0, 7.25], ids=1_500)
    folder = write(rows, tmp_path / "in", pa.string(), pa.float64(), group_rows=3_000)
    table = pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("*.parquet")))
    expected = select(rows, fraction="0.3")
    seen = set()
    for at, (batch_rows, limit) in enumerate([(3_000, 4 << 30), (70, 4 << 30), (70, 1), (1_000, 50_000)]):
        stream = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=batch_rows))
        out = tmp_path / f"out{at}"
        found = vlmsel.select(stream, fraction="0.3", score_column="score", output=out, memory_limit=limit)
        check(found, expected, len(rows))
        seen.add((out / "selection.parquet").read_bytes() + (out / "manifest.json").read_bytes())
    assert len(seen) == 1


def test_order_of_files_and_threads_change_nothing(tmp_path: Path) -> None:
    rows = make_rows(3, 400, lambda n: n.to_bytes(16, "big"), FLOATS, ids=90)
    folder = write(rows, tmp_path / "in", pa.binary(16), pa.float64(), files=4)
    files = sorted(folder.glob("*.parquet"))
    seen = set()
    for at, (order, threads) in enumerate(itertools.product([files, files[::-1], files[2:] + files[:2]], [1, 2, 8])):
        found = vlmsel.select(order, k=50, score_column="score", output=tmp_path / f"out{at}", threads=threads)
        seen.add(tuple((found.path / name).read_bytes() for name in ("selection.parquet", "uids.npy", "manifest.json")))
    assert len(seen) == 1


def test_selections_merge(tmp_path: Path) -> None:
    rows = make_rows(8, 300, lambda n: f"i{n}", [1.0, 2.0, 3.0, 4.5], ids=120)
    left = vlmsel.select(
        write(rows[:150], tmp_path / "a", pa.string(), pa.float64()), k=40, score_column="score", output=tmp_path / "sa"
    )
    right = vlmsel.select(
        write(rows[150:], tmp_path / "b", pa.string(), pa.float64()), k=40, score_column="score", output=tmp_path / "sb"
    )
    both = vlmsel.select([left.path, right.path], k=40, score_column="score", output=tmp_path / "sab")
    whole = vlmsel.select(
        write(rows, tmp_path / "ab", pa.string(), pa.float64()), k=40, score_column="score", output=tmp_path / "s"
    )
    assert pa.table(both.table()).equals(pa.table(whole.table()))


def test_controls_use_the_same_eligible_rows(tmp_path: Path) -> None:
    rows = make_rows(4, 300, lambda n: f"i{n}", [float(n) for n in range(100)], ids=200)
    folder = write(rows, tmp_path / "in", pa.string(), pa.float64(), files=2)
    found = vlmsel.select(
        folder, k=30, score_column="score", output=tmp_path / "out", control=["random", "worst", "middle"], seed=7
    )
    assert set(found.controls) == {"random-s7", "worst", "middle"}
    check(found.controls["worst"], select(rows, k=30, descending=True), len(rows))
    n = sum(1 for row in rows if row.id is not None)
    ordered = sorted(
        (row for row in rows if row.id is not None),
        key=lambda row: (row.score, row.id.encode(), *((0,) if row.source is None else (1, row.source))),
    )
    taken: list[str] = []
    for row in ordered[(n - 30) // 2 :]:
        if len(taken) < 30 and row.id not in taken:
            taken.append(row.id)
    assert pa.table(found.controls["middle"].table())["uid"].to_pylist() == taken
    again = vlmsel.select(
        sorted(folder.glob("*.parquet"))[::-1],
        k=30,
        score_column="score",
        output=tmp_path / "again",
        control="random",
        seed=7,
    )
    first, second = (pa.table(s.controls["random-s7"].table()) for s in (found, again))
    assert first.equals(second)
    assert len(set(first["uid"].to_pylist())) == 30
    other = vlmsel.select(folder, k=30, score_column="score", output=tmp_path / "other", control="random", seed=8)
    assert set(pa.table(other.controls["random-s8"].table())["uid"].to_pylist()) != set(first["uid"].to_pylist())
    for control in found.controls.values():
        assert control.input == control.selected + sum(control.rejected.values())
