"""The scores table: one Parquet file per unit, the same bytes for the same rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from vlmsel.errors import ResourceError
from vlmsel.files import create_plain

from vlmsel_trainer.vlm import provenance as provenance_of
from vlmsel_trainer.vlm.records import OK, Score


def schema(provenance: dict[str, Any], *, with_no_image: bool) -> pa.Schema:
    """The columns, with the provenance in the file's metadata."""
    fields = [
        pa.field("uid", pa.binary(16), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("ppl", pa.float32()),
        pa.field("nll_sum", pa.float64()),
        pa.field("n_tokens", pa.uint32(), nullable=False),
        pa.field("n_image_tokens", pa.uint32(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
    ]
    if with_no_image:
        fields.append(pa.field("nll_sum_no_image", pa.float64()))
    return pa.schema(fields, metadata={provenance_of.METADATA_KEY: provenance_of.encode(provenance)})


def write_part(
    path: Path,
    uids: Sequence[bytes],
    sources: Sequence[str],
    scores: Sequence[Score],
    provenance: dict[str, Any],
    *,
    with_no_image: bool,
) -> None:
    """Writes one part; every sequence has one entry per row, in the order of the index. Raises `ResourceError`."""
    columns: dict[str, Any] = {
        "uid": pa.array(uids, pa.binary(16)),
        "source": pa.array(sources, pa.string()),
        # Beyond float32 is infinite, and infinite scores never rank.
        "ppl": pa.array([_as_float32(score.perplexity) for score in scores], pa.float32()),
        "nll_sum": pa.array([score.nll_sum if score.status == OK else None for score in scores], pa.float64()),
        "n_tokens": pa.array([score.n_tokens for score in scores], pa.uint32()),
        "n_image_tokens": pa.array([score.n_image_tokens for score in scores], pa.uint32()),
        "truncated": pa.array([score.truncated for score in scores], pa.bool_()),
        "status": pa.array([score.status for score in scores], pa.string()),
    }
    if with_no_image:
        no_image = [score.nll_sum_no_image if score.status == OK else None for score in scores]
        columns["nll_sum_no_image"] = pa.array(no_image, pa.float64())
    table = pa.table(columns, schema=schema(provenance, with_no_image=with_no_image))
    try:
        with os.fdopen(create_plain(path), "wb") as file:
            pq.write_table(table, file, compression="zstd", use_dictionary=["source", "status"], write_statistics=True)
    except OSError as error:  # pyarrow says what, but not where
        raise ResourceError(
            f"{path}, {table.nbytes:,} bytes of scores, cannot be written ({error}); what was committed stays, run the same command again"
        ) from error


def _as_float32(value: float | None) -> float | None:
    if value is None:
        return None
    with np.errstate(over="ignore"):
        return float(np.float32(value))
