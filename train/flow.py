"""A trained flow, as it is used: its network, its source and its space."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
from flax import nnx

from jgmm.checks import check
from jgmm.data import Images
from train import devices, runs, sources, spaces, world
from train import step as steps
from train.checkpoints import Checkpoints, abstract
from train.sources import NoiseSource
from train.spaces import Space


class Flow(NamedTuple):
    """x0 from `source`, along the velocity of the network (structure and parameters, as `nnx.split` gives them), in
    `space`.

    Fields:
        images: the data it was trained on.
        classes: how many labels it knows; 0 for an unconditional flow.
    """

    structure: nnx.GraphDef
    parameters: nnx.State
    source: NoiseSource
    space: Space
    images: Images
    classes: int


def load(run: Path, parameters: str = "average", step: int | None = None, data_dir: Path | None = None) -> Flow:
    """The flow of a run folder, from its newest checkpoint or that of a step, with averaged or last parameters.

    Raises InputError if the folder holds none, the data are no longer those it was trained on, or the checkpoint is of
    another network.
    """
    content, config = runs.read(run), runs.kept_config(run)
    config = replace(config, data_dir=data_dir or config.data_dir)
    images = world.load_images(config)
    check(
        images.sha256 == content["data_sha256"],
        f"{images.location} does not hold the data that {run} was trained on.",
    )
    space = spaces.SPACES[config.space](images, config.zca_epsilon)
    structure, blank = nnx.split(nnx.eval_shape(lambda: world.network(config, images.shape, content["classes"])))
    target = jax.eval_shape(lambda p: steps.begin(config, p), blank)
    places = devices.of_state(devices.mesh(), target, config.fsdp)
    with Checkpoints(run, config.keep_last, config.keep_every) as saved:
        state = saved.load(abstract(target, places), step)
    chosen = state.average if parameters == "average" else state.parameters
    source = sources.build(config, images, space)
    return Flow(structure, chosen, source, space, images, content["classes"])
