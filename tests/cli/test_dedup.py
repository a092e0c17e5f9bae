"""``vlmsel dedup`` against a comparison of every record with every other one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import vlmsel
from dedup_corpus import Choices, Pool, flags, make_pool, make_scores, part_files
from dedup_oracle import Gone, Relation, Rules, Sample, chains, cover, keep_order, read_samples, relations, word_set
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_corpus import run, run_json

Kinds = tuple[tuple[str, str], ...]


@dataclass(eq=False)
class Made:
    """A pool with its index, codes and scores, which no test changes."""

    folder: Path
    pool: Pool
    samples: list[Sample]
    scores: dict[str, list[Any]]
    known: dict[tuple[Kinds, Rules], list[Relation]] = field(default_factory=dict)

    @property
    def index(self) -> Path:
        return self.folder / "index"

    def relations(self, kinds: Kinds, rules: Rules) -> list[Relation]:
        """The oracle's answer, which several tests need."""
        if (kinds, rules) not in self.known:
            self.known[kinds, rules] = relations(self.samples, kinds, rules)
        return self.known[kinds, rules]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("dedup")
    pool = make_pool(folder / "data", samples=400)
    index = pool.index(folder / "index", "--image-codes")
    samples = read_samples(index, folder / "codes")
    choose = Choices(3)
    # Few values, so that ties are many; some rows have none.
    odd = [None, float("nan"), float("inf"), -0.0, 0.0]
    scores = {
        "ppl": [choose.choice(odd) if choose.random() < 0.2 else float(choose.randrange(30)) for _ in samples],
        "rank": [choose.randrange(-5, 5) for _ in samples],
    }
    columns = {"ppl": pa.array(scores["ppl"], pa.float32()), "rank": pa.array(scores["rank"], pa.int64())}
    make_scores(index, folder / "scores", columns)
    return Made(folder, pool, samples, scores)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The table of dedup in the order of the index."""
    return [row for _, file in part_files(folder) for row in pq.read_table(folder / file).to_pylist()]


def bits(folder: Path, rows: int) -> list[bool]:
    """Which rows stay, as the bits say."""
    content = (folder / "keep.bits").read_bytes()
    assert len(content) == -(-rows // 8)
    assert not any(content[at // 8] >> at % 8 & 1 for at in range(rows, 8 * len(content)))
    return [bool(content[at // 8] >> at % 8 & 1) for at in range(rows)]


def assert_equal(folder: Path, samples: Sequence[Sample], gone: dict[int, Gone]) -> None:
    """Table, bits, summary and manifest say what the oracle says."""
    rows = rows_of(folder)
    assert [row["uid"] for row in rows] == [sample.uid for sample in samples]
    for sample, row in zip(samples, rows, strict=True):
        expected = gone.get(sample.row)
        if expected is None:
            assert (row["keep"], row["keeper"], row["kind"], row["distance"]) == (True, sample.uid, None, None)
            continue
        assert (row["keep"], row["kind"]) == (False, expected.kind), (sample, expected, row)
        assert row["keeper"] == samples[expected.keeper].uid
        assert row["distance"] == (None if expected.distance is None else pytest.approx(expected.distance, abs=1e-6))
        # Nobody goes for one that goes.
        assert expected.keeper not in gone
    assert bits(folder, len(samples)) == [sample.row not in gone for sample in samples]
    summary = json.loads((folder / "summary.json").read_text())
    by_kind = Counter(record.kind for record in gone.values())
    assert (summary["input"], summary["kept"]) == (len(samples), len(samples) - len(gone))
    assert summary["dropped"] == dict(by_kind)
    for source in {sample.source for sample in samples}:
        here = [sample for sample in samples if sample.source == source]
        lost = Counter(gone[sample.row].kind for sample in here if sample.row in gone)
        assert summary["sources"][source] == {"input": len(here), "dropped": dict(lost)}
    sizes = Counter(record.keeper for record in gone.values())
    largest = sorted(sizes.items(), key=lambda group: (-group[1], group[0]))[:10]
    assert [(group["dropped"], group["keeper"]["uid"]) for group in summary["groups"]] == [
        (size, samples[row].uid.hex()) for row, size in largest
    ]
    for (keeper, _), group in zip(largest, summary["groups"], strict=True):
        members = [row for row in sorted(gone) if gone[row].keeper == keeper][:3]
        assert [member["uid"] for member in group["members"]] == [samples[row].uid.hex() for row in members]
        for shown, row in [(group["keeper"], keeper), *zip(group["members"], members, strict=True)]:
            assert shown["text"] == (None if samples[row].text is None else (samples[row].text or "")[:200])
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    assert counts == {
        "input": len(samples),
        "kept": len(samples) - len(gone),
        **{f"dropped.{kind}": count for kind, count in by_kind.items()},
    }


def assert_edges(folder: Path, found: Sequence[Relation]) -> None:
    """Classes and edges, taken apart into pairs of rows, are the oracle's."""
    manifest = json.loads((folder / "manifest.json").read_text())
    units = [part["unit"] for part in manifest["parts"]]
    for relation in found:
        [unit] = [unit for unit in units if unit.startswith(relation.kind)]
        classes = pq.read_table(folder / f"{unit}.classes.parquet").to_pylist()
        edges = pq.read_table(folder / f"{unit}.edges.parquet").to_pylist()
        members: dict[int, list[int]] = {}
        for line in classes:
            members.setdefault(line["class"], []).append(line["row"])
        assert all(name == min(rows) and rows == sorted(rows) for name, rows in members.items())
        assert edges == sorted(edges, key=lambda edge: (edge["a"], edge["b"]))
        near: list[dict[int, float]] = [{} for _ in relation.near]
        for rows in members.values():
            for a in rows:
                near[a] |= {b: 0.0 for b in rows if b != a}
        for edge in edges:
            assert edge["a"] < edge["b"]
            for a in members[edge["a"]]:
                for b in members[edge["b"]]:
                    assert b not in near[a], "a pair stands once"
                    near[a][b] = near[b][a] = edge["distance"]
        for ours, theirs in zip(near, relation.near, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-6)
        [part] = [part for part in manifest["parts"] if part["unit"] == unit]
        assert part["counts"] == {"classes": len(members), "rows": len(classes), "edges": len(edges)}


