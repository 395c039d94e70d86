"""Products of block mixtures: p(x) = Σ_labels p(labels) Π_b N(x_b | μ_b,label_b, Σ_b,label_b).

The features fall into B blocks, and every block has K Gaussians of its own, or the same as all others. The whole is a
Gaussian mixture of K^B components, at the cost of one of K: images differ in what happens where, and a component of a
plain mixture must say so for all places at once.
"""

from dataclasses import field, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.errors import InputError, check, check_count, short
from jgmm.mixture import GMM
from jgmm.numerics.arguments import as_floats, as_key, check_kind, feature_index, is_traced
from jgmm.numerics.chunking import map_chunks
from jgmm.numerics.linalg import einsum
from jgmm.numerics.pytree import pytree
from jgmm.numerics.typing import ArrayLike, Features
from jgmm.product.conditioning import restrict
from jgmm.product.labels import LabelTree


@pytree
class ProductMixture:
    """A Gaussian mixture whose components are chosen block by block.

    Blocks of one size make a part; those of images are all of one size, and there is one part.

    Attributes:
        parts: For every part, the Gaussians of its blocks: a `GMM` of batch shape (b,), or () where all b blocks share
            them. `labels` says how likely they are, and not their own weights.
        labels: The law of the labels of all blocks, those of the first part first.
        n_blocks: The number of blocks of every part.
        order: The features in the order of parts and blocks; None as they are.

    >>> import jax, jgmm
    >>> block = jgmm.GMM.from_parameters([0.5, 0.5], [[0.0], [2.0]], [1.0, 1.0], "spherical")
    >>> mixture = jgmm.ProductMixture.independent(jax.tree.map(lambda leaf: leaf[None].repeat(3, axis=0), block))
    >>> mixture
    ProductMixture(k=2, blocks=3, classes=1, d=3, covariance='spherical', dtype=float32)
    >>> print(mixture.mean(), mixture.log_prob([[1.0, 1.0, 1.0]]).round(3))
    [1. 1. 1.] [-4.257]
    """

    parts: tuple[GMM, ...]
    labels: LabelTree
    n_blocks: tuple[int, ...] = field(metadata={"static": True})
    order: tuple[int, ...] | None = field(default=None, metadata={"static": True})

    def __post_init__(self) -> None:
        check(len(self.parts) == len(self.n_blocks) > 0, "expected the number of blocks of every part.")
        for part, n in zip(self.parts, self.n_blocks, strict=True):
            fits = part.batch_shape in ((), (n,)) and part.k == self.labels.k
            check(fits, f"{n} blocks of {self.labels.k} labels cannot be {part}.")
        n_blocks = sum(self.n_blocks)
        check(n_blocks == self.labels.n_blocks, f"labels are of {self.labels.n_blocks} blocks, there are {n_blocks}.")
        whole = self.order is None or sorted(self.order) == list(range(self.d))
        check(whole, f"order must name each of {self.d} features once, got {short(self.order)}.")

    @classmethod
    def independent(cls, gmm: GMM) -> "ProductMixture":
        """The product of a batch of mixtures [B]: their blocks follow each other, and know nothing of each other.

        Raises:
            InputError: For anything but mixtures of such a batch shape.
        """
        check_kind("gmm", gmm, GMM, "a jgmm.GMM of batch shape (b,)")
        check(len(gmm.batch_shape) == 1, f"expected mixtures of batch shape (b,), got {gmm.batch_shape}.")
        return cls((gmm,), LabelTree.independent(gmm.log_weights), gmm.batch_shape)

    def __repr__(self) -> str:
        try:
            family, n = self.parts[0].covariance.name, sum(self.n_blocks)
            return (
                f"ProductMixture(k={self.k}, blocks={n}, classes={self.labels.n_classes}, d={self.d}, "
                f"covariance={family!r}, dtype={self.dtype})"
            )
        except AttributeError:  # JAX puts placeholders into the leaves of trees
            return f"ProductMixture({self.parts!r}, {self.labels!r})"

    @property
    def k(self) -> int:
        """The number of components of a block."""
        return self.labels.k

    @property
    def d(self) -> int:
        """The number of features."""
        return sum(n * part.d for part, n in zip(self.parts, self.n_blocks, strict=True))

    @property
    def dtype(self) -> Any:
        """Of the parameters."""
        return self.parts[0].means.dtype

    @property
    def n_parameters(self) -> int:
        """How many numbers are free, as for a `GMM`."""
        of_parts = (prod(part.batch_shape) * (part.n_parameters - part.k + 1) for part in self.parts)
        return sum(of_parts) + self.labels.n_parameters

    def component_log_prob(self, x: ArrayLike) -> Float[Array, "n b k"]:
        """log N(x_b | μ_bk, Σ_bk) of every component of every block, nats.

        Raises:
            InputError: For x of another shape than (n, d).
        """
        return evidence_of(self, self._points(x))

    def log_prob(self, x: ArrayLike) -> Float[Array, " n"]:
        """log p(x), nats a row. Raises InputError as `component_log_prob`."""
        return _log_prob(self, self._points(x))

    def responsibilities(self, x: ArrayLike) -> Float[Array, "n b k"]:
        """p(label_b = k | x), summing to one over the last axis. Raises InputError as `component_log_prob`."""
        return _responsibilities(self, self._points(x))

    def class_responsibilities(self, x: ArrayLike) -> Float[Array, "n s"]:
        """p(class | x) of the classes of the whole. Raises InputError as `component_log_prob`."""
        return _class_responsibilities(self, self._points(x))

    def sample(
        self,
        key: PRNGKeyArray,
        n: int,
        *,
        component: Any = None,
        return_components: bool = False,
    ) -> Any:
        """n independent draws [n, D], and with `return_components` the labels of their blocks [n, B]. Pure; n is static
        under jit.

        Args:
            key: A JAX random key.
            n: The number of draws.
            component: Labels to draw with, [B] or [n, B].
            return_components: Return (x, labels).
        Raises:
            InputError: If n < 0, and for labels of another shape.
        """
        key, n = as_key(key), check_count("n", n, least=0)
        check_kind("return_components", return_components, (bool, np.bool_), "True or False")
        key_labels, key_noise = jax.random.split(key)
        if component is None:
            labels = self.labels.sample(key_labels, n)
        else:
            labels = jnp.broadcast_to(self._labels(component, n), (n, self.labels.n_blocks))
        x = _given_labels(key_noise, self, labels)
        return (x, labels) if return_components else x

    def sample_labels(self, key: PRNGKeyArray, x: ArrayLike) -> Int[Array, "n b"]:
        """The labels of all blocks together, drawn from p(labels | x). Raises InputError as `component_log_prob`."""
        return self.labels.sample_posterior(as_key(key), self.component_log_prob(x))

    def given_labels(
        self, labels: Int[Array, "n b"], noise: Float[Array, "n d"]
    ) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """The mean of x given the labels of its blocks, and a deviation from it: noise N(0, I) becomes N(0, Σ)."""

        def of_block(part: GMM, k: Array, noise: Array) -> tuple[Array, Array]:
            return part.means[k], part.covariance.color(k, noise)

        means, deviations = [], []
        of_parts = jnp.split(labels, np.cumsum(self.n_blocks)[:-1], axis=1)
        for part, k, one in zip(self.parts, of_parts, self.blocks_of(noise), strict=True):
            if part.batch_shape:
                mean, deviation = jax.vmap(of_block, (0, 1, 1), 1)(part, k, one)
            else:
                rows = one.reshape(-1, part.d)
                mean, deviation = (y.reshape(one.shape) for y in of_block(part, k.reshape(-1), rows))
            means.append(mean)
            deviations.append(deviation)
        return self.joined(means), self.joined(deviations)

    def mean(self) -> Float[Array, " d"]:
        """E[x]."""
        return self.joined([einsum("bk,bkd->bd", w, part.means) for w, part in self._weighed()])

    def variance(self) -> Float[Array, " d"]:
        """diag Cov[x]."""
        return self.joined([part.variance() for part in self.block_mixtures()])

    def covariance_matrix(self) -> Float[Array, "d d"]:
        """Cov[x], by the law of total variance along the tree of classes: what each class adds to what the one above it
        says of the means of the blocks below it is uncorrelated with all the rest."""
        return _covariance_matrix(self)

    def marginal(self, features: Features) -> "ProductMixture":
        """The product p(x_a) of the features a, in the order given, in those blocks that have any of them.

        Raises:
            InputError: If a feature is not one of the mixture's or is named twice, and for features that are traced.
        """
        a = self._index("features", features)
        return self._restricted(a, np.zeros(0, np.int32), jnp.zeros(0, self.dtype))

    def conditional(self, features: Features | None, given: Features, values: ArrayLike) -> "ProductMixture":
        """The product p(x_a | x_g = values) of the features a given the features g: exact, in every block as for a
        `GMM`, and with the labels of all blocks as likely as the given features say (`jgmm.product.conditioning`). For
        many rows of values use `jax.vmap`.

        Args:
            features: a, or None for all that are not given, in ascending order.
            given: g.
            values: One for each given feature [g].
        Raises:
            InputError: If a and g overlap, a feature is not one of the mixture's, or the values do not match.

        >>> import jax, jgmm
        >>> block = jgmm.GMM.from_parameters([0.5, 0.5], [[0.0, 0.0], [8.0, 8.0]], [1.0, 1.0], "spherical")
        >>> mixture = jgmm.ProductMixture.independent(jax.tree.map(lambda leaf: leaf[None].repeat(3, axis=0), block))
        >>> rest = mixture.conditional(None, given=[0, 2], values=[0.0, 8.0])
        >>> rest
        ProductMixture(k=2, blocks=3, classes=1, d=4, covariance='spherical', dtype=float32)
        >>> print(rest.mean().round(3))
        [0. 8. 4. 4.]
        """
        g = self._index("given", given)
        check(features is not None or len(g) < self.d, "given names every feature: nothing is left to be conditional.")
        a = np.setdiff1d(np.arange(self.d), g) if features is None else self._index("features", features)
        both = np.intersect1d(a, g).tolist()
        check(not both, f"features and given must not overlap, both name {both}.")
        known = as_floats("values", values, self.dtype).astype(self.dtype)
        check(known.shape == g.shape, f"values must have shape {g.shape} as given, got {known.shape}.")
        return self._restricted(a, g, known)

    def _restricted(self, wanted: np.ndarray, given: np.ndarray, values: Array) -> "ProductMixture":
        found = restrict(self.parts, self.features(), wanted, given, values)
        labels = self.labels.given(found.evidence) if len(given) else self.labels
        order = None if found.order == list(range(len(wanted))) else tuple(found.order)
        return ProductMixture(tuple(found.parts), labels.of_blocks(found.blocks), tuple(found.n_blocks), order)

    def given_class(self, s: int | Array) -> "ProductMixture":
        """The mixture of one class of the whole."""
        return replace(self, labels=self.labels.given_class(s))

    def block_mixtures(self) -> list[GMM]:
        """The marginal mixtures of the blocks, for every part a batch of them."""
        return [replace(part, log_weights=jnp.log(w)) for w, part in self._weighed()]

    def _weighed(self) -> list[tuple[Float[Array, "_ _"], GMM]]:
        """The marginal weights of the labels of every part, and its Gaussians, as a batch of one for each block."""
        ends = np.cumsum(self.n_blocks)[:-1]
        weights = jnp.split(self.labels.marginals()[-1], ends)
        return [(w, _each(part, n)) for w, part, n in zip(weights, self.parts, self.n_blocks, strict=True)]

    def blocks_of(self, x: Float[Array, "n d"]) -> list[Float[Array, "_ _ _"]]:
        """The features of the blocks of every part."""
        if self.order is None and len(self.parts) == 1:
            return [x.reshape(len(x), *self.n_blocks, -1)]
        return [x[:, features] for features in self.features()]

    def features(self) -> list[Int[np.ndarray, "_ _"]]:
        """Which features are those of the blocks of every part."""
        order = np.arange(self.d) if self.order is None else np.asarray(self.order)
        ends = np.cumsum([n * part.d for part, n in zip(self.parts, self.n_blocks, strict=True)])[:-1]
        return [piece.reshape(n, -1) for piece, n in zip(np.split(order, ends), self.n_blocks, strict=True)]

    def joined(self, pieces: list[Array]) -> Float[Array, "*n d"]:
        """The inverse of `blocks_of`."""
        x = jnp.concatenate([piece.reshape(*piece.shape[:-2], -1) for piece in pieces], axis=-1)
        return x if self.order is None else x[..., np.argsort(self.order)]

    def _index(self, name: str, features: Features) -> np.ndarray:
        index = feature_index(name, features, self.d)
        if isinstance(index, np.ndarray):
            return index
        raise InputError(
            f"{name} of a product must be known, which blocks are left depends on them: do not trace them."
        )

    def _labels(self, component: Any, n: int) -> Any:
        try:
            given = component if is_traced(component) else np.asarray(component)
        except ValueError:  # rows of several lengths
            given = np.zeros(())
        shapes = (self.labels.n_blocks,), (n, self.labels.n_blocks)
        fits = given.shape in shapes and jnp.issubdtype(given.dtype, jnp.integer)
        inside = fits and (is_traced(given) or bool(((given >= 0) & (given < self.k)).all()))
        wanted = f"labels from 0 to {self.k - 1} of shape {shapes[0]} or {shapes[1]}"
        check(inside, f"component must be {wanted}, got {short(component)}.")
        return given

    def _points(self, x: ArrayLike) -> Float[Array, "n d"]:
        points = as_floats("x", x, self.dtype, finite=False)
        fits = points.ndim == 2 and points.shape[1] == self.d
        check(fits, f"expected points of shape (n, {self.d}), got {points.shape}.")
        return points


