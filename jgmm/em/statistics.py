"""Sufficient statistics: the sums over the data that an M-step needs."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jgmm.covariance.base import Covariance, each_of
from jgmm.em.tiles import fold_tiles, in_tiles
from jgmm.mixture import GMM
from jgmm.numerics.chunking import sum_chunks
from jgmm.numerics.distances import first_moments
from jgmm.numerics.pytree import Additive, pytree, zeros_of
from jgmm.numerics.sharding import map_components
from jgmm.numerics.summation import CompensatedSum

# Summing over chosen pairs pays from so many components.
SPARSE_COMPONENTS = 8


@pytree
class Statistics(Additive):
    """Sums over rows; those of parts of the data add.

    Attributes:
        log_likelihood: Σ_n log p(x_n), nats.
        counts: n_k = Σ_n r_nk.
        first: Σ_n r_nk (x_n − μ_k).
        second: Σ_n r_nk (x_n − μ_k)(x_n − μ_k)ᵀ in the shape of the covariance family.
        pairs: how many responsibilities took part.
        dropped: an upper bound on the sum of those that did not.
    """

    log_likelihood: CompensatedSum
    counts: Float[Array, " k"]
    first: Float[Array, "k d"]
    second: Array
    pairs: Float[Array, ""]
    dropped: Float[Array, ""]


@pytree
class _Moments(Additive):
    first: Array
    second: Array


def collect(
    gmm: GMM,
    x: Float[Array, "n d"],
    r: Float[Array, "n k"],
    log_likelihood: Float[Array, " n"],
    dropped: Float[Array, ""],
) -> Statistics:
    """The sums of x under responsibilities r, many of which may be zero."""

    def moments(x: Array, r: Array, means: Array, covariance: Covariance) -> _Moments:
        return _Moments(first_moments(x, r, means), covariance.moments(x, r, means))

    def products() -> _Moments:
        def chunk(part: tuple[Array, Array], weight: Array) -> _Moments:
            return moments(part[0], part[1] * weight[:, None], gmm.means, gmm.covariance)

        return sum_chunks(chunk, (x, r))

    def pairs() -> _Moments:
        def component(leaf: tuple[Array, Array, Covariance], x: Array) -> _Moments:
            mean, share, covariance = leaf

            def tile(rows: Array, valid: Array) -> _Moments:
                return moments(x[rows], jnp.where(valid, share[rows], 0)[:, None], mean[None], covariance)

            zero = zeros_of(tile, jnp.arange(1), jnp.ones(1, bool))
            sums = fold_tiles(share > 0, lambda total, rows, valid: total + tile(rows, valid), zero)
            return jax.tree.map(lambda leaf: leaf[0], sums)

        return map_components(component, (gmm.means, r.T, each_of(gmm.covariance, gmm.k)), x)

    rows = (r > 0).sum(axis=0)
    below = gmm.covariance.sparse_below
    if gmm.k < SPARSE_COMPONENTS or below == 0:
        sums = products()
    else:
        sums = jax.lax.cond(in_tiles(rows) <= below * r.size, pairs, products)
    n_pairs = rows.sum().astype(x.dtype)
    return Statistics(CompensatedSum.of(log_likelihood), r.sum(axis=0), sums.first, sums.second, n_pairs, dropped)
