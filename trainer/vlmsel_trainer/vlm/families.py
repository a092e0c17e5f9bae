"""Which family a model belongs to: the one table of families that need steps of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmsel_trainer.vlm.family import Family

FAMILIES: dict[str, type[Family]] = {}
"""Their classes by the ``model_type`` of their config.json; what is not here takes the general way."""


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a model by its config.json, as a dict."""
    return FAMILIES.get(str(config.get("model_type")), Family)()