def _each(part: GMM, n_blocks: int) -> GMM:
    """The Gaussians of a part as a batch of one mixture for each block."""
    if part.batch_shape:
        return part
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n_blocks, *leaf.shape)), part)


def _evidence(mixture: ProductMixture, x: Float[Array, "n d"]) -> Float[Array, "n b k"]:
    blocks = zip(mixture.parts, mixture.blocks_of(x), strict=True)
    return jnp.concatenate([part.component_log_prob(piece) for part, piece in blocks], axis=1)


def _in_chunks(f: Any, mixture: ProductMixture, x: Float[Array, "n d"]) -> Any:
    """f(evidence) of the rows, a chunk at a time."""
    if len(x) == 0:
        return f(_evidence(mixture, x))
    return map_chunks(lambda part: f(_evidence(mixture, part)), x, mixture.labels.rows_at_a_time)


@jax.jit
def evidence_of(mixture: ProductMixture, x: Float[Array, "n d"]) -> Float[Array, "n b k"]:
    """`ProductMixture.component_log_prob`, a chunk of rows at a time."""
    return _in_chunks(lambda evidence: evidence, mixture, x)


@jax.jit
def _log_prob(mixture: ProductMixture, x: Array) -> Array:
    return _in_chunks(mixture.labels.log_likelihood, mixture, x)


