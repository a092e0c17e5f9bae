"""What ``index`` and ``doctor`` tell of the data beside counts."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One kind of thing to know: how often, and where for the first few."""

    count: int
    examples: list[str]


@dataclass(frozen=True)
class Skipped:
    """Files in the folders that look like data and are not read: how many, and the first few."""

    count: int = 0
    first: list[str] = field(default_factory=list)


ADVICE = {
    "dotted_key": "keys that hold dots are read with --key-until last-dot",
    "no_end_marker": "its writer may have been stopped, or it was cut between two members",
    "placeholder_mismatch": "the conversation has places for another number of images; score refuses it",
    "text_without_picture": "text alone in a tar of pictures",
    "more_pictures": "the first plain one is the image, the others are members",
    "unread_field": "it stays in metadata",
}
"""What to make of a note, by its kind."""


def told(kind: str, finding: Finding) -> str:
    """A note in one line."""
    advice = f"; {ADVICE[kind]}" if kind in ADVICE else ""
    first = f": {finding.examples[0]}" if finding.examples else ""
    return f"{finding.count:,} {kind}{first}{advice}".replace("\n", "\\n")


def skipped_line(skipped: Skipped) -> str:
    """The files that were passed over, in one line."""
    more = ", ..." if skipped.count > len(skipped.first) else ""
    return f"{skipped.count:,} files look like data and are not read: {', '.join(skipped.first)}{more}".replace(
        "\n", "\\n"
    )
