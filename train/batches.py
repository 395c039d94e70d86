"""Batches: a pure function of the seed and the step, so that a resumed run sees the same ones."""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Real

from jgmm.encoder.base import Encoder
from jgmm.encoder.images import encode_images


class Batch(NamedTuple):
    """Images of one step.

    Attributes:
        images: in the space of the flow.
        pixels: the same, 8-bit values in [-1, 1].
        labels: or None.
        rows: which images of the data they are.
        mirrored: which of them are mirror images.
    """

    images: Float[Array, "b h w c"]
    pixels: Float[Array, "b h w c"]
    labels: Int[Array, " b"] | None
    rows: Int[Array, " b"]
    mirrored: Bool[Array, " b"]


def indices(seed: int, step: int, n: int, size: int) -> Int[np.ndarray, " b"]:
    """The images of a step, from 0: the data in a new random order every epoch, cut into batches without a gap."""
    places = step * size + np.arange(size)
    parts = [_order(seed, epoch, n)[places[places // n == epoch] % n] for epoch in np.unique(places // n).tolist()]
    return np.concatenate(parts)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n).astype(np.int32)


def take(
    key: PRNGKeyArray,
    pixels: Real[Array, "n h w c"],
    labels: Int[Array, " n"] | None,
    index: Int[Array, " b"],
    space: Encoder,
    flips: bool,
) -> Batch:
    """Those images of the data, half of them mirrored if flips are on."""
    x = pixels[index].astype(jnp.float32)
    if pixels.dtype == jnp.uint8:
        x = x / 127.5 - 1
    mirrored = jax.random.bernoulli(key, 0.5, index.shape) & flips
    x = jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x)
    return Batch(encode_images(space, x), x, None if labels is None else labels[index], index, mirrored)
