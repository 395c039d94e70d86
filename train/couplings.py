"""Which x0 goes with which image of a batch.

A coupling is a pytree with the source it draws from and `x0(key, batch, order)`, pure and jittable; `order` is an
assignment found on the host before, for a coupling that wants one.
"""

import abc
from dataclasses import field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from scipy.optimize import linear_sum_assignment

from jgmm.data import Images
from jgmm.errors import InputError, check
from jgmm.metrics.likelihood import scores
from jgmm.numerics.linalg import matmul
from jgmm.numerics.pytree import pytree
from jgmm.product.mixture import ProductMixture
from train.batches import Batch
from train.config import Config
from train.registry import COUPLINGS
from train.sources import Mixture, NoiseSource

# Shares below this are not told apart from it: a logarithm must be finite.
SMALLEST = 1e-30


class Coupling(abc.ABC):
    """The law of x0 given the images of a batch."""

    source: NoiseSource
    assigned: ClassVar[bool] = False

    @abc.abstractmethod
    def x0(self, key: PRNGKeyArray, batch: Batch, order: Int[Array, " b"] | None) -> Float[Array, "b h w c"]:
        """A draw for every image; `order` is that of an assignment, for a coupling that is `assigned`."""


@pytree
class Independent(Coupling):
    """Any draw for any image."""

    source: NoiseSource

    def x0(self, key: PRNGKeyArray, batch: Batch, order: Int[Array, " b"] | None) -> Float[Array, "b h w c"]:
        return self.source.draw(key, batch.images.shape[0])


@pytree
class Assignment(Coupling):
    """The permutation of independent draws that is nearest to the images, over the whole batch: every image and every
    draw once (Pooladian et al., arXiv 2304.14772; Tong et al., arXiv 2302.00482)."""

    source: NoiseSource
    assigned: ClassVar[bool] = True

    def x0(self, key: PRNGKeyArray, batch: Batch, order: Int[Array, " b"] | None) -> Float[Array, "b h w c"]:
        return self.source.draw(key, batch.images.shape[0])[order]


@pytree
class Component(Coupling):
    """A draw from the component that explains the image, k ~ p(k | x1): the marginal of x0 stays the mixture, as far as
    the images are drawn from it. `log_r` holds log p(k | image) of the images and, where images are mirrored, of their
    mirror images."""

    source: Mixture
    log_r: Float[Array, "m n k"]
    rho: float = field(metadata={"static": True})

    def x0(self, key: PRNGKeyArray, batch: Batch, order: Int[Array, " b"] | None) -> Float[Array, "b h w c"]:
        for_component, for_draw = jax.random.split(key)
        mirrored = batch.mirrored.astype(jnp.int32) if self.log_r.shape[0] == 2 else jnp.zeros_like(batch.rows)
        k = jax.random.categorical(for_component, self.log_r[mirrored, batch.rows], axis=1)
        return self.source.draw_near(for_draw, batch.pixels, k, self.rho)


@pytree
class Labels(Coupling):
    """The same for a product of block mixtures: the labels of all blocks come from their posterior given the image."""

    source: Mixture
    rho: float = field(metadata={"static": True})

    def x0(self, key: PRNGKeyArray, batch: Batch, order: Int[Array, " b"] | None) -> Float[Array, "b h w c"]:
        for_labels, for_draw = jax.random.split(key)
        flat = batch.pixels.reshape(batch.pixels.shape[0], -1)
        product: Any = self.source.params.gmm
        labels = product.sample_labels(for_labels, self.source.params.encoder.encode(flat))
        return self.source.draw_near(for_draw, batch.pixels, labels, self.rho)


def squared_distances(x0: Float[Array, "b h w c"], x1: Float[Array, "b h w c"]) -> Float[Array, "b b"]:
    """|x1_i − x0_j|²."""
    a, b = x1.reshape(x1.shape[0], -1), x0.reshape(x0.shape[0], -1)
    return (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * matmul(a, b.T)


def assign(cost: Float[np.ndarray, "b b"]) -> Int[np.ndarray, " b"]:
    """The draw of every image in the permutation of least total cost."""
    return linear_sum_assignment(cost)[1].astype(np.int32)


def independent(config: Config, images: Images, source: NoiseSource) -> Independent:
    """See `Independent`."""
    return Independent(source)


def assignment(config: Config, images: Images, source: NoiseSource) -> Assignment:
    """See `Assignment`."""
    return Assignment(source)


def component(config: Config, images: Images, source: NoiseSource) -> Component | Labels:
    """See `Component`; the responsibilities of all images are computed here, once. Raises InputError for a source that
    has no components."""
    if not isinstance(source, Mixture):
        raise InputError("--coupling component draws from a mixture: give --source mle or a run folder of jgmm.fit.")
    if isinstance(source.params.gmm, ProductMixture):
        return Labels(source, config.rho)
    views = [images.pixels, images.pixels[:, :, ::-1]] if config.flips else [images.pixels]
    shares = np.stack([scores(source.params, view).responsibilities for view in views])
    return Component(source, jnp.log(jnp.maximum(shares, SMALLEST)), config.rho)


def build(config: Config, images: Images, source: NoiseSource) -> Coupling:
    """The coupling that the options ask for. Raises InputError for a source it cannot use, and a useless --rho."""
    coupling = COUPLINGS[config.coupling](config, images, source)
    used = config.rho == 0 or isinstance(coupling, Component | Labels)
    check(used, f"--rho is of --coupling component, got --coupling {config.coupling}.")
    return coupling
