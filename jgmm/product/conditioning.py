"""Some features of a product of block mixtures, given others: block by block, and through the labels of all of them.

A block b with given features g keeps its K Gaussians, each given x_g, and says of its label

    e_bk = log N(x_g | μ_bk,g, Σ_bk,gg)

which is evidence for the law of all labels (`jgmm.product.labels.LabelTree.given`): what is left is a product again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jgmm.mixture import GMM


class Restricted(NamedTuple):
    """What is left of the blocks of a product.

    Attributes:
        parts: For every part, its Gaussians, as in `ProductMixture.parts`.
        n_blocks: The number of blocks of every part.
        order: The features, by their places among those wanted, in the order of parts and blocks.
        blocks: Which of the blocks there were are left, in the same order.
        evidence: What the given features say of the labels of all blocks there were.
    """

    parts: list[GMM]
    n_blocks: list[int]
    order: list[int]
    blocks: list[int]
    evidence: Float[Array, "b k"]


def restrict(
    parts: Sequence[GMM],
    features: Sequence[Int[np.ndarray, "_ _"]],
    wanted: Int[np.ndarray, " a"],
    given: Int[np.ndarray, " g"],
    values: Float[Array, " g"],
) -> Restricted:
    """The wanted features of the blocks of these parts, given others. Blocks without any wanted ones are left out."""
    d, n_blocks = sum(f.size for f in features), sum(len(f) for f in features)
    place = np.full((2, d), -1)
    place[0, wanted], place[1, given] = np.arange(len(wanted)), np.arange(len(given))
    found = Restricted([], [], [], [], jnp.zeros((n_blocks, parts[0].k), values.dtype))
    first = 0
    for part, of_part in zip(parts, features, strict=True):
        for rows in _alike(place[:, of_part] >= 0):
            gmm = jax.tree.map(lambda leaf, rows=rows: leaf[rows], part) if part.batch_shape else part
            w, g = (np.stack([np.flatnonzero(index[f] >= 0) for f in of_part[rows]]) for index in place)
            to, of = (np.take_along_axis(p[of_part[rows]], i, axis=1) for p, i in zip(place, (w, g), strict=True))
            if g.size:
                said = _evidence(gmm, jnp.asarray(g), values[of])
                found = found._replace(evidence=found.evidence.at[first + rows].set(said))
            if w.size:
                left = _given(gmm, jnp.asarray(w), jnp.asarray(g), values[of]) if g.size else _marginal(gmm, w)
                found.parts.append(left)
                found.n_blocks.append(len(rows))
                found.order.extend(to.ravel().tolist())
                found.blocks.extend((first + rows).tolist())
        first += len(of_part)
    return found


def _alike(masks: Bool[np.ndarray, "2 b d"]) -> list[Int[np.ndarray, " _"]]:
    """The blocks with as many wanted and given features, kind by kind."""
    _, kind = np.unique(masks.sum(axis=2), axis=1, return_inverse=True)
    return [np.flatnonzero(kind == i) for i in range(kind.max() + 1)]


def _axis(gmm: GMM) -> int | None:
    """What of a mixture is mapped over blocks: its batch axis, or nothing where they share it."""
    return 0 if gmm.batch_shape else None


@jax.jit
def _evidence(gmm: GMM, given: Int[Array, "b g"], y: Float[Array, "b g"]) -> Float[Array, "b k"]:
    def of_block(gmm: GMM, given: Array, y: Array) -> Array:
        return gmm.marginal(given).component_log_prob(y)

    return jax.vmap(of_block, (_axis(gmm), 0, 0))(gmm, given, y)


@jax.jit
def _given(gmm: GMM, wanted: Int[Array, "b w"], given: Int[Array, "b g"], y: Float[Array, "b g"]) -> GMM:
    def of_block(gmm: GMM, wanted: Array, given: Array, y: Array) -> GMM:
        shift, covariance = gmm.covariance.conditional(wanted, given, y[None] - gmm.means[:, given])
        return GMM(gmm.log_weights, gmm.means[:, wanted] + shift, covariance)

    return jax.vmap(of_block, (_axis(gmm), 0, 0, 0))(gmm, wanted, given, y)


def _marginal(gmm: GMM, wanted: Int[np.ndarray, "b w"]) -> GMM:
    """Those that all blocks share stay shared where the same features of all are wanted."""
    if not gmm.batch_shape and (wanted == wanted[:1]).all():
        return gmm.marginal(wanted[0])
    return jax.vmap(lambda gmm, index: gmm.marginal(index), (_axis(gmm), 0))(gmm, jnp.asarray(wanted))