CASES: dict[str, tuple[Kinds, Rules, int]] = {
    "no flags": ((), Rules(), 5),
    "exact pairs": ((("exact", "pair"),), Rules(), 5),
    "exact texts": ((("exact", "text"),), Rules(), 30),
    "exact images": ((("exact", "image"),), Rules(), 50),
    "near texts": ((("near-text", "0.8"),), Rules(), 50),
    "texts less near": ((("near-text", "0.45"),), Rules(), 75),
    "equal word sets": ((("near-text", "1"),), Rules(), 30),
    "near images": ((("near-image", "6"),), Rules(), 100),
    "equal codes": ((("near-image", "0"),), Rules(), 50),
    "images far apart": ((("near-image", "16"),), Rules(), 125),
    "dHash": ((("near-image", "6"),), Rules(image_hash="dhash"), 100),
    "both hashes": ((("near-image", "8"),), Rules(image_hash="both"), 75),
    "mirrors": ((("near-image", "6"),), Rules(flips=True), 125),
    "mirrors by dHash": ((("near-image", "6"),), Rules(flips=True, image_hash="dhash"), 125),
    "mirrors by both": ((("near-image", "12"),), Rules(flips=True, image_hash="both"), 125),
    "near pairs": ((("near-pair", "0.6:6"),), Rules(), 5),
    "near pairs, mirrors": ((("near-pair", "0.3:10"),), Rules(flips=True), 10),
    "exact kinds": ((("exact", "image"), ("exact", "text"), ("exact", "pair")), Rules(), 75),
    "all kinds": (
        (("near-image", "4"), ("near-text", "0.7"), ("near-pair", "0.5:8"), ("exact", "pair"), ("exact", "image")),
        Rules(),
        150,
    ),
}
"""Kinds, how they compare, and how many records go at least: fewer, and the pool proves nothing."""


