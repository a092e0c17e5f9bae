"""What a model folder holds besides weights: config, tokenizer, processor, chat template, generation config.

A soup has one set of them for ingredients that each bring their own. Files that agree are carried over. Where they
differ, the difference decides: a vocabulary or an image size changes what the weights mean and is an error; the name of
the folder or the library's version does not and is reported.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3
from vlmsel.errors import UnreadableError, UsageError
from vlmsel.files import read_plain

from vlmsel_trainer.soup.weights.strict_json import parse_json

CONFIG_FILE = "config.json"
_MAX_FILE_BYTES = 256 << 20
_FOLDERS = ("additional_chat_templates",)
#: What goes along with a model. Everything else in a folder (optimizer, logs, records of a training) stays behind.
_PATTERNS = (
    CONFIG_FILE, "configuration.json", "generation_config.json", "*processor_config.json",
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab*.json", "vocab*.txt", "merges.txt",
    "chat_template*", "*.jinja", "*.model", "*.tiktoken", "*.spm", "*.py",
)  # fmt: skip
#: Keys that say where a file came from and not what it means, at any depth. (Dtypes are compared tensor by tensor.)
_HARMLESS = frozenset(
    {
        "_name_or_path", "name_or_path", "transformers_version", "_commit_hash", "_from_model_config", "use_cache",
        "processor_class", "tokenizer_file", "special_tokens_map_file", "_attn_implementation",
        "_attn_implementation_autoset", "attn_implementation", "use_fast", "gradient_checkpointing",
        "is_local", "local_files_only", "backend", "dtype", "torch_dtype",
    }
)  # fmt: skip
#: What a tokenizer did last in training and saved on the way; whoever tokenises sets it again.
_TOKENIZER_HABITS = {
    "tokenizer.json": ("truncation", "padding"),
    "tokenizer_config.json": ("padding_side", "truncation_side", "model_max_length", "max_length", "padding"),
}
#: Of the generation config only these change what the weights' outputs mean; the others are habits of decoding.
_GENERATION_MEANING = ("_token_id", "_token_ids")
_TEMPLATE_FILES = {"chat_template.jinja", "chat_template.json"}
_MAX_DIFFERENCES = 200
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where companions differ between two ingredients."""

    file: str
    place: str
    first: str
    second: str
    labels: tuple[str, str]
    changes_meaning: bool

    def __str__(self) -> str:
        at = f"{self.file}: {self.place}" if self.place else self.file
        return f"{at} is {self.first} in {self.labels[0]} and {self.second} in {self.labels[1]}"


@dataclass(frozen=True, slots=True)
class Companions:
    """The companion files of one ingredient: content by relative name."""

    folder: Path
    files: dict[str, bytes]

    @property
    def digest(self) -> str:
        """Hash of all names and contents, in hex."""
        state = blake3(b"vlmsel companions 1")
        for name, data in sorted(self.files.items()):
            state.update(f"{len(name)}:{name}{len(data)}:".encode("utf-8", "surrogateescape") + data)
        return state.hexdigest()


def read_companions(folder: Path) -> Companions:
    """Reads the companion files of a model folder; those of training (optimizer, logs, results) are left out.

    Raises UsageError for one that is too large, or a pipe, a device, a folder or a link to nothing.
    """
    files: dict[str, bytes] = {}
    for place in [folder, *(folder / name for name in _FOLDERS)]:
        if not place.is_dir():
            continue
        for entry in sorted(os.scandir(place), key=lambda e: e.name):
            name = entry.name if place == folder else f"{place.name}/{entry.name}"
            if not any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in _PATTERNS):
                continue
            if entry.is_dir() and not Path(entry.name).suffix:
                continue  # Such as chat_templates/; a folder that is called config.json is in a file's place.
            files[name] = read_plain(entry.path, _MAX_FILE_BYTES)
    return Companions(folder, files)