@jax.jit
def _responsibilities(mixture: ProductMixture, x: Array) -> Array:
    return _in_chunks(mixture.labels.posterior, mixture, x)


@jax.jit
def _class_responsibilities(mixture: ProductMixture, x: Array) -> Array:
    return _in_chunks(lambda e: jax.nn.softmax(mixture.labels.class_log_joint(e), axis=1), mixture, x)


@jax.jit
def _given_labels(key: PRNGKeyArray, mixture: ProductMixture, labels: Int[Array, "n b"]) -> Float[Array, "n d"]:
    mean, deviation = mixture.given_labels(labels, jax.random.normal(key, (len(labels), mixture.d), mixture.dtype))
    return mean + deviation


@jax.jit
def _covariance_matrix(mixture: ProductMixture) -> Float[Array, "d d"]:
    labels, d = mixture.labels, mixture.d
    marginals, tables = labels.marginals(), [jnp.exp(table) for table in labels.tables]
    total = jnp.zeros((d, d), mixture.dtype)
    parents = np.asarray(labels.parents[-1])
    # M_v(t): the mean of the features below a node, given its class.
    means = jnp.zeros((*marginals[-2].shape, d), mixture.dtype)
    first = 0
    for (w, part), features in zip(mixture._weighed(), mixture.features(), strict=True):
        of_part = slice(first, first := first + len(features))
        above = marginals[-2][parents[of_part]]
        expected = einsum("bst,btd->bsd", tables[-1][of_part], part.means)
        within = _within(w, part) + _second(w, part.means) - _second(above, expected)
        total = total.at[features[:, :, None], features[:, None, :]].add(within)
        means = means.at[parents[of_part][:, None], :, features].add(jnp.moveaxis(expected, 1, 2))
    for table, above, q, up in zip(
        tables[-2::-1], marginals[-3::-1], marginals[-2:0:-1], labels.parents[-2::-1], strict=True
    ):
        expected = einsum("vst,vtd->vsd", table, means)
        total = total + _summed(q, means) - _summed(above[np.asarray(up)], expected)
        means = jax.ops.segment_sum(expected, np.asarray(up), num_segments=len(above))
    mean = einsum("vs,vsd->d", marginals[0], means)
    return total + _summed(marginals[0], means) - jnp.outer(mean, mean)


def _within(weights: Float[Array, "b k"], part: GMM) -> Float[Array, "b d d"]:
    """Σ_k w_bk Σ_bk."""

    def single(w: Array, gmm: GMM) -> Array:
        dense = gmm.covariance.dense()
        return einsum("k,kij->ij", w, dense) if len(dense) == len(w) else dense[0]

    return jax.vmap(single)(weights, part)


def _second(weights: Float[Array, "v s"], m: Float[Array, "v s d"]) -> Float[Array, "v d d"]:
    """Σ_s w_vs m_vs m_vsᵀ."""
    return einsum("vsd,vse->vde", weights[:, :, None] * m, m)


def _summed(weights: Float[Array, "v s"], m: Float[Array, "v s d"]) -> Float[Array, "d d"]:
    """Σ_vs w_vs m_vs m_vsᵀ."""
    return einsum("vsd,vse->de", weights[:, :, None] * m, m)
