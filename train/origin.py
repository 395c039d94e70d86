"""What a flow needs beside its network: the space it runs in and the source it starts from.

They are made of the data and of a mixture's run once and kept in the run folder, so that going on and sampling need
neither the mixture's run nor, but for pruning, the data.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jgmm import checkpoint
from jgmm.checks import InputError
from jgmm.data import Images
from train import sources
from train.config import Config
from train.sources import Gaussian, Mixture, NoiseSource
from train.spaces import SPACES, Space

FILE = "origin.npz"


class Origin(NamedTuple):
    """Where a flow runs and where it starts."""

    space: Space
    source: NoiseSource


def build(config: Config, images: Images) -> Origin:
    """The origin that the options ask for. Raises InputError as `sources.build`."""
    space = SPACES[config.space].of(images, config.zca_epsilon)
    return Origin(space, sources.build(config, images, space))


def describe(origin: Origin) -> dict[str, Any] | None:
    """The structure of the mixture, as JSON; None for N(0, I)."""
    return checkpoint.describe(origin.source.params) if isinstance(origin.source, Mixture) else None


def save(folder: Path, origin: Origin) -> None:
    """Write the arrays. Raises OSError if they cannot be written."""
    np.savez(folder / FILE, *jax.tree.leaves(_parts(origin)))


def load(folder: Path, config: Config, shape: tuple[int, ...], mixture: dict[str, Any] | None) -> Origin:
    """What `save` wrote; `mixture` is its description. Raises InputError for a file that is missing or damaged."""
    params = checkpoint.blank(mixture) if mixture else None
    blank = (jax.eval_shape(lambda: SPACES[config.space].blank(shape)), params, jax.ShapeDtypeStruct((), jnp.float32))
    wanted, structure = jax.tree.flatten(blank)
    try:
        with np.load(folder / FILE) as file:
            leaves = [jnp.asarray(file[f"arr_{i}"]) for i in range(len(wanted))]
    except Exception as error:  # numpy raises many kinds for a file that is none of its own
        raise InputError(f"{folder / FILE} is missing or damaged: {error}") from error
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in wanted]:
        raise InputError(f"{folder / FILE} is damaged: its arrays are not those of the run's config.json.")
    space, params, scale = jax.tree.unflatten(structure, leaves)
    return Origin(space, Mixture(params, space, scale) if mixture else Gaussian(shape, scale))


def _parts(origin: Origin) -> tuple[Space, Any, Any]:
    """Without the second copy of the space in the source."""
    source = origin.source
    return origin.space, source.params if isinstance(source, Mixture) else None, source.scale
