"""Small files of a run folder: their names, and how JSON is written."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import jgmm

CONFIG = "config.json"
PARAMS = "params"
PROGRESS = "progress"
TRAIN_LOG_PROB = "log_prob_train.npy"


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one step: readers see the old file or the whole new one."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def versions() -> dict[str, str]:
    """The versions of Python and of what the numbers depend on."""
    packages = ("jax", "jaxlib", "numpy", "orbax-checkpoint")
    ours = {"jgmm": jgmm.__version__, "python": platform.python_version()}
    return ours | {p: importlib.metadata.version(p) for p in packages}