def options(rules: Rules) -> list[str]:
    words = ["--image-hash", rules.image_hash]
    if rules.shingles:
        words += ["--near-text-shingles", f"chars:{rules.shingles}"]
    return words + ["--flips"] * rules.flips


def dedup(made: Made, output: Path, kinds: Kinds, *more: str | Path) -> dict[str, Any]:
    return run_json(
        "dedup",
        "--index",
        made.index,
        "-o",
        output,
        *flags(kinds),
        "--max-bad-fraction",
        "0.2",
        "--max-removed",
        "1",
        *more,
    )


@pytest.mark.parametrize("case", CASES)
def test_every_kind_finds_what_the_comparison_of_all_with_all_finds(made: Made, tmp_path: Path, case: str) -> None:
    kinds, rules, at_least = CASES[case]
    found = made.relations(kinds, rules)
    gone = cover(keep_order(made.samples, [], {}), found)
    assert len(gone) >= at_least
    done = dedup(made, tmp_path / "dedup", kinds, *options(rules))
    assert_edges(tmp_path / "dedup-edges", found)
    assert_equal(tmp_path / "dedup", made.samples, gone)
    assert (done["input"], done["kept"]) == (len(made.samples), len(made.samples) - len(gone))
    assert done["kept"] + sum(done["dropped"].values()) == done["input"]
    assert (done["edges_reused"], done["already_finished"]) == (False, False)


ALL = CASES["all kinds"][0]
KEEPS: dict[str, tuple[list[str], bool]] = {
    "the best score": ([], True),
    "the worst score": (["highest:ppl"], True),
    "an integer column, then the largest": (["lowest:rank", "largest"], True),
    "of the index": (["highest:n_turns", "lowest:n_images"], False),
    "by source": (["source:json,nobody", "first"], False),
    "by source, then score": (["source:tars", "highest:rank"], True),
    "the first": (["first"], False),
    "the largest": (["largest"], False),
}


@pytest.mark.parametrize("is_chain", [False, True], ids=["cover", "chains"])
@pytest.mark.parametrize("case", KEEPS)
def test_the_best_is_kept(made: Made, edges: Path, case: str, is_chain: bool) -> None:
    keep, has_scores = KEEPS[case]
    found = made.relations(ALL, Rules())
    order = keep_order(made.samples, keep, made.scores if has_scores else {})
    gone = chains(order, found) if is_chain else cover(order, found)
    words: list[str | Path] = ["--scores", made.folder / "scores"] if has_scores else []
    words += [word for rule in keep for word in ("--keep", rule)]
    done = dedup(made, edges, ALL, *words, *["--chains"] * is_chain, "--overwrite")
    assert done["edges_reused"]
    assert_equal(edges, made.samples, gone)
    if not is_chain:
        # Nobody who goes is further than asked for, and nobody who stays has a neighbour that stays.
        assert all(record.distance is not None for record in gone.values())
        stays = [sample.row for sample in made.samples if sample.row not in gone]
        assert not any(other in relation.near[row] for relation in found for row in stays for other in stays)


