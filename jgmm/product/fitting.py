"""`fit_product`: a product of block mixtures of the rows of a table.

First the Gaussians of the blocks by EM, and then the law of their labels, by EM as well: an E-step is one pass up the
tree of classes and its derivative.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm.em.fitting import EMFit, fit_em
from jgmm.em.tables import as_rows
from jgmm.errors import check, check_count, check_number, short
from jgmm.mixture import GMM
from jgmm.numerics.arguments import as_key, check_kind
from jgmm.numerics.chunking import sum_chunks
from jgmm.numerics.pytree import pytree
from jgmm.numerics.summation import CompensatedSum
from jgmm.numerics.typing import ArrayLike
from jgmm.product.labels import LabelTree, grid_parents
from jgmm.product.mixture import ProductMixture, evidence_of

# How many rows the belief is worth that classes differ in nothing.
STRENGTH = 5.0
# Of the law of labels: iterations, and nats a block.
MAX_ITER, TOLERANCE = 50, 3e-3
# The most densities of blocks that are kept.
EVIDENCE = 2**28
# Concentration of the random weights that classes start with.
CONCENTRATION = 2.0


@dataclass(frozen=True, eq=False)
class ProductFit:
    """A product of block mixtures fitted by EM.

    Attributes:
        mixture: The product, of x.
        history: The mean log-likelihood of x, nats a row, before each iteration of EM on the law of the labels; of as
            many rows as there is room for (`with_labels`).
        fits: Those of the Gaussians: of every block, or of each size of blocks that share them.

    >>> import jgmm
    >>> from sklearn.datasets import load_iris
    >>> fit = jgmm.fit_product(0, load_iris().data, k=2, blocks=[[0, 1], [2, 3]])
    >>> len(fit.fits), fit.mixture.k
    (2, 2)
    """

    mixture: ProductMixture
    history: list[float]
    fits: list[EMFit]

    def __repr__(self) -> str:
        return f"ProductFit({self.mixture!r}, log_likelihood={self.history[-1]:.6g})"


def fit_product(
    key: PRNGKeyArray | int,
    x: ArrayLike,
    k: int = 10,
    *,
    blocks: Any,
    shared: bool = False,
    classes: Any = (),
    grid: Any = None,
    **options: Any,
) -> ProductFit:
    """Fit a product of mixtures of k Gaussians to the blocks of the rows of x.

    Args:
        key: A JAX random key, or a seed.
        x: Finite numbers [N, D].
        k: The number of components of every block.
        blocks: The number of features of a block, where blocks are features that follow each other; or the features of
            every block.
        shared: Whether all blocks of a size have the same Gaussians, as those of images do.
        classes: The number of classes above the blocks; several numbers are those of the levels of a tree, from the
            root down.
        grid: How the blocks lie, such as (8, 8), where there are several levels of classes; in a line if not given.
        options: Of `jgmm.fit_em`, for the Gaussians.
    Returns:
        The product, whose labels and fits have blocks of the size of the first one first, in their own order, and then
        those of other sizes.
    Raises:
        InputError: As `jgmm.fit_em`, and for blocks that do not make up the features.

    >>> import jgmm
    >>> from sklearn.datasets import load_iris
    >>> fit = jgmm.fit_product(0, load_iris().data, k=3, blocks=[[0, 1], [2, 3]], classes=3)
    >>> fit.mixture
    ProductMixture(k=3, blocks=2, classes=3, d=4, covariance='diag', dtype=float32)
    """
    key, rows = as_key(key), as_rows(x)
    check("start" not in options, "a product starts from clusters: leave start out.")
    plain = {"sample_weight", "missing"} & options.keys()
    check(not plain, f"{' and '.join(sorted(plain))} are for plain mixtures (jgmm.fit_em): leave them out.")
    groups = groups_of(blocks, rows.shape[1])
    levels = levels_of(classes)
    check_kind("shared", shared, (bool, np.bool_), "True or False")
    sides = _grid_of(grid, len(groups))
    parents = grid_parents(sides, len(levels)) if levels else ()
    by_size: dict[int, list[list[int]]] = {}
    for group in groups:
        by_size.setdefault(len(group), []).append(group)
    check(len(by_size) == 1 or len(levels) < 2, "blocks on a grid must be of one size.")
    for_parts, for_labels = jax.random.split(key)
    parts, fits = [], []
    for i, alike in enumerate(by_size.values()):
        found = _fits_of(jax.random.fold_in(for_parts, i), rows, alike, shared, k=k, **options)
        mixtures = [fit.gmm for fit in found]
        parts.append(mixtures[0] if shared else jax.tree.map(lambda *leaves: jnp.stack(leaves), *mixtures))
        fits += found
    order = [f for alike in by_size.values() for group in alike for f in group]
    n_blocks = tuple(len(alike) for alike in by_size.values())
    start = without_classes(parts, n_blocks, None if order == list(range(len(order))) else tuple(order))
    if not (shared or levels):
        return ProductFit(start, [float(start.log_prob(rows).mean())], fits)
    return ProductFit(*with_labels(for_labels, start, rows, levels, parents), fits)


def _fits_of(
    key: PRNGKeyArray, rows: Float[Array, "n d"], groups: list[list[int]], shared: bool, **options: Any
) -> list[EMFit]:
    """Fits to groups of as many features: one of each, or one of all of them together."""
    pieces = [rows[:, np.asarray(group)] for group in groups]
    pieces = [jnp.concatenate(pieces)] if shared else pieces
    found: list[EMFit] = []
    for i, piece in enumerate(pieces):
        found.append(fit_em(jax.random.fold_in(key, i), piece, **options))
        of_x = found[-1].encoder.name == "identity"
        check(of_x, "the Gaussians of blocks must be those of x: take an encoder such as robust, or identity.")
    return found


def _grid_of(grid: Any, n_blocks: int) -> tuple[int, ...]:
    if grid is None:
        return (n_blocks,)
    whole = isinstance(grid, Sequence) and all(type(side) is int and side > 0 for side in grid)
    check(whole and np.prod(grid) == n_blocks, f"grid must be sides of {n_blocks} blocks, got {short(grid)}.")
    return tuple(grid)


def groups_of(blocks: Any, d: int) -> list[list[int]]:
    """The features of every block. Raises InputError unless they make up all d."""
    if isinstance(blocks, int | np.integer):
        size = check_count("blocks", blocks)
        check(d % size == 0, f"blocks of {size} features do not make up {d}.")
        return np.arange(d).reshape(-1, size).tolist()
    try:
        groups = [[operator.index(f) for f in group] for group in blocks]
    except (TypeError, ValueError):
        groups = []
    whole = bool(groups) and all(groups) and sorted(f for group in groups for f in group) == list(range(d))
    check(whole, f"blocks must name each of {d} features once, got {short(blocks)}.")
    return groups


def levels_of(classes: Any) -> tuple[int, ...]:
    """The numbers of classes of every level. Raises InputError for what are none."""
    if isinstance(classes, int | np.integer):
        return (check_count("classes", classes),)
    numbers = isinstance(classes, Sequence) and not isinstance(classes, str)
    check(numbers, f"classes must be a number, or one for each level, got {short(classes)}.")
    return tuple(check_count("classes", n) for n in classes)


def without_classes(parts: Sequence[GMM], n_blocks: tuple[int, ...], order: Any = None) -> ProductMixture:
    """The product of parts, whose labels are as likely as the weights of their own mixtures say."""
    weights = [jnp.broadcast_to(part.log_weights, (n, part.k)) for part, n in zip(parts, n_blocks, strict=True)]
    return ProductMixture(tuple(parts), LabelTree.independent(jnp.concatenate(weights)), n_blocks, order)


def with_labels(
    key: PRNGKeyArray,
    start: ProductMixture,
    x: Float[Array, "n d"],
    levels: Sequence[int] = (),
    parents: Sequence[Sequence[int]] = (),
    *,
    max_iter: int = MAX_ITER,
    tol: float | None = None,
    strength: float = STRENGTH,
    callback: Callable[[int, float], None] | None = None,
) -> tuple[ProductMixture, list[float]]:
    """The product with the likeliest law of labels for these rows, classes on so many levels, given its Gaussians.

    The densities of all blocks are kept; where they are more than 2^28, those of rows evenly spread over all.

    Args:
        levels: The number of classes of each level, from the root down; none for independent labels.
        parents: Those of every level (`jgmm.product.labels.grid_parents`).
        tol: EM stops when the log-likelihood rises by less than this, nats a row; None for 3e-3 a block.
        strength: The rows that the belief is worth that classes differ in nothing.
        callback: Called with the number of the iteration and the mean log-likelihood before it.
    Returns:
        The product, and the mean log-likelihood before each iteration, nats a row.
    """
    check_count("max_iter", max_iter)
    tol = TOLERANCE * start.labels.n_blocks if tol is None else tol
    check_number("tol", tol, least=0)
    check_number("strength", strength, least=0)
    labels, history = _beginning(key, start.labels, levels, parents), []
    evidence = _kept_evidence(start, x)
    for i in range(max_iter):
        found = _pass(labels, evidence)
        history.append(float(found.log_likelihood) / len(evidence))
        if callback is not None:
            callback(i + 1, history[-1])
        labels = _likeliest(found.counts, jnp.asarray(strength, start.dtype))
        if i > 0 and history[-1] - history[-2] < tol:
            break
    return replace(start, labels=labels), history


def _beginning(
    key: PRNGKeyArray, labels: LabelTree, levels: Sequence[int], parents: Sequence[Sequence[int]]
) -> LabelTree:
    """Classes that differ at random, about labels as likely as they are."""
    if not levels:
        return labels
    weights = labels.marginals()[-1]
    states = [*levels, labels.k]
    tables = []
    for level, (of_level, s, t) in enumerate(zip(parents, states[:-1], states[1:], strict=True)):
        noise = jax.random.gamma(jax.random.fold_in(key, level), CONCENTRATION, (len(of_level), s, t), weights.dtype)
        noise = noise * weights[:, None] if level == len(levels) - 1 else noise
        tables.append(jnp.log(noise / noise.sum(axis=2, keepdims=True)))
    root = jnp.full(levels[0], -jnp.log(levels[0]), weights.dtype)
    return LabelTree(root, tuple(tables), tuple(tuple(one) for one in parents))


@pytree
class _Pass:
    """Sums over rows: their log-likelihood, and the expected numbers of transitions."""

    log_likelihood: CompensatedSum
    counts: LabelTree

    def __add__(self, other: "_Pass") -> "_Pass":
        counts = jax.tree.map(jnp.add, self.counts, other.counts)
        return _Pass(self.log_likelihood + other.log_likelihood, counts)


@jax.jit
def _pass(labels: LabelTree, evidence: Float[Array, "n b k"]) -> _Pass:
    def chunk(evidence: Array, weight: Array) -> _Pass:
        log_likelihood, counts = labels.counts(evidence, weight)
        return _Pass(CompensatedSum.of(weight * log_likelihood), counts)

    return sum_chunks(chunk, evidence, labels.rows_at_a_time)


@jax.jit
def _likeliest(counts: LabelTree, strength: Array) -> LabelTree:
    """The law of labels for expected numbers of transitions, of which one more is spread over all."""

    def log_share(found: Array, believed: Array) -> Array:
        return jnp.log(found + strength * believed) - jnp.log(found.sum(axis=-1, keepdims=True) + strength)

    def of_nodes(found: Array) -> Array:
        together = found.sum(axis=1, keepdims=True) + 1 / found.shape[2]
        return log_share(found, together / together.sum(axis=2, keepdims=True))

    root = log_share(counts.root, jnp.full_like(counts.root, 1 / counts.n_classes))
    return LabelTree(root, tuple(of_nodes(table) for table in counts.tables), counts.parents)


def _kept_evidence(mixture: ProductMixture, x: Float[Array, "n d"]) -> Float[Array, "n b k"]:
    """The evidence of the rows, or of as many of them, evenly, as there is room for."""
    most = max(1, EVIDENCE // (mixture.labels.n_blocks * mixture.k))
    x = jnp.asarray(x, mixture.dtype)
    return evidence_of(mixture, x if len(x) <= most else x[np.linspace(0, len(x) - 1, most).astype(int)])
