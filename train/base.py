"""The base of a flow: the space it runs in and the source it starts from.

They are made of the data and of a mixture's run once and kept in the run folder, so that going on and sampling need
neither the mixture's run nor, but for pruning, the data.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jgmm.checkpoint.arrays import by_name
from jgmm.checkpoint.files import read_arrays, write_arrays
from jgmm.checkpoint.legacy import source_of_description
from jgmm.checkpoint.structure import abstract, describe
from jgmm.data import Images
from jgmm.encoder.base import Encoder
from jgmm.encoder.identity import Identity
from jgmm.encoder.zca import ZCA, fit_zca
from jgmm.errors import InputError, check
from train import sources
from train.config import Config
from train.registry import SOURCES, SPACES
from train.sources import Gaussian, Mixture, NoiseSource, Reversed

FILE = "origin.npz"


class Base(NamedTuple):
    """Where a flow runs and where it starts."""

    space: Encoder
    source: NoiseSource


def pixel_space(config: Config, images: Images) -> Identity:
    """The pixels themselves."""
    return Identity(int(np.prod(images.shape)))


def zca_space(config: Config, images: Images) -> ZCA:
    """Whitened images."""
    scale, shift, _ = images.units
    rows = images.pixels.reshape(len(images), -1)
    return fit_zca(rows, epsilon=config.zca_epsilon, scale=scale, shift=shift)


def build(config: Config, images: Images) -> Base:
    """The base that the options ask for. Raises InputError as `sources.build`."""
    space = SPACES[config.space](config, images)
    return Base(space, sources.build(config, images, space))


def structure(base: Base) -> dict[str, Any]:
    """What `load` rebuilds it from, as JSON."""
    kind = type(base.source)
    if kind.__name__ not in _types():
        raise InputError(
            f"a run cannot be made with the source {kind.__name__}, which nothing could read back: register the class, "
            "with a method build, in train.registry.SOURCES."
        )
    return {"space": describe(base.space), "source": describe(base.source, _types())}


def save(folder: Path, base: Base) -> dict[str, str]:
    """Write the arrays; returns the digest of their file, by its name. Raises InputError if they cannot be written."""
    arrays = by_name(base._asdict())
    kept = {name: array for name, array in arrays.items() if _kept_as(name) == name}
    return {FILE: write_arrays(folder / FILE, kept)}


def load(folder: Path, content: dict[str, Any], config: Config) -> Base:
    """What `save` wrote; `content` is the config.json of the run.

    Raises:
        InputError: For a file that is missing or damaged, and a source that is not registered.
    """
    named = "base" in content
    if named:
        parts = content["base"]
        target: Any = {"space": abstract(parts["space"]), "source": abstract(parts["source"], _types())}
    else:
        target = _target_of_format_1(content, config)
    wanted, tree = by_name(target), jax.tree.structure(target)
    names = list(map(_kept_as, wanted)) if named else [f"arr_{i}" for i in range(len(wanted))]
    arrays = read_arrays(folder / FILE, content.get("files", {}).get(FILE))
    check(arrays.keys() >= set(names), f"{folder / FILE} is damaged: it lacks arrays of the run's config.json.")
    leaves = [jnp.asarray(arrays[name]) for name in names]
    if [leaf.shape for leaf in leaves] != [leaf.shape for leaf in wanted.values()]:
        raise InputError(f"{folder / FILE} is damaged: its arrays are not those of the run's config.json.")
    found = jax.tree.unflatten(tree, leaves)
    if named:
        return Base(**found)
    space, mixture, scale = found
    shape = tuple(content["shape"])
    return Base(space, Mixture(mixture, space, scale) if mixture else Gaussian(shape, scale))


def _target_of_format_1(content: dict[str, Any], config: Config) -> tuple[Any, Any, Any]:
    """What versions before 0.2 wrote, in their order: space, mixture or None, scale."""
    p = int(np.prod(content["shape"]))
    space = jax.eval_shape(lambda: ZCA(jnp.zeros(p), jnp.zeros((p, p)), jnp.zeros((p, p))))
    mixture = source_of_description(content["mixture"]) if content["mixture"] else None
    return space if config.space == "zca" else Identity(p), mixture, jax.ShapeDtypeStruct((), jnp.float32)


def _kept_as(name: str) -> str:
    """The name of an array in the file: a source's copy of the space is the space itself."""
    return name.removeprefix("source.") if name.startswith("source.space.") else name


def _types() -> dict[str, type]:
    """The types of sources that a run folder may name."""
    found = [member for member in SOURCES.values() if isinstance(member, type)]
    return {kind.__name__: kind for kind in (Mixture, Reversed, *found)}