def compare_companions(companions: Sequence[tuple[str, Companions]]) -> list[Difference]:
    """Every difference of the later ones from the first, given as (label, companions)."""
    found: list[Difference] = []
    first_label, first = companions[0]
    for label, other in companions[1:]:
        labels = (first_label, label)
        templates = (_chat_template(first), _chat_template(other))
        if templates[0] != templates[1]:
            shown = [_show(_ABSENT if template is None else template) for template in templates]
            found.append(Difference("chat template", "", shown[0], shown[1], labels, changes_meaning=True))
        for name in sorted((first.files.keys() | other.files.keys()) - _TEMPLATE_FILES):
            a, b = first.files.get(name), other.files.get(name)
            if a == b:
                continue
            if a is None or b is None:
                here, there = ("missing", "there") if a is None else ("there", "missing")
                found.append(Difference(name, "", here, there, labels, _absence_matters(name)))
            elif name.endswith(".json"):
                found.extend(_compare_json(name, a, b, first.folder / name, other.folder / name, labels))
            else:
                found.append(Difference(name, "", _hash(a), _hash(b), labels, changes_meaning=True))
    return found


def check_companions(differences: Sequence[Difference]) -> None:
    """Raises UsageError if a difference changes what the weights mean."""
    serious = [difference for difference in differences if difference.changes_meaning]
    if serious:
        lines = [str(difference) for difference in serious[:_SHOWN]]
        if len(serious) > _SHOWN:
            lines.append(f"and {len(serious) - _SHOWN} more")
        raise UsageError(
            "the models' weights do not mean the same thing:\n  "
            + "\n  ".join(lines)
            + "\nSouped they would match neither. If one of them is right for all, name it with --companions-from MODEL"
        )


def _chat_template(companions: Companions) -> Any:
    """The template in force. Library versions keep it in different files, which is no difference in meaning."""
    jinja = companions.files.get("chat_template.jinja")
    if jinja is not None:
        return jinja.decode("utf-8", "replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if name in companions.files:
            document = parse_json(companions.files[name], companions.folder / name)
            if isinstance(document, dict) and document.get("chat_template") is not None:
                return document["chat_template"]
    return None


def _absence_matters(name: str) -> bool:
    return name in {CONFIG_FILE, "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt"}


def _compare_json(
    name: str, a: bytes, b: bytes, path_a: Path, path_b: Path, labels: tuple[str, str]
) -> list[Difference]:
    found: list[Difference] = []
    documents = [parse_json(a, path_a), parse_json(b, path_b)]
    if name == "tokenizer_config.json":
        for document in documents:
            if isinstance(document, dict):
                document.pop("chat_template", None)
    try:
        _walk(name, "", documents[0], documents[1], labels, found)
    except RecursionError as error:
        raise UnreadableError(f"the JSON of {path_a} and {path_b} is nested too deeply to be compared") from error
    return found


_ABSENT = object()


def _walk(file: str, place: str, a: Any, b: Any, labels: tuple[str, str], found: list[Difference]) -> None:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            _walk(file, f"{place}.{key}" if place else key, a.get(key, _ABSENT), b.get(key, _ABSENT), labels, found)
        return
    if (type(a) is type(b) and a == b) or len(found) >= _MAX_DIFFERENCES:
        return
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b) and len(a) <= 1 << 16:
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            _walk(file, f"{place}[{index}]", x, y, labels, found)
        return
    found.append(Difference(file, place, _show(a), _show(b), labels, _changes_meaning(file, place)))


def _changes_meaning(file: str, place: str) -> bool:
    last = place.rsplit(".", 1)[-1]
    if last in _HARMLESS or place.split(".")[0] in _TOKENIZER_HABITS.get(file, ()):
        return False
    if file == "generation_config.json":
        return last.split("[")[0].endswith(_GENERATION_MEANING)
    return True


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({_hash(text.encode('utf-8', 'replace'))})"


def _hash(data: bytes) -> str:
    return f"{len(data)} bytes, hash {blake3(data).hexdigest()[:12]}"
