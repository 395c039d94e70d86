"""Fits by the command, as the benchmarks of whole fits make them."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jgmm.checkpoint.models import read_config


def fit(run: Path, options: Sequence[str], data_dir: Path) -> dict[str, Any]:
    """Fit CIFAR-10 with a tenth held out to a run folder, and read its config.json."""
    command = [sys.executable, "-m", "jgmm.fit", "--holdout", "0.1", "--data-dir", str(data_dir), "--out", str(run)]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    return read_config(run)
