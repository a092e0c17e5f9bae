"""Golden tests use what the tests of other rooms build their inputs with."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / room) for room in ("cli", "trainer/scoring")]
