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

TORCH_HALF = {
    "torch",
    "torchvision",
    "transformers",
    "deepspeed",
    "accelerate",
    "peft",
    "safetensors",
    "vlmsel_trainer",
}


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


# Rooms of vlmsel-shards: each may use those before it.
SHARDS_ROOMS = ["error", "out_of_memory", "storage", "columns", "workspace", "images", "parquet", "formats", "tables"]
RUST_TESTS = re.compile(r"#\[cfg\(test\)\]\s*mod \w+ \{.*\Z", re.DOTALL)
RUST_PATH = re.compile(r"\b(crate|self|super)((?:::super)*)::([\w:{}, \n*]+)")

Module = tuple[str, ...]


def rust_module(file: str) -> Module:
    """``tables/text.rs`` and ``tables/text/mod.rs`` are the module tables::text; lib.rs is the root."""
    parts = file.removesuffix(".rs").split("/")
    if parts[-1] in {"mod", "lib"}:
        parts.pop()
    return tuple(parts)


def branches(tree: str) -> Iterator[Module]:
    """The paths of ``a::{b, c::{d, e}}``."""
    head, brace, rest = tree.partition("{")
    start = tuple(part for part in head.strip().split("::") if part)
    if not brace:
        yield start
        return
    depth, branch = 1, ""
    for character in rest:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0 or (depth == 1 and character == ","):
            if branch.strip():
                yield from (start + below for below in branches(branch))
            branch = ""
            if depth == 0:
                return
        else:
            branch += character


def rust_arrows(sources: dict[str, str]) -> dict[Module, set[Module]]:
    """Which module of a crate names what of which other; a module and what lies in it are one house, and tests do not count."""
    modules = {rust_module(file) for file in sources}
    arrows: dict[Module, set[Module]] = {module: set() for module in modules}
    for file, text in sources.items():
        module = rust_module(file)
        plain = RUST_TESTS.sub("", RUST_COMMENT.sub("", text))
        for found in RUST_PATH.finditer(plain):
            ups = found[2].count("super") + (found[1] == "super")
            base = () if found[1] == "crate" else module[: len(module) - ups]
            for path in branches(found[3]):
                target = base + path
                while target and target not in modules:
                    target = target[:-1]
                is_family = target == module[: len(target)] or module == target[: len(module)]
                if target and not is_family:
                    arrows[module].add(target)
    return arrows


def circle(arrows: dict[Module, set[Module]]) -> list[Module]:
    """Modules that name each other in a circle, or nothing."""
    done: set[Module] = set()
    for start in sorted(arrows):
        path: list[Module] = []
        todo = [(start, False)]
        while todo:
            module, is_left = todo.pop()
            if is_left:
                path.pop()
                done.add(module)
            elif module in path:
                return path[path.index(module) :]
            elif module not in done:
                path.append(module)
                todo.append((module, True))
                todo.extend((other, False) for other in sorted(arrows.get(module, ())))
    return []


def rooms_that_point_up(arrows: dict[Module, set[Module]]) -> list[tuple[Module, Module]]:
    """Arrows between rooms of vlmsel-shards that lead to a later one, or to none that is listed."""
    floor = {room: at for at, room in enumerate(SHARDS_ROOMS)}
    return [
        (module, other)
        for module, others in sorted(arrows.items())
        for other in sorted(others)
        if module and floor.get(module[0], -1) < floor.get(other[0], len(floor))
    ]


@pytest.mark.parametrize("name", RUST_ROOMS)
def test_no_modules_of_a_crate_name_each_other_in_a_circle(name: str) -> None:
    sources = {
        file.removeprefix("src/"): text
        for file, text in rust_sources(ROOT / "rust" / name).items()
        if not file.endswith("tests.rs")
    }
    arrows = rust_arrows(sources)
    assert any(arrows.values()) or name == "vlmsel-core"
    assert circle(arrows) == []
    if name == "vlmsel-shards":
        assert {module[0] for module in arrows if module} == set(SHARDS_ROOMS)
        assert rooms_that_point_up(arrows) == []


def test_the_walker_of_modules_sees_planted_circles() -> None:
    sources = {
        "lib.rs": "mod a; mod b; mod c;",
        "a.rs": "use super::b::{X, y::Z};",
        "b.rs": "",
        "c.rs": "crate::a::f()",
    }
    assert rust_arrows(sources) == {(): set(), ("a",): {("b",)}, ("b",): set(), ("c",): {("a",)}}
    assert circle(rust_arrows(sources)) == []
    assert circle(rust_arrows({**sources, "b.rs": "use crate::{d::E, c::{F}};"})) == [("a",), ("b",), ("c",)]
    # What stands in a comment or in tests is no arrow, and a child may name its parent.
    assert (
        circle(rust_arrows({**sources, "b.rs": "// crate::c\n#[cfg(test)]\nmod tests {\n use crate::c::F;\n}\n"})) == []
    )
    assert circle(rust_arrows({"lib.rs": "", "a.rs": "use self::b::B;", "a/b.rs": "use super::A;"})) == []
    planted = rust_arrows(
        {"storage/mod.rs": "use crate::tables::T;", "tables/mod.rs": "", "other.rs": "crate::tables::f()"}
    )
    assert rooms_that_point_up(planted) == [(("other",), ("tables",)), (("storage",), ("tables",))]


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


def python_arrows(root: Path) -> dict[Module, set[Module]]:
    """Which module imports which other of the same distribution, in any function or branch; a package's own names are left out."""
    files = {path: tuple(path.relative_to(root).with_suffix("").parts) for path in python_modules(root)}
    modules = {module[:-1] if module[-1] == "__init__" else module for module in files.values()}
    arrows: dict[Module, set[Module]] = {module: set() for module in modules}
    for path, module in files.items():
        if module[-1] == "__init__":
            continue  # It lists what lies in the package.
        for base, name in imports(path.read_text(encoding="utf-8"), package_of(path, root)):
            target = (*base.split("."), *([name] if name else []))
            while target and target not in modules:
                target = target[:-1]
            if target and target != module:
                arrows[module].add(target)
    return arrows


@pytest.mark.parametrize("root", ["python", "trainer"])
def test_no_python_modules_import_each_other_in_a_circle(root: str) -> None:
    arrows = python_arrows(ROOT / root)
    assert len(arrows) > 20
    assert circle(arrows) == []


def test_the_walker_of_imports_sees_a_planted_circle(tmp_path: Path) -> None:
    for name, source in (("a", "def f():\n    from p.b import x"), ("b", "import p.c"), ("c", "from p import a")):
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / f"{name}.py").write_text(source)
    assert circle(python_arrows(tmp_path)) == [("p", "a"), ("p", "b"), ("p", "c")]
