"""The config.json of a training: what it is, and how to go on with it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from jgmm import checkpoint
from jgmm.checks import InputError, check
from train.config import Config
from train.world import Problem

CONFIG = "config.json"
KIND = "jgmm.flow"


def begin(config: Config, problem: Problem) -> None:
    """Write what a run is, and that its samples are those of averaged parameters; the first process does, and only when
    nothing is resumed."""
    if config.resume or jax.process_index() > 0:
        return
    folder = config.run_folder
    content = {
        "kind": KIND,
        "config": config.to_json(),
        "shape": list(problem.images.shape),
        "classes": problem.classes,
        "data_sha256": problem.images.sha256,
        "samples_from": "the averaged parameters (EMA)",
        "versions": checkpoint.versions(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json(folder / CONFIG, content)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error}") from error


def read(folder: Path) -> dict[str, Any]:
    """The config.json of a training. Raises InputError if there is none."""
    path = folder / CONFIG
    check(path.is_file(), f"no training at {folder}: expected a folder written by `python -m train`.")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): the run is damaged.") from error
    kind = content.get("kind") if isinstance(content, dict) else None
    check(kind == KIND, f"{folder} holds a run of another kind ({kind!r}): expected one of `python -m train`.")
    return content


def kept_config(folder: Path) -> Config:
    """The options of a training that is there, to go on with."""
    return replace(Config.from_json(read(folder)["config"]), out=folder)