@pytest.fixture(scope="module")
def edges(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished output of all kinds, whose keepers are chosen again and again."""
    output = tmp_path_factory.mktemp("again") / "dedup"
    dedup(made, output, ALL)
    return output


def test_chains_are_longer_than_neighbourhoods(made: Made) -> None:
    """Or the tests of both would be one."""
    found = made.relations(ALL, Rules())
    order = keep_order(made.samples, ["first"], {})
    chained, covered = chains(order, found), cover(order, found)
    assert len(chained) > len(covered)
    assert any(record.distance is None for record in chained.values())


@pytest.mark.parametrize("length", [1, 4])
def test_shingles_are_sets_of_characters(made: Made, tmp_path: Path, length: int) -> None:
    """They are found by MinHash: what is found is near, and most of what is near is found."""
    kinds, rules = (("near-text", "0.8"),), Rules(shingles=length)
    [relation] = made.relations(kinds, rules)
    dedup(made, tmp_path / "dedup", kinds, *options(rules))
    edges = pq.read_table(tmp_path / "dedup-edges" / "near-text-0.8.edges.parquet").to_pylist()
    assert all(relation.near[edge["a"]][edge["b"]] == pytest.approx(edge["distance"], abs=1e-6) for edge in edges)
    classes = pq.read_table(tmp_path / "dedup-edges" / "near-text-0.8.classes.parquet").to_pylist()
    one_of_each = {line["class"] for line in classes}
    near = sum(b in one_of_each for a in one_of_each for b in relation.near[a] if a < b)
    assert len(edges) >= 0.9 * near > 0


TEXTS = st.lists(
    st.sampled_from(
        [
            "a",
            "b",
            "c",
            "D",
            "ß",
            "é",
            "e\u0301",
            "Ａ",
            "ﬁ",
            "手机",
            "壳",
            "ก",
            "ขข",
            "-",
            "!",
            "\u00ad",
            "\u200d",
            "x1",
            "Σ",
            "ς",
            "½",
            "İ",
        ]
    ),
    max_size=6,
).map("".join)


@settings(max_examples=25)
@given(data=st.data())
def test_any_texts(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("texts")
    lines = data.draw(st.lists(st.lists(TEXTS, min_size=1, max_size=5).map(" ".join), min_size=1, max_size=12))
    threshold = data.draw(st.sampled_from(["0.3", "0.5", "0.75", "1", "0.333333333333333333"]))
    (folder / "pool.jsonl").write_text("".join(json.dumps({"caption": line}) + "\n" for line in lines))
    vlmsel.index(folder / "pool.jsonl", output=folder / "index", max_bad_fraction=1.0)
    samples = read_samples(folder / "index")
    kinds = (("exact", "text"), ("near-text", threshold))
    found = relations(samples, kinds, Rules())
    vlmsel.dedup(
        folder / "index",
        output=folder / "dedup",
        exact=["text"],
        near_text=[threshold],
        max_removed=1.0,
        keep=["first"],
    )
    assert_edges(folder / "dedup-edges", found)
    assert_equal(folder / "dedup", samples, cover(keep_order(samples, ["first"], {}), found))


def test_words_are_as_the_rule_says() -> None:
    """The examples of the rule: the oracle is not what is tested."""
    assert word_set("Don't PANIC!") == {"don", "t", "panic"}
    assert word_set("iPhone手机壳") == {"iphone", "手机", "机壳"}
    assert word_set("stra\u00dfe ＡＢ cafe\u0301") == {"strasse", "ab", "caf\u00e9"}
    assert word_set("!? \U0001f600") == frozenset()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--near-text", "0"], "--near-text 0"),
        (["--near-text", "1.1"], "--near-text 1.1"),
        (["--near-image", "17"], "--near-image 17"),
        (["--near-pair", "0.8"], "--near-pair 0.8"),
        (["--near-text-shingles", "chars:0", "--near-text", "0.8"], "--near-text-shingles chars:0"),
        (["--keep", "lowest:ppl"], "--scores"),
        (["--keep", "best"], "--keep best"),
        (["--scratch", "nowhere"], "--scratch nowhere"),
        (["--scores", "SCORES", "--keep", "lowest:nothing"], "nothing"),
        (["--scores", "SCORES", "--keep", "lowest:source"], "source"),
    ],
)
def test_what_cannot_be_asked_is_exit_code_2(made: Made, tmp_path: Path, words: list[str], says: str) -> None:
    words = [str(made.folder / "scores") if word == "SCORES" else word for word in words]
    done = run(
        "dedup",
        "--index",
        made.index,
        "-o",
        tmp_path / "dedup",
        "--max-bad-fraction",
        "0.2",
        "--max-removed",
        "1",
        *words,
    )
    assert done.returncode == 2, done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "dedup").exists()
