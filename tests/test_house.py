"""The rules of the house: who imports whom, and that the tables hold."""

import ast
from pathlib import Path

import pytest

from jgmm import tables
from jgmm.tables import Table

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"checks", "tables", "types", "products", "chunks", "exact", "centred", "pairs", "data"},
    {"covariance"},
    {"mixture", "pca"},
    {"unconstrained", "distribution", "init", "screening", "stats", "em", "restarts", "figures", "interpolant"},
    {"conditional", "gradient", "source", "scores", "checkpoint", "bits", "options", "cli"},
    {"completion", "progress", "report", "inputs"},
    {"summary", "workflow"},
    {"selection", "anomalies"},
    {"fit", "generate", "sweep", "evaluate", "complete"},
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}


def modules():
    return [p for p in (ROOT / "jgmm").rglob("*.py") if p.name != "__init__.py" or p.parent.name != "jgmm"]


def area(path):
    return path.relative_to(ROOT / "jgmm").with_suffix("").parts[0]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ([f"{node.module}.{a.name}" for a in node.names] if node.module == "jgmm" else [node.module])
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_lower_floors_or_its_own(path):
    for name in imports(path):
        assert not name.startswith("train"), "jgmm never imports train"
        if name.startswith("matplotlib"):
            assert path.name == "figures.py"
        if name.startswith("jgmm."):
            other = name.split(".")[1]
            assert FLOOR[other] <= FLOOR[area(path)], f"{area(path)} imports {other}, which is above it"


def test_every_entry_of_every_table_exists():
    found = [t for t in vars(tables).values() if isinstance(t, Table)]
    assert len(found) >= 5
    for table in found:
        for name in table:
            assert callable(table[name])
        for alias, name in table.aliases.items():
            assert table.canonical(alias) == name


def test_no_module_hides_a_public_function():
    """Importing jgmm.sample would rebind the name of the function."""
    for name in ("sample", "log_prob"):
        assert not (ROOT / "jgmm" / f"{name}.py").exists()
