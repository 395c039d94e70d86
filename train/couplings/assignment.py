"""Couplings by an assignment inside the batch: of least cost, the same in each component, and one that remembers."""

from dataclasses import field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from scipy.optimize import linear_sum_assignment

from jgmm.data import Images
from jgmm.encoder.base import Encoder
from jgmm.numerics.pytree import pytree
from train.batches import Batch, Data, Keys
from train.config import Config
from train.couplings.base import Coupling, Pairs, inside, squared_distances
from train.couplings.component import log_responsibilities, posterior_component
from train.sources import Mixture, NoiseSource

# The stream of random numbers of the draws that are kept, folded into the seed.
CACHE_STREAM = 2**31 - 3


def assign(cost: Float[np.ndarray, "b b"]) -> Int[np.ndarray, " b"]:
    """The draw of every image in the permutation of least total cost."""
    return linear_sum_assignment(cost)[1].astype(np.int32)


@pytree
class Assignment(Coupling):
    """The permutation of independent draws that is nearest to the images, over the whole batch: every image and every
    draw once (Pooladian et al., arXiv 2304.14772; Tong et al., arXiv 2302.00482)."""

    source: NoiseSource
    assigned: ClassVar[bool] = True
    keeps_labels: ClassVar[bool] = True

    def x0(self, key: PRNGKeyArray, batch: Batch, order: Int[Array, " b"] | None) -> Float[Array, "b h w c"]:
        return self.source.draw(key, batch.images.shape[0])[order]


@pytree
class ComponentAssignment(Coupling):
    """The same inside each component: every image has its component, k ~ p(k | x1), and as many draws as a component
    has images in the batch are assigned to them (COT-FM, CVPR 2026, for a Gaussian a cluster)."""

    source: Mixture
    log_r: Float[Array, "m n k"]
    assigned: ClassVar[bool] = True

    def x0(self, key: PRNGKeyArray, batch: Batch, order: Int[Array, " b"] | None) -> Float[Array, "b h w c"]:
        return self._draws(key, batch)[0][order]

    def cost(self, keys: Keys, data: Data, index: Int[Array, " b"], memory: Any) -> Float[Array, "b b"]:
        batch = data.take(keys.flips, index)
        draws, k = self._draws(keys.coupling, batch)
        return inside(k, squared_distances(draws, batch.images))

    def _draws(self, key: PRNGKeyArray, batch: Batch) -> tuple[Array, Array]:
        for_component, for_draw = jax.random.split(key)
        k = posterior_component(for_component, self.log_r, batch)
        return self.source.draw_near(for_draw, batch.pixels, k, 0.0), k


@pytree
class Cache(Coupling):
    """A draw for every image and mirror image, kept from step to step; those of a batch change places by an assignment
    of least cost, so that pairs get nearer as training goes on (LOOM-CFM, Davtyan et al., ICLR 2025).

    What is kept are the seeds of the draws. x0 has the law of the source up to the number of draws, which is the number
    of images: training sees no others.
    """

    source: NoiseSource
    views: Int[Array, "m n"]
    seed: int = field(metadata={"static": True})
    assigned: ClassVar[bool] = True
    keeps_labels: ClassVar[bool] = True

    def begin(self) -> Int[Array, "m n"]:
        return self.views

    def pairs(
        self, keys: Keys, data: Data, index: Int[Array, " b"], order: Int[Array, " b"] | None, memory: Any
    ) -> Pairs:
        batch = data.take(keys.flips, index)
        seeds = _places(memory, batch)[order]
        rows = (_mirrored(memory, batch), batch.rows)
        # A batch that goes over into the next epoch may have an image twice: its draws stay where they are.
        place = jnp.sort(rows[0] * memory.shape[1] + rows[1])
        once = (place[1:] != place[:-1]).all()
        return Pairs(self._drawn(seeds), batch, jnp.where(once, memory.at[rows].set(seeds), memory))

    def cost(self, keys: Keys, data: Data, index: Int[Array, " b"], memory: Any) -> Float[Array, "b b"]:
        batch = data.take(keys.flips, index)
        return squared_distances(self._drawn(_places(memory, batch)), batch.images)

    def _drawn(self, seeds: Int[Array, " b"]) -> Float[Array, "b h w c"]:
        key = jax.random.fold_in(jax.random.key(self.seed), CACHE_STREAM)
        return jax.vmap(lambda seed: self.source.draw(jax.random.fold_in(key, seed), 1)[0])(seeds)


def _mirrored(memory: Int[Array, "m n"], batch: Batch) -> Int[Array, " b"]:
    return batch.mirrored.astype(jnp.int32) * (memory.shape[0] - 1)


def _places(memory: Int[Array, "m n"], batch: Batch) -> Int[Array, " b"]:
    """The seeds of the draws of a batch."""
    return memory[_mirrored(memory, batch), batch.rows]


def assignment(config: Config, images: Images, source: NoiseSource, space: Encoder) -> Assignment:
    """See `Assignment`."""
    return Assignment(source)


def in_components(config: Config, images: Images, source: NoiseSource, space: Encoder) -> ComponentAssignment:
    """See `ComponentAssignment`. Raises InputError for a source that is no mixture, or a product of them."""
    return ComponentAssignment(*log_responsibilities(config, images, source))


def cache(config: Config, images: Images, source: NoiseSource, space: Encoder) -> Cache:
    """See `Cache`."""
    m = 2 if config.flips else 1
    return Cache(source, jnp.arange(m * len(images), dtype=jnp.int32).reshape(m, -1), config.seed)
