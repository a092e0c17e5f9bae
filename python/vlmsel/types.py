"""Types that the public functions share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeAlias

PathLike: TypeAlias = str | os.PathLike[str]

ProgressCallback: TypeAlias = Callable[[int, int, int, int], object]
"""``progress(records, records_total, bytes, bytes_total)``, called while work goes on, from whatever thread does it.

A total of 0 is unknown. An exception that it raises ends the run; what was finished is kept.
"""
