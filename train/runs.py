"""The folder of a training: what it is, and how to go on with it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jgmm.checkpoint.files import read_arrays, read_json, reading, versions, write_arrays, write_json
from jgmm.commands.options import flag
from jgmm.data import Images
from jgmm.errors import check
from train import base
from train.base import Base
from train.config import Config
from train.couplings.base import Coupling

CONFIG, COUPLING = "config.json", "coupling.npz"
KIND = "jgmm.flow"
# Options that say which function the parameters of a network are of.
FUNCTION = ("base", "multipliers", "blocks", "attention", "head_channels", "time_scale", "space", "zca_epsilon")
# Trainings before this format had no seals and named none.
FORMAT = 3


def begin(config: Config, images: Images, classes: int, start: Base, coupling: Coupling) -> None:
    """Write what a run is; the first process does. A resumed run only remembers the options it goes on with."""
    if jax.process_index() > 0:
        return
    folder = config.run_folder
    if config.resume:
        write_json(folder / CONFIG, read(folder) | {"config": config.to_json()})
        return
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "kind": KIND,
        "format": FORMAT,
        "config": config.to_json(),
        "shape": list(images.shape),
        "classes": classes,
        "data_sha256": images.sha256,
        "base": base.structure(start),
        "memory": _describe(coupling.begin()),
        "files": base.save(folder, start) | _save_coupling(folder, coupling),
        "versions": versions(),
    }
    write_json(folder / CONFIG, content)


def read(folder: Path) -> dict[str, Any]:
    """The config.json of a training. Raises InputError if there is none."""
    path = folder / CONFIG
    with reading(path):
        there = path.is_file()
    check(there, f"no training at {folder}: expected a folder written by `python -m train`.")
    content = read_json(path, sealed_from=FORMAT)
    kind, form = content.get("kind"), content.get("format", 0)
    check(kind == KIND, f"{folder} holds a run of another kind ({kind!r}): expected one of `python -m train`.")
    check(form <= FORMAT, f"{folder} has format {form}, newer than the {FORMAT} this version reads: upgrade jgmm.")
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


def _save_coupling(folder: Path, coupling: Coupling) -> dict[str, str]:
    kept = {name: getattr(coupling, name) for name in coupling.kept}
    return {COUPLING: write_arrays(folder / COUPLING, kept)} if kept else {}


def _describe(memory: Any) -> list[Any] | None:
    return [list(memory.shape), str(memory.dtype)] if jax.tree.leaves(memory) else None


def kept_memory(content: dict[str, Any]) -> Any:
    """The shape of what its coupling remembers; () for nothing."""
    described = content.get("memory")
    return jax.ShapeDtypeStruct(tuple(described[0]), described[1]) if described else ()


def kept_coupling(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """What was computed of its coupling before training. Raises InputError for a file that is missing or damaged."""
    digest = content.get("files", {}).get(COUPLING)
    found = read_arrays(folder / COUPLING, digest) if digest else {}
    return {name: jnp.asarray(array) for name, array in found.items()}


def check_same_data(folder: Path, images: Images) -> None:
    """Raise InputError unless these are the images that a run was trained on."""
    same = images.sha256 == read(folder)["data_sha256"]
    check(same, f"{images.location} does not hold the data that {folder} was trained on.")


def check_same_network(folder: Path, config: Config, shape: tuple[int, ...], classes: int) -> None:
    """Raise InputError unless the network of a training, in its space, is that of these options and images."""
    content = read(folder)
    there = config_of(folder, content)
    for name in (name for name in FUNCTION if name != "zca_epsilon" or config.space == "zca"):
        mine, other = getattr(config, name), getattr(there, name)
        check(mine == other, f"--init-from {folder} was trained with {flag(name)} {other}, and here it is {mine}.")
    known = tuple(content["shape"]), content["classes"]
    check(
        known == (shape, classes),
        f"--init-from {folder} is of images {known[0]} with {known[1]} classes, expected {shape} with {classes}.",
    )
