"""The driver of stages in Python: what is left is done once, in order, and nothing is published that is not whole."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from vlmsel import Output, read_manifest, stage
from vlmsel.errors import StrictError, VlmselError

UNITS = [stage.Unit("count", f"u{n}", ("numbers",), (n * 10, n * 10 + 10)) for n in range(4)]


class Counting:
    """Writes each unit's range to a file; ends before the unit named `stop`."""

    def __init__(self, stop: str | None = None, forget: str | None = None) -> None:
        self.stop, self.forget = stop, forget
        self.done: list[str] = []
        self.judged = 0

    def accept(self, standing: Mapping[str, Any]) -> None:
        self.judged += len(standing["parts"])

    def work(self, left: Sequence[stage.Unit], output: Output) -> Generator[tuple[stage.Unit, stage.Done]]:
        for unit in left:
            if unit.name == self.stop:
                raise StrictError("stopped")
            if unit.name == self.forget:
                continue
            output.temporary(f"{unit.name}.json").write_text(json.dumps(unit.range))
            self.done.append(unit.name)
            yield unit, stage.Done([f"{unit.name}.json"], 10, {"ok": 10})

    def conclude(self, output: Output) -> stage.Conclusion:
        return stage.Conclusion({"ok": sum(part["rows"] for part in output.committed().values())})


def run(counting: Counting, output: Path, units: Sequence[stage.Unit] = UNITS, **keywords: Any) -> stage.Ended:
    inputs = [{"name": "numbers", "bytes": 1, "fingerprint": "0"}]
    return stage.run(counting, output, command="count", config={}, inputs=inputs, units=units, **keywords)


def test_what_is_left_is_done_once(tmp_path: Path) -> None:
    first = Counting(stop="u2")
    with pytest.raises(StrictError):
        run(first, tmp_path / "out")
    assert first.done == ["u0", "u1"]
    assert not (tmp_path / "out").exists()
    second = Counting()
    ended = run(second, tmp_path / "out")
    assert second.done == ["u2", "u3"]
    assert (ended.done, ended.already_done, ended.manifest["counts"]) == (2, False, {"ok": 40})
    third = Counting()
    ended = run(third, tmp_path / "out")
    assert (third.done, third.judged, ended.done, ended.already_done) == ([], 4, 0, True)
    assert ended.manifest == {key: value for key, value in read_manifest(tmp_path / "out").items() if key != "checksum"}


def test_a_unit_that_was_forgotten_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(VlmselError, match="3 of 4 units"):
        run(Counting(forget="u1"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_units_are_plain_data(tmp_path: Path) -> None:
    with Output.begin(tmp_path / "out", command="count", config={}, inputs=[], units=UNITS) as output:
        assert output.left() == {"u0", "u1", "u2", "u3"}
        output.temporary("u0.json").write_text("0")
        output.commit("u0", ["u0.json"], rows=10)
    with Output.begin(tmp_path / "out", command="count", config={}, inputs=[], units=UNITS) as output:
        assert output.left() == {"u1", "u2", "u3"}
