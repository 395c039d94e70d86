"""The structure of the code: who imports whom, where matplotlib is, what names mean, and that the registries hold."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import jgmm
import train.registry
from jgmm import registry
from jgmm.registry import Registry

ROOT = Path(__file__).parents[1]
DOORS = {"__main__", "fit", "generate", "sweep", "evaluate", "complete"}
# From the bottom up; a file imports its own floor or lower ones.
FLOORS = [
    {"errors", "numerics", "checkpoint.files"},
    {"registry", "covariance"},
    {"mixture", "encoder", "data"},
    {"em", "figures"},
    {"product"},
    {"source", "conditional", "interpolant"},
    {"completion", "gradient", "metrics", "checkpoint"},
    {"convert"},
    {"commands"},
    DOORS,
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
MOST_ENTRIES = 26


def modules():
    return [p for p in (ROOT / "jgmm").rglob("*.py") if p != ROOT / "jgmm" / "__init__.py"]


def area(path):
    """The part of the house a file is in; the door of a folder is a door."""
    return "__main__" if path.stem == "__main__" else path.relative_to(ROOT / "jgmm").with_suffix("").parts[0]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ([f"{node.module}.{a.name}" for a in node.names] if node.module == "jgmm" else [node.module])
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


def test_the_package_has_few_entries():
    entries = [p for p in (ROOT / "jgmm").iterdir() if p.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_lower_floors_or_its_own(path):
    for name in imports(path):
        assert name.split(".")[0] != "train", "jgmm never imports train"
        if name.startswith("matplotlib"):
            assert area(path) == "figures" or path == ROOT / "jgmm" / "interpolant" / "figures.py"
        if name.startswith("jgmm."):
            other = "checkpoint.files" if name == "jgmm.checkpoint.files" else name.split(".")[1]
            assert FLOOR[other] <= FLOOR[area(path)], f"{area(path)} imports {other}, which is above it"
            if other == "commands":
                assert area(path) in DOORS | {"commands"}, "only the doors import commands"


def public_functions():
    """The functions that packages offer by their `__all__`."""
    packages = [jgmm, *(importlib.import_module(f"jgmm.{name}") for name in ("interpolant", "data"))]
    for package in packages:
        for name in package.__all__:
            if callable(getattr(package, name)):
                yield name


def test_no_module_has_the_name_of_a_public_function():
    """Importing a module jgmm.sample would rebind the name of the function."""
    names = {path.stem for path in modules()} | {path.parent.name for path in modules()}
    assert not names & set(public_functions())


def test_every_folder_of_the_package_has_tests():
    folders = {p.name for p in (ROOT / "jgmm").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders <= {p.name for p in (ROOT / "tests").iterdir() if list(p.glob("test_*.py"))}


def test_every_entry_of_every_registry_exists():
    found = [r for module in (registry, train.registry) for r in vars(module).values() if isinstance(r, Registry)]
    assert len(found) >= 12
    for entries in found:
        for name in entries:
            assert entries[name] is not None
            assert entries.resolve(name) == entries[name]
        for alias, name in entries.aliases.items():
            assert entries.canonical(alias) == name


def test_every_module_can_be_imported_and_every_public_name_is_there():
    for module in pkgutil.walk_packages(jgmm.__path__, "jgmm."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in jgmm.__all__:
        assert getattr(jgmm, name) is not None
    assert set(jgmm.__all__) <= set(dir(jgmm))
    assert "pkgutil" not in dir(jgmm)
