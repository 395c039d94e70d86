"""Batches: a pure function of the seed and the step, so that a resumed run sees the same ones."""

from collections.abc import Callable
from dataclasses import field
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Real

from jgmm.encoder.base import Encoder
from jgmm.encoder.images import encode_images
from jgmm.numerics.pytree import pytree


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


def in_parts(f: Callable[[Array, int], Array], x: np.ndarray, size: int) -> np.ndarray:
    """f(rows, place of the first) of an array [n, ...], so many rows at a time; the last part is filled up, so that all
    have one compiled shape."""
    found = []
    for first in range(0, len(x), size):
        part = x[first : first + size]
        filled = np.pad(part, ((0, size - len(part)), *[(0, 0)] * (x.ndim - 1)), mode="edge")
        found.append(np.asarray(f(jnp.asarray(filled), first))[: len(part)])
    return np.concatenate(found)


class Keys(NamedTuple):
    """The random numbers of a step, from the seed and its number alone."""

    flips: PRNGKeyArray
    coupling: PRNGKeyArray
    times: PRNGKeyArray
    labels: PRNGKeyArray
    dropout: PRNGKeyArray


def keys_of(seed: int, step: Int[Array, ""]) -> Keys:
    """The keys of a step."""
    return Keys(*jax.random.split(jax.random.fold_in(jax.random.key(seed), step), len(Keys._fields)))


@pytree
class Data:
    """The images a training is about, on the device.

    Attributes:
        pixels: 8-bit, or floating point.
        labels: or None.
        space: of the flow.
        flips: whether half of the images are mirrored.
    """

    pixels: Real[Array, "n h w c"]
    labels: Int[Array, " n"] | None
    space: Encoder
    flips: bool = field(metadata={"static": True})

    def take(self, key: PRNGKeyArray, index: Int[Array, " b"]) -> Batch:
        """Those images, half of them mirrored if flips are on."""
        return self.chosen(index, jax.random.bernoulli(key, 0.5, index.shape) & self.flips)

    def chosen(self, index: Int[Array, " b"], mirrored: Bool[Array, " b"]) -> Batch:
        """Those images, and of those that are `mirrored` the mirror images."""
        x = self.pixels[index].astype(jnp.float32)
        if self.pixels.dtype == jnp.uint8:
            x = x / 127.5 - 1
        x = jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x)
        labels = None if self.labels is None else self.labels[index]
        return Batch(encode_images(self.space, x), x, labels, index, mirrored)
