"""A short form of every part of `make torture`, the longer ones in `make test-slow`.

Where a disk cannot be made to fail two of them are left out.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SEED = 2
# How much of each.
SIZES = {
    "fits": 0.004,
    "arguments": 0.03,
    "options": 0.01,
    "damage": 0.03,
    "kills": 0.01,
    "writers": 0.01,
    "writes": 0.01,
    "reads": 0.01,
}
LONG = ("damage", "options", "kills", "writers", "writes", "reads")


@pytest.mark.parametrize("part", [pytest.param(p, marks=[pytest.mark.slow] if p in LONG else []) for p in SIZES])
def test_nothing_is_lost_and_nothing_wrong_without_a_word(part, tmp_path):
    if part in ("writes", "reads") and not (sys.platform == "linux" and shutil.which("cc")):
        pytest.skip("a disk is made to fail by a library that is compiled: this needs Linux and cc")
    table, root = tmp_path / "table.json", HERE.parents[1]
    words = [part, "--seed", SEED, "--size", SIZES[part], "--table", table]
    paths = os.pathsep.join(map(str, (HERE, HERE.parent, root)))
    environment = os.environ | {"PYTHONPATH": paths, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # these programs take longer to compile than to run
    done = subprocess.run(
        [sys.executable, "-m", "torture", *map(str, words)], env=environment, capture_output=True, text=True
    )
    rows = json.loads(table.read_text()) if table.exists() else []
    assert rows, done.stdout + done.stderr
    assert not [failure for row in rows for failure in row["failures"]]
    assert sum(row["tried"] for row in rows) > 0
