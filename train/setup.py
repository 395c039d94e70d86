"""What a training reads and the network it trains, built from its options."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from jgmm.commands.inputs import say_remark
from jgmm.data import Images, arrays, load
from jgmm.data.images import split
from jgmm.data.resize import shrink
from jgmm.errors import InputError, check
from train import base, runs
from train.base import Base
from train.batches import Data
from train.config import Config
from train.couplings import base as couplings
from train.models.unet import UNet
from train.step import INITIALIZATION_STREAM, StepInputs

# The default seed of `jgmm.fit`, which holds out the same images.
HOLDOUT_SEED = 0
# More are taken for something else than classes.
MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Setup:
    """The data and what is made of them once.

    Attributes:
        config: the options, as the data settle them.
        images: the training images.
        held_out: those that are left out of it, or None.
        classes: how many labels there are, or 0 for an unconditional flow.
        base: where the flow runs and starts.
        inputs: what a training step reads.
    """

    config: Config
    images: Images
    held_out: Images | None
    classes: int
    base: Base
    inputs: StepInputs


def load_images(config: Config) -> tuple[Images, Images | None]:
    """The training images, and those held out. Raises InputError unless they are images whose sides the levels of the
    network can halve."""
    images = arrays.load(config.data, config.pixels) if config.data else load(config.dataset, config.data_dir)
    images = shrink(images.in_memory(), config.size)
    check(len(images.shape) == 3, f"expected images [N, H, W, C], got {images.pixels.shape}.")
    factor = 2 ** (len(config.multipliers) - 1)
    h, w, _ = images.shape
    check(
        h % factor == 0 and w % factor == 0,
        f"{len(config.multipliers)} levels need images whose sides are divisible by {factor}, got {h} x {w}: give "
        "fewer --multipliers.",
    )
    return split(images, config.holdout, HOLDOUT_SEED)


def build(config: Config) -> Setup:
    """Everything but the network; the base of a resumed run is the one it began with.

    Raises:
        InputError: For options that do not fit the data, and for other data than those of a resumed run.
    """
    images, held_out = load_images(config)
    say_remark(images)
    if config.flips and not images.has_mirror_images and not config.resume:
        print(f"mirror images of {images.name} are none of their kind: --no-flips")
        config = replace(config, flips=False)
    check(len(images) >= config.batch_size, f"{len(images)} images are fewer than --batch-size {config.batch_size}.")
    labels = _labels(images) if config.conditional else None
    classes = 0 if labels is None else int(labels.max()) + 1
    if config.resume:
        runs.check_same_data(config.run_folder, images)
        content = runs.read(config.run_folder)
        start, kept = runs.kept_base(config.run_folder, content), runs.kept_coupling(config.run_folder, content)
    else:
        if config.init_from is not None:
            runs.check_same_network(config.init_from, config, images.shape, classes)
        start, kept = base.build(config, images), None
    coupling = couplings.build(config, images, start, kept)
    check(
        config.unroll == 1 or not coupling.assigned,
        f"--coupling {config.coupling} assigns draws on the host before every step: leave out --unroll.",
    )
    data = Data(jnp.asarray(images.pixels), labels, start.space, config.flips)
    return Setup(config, images, held_out, classes, start, StepInputs(data, coupling))


def _labels(images: Images) -> Array:
    """The labels to condition on. Raises InputError unless there are some, from 0."""
    if images.labels is None:
        raise InputError(
            f"--conditional needs labels, and {images.name} has none: leave it out, or put `labels` beside the images."
        )
    labels = images.labels
    fit = np.issubdtype(labels.dtype, np.integer) and labels.min() >= 0 and labels.max() < MOST_CLASSES
    check(
        fit,
        f"--conditional needs labels that are integers from 0 to {MOST_CLASSES - 1} at most, got {labels.dtype} like "
        f"{labels[0]!r}: number the classes from 0.",
    )
    return jnp.asarray(labels, jnp.int32)


def network(config: Config, shape: tuple[int, ...], classes: int) -> UNet:
    """The network of the options, with parameters drawn from the seed."""
    options: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("base", "multipliers", "blocks", "attention", "head_channels", "dropout", "time_scale", "remat")
    }
    h, w, c = shape
    rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(config.seed), INITIALIZATION_STREAM))
    return UNet((h, w, c), **options, classes=classes, dtype=jnp.dtype(config.dtype), rngs=rngs)
