"""The folder of a training: what it is, and how to go on with it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from jgmm.checkpoint.files import versions, write_json
from jgmm.data import Images
from jgmm.errors import InputError, check
from train import base
from train.base import Base
from train.config import Config

CONFIG = "config.json"
KIND = "jgmm.flow"


def begin(config: Config, images: Images, classes: int, start: Base) -> None:
    """Write what a run is; the first process does. A resumed run only remembers the options it goes on with."""
    if jax.process_index() > 0:
        return
    folder = config.run_folder
    if config.resume:
        write_json(folder / CONFIG, read(folder) | {"config": config.to_json()})
        return
    content = {
        "kind": KIND,
        "config": config.to_json(),
        "shape": list(images.shape),
        "classes": classes,
        "data_sha256": images.sha256,
        "base": base.structure(start),
        "versions": versions(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    base.save(folder, start)
    write_json(folder / CONFIG, content)


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
    missing = {"config", "shape", "classes", "data_sha256"} - content.keys()
    missing |= set() if {"base", "mixture"} & content.keys() else {"base"}
    check(not missing, f"{path} is damaged: it lacks {', '.join(sorted(missing))}.")
    return content


def config_of(folder: Path, content: dict[str, Any]) -> Config:
    """The options of a training that is there, to go on with; `content` is what `read` gives."""
    return replace(Config.from_json(content["config"]), out=folder)


def kept_config(folder: Path) -> Config:
    """The same, read from the folder."""
    return config_of(folder, read(folder))


def kept_base(folder: Path, content: dict[str, Any]) -> Base:
    """Where its flow runs and starts."""
    return base.load(folder, content, config_of(folder, content))


def check_same_data(folder: Path, images: Images) -> None:
    """Raise InputError unless these are the images that a run was trained on."""
    same = images.sha256 == read(folder)["data_sha256"]
    check(same, f"{images.location} does not hold the data that {folder} was trained on.")
