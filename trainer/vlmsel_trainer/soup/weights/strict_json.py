"""JSON as it must be in files that other people wrote."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from vlmsel.errors import UnreadableError


def parse_json(data: bytes, path: Path) -> Any:
    """Strict JSON: UTF-8, no doubled keys, no bottomless nesting. Raises UnreadableError naming ``path``."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            double = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise ValueError(f"the key {double[:200]!r} occurs twice")
        return found

    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except RecursionError as error:
        raise UnreadableError(f"the JSON of {path} is nested too deeply") from error
    except ValueError as error:
        raise UnreadableError(f"the JSON of {path} cannot be read: {error}") from error
