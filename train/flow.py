"""A trained flow, read back from its run folder."""

from pathlib import Path
from typing import NamedTuple

import jax
from flax import nnx

from jgmm.encoder.base import Encoder
from jgmm.numerics import sharding
from train import runs, setup
from train import step as steps
from train.checkpoints import Checkpoints, abstract
from train.sources import NoiseSource


class Flow(NamedTuple):
    """x0 from `source`, along the velocity of the network (structure and parameters, as `nnx.split` gives them), in
    `space`, to images of `shape`. `classes` is how many labels it knows, 0 for an unconditional flow, and `step` how
    many steps it was trained."""

    structure: nnx.GraphDef
    parameters: nnx.State
    source: NoiseSource
    space: Encoder
    shape: tuple[int, ...]
    classes: int
    step: int


def load(run: Path, parameters: str = "average", step: int | None = None) -> Flow:
    """The flow of a run folder, from its newest checkpoint or that of a step, with averaged or last parameters.

    Raises:
        InputError: If the folder holds none, is damaged, or the checkpoint is of another network.
    """
    content = runs.read(run)
    config = runs.config_of(run, content)
    space, source = runs.kept_base(run, content)
    shape, classes = tuple(content["shape"]), content["classes"]
    structure, blank = nnx.split(nnx.eval_shape(lambda: setup.network(config, shape, classes)))
    target = jax.eval_shape(lambda p, memory: steps.begin(config, p, memory), blank, runs.kept_memory(content))
    places = sharding.of_state(sharding.mesh(), target, config.fsdp)
    with Checkpoints(run, config.keep_last, config.keep_every) as saved:
        state = saved.load(abstract(target, places), step).state
    chosen = state.average if parameters == "average" else state.parameters
    return Flow(structure, chosen, source, space, shape, classes, int(state.step))
