"""The path between two products of block mixtures with the same blocks, block by block and so in time linear in D.

Given the labels at both ends every block goes its own way, between Gaussians. With independent ends the shares of the
pairs (i, j) of a block are those of a label tree whose evidence for a label j of the end that has classes is

    e_bj(x) = logsumexp_i [log w_bi + log N(x_b | m_bij, C_bij)]

and at given shares, velocity and score of a block are those of a plain path. Its divergence is too: where x_b moves,
what the other blocks say of the labels stays.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jgmm.errors import InputError, check
from jgmm.interpolant.couplings import couple_mixtures
from jgmm.interpolant.paths import AnyPath, Path, log_joint, path_of
from jgmm.interpolant.schedules import Coefficients, OfTime, Schedule
from jgmm.mixture import GMM
from jgmm.numerics.arguments import check_kind
from jgmm.numerics.pytree import pytree
from jgmm.product.labels import LabelTree
from jgmm.product.mixture import ProductMixture


@dataclass(frozen=True)
class ProductCoupling:
    """Independent ends (x_0, x_1), of which one may have classes; made by `jgmm.interpolant.couple`.

    >>> blocks = jgmm.ProductMixture.independent(jax.tree.map(lambda leaf: leaf[None], target))
    >>> ip.couple(source, blocks).source
    ProductMixture(k=1, blocks=1, classes=1, d=2, covariance='spherical', dtype=float32)
    """

    source: ProductMixture
    target: ProductMixture


def couple_products(source: GMM | ProductMixture, target: GMM | ProductMixture) -> ProductCoupling:
    """Two products with the same blocks; one of them may be a Gaussian whose features are independent, such as N(0, I).

    Raises:
        InputError: For blocks that differ, and classes at both ends: their posterior has no closed form.
    """
    for name, end in (("source", source), ("target", target)):
        check_kind(name, end, (GMM, ProductMixture), "a jgmm.GMM or a jgmm.ProductMixture")
    known = source if isinstance(source, ProductMixture) else target
    if not isinstance(known, ProductMixture):
        raise InputError("neither end is a product of block mixtures: jgmm.interpolant.couple takes plain ones.")
    ends = [end if isinstance(end, ProductMixture) else _as_product(end, known) for end in (source, target)]
    same = ends[0].n_blocks == ends[1].n_blocks and ends[0].order == ends[1].order and ends[0].d == ends[1].d
    check(same, f"both ends must have the same blocks, got {ends[0]} and {ends[1]}.")
    check(any(_is_independent(end) for end in ends), "both ends have classes: a path needs one without.")
    return ProductCoupling(*ends)


def _is_independent(mixture: ProductMixture) -> bool:
    return len(mixture.labels.tables) == 1 and mixture.labels.n_classes == 1


def _as_product(gmm: GMM, like: ProductMixture) -> ProductMixture:
    check(gmm.d == like.d, f"both ends must have the same dimension, got {gmm.d} and {like.d}.")
    one = gmm.batch_shape == () and gmm.k == 1 and gmm.covariance.axis_aligned
    check(one, f"expected a product, or one Gaussian whose features are independent, got {gmm}.")
    parts = []
    for features, part in zip(like.features(), like.parts, strict=True):
        blocks = [gmm.marginal(block) for block in features]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)
        alike = all(bool((leaf == leaf[:1]).all()) for leaf in jax.tree.leaves(stacked))
        parts.append(blocks[0] if alike and part.batch_shape == () else stacked)
    labels = LabelTree.independent(jnp.zeros((like.labels.n_blocks, 1), gmm.dtype))
    return ProductMixture(tuple(parts), labels, like.n_blocks, like.order)


@pytree
class ProductPath(AnyPath):
    """A path between products; made by `jgmm.interpolant.path`.

    Attributes:
        parts: The pairs of components of every part, all with all: of batch shape (b,), or () where blocks share them.
        source, target: The ends.

    >>> blocks = jgmm.ProductMixture.independent(jax.tree.map(lambda leaf: leaf[None], target))
    >>> bool(abs(ip.velocity(ip.path(ip.couple(source, blocks)), 0.5, x) - ip.velocity(flow, 0.5, x)).max() < 1e-5)
    True
    """

    parts: tuple[Path, ...]
    source: ProductMixture
    target: ProductMixture
    schedule: Schedule = field(metadata={"static": True})
    smoothing: OfTime = field(metadata={"static": True})

    def __repr__(self) -> str:
        return f"ProductPath({self.source!r}, {self.target!r})"

    @property
    def d(self) -> int:
        return self.source.d

    @property
    def dtype(self) -> Any:
        return self.source.dtype

    def log_density(self, c: Coefficients, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        return self._log_likelihood(self._evidence(c, x))

    def shares(self, c: Coefficients, x: Float[Array, "n d"]) -> Float[Array, "n b l"]:
        return jax.grad(lambda e: self._log_likelihood(e).sum())(self._evidence(c, x))

    def mixed(
        self, c: Coefficients, x: Float[Array, "n d"], f: Callable[..., Any], shares: Float[Array, "n b l"]
    ) -> Any:
        def of_block(path: Path, c: Coefficients, x: Array, share: Array) -> Any:
            return path.mixed(c, x, f, share)

        of_parts = zip(self.parts, self.source.blocks_of(x), self._by_part(shares), strict=True)
        found = [_by_block(of_block, part, c, blocks, share) for part, blocks, share in of_parts]

        def joined(*pieces: Array) -> Array:
            if pieces[0].ndim == 3:
                return self.source.joined(list(pieces))
            return jnp.concatenate(pieces, axis=1).sum(axis=1)

        return jax.tree.map(joined, *found)

    def ends(self, keys: Array, n: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        return self.source.sample(keys[0], n), self.target.sample(keys[1], n)

    def _evidence(self, c: Coefficients, x: Float[Array, "n d"]) -> Float[Array, "n b l"]:
        """log N(x_b | m_l, C_l) of all pairs l of every block."""
        of_parts = zip(self.parts, self.source.blocks_of(x), strict=True)
        return jnp.concatenate([_by_block(log_joint, part, c, blocks) for part, blocks in of_parts], axis=1)

    def _log_likelihood(self, evidence: Float[Array, "n b l"]) -> Float[Array, " n"]:
        pairs = evidence.reshape(*evidence.shape[:2], self.source.k, self.target.k)
        last = _is_independent(self.source)
        free, tree = (self.source, self.target) if last else (self.target, self.source)
        log_weights = free.labels.tables[0][:, 0]
        weighed = pairs + (log_weights[None, :, :, None] if last else log_weights[None, :, None, :])
        return tree.labels.log_likelihood(jax.nn.logsumexp(weighed, axis=2 if last else 3))

    def _by_part(self, shares: Float[Array, "n b l"]) -> list[Array]:
        return jnp.split(shares, np.cumsum(self.source.n_blocks)[:-1], axis=1)


def _by_block(f: Callable[..., Any], part: Path, c: Coefficients, *arrays: Float[Array, "n b ..."]) -> Any:
    """f(path, c, rows, ...) of every block, a pytree of arrays [n, b, ...]."""
    n, b = arrays[0].shape[:2]
    if part.means0.ndim == 3:
        mapped = [jnp.moveaxis(a, 1, 0) for a in arrays]
        found = jax.lax.map(lambda leaf: f(leaf[0], c, *leaf[1:]), (part, *mapped))
        return jax.tree.map(lambda y: jnp.moveaxis(y, 0, 1), found)
    # One mixture for all blocks: their rows are taken together.
    each = jax.tree.map(lambda v: v if v.shape[0] == 1 else jnp.repeat(v, b), c)
    found = f(part, each, *(a.reshape(n * b, *a.shape[2:]) for a in arrays))
    return jax.tree.map(lambda y: y.reshape(n, b, *y.shape[1:]), found)


def path_of_products(coupling: ProductCoupling, schedule: Schedule, smoothing: OfTime) -> ProductPath:
    """The path of a coupling of two products."""
    parts = []
    for first, second, n in zip(coupling.source.parts, coupling.target.parts, coupling.source.n_blocks, strict=True):
        if first.batch_shape == second.batch_shape == ():
            parts.append(_path_of_block(first, second, schedule, smoothing))
            continue
        paths = [_path_of_block(_block(first, b), _block(second, b), schedule, smoothing) for b in range(n)]
        parts.append(jax.tree.map(lambda *leaves: jnp.stack(leaves), *paths))
    return ProductPath(tuple(parts), coupling.source, coupling.target, schedule, smoothing)


def _block(part: GMM, b: int) -> GMM:
    return jax.tree.map(lambda leaf: leaf[b], part) if part.batch_shape else part


def _path_of_block(source: GMM, target: GMM, schedule: Schedule, smoothing: OfTime) -> Path:
    """All pairs of components, without weights."""

    def unweighted(gmm: GMM) -> GMM:
        return replace(gmm, log_weights=jnp.full_like(gmm.log_weights, -jnp.log(gmm.k)))

    path = path_of(couple_mixtures(unweighted(source), unweighted(target)), schedule, smoothing)
    return replace(path, log_weights=jnp.zeros_like(path.log_weights))
