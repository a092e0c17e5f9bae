"""``vlmsel.doctor``: what is wrong with a data set, before anyone pays for GPUs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vlmsel import _core
from vlmsel._requests import call, data_of, read_of
from vlmsel.findings import Finding, Skipped
from vlmsel.types import KeyUntil, PathLike, ProgressCallback


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`doctor` found."""

    files: int
    bytes: int
    records: int
    images: int
    texts: int
    classes: dict[str, dict[str, int]]
    """Samples by source and class: unsupported, conversation, multi-image, pair, text-only, image-only."""
    skipped: Skipped
    """Files in the folders that look like data and are not read."""
    findings: dict[str, Finding]
    repeats_sampled: int
    """Repeats were looked for among one in so many distinct pictures; 1 means all."""
    healthy: bool


def doctor(
    sources: PathLike | Iterable[PathLike] = (),
    *,
    named_sources: Mapping[str, PathLike] | None = None,
    image_root: PathLike | None = None,
    caption_column: str | None = None,
    key_until: KeyUntil = "first-dot",
    threads: int | None = None,
    memory_limit: int | None = None,
    dry_run: bool = False,
    progress: ProgressCallback | None = None,
) -> Diagnosis:
    """Read every byte of the sources and count what is wrong, with examples; nothing is written.

    Kinds, among others: ``row_without_member``, ``repeated_key`` (a key that comes back: its members are not adjacent),
    ``truncated_tar``, ``bad_checksum``, ``empty_image``, ``truncated_image``, ``corrupt_image``, ``huge_image``,
    ``tiny_image``, ``empty_caption``, ``one_image_many_captions``, ``repeated_pair``.

    Images are read to their last code, in parallel: Huffman codes of JPEG, the zlib stream and checksums of PNG, LZW codes
    of GIF, and WebP through a decoder. Damage in the middle of lossy WebP or arithmetic JPEG, which have no redundancy, can
    stay unseen. Images of more than 178,956,970 pixels or 64 MiB are ``huge_image``.

    Args:
        sources: Files, folders, patterns, braces or ``@list`` files.
        named_sources: Sources with names of one's own.
        image_root: The folder that image paths in JSON records are relative to; None: that of the JSON file.
        caption_column: Column of Parquet tables that holds the captions; None: ``caption``, else ``text``.
        key_until: The dot of a tar member's name that its key ends at: WebDataset's ``first-dot``, or ``last-dot``.
        threads: Threads to use; None: one per core.
        memory_limit: Bytes to stay under; None: no limit. Under a low one, repeats are looked for in a sample.
        dry_run: Count files and bytes alone.
        progress: Called with the records and bytes read so far.

    Returns:
        What was read and found; damage in the data is a finding, not an error.

    Raises:
        NotFoundError, UsageError: What cannot be asked.
        ResourceError: Memory or open files ran out.
    """
    request = {"data": data_of(sources, named_sources, image_root), "read": read_of(None, caption_column, key_until)}
    found = call(
        _core.doctor, request, {"threads": threads, "memory_limit": memory_limit, "dry_run": dry_run}, progress
    )
    findings = {kind: Finding(**finding) for kind, finding in found.pop("findings").items()}
    return Diagnosis(findings=findings, skipped=Skipped(**found.pop("skipped")), **found)
