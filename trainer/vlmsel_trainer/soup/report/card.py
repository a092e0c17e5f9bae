"""The soup's model card: what went in, with which weights, hashes and scores, and the command that made it.

Names and data-set lists come from other people's folders; whatever could act as markup or as a terminal escape is
neutralised before it is written.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmsel.errors import NotFoundError, UsageError
from vlmsel.files import read_plain

_MAX_CARD_BYTES = 4 << 20
_MAX_DATASETS = 200


def read_datasets(folder: Path) -> tuple[str, ...]:
    """The ``datasets:`` list in the front matter of a folder's README.md; empty where there is none."""
    path = folder / "README.md"
    try:
        text = read_plain(path, _MAX_CARD_BYTES)
    except (UsageError, NotFoundError, OSError):
        return ()  # No card that can be read names no data sets.
    lines = text.decode("utf-8", "replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return ()
    found: list[str] = []
    inside = False
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if inside and line.lstrip().startswith("- "):
            found.append(line.lstrip()[2:].strip().strip("'\""))
        elif line and not line[0].isspace():
            key, _, rest = line.partition(":")
            inside = key.strip() == "datasets"
            if inside and rest.strip().startswith("["):
                found.extend(item.strip().strip("'\"") for item in rest.strip().strip("[]").split(",") if item.strip())
    return tuple(_plain(name) for name in found[:_MAX_DATASETS] if name)


def write_card(lineage: Mapping[str, Any], command: str, has_plot: bool) -> str:
    """The card as Markdown. ``lineage`` is the manifest's provenance."""
    members = [entry for entry in lineage["candidates"] if entry["in_soup"]]
    datasets = sorted({name for entry in members for name in entry["datasets"]})
    lines = [
        "---",
        "tags:",
        "- model-soup",
        "- merge",
        "- vlmsel",
        "base_model_relation: merge",
        "base_model:",
        *[f"- {_quoted(entry['label'])}" for entry in members],
    ]
    if datasets:
        lines += ["datasets:", *[f"- {_quoted(name)}" for name in datasets]]
    lines += [
        "---",
        "",
        f"# {lineage['method'].capitalize()} soup of {len(members)} model{'s' if len(members) != 1 else ''}",
        "",
        _sentence(lineage, len(members)),
        "",
        "| model | in the soup | weight | score | datasets | content hash |",
        "|---|---|---|---|---|---|",
    ]
    for entry in lineage["candidates"]:
        cells = [
            _cell(entry["label"]),
            "yes" if entry["in_soup"] else "no",
            f"{entry['weight']:.6g}" if entry["in_soup"] else "",
            "" if entry["score"] is None else f"{entry['score']:.6g}",
            _cell(", ".join(entry["datasets"])) or "not recorded",
            f"`{entry['content_hash'][:16]}`" if entry["content_hash"] else "not read",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Content hash of the soup: `{lineage['content_hash']}`", ""]
    lines += _trials(lineage["trials"], has_plot)
    lines += _held_out(lineage.get("report"))
    lines += _companions(lineage["companions"])
    lines += ["## How it was made", "", f"    {_plain(command)}", ""]
    lines += [
        "`manifest.json` holds every tensor's hash in each ingredient and in the soup; `vlmsel verify` re-reads the folder.",
        "",
    ]
    return "\n".join(lines)


def _sentence(lineage: Mapping[str, Any], count: int) -> str:
    method = {
        "average": "The weighted mean of all models" if lineage["weighted"] else "The plain mean of all models",
        "maximum": f"The plain mean of the {count} models with the highest scores",
        "greedy": "Models were tried in the order of their scores and kept where the score of the mean did not fall",
    }[lineage["method"]]
    kept = (
        f" Tensors matching {', '.join(_plain(p) for p in lineage['keep'])} come from one model."
        if lineage["keep"]
        else ""
    )
    tensors = lineage["tensors"]
    return (
        f"{method}, summed wider than stored and rounded once.{kept} "
        f"{tensors.get('mean', 0)} tensors are means, {tensors.get('equal', 0)} were equal in all models, "
        f"{tensors.get('kept', 0)} were kept from one."
    )


def _trials(trials: Sequence[Mapping[str, Any]], has_plot: bool) -> list[str]:
    if not trials:
        return []
    lines = ["## Trials", "", "| tried | models | score | to beat | kept |", "|---|---|---|---|---|"]
    for trial in trials:
        to_beat = "" if trial["to_beat"] is None else f"{trial['to_beat']:.6g}"
        kept = "yes" if trial["accepted"] else "no"
        cells = [_cell(trial["candidate"]), str(len(trial["members"])), f"{trial['score']:.6g}", to_beat, kept]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *(["![score by number of models](soup.svg)", ""] if has_plot else [])]


def _held_out(report: Mapping[str, Any] | None) -> list[str]:
    if not report:
        return []
    return [
        "## Held-out score",
        "",
        "| model | score |",
        "|---|---|",
        *[f"| {_cell(row['label'])} | {row['score']:.6g} |" for row in report["scores"]],
        "",
    ]


def _companions(companions: Mapping[str, Any]) -> list[str]:
    if not companions["differences"]:
        return []
    lines = ["## Where configs differed", "", f"Taken from {_cell(companions['from'])}.", ""]
    return [*lines, *[f"- {_cell(text)}" for text in companions["differences"]], ""]


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _cell(text: str) -> str:
    escaped = html.escape(_plain(text), quote=False)
    for sign in "\\`*_[]|!":
        escaped = escaped.replace(sign, f"\\{sign}")
    return escaped


def _quoted(text: str) -> str:
    # huggingface_hub's ModelCardData writes YAML 1.1: a model called 1e-5 (a sweep of learning rates) stays bare, which the
    # hub's YAML 1.2 reads as a number. Quotes for every name are the same bytes with every version of every library.
    return json.dumps(_plain(text), ensure_ascii=False)
