"""The runs that are broken: a small fit and a small training on digits, and what of them must not change."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from trial import Outcome, command, forked, leaves

FIT = ["--dataset", "digits", "--k", "6", "--max-iter", "30", "--tol", "0", "--n-pca", "16", "--holdout", "0.1"]
TRAIN = ["--preset", "tiny", "--dataset", "digits", "--base", "8", "--multipliers", "1", "--blocks", "1"]
TRAIN += ["--batch-size", "32"]
TRAIN += ["--log-every", "2", "--save-every", "4", "--sample-every", "100", "--n-samples", "4", "--nfe", "2"]
TRAIN += ["--steps", "24"]
COMMANDS = {"jgmm.fit": FIT, "train": TRAIN}


def start(name: str, folder: Path) -> list[Any]:
    """The arguments that begin a run."""
    return [*COMMANDS[name], "--out", folder]


def go_on(name: str, folder: Path) -> list[Any]:
    """The arguments that resume it."""
    return ["--resume", "--out", folder, *(["--steps", "24"] if name == "train" else [])]


def finish(name: str, folder: Path) -> Outcome:
    """Do as a user does after a fault: resume, and begin anew where there is nothing to resume."""
    resumed = forked(command, name, go_on(name, folder))
    return resumed if resumed.code == 0 else forked(command, name, start(name, folder))


def is_finished(name: str, folder: Path) -> bool:
    """Whether nothing is left to do."""
    if name == "jgmm.fit":
        return (folder / "config.json").exists()
    return (folder / "checkpoints" / "24").is_dir()


def numbers(name: str, folder: Path) -> list[np.ndarray]:
    """All that a run is: its arrays, and its metrics but for seconds."""
    arrays = leaves(folder) if name == "jgmm.fit" else _state(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [[v for key, v in sorted(line.items()) if isinstance(v, int | float) and _is_number(key)] for line in lines]
    history = [json.loads((folder / "config.json").read_text())["history"]] if name == "jgmm.fit" else []
    return [*arrays, np.concatenate([np.array(row, float) for row in kept]), *map(np.asarray, history)]


def _is_number(key: str) -> bool:
    return "second" not in key


def _state(folder: Path) -> list[np.ndarray]:
    """The last state of a training."""
    import jax
    from flax import nnx

    from jgmm.numerics import sharding
    from train import runs, setup
    from train import step as steps
    from train.checkpoints import Checkpoints, abstract

    content = runs.read(folder)
    kept = runs.config_of(folder, content)
    network = nnx.eval_shape(lambda: setup.network(kept, tuple(content["shape"]), content["classes"]))
    target = jax.eval_shape(lambda p: steps.begin(kept, p), nnx.split(network)[1])
    with Checkpoints(folder) as saved:
        state = saved.load(abstract(target, sharding.of_state(sharding.mesh(), target, False))).state
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
