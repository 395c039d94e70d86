"""What the compiler for TPUs makes of a small program (`make tpu-check` has the others)."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_an_iteration_of_em_compiles_for_four_chips():
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    arguments = ["make", "-s", "tpu-check", "ARGS=--only 64-D"]
    done = subprocess.run(arguments, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    if done.returncode and "libtpu" in done.stderr and "No matching distribution" in done.stderr:
        pytest.skip("libtpu cannot be installed here")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "v5e:2x2" in done.stdout
    assert "1 all-reduce" in done.stdout
