"""Which room may import which: ARCHITECTURE.md, "Rooms". Walks the real sources; each walker must also catch a planted fault."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What a crate may depend on of ours, and what it must not depend on at all.
RUST_ROOMS = {
    "vlmsel-core": set(),
    "vlmsel-shards": {"vlmsel-core"},
    "vlmsel-pipeline": {"vlmsel-core", "vlmsel-shards"},
    "vlmsel-py": {"vlmsel-core", "vlmsel-shards", "vlmsel-pipeline"},
}
IO_CRATES = re.compile(
    r"^(parquet|arrow.*|csv|tar|flate2|zstd|fs4|glob|libc|memmap.*|tempfile|tokio|object_store|rayon)$"
)
IO_PATHS = re.compile(
    r"\bstd::(fs|net|process|env|os)\b|\bstd::io\b|\bstd::\{[^}]*\b(fs|io|net|process)\b|\bFile::(open|create)\b"
)
RUST_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)

TORCH_HALF = {"torch", "torchvision", "transformers", "deepspeed", "accelerate", "safetensors", "vlmsel_trainer"}


# --- Rust ------------------------------------------------------------------------------------------------------------


def crate_faults(name: str, manifest: str, sources: dict[str, str]) -> Iterator[str]:
    """What is wrong with a crate: ``manifest`` is its Cargo.toml, ``sources`` its Rust files by name."""
    parsed = tomllib.loads(manifest)
    tables = [parsed, *parsed.get("target", {}).values()]
    normal = {
        dependency
        for table in tables
        for kind in ("dependencies", "build-dependencies")
        for dependency in table.get(kind, {})
    }
    for dependency in sorted(normal):
        if dependency.startswith("vlmsel-") and dependency not in RUST_ROOMS[name]:
            yield f"{name} depends on {dependency}"
        if dependency.startswith("pyo3") and name != "vlmsel-py":
            yield f"{name} depends on {dependency}: only vlmsel-py may"
        if name == "vlmsel-core" and IO_CRATES.match(dependency):
            yield f"{name} depends on {dependency}: it does no IO"
    if name == "vlmsel-core":
        for file, text in sources.items():
            for found in IO_PATHS.finditer(RUST_COMMENT.sub("", text)):
                yield f"{name}/{file} uses {found[0]}: it does no IO"


def rust_sources(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in sorted((folder / "src").rglob("*.rs"))
    }


def test_every_crate_has_a_room() -> None:
    members = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))["workspace"]["members"]
    assert {Path(member).name for member in members} == set(RUST_ROOMS)


@pytest.mark.parametrize("name", RUST_ROOMS)
def test_crate_points_down(name: str) -> None:
    folder = ROOT / "rust" / name
    sources = rust_sources(folder)
    assert sources
    assert list(crate_faults(name, (folder / "Cargo.toml").read_text(encoding="utf-8"), sources)) == []


@pytest.mark.parametrize(
    ("name", "manifest", "source"),
    [
        ("vlmsel-core", "[dependencies]\nvlmsel-shards.workspace = true", ""),
        ("vlmsel-shards", "[dependencies]\nvlmsel-pipeline.workspace = true", ""),
        ("vlmsel-pipeline", "[dependencies]\npyo3.workspace = true", ""),
        ("vlmsel-shards", "[build-dependencies]\npyo3-build-config = '1'", ""),
        ("vlmsel-core", "[target.'cfg(unix)'.dependencies]\nparquet = '1'", ""),
        ("vlmsel-core", "", "use std::fs;"),
        ("vlmsel-core", "", "use std::io::{Read, Write};"),
        ("vlmsel-core", "", "use std::{collections::BTreeMap, fs::File};"),
        ("vlmsel-core", "", "fn f() { let s = std::net::TcpStream::connect(a); }"),
    ],
)
def test_crate_walker_sees_a_planted_fault(name: str, manifest: str, source: str) -> None:
    assert len(list(crate_faults(name, manifest, {"src/planted.rs": source}))) == 1


def test_crate_walker_reads_past_comments() -> None:
    assert list(crate_faults("vlmsel-core", "", {"src/a.rs": "// std::fs is not used here\nuse std::fmt;"})) == []


# --- Python ----------------------------------------------------------------------------------------------------------


def imports(source: str, package: str) -> Iterator[tuple[str, str | None]]:
    """``(module, name)`` of each import in ``source``, at any depth; ``package`` is what relative imports start from."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                yield base, alias.name
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.args[0].value, None


def data_half_faults(source: str, package: str = "vlmsel") -> Iterator[str]:
    """Imports that the data half must not have, in any function or branch."""
    for module, _ in imports(source, package):
        if module.partition(".")[0] in TORCH_HALF:
            yield f"imports {module}"


def trainer_faults(source: str, package: str = "vlmsel_trainer") -> Iterator[str]:
    """Uses of vlmsel's private names: modules or attributes that begin with an underscore."""
    for module, name in imports(source, package):
        if module.partition(".")[0] == "vlmsel":
            path = [*module.split("."), *([name] if name else [])]
            if any(part.startswith("_") and not part.endswith("__") for part in path):
                yield f"imports {'.'.join(path)}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            root: ast.expr = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id == "vlmsel":
                yield f"uses {ast.unparse(node)}"


def python_modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "build" not in path.relative_to(folder).parts)


def package_of(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).parent.parts)


@pytest.mark.parametrize("path", python_modules(ROOT / "python"), ids=lambda path: str(path.relative_to(ROOT)))
def test_data_half_is_without_torch(path: Path) -> None:
    assert list(data_half_faults(path.read_text(encoding="utf-8"), package_of(path, ROOT / "python"))) == []


@pytest.mark.parametrize(
    "path", python_modules(ROOT / "trainer" / "vlmsel_trainer"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_trainer_uses_public_names(path: Path) -> None:
    assert list(trainer_faults(path.read_text(encoding="utf-8"), package_of(path, ROOT / "trainer"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "def f():\n    from transformers import AutoModel",
        "if TYPE_CHECKING:\n    import vlmsel_trainer.scoring",
        "import_module('torch.nn')",
        "importlib.import_module('vlmsel_trainer')",
    ],
)
def test_data_half_walker_sees_a_planted_fault(source: str) -> None:
    assert len(list(data_half_faults(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from vlmsel import _core",
        "from vlmsel._core import Output",
        "import vlmsel._core",
        "from vlmsel.outputs import _secret",
        "import vlmsel\nvlmsel.outputs._secret()",
        "def f():\n    import_module('vlmsel._core')",
    ],
)
def test_trainer_walker_sees_a_planted_fault(source: str) -> None:
    assert len(list(trainer_faults(source))) == 1


@pytest.mark.parametrize(
    "source",
    ["from vlmsel import Output, __version__", "from ._private import name", "import vlmsel\nvlmsel.__version__"],
)
def test_trainer_walker_lets_public_and_own_names_pass(source: str) -> None:
    assert list(trainer_faults(source)) == []
