"""What a training reads and the network it trains, built from its options."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jgmm.checks import check
from jgmm.data import Images, arrays, load
from train import couplings, sources, spaces
from train.config import Config
from train.step import World
from train.unet import UNet


@dataclass(frozen=True)
class Problem:
    """The data and what is made of them once.

    Fields:
        images: the training images.
        classes: how many labels there are, or 0 for an unconditional flow.
        world: what a training step reads.
    """

    images: Images
    classes: int
    world: World


def load_images(config: Config) -> Images:
    """The training images. Raises InputError unless they are 8-bit images with an even, square grid."""
    images = arrays.load(config.data) if config.data else load(config.dataset, config.data_dir)
    fits = images.is_8_bit and len(images.shape) == 3
    check(fits, f"expected 8-bit images [N, H, W, C], got {images.pixels.shape} {images.pixels.dtype}.")
    factor = 2 ** (len(config.multipliers) - 1)
    h, w, _ = images.shape
    check(
        h == w and h % factor == 0,
        f"{len(config.multipliers)} levels need square images with a side divisible by {factor}, got {h} x {w}: give "
        "fewer --multipliers.",
    )
    return images


def build(config: Config) -> Problem:
    """Everything but the network. Raises InputError for options that do not fit the data."""
    images = load_images(config)
    check(
        not config.conditional or images.labels is not None,
        f"--conditional needs labels, and {images.name} has none: leave it out, or put `labels` beside the images.",
    )
    check(len(images) >= config.batch_size, f"{len(images)} images are fewer than --batch-size {config.batch_size}.")
    space = spaces.SPACES[config.space](images, config.zca_epsilon)
    coupling = couplings.build(config, images, sources.build(config, images, space))
    labels = None if images.labels is None else jnp.asarray(images.labels, jnp.int32)
    classes = int(np.max(images.labels)) + 1 if config.conditional and images.labels is not None else 0
    return Problem(images, classes, World(jnp.asarray(images.pixels), labels, space, coupling))


def network(config: Config, shape: tuple[int, ...], classes: int) -> UNet:
    """The network of the options, with parameters drawn from the seed."""
    options: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("base", "multipliers", "blocks", "attention", "head_channels", "dropout", "time_scale", "remat")
    }
    h, w, c = shape
    rngs = nnx.Rngs(jax.random.fold_in(jax.random.key(config.seed), 2**31 - 1))
    return UNet((h, w, c), **options, classes=classes, dtype=jnp.dtype(config.dtype), rngs=rngs)
