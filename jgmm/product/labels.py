"""The law of the labels of blocks: a tree of hidden classes, whose leaves are the labels.

    p(labels) = Σ_classes p(c_root) Π_v p(c_v | c_parent(v)) Π_b p(label_b | c_parent(b))

Without classes the labels are independent. With one level of them a class of the whole decides how likely each label
is in every block; with more the classes of regions do, which depend on those of larger regions (for wavelets of images
this is the hidden Markov tree of Crouse, Nowak and Baraniuk, Wavelet-based statistical signal processing using hidden
Markov models, IEEE Transactions on Signal Processing 46, 1998). All sums over classes are done exactly by one pass up
the tree. Its derivatives are the posterior (Darwiche, A differential approach to inference in Bayesian networks,
Journal of the ACM 50, 2003): with e_bk = log p(x_b | label_b = k),

    p(label_b = k | x) = ∂ log p(x) / ∂ e_bk,   E[number of transitions s -> t at v | x] = ∂ log p(x) / ∂ log p_v(t | s)
"""

from collections.abc import Sequence
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.errors import check, short
from jgmm.mixture import check_weights
from jgmm.numerics.arguments import is_traced
from jgmm.numerics.linalg import einsum
from jgmm.numerics.pytree import pytree

# Passes over the tree hold about this many numbers of a level at a time.
NUMBERS = 2**24


@pytree
class LabelTree:
    """log-probabilities, level by level from the root; one class there and nothing between makes labels independent.

    Attributes:
        root: log p(c_root) [S].
        tables: For every level below, log p(t | s) of every node given the class of its parent [V, S, T]; in the last
            the nodes are the blocks and t are their labels.
        parents: For every level, which node of the level above each node hangs from.

    >>> import jax.numpy as jnp
    >>> from jgmm.product.labels import LabelTree
    >>> labels = LabelTree.independent(jnp.log(jnp.array([[0.5, 0.5], [0.1, 0.9]])))
    >>> labels.n_blocks, labels.k, labels.n_classes, round(float(labels.entropy()), 3)
    (2, 2, 1, 1.018)
    """

    root: Float[Array, " s"]
    tables: tuple[Float[Array, "_ _ _"], ...]
    parents: tuple[tuple[int, ...], ...] = field(metadata={"static": True})

    def __post_init__(self) -> None:
        check(len(self.tables) == len(self.parents) > 0, "expected a table and parents for every level of the tree.")
        above, states = 1, self.root.shape[0]
        for table, parents in zip(self.tables, self.parents, strict=True):
            check(all(0 <= p < above for p in parents), f"parents must be from 0 to {above - 1}, got {short(parents)}.")
            above = len(parents)
            fits = table.shape[:2] == (above, states)
            check(fits, f"the table of {above} nodes below {states} classes cannot have shape {table.shape}.")
            states = table.shape[2]
        for name, log_p in (("exp(root)", self.root), *(("exp of a table", table) for table in self.tables)):
            if isinstance(log_p, jax.Array | np.ndarray) and not is_traced(log_p):
                check_weights(name, np.exp(np.asarray(log_p, np.float64)))

    @classmethod
    def independent(cls, log_weights: Float[Array, "b k"]) -> "LabelTree":
        """Labels of blocks that know nothing of each other."""
        n_blocks = log_weights.shape[0]
        return cls(jnp.zeros(1, log_weights.dtype), (log_weights[:, None],), ((0,) * n_blocks,))

    @property
    def n_blocks(self) -> int:
        """The number of blocks."""
        return len(self.parents[-1])

    @property
    def n_classes(self) -> int:
        """The number of classes of the whole."""
        return self.root.shape[0]

    @property
    def k(self) -> int:
        """The number of labels."""
        return self.tables[-1].shape[2]

    @property
    def rows_at_a_time(self) -> int:
        """How many rows a pass over the tree should take together."""
        states = [self.n_classes, *(table.shape[2] for table in self.tables)]
        return max(1, NUMBERS // (self.n_blocks * max(states)))

    @property
    def n_parameters(self) -> int:
        """How many numbers are free: the last of each distribution is not."""
        return self.n_classes - 1 + sum(table.size - table.shape[0] * table.shape[1] for table in self.tables)

    def log_likelihood(self, evidence: Float[Array, "n b k"]) -> Float[Array, " n"]:
        """log Σ_labels p(labels) exp(Σ_b e_b,label_b), for every row of evidence e."""
        found = self.class_log_joint(evidence)
        return jax.nn.logsumexp(found, axis=1)

    def class_log_joint(self, evidence: Float[Array, "n b k"]) -> Float[Array, "n s"]:
        """log p(c_root) + log p(x | c_root)."""
        return self.root[None] + self._upward(evidence)[0][0]

    def _upward(self, evidence: Float[Array, "n b k"]) -> list[Float[Array, "_ _ _"]]:
        """log p(x below a node | its class) of all nodes, level by level from the root."""
        found = [jnp.moveaxis(evidence, 1, 0)]
        above = [len(parents) for parents in (*self.parents[-2::-1], (0,))]
        for table, parents, n_nodes in zip(self.tables[::-1], self.parents[::-1], above, strict=True):
            impossible = jnp.isneginf(table).all(axis=1)
            below = jnp.where(impossible[:, None], -jnp.inf, found[0])
            most = jax.lax.stop_gradient(below.max(axis=2, keepdims=True))
            most = jnp.where(jnp.isfinite(most), most, 0)
            sums = einsum("vnt,vst->vns", jnp.exp(below - most), jnp.exp(table))
            message = jnp.where(sums > 0, jnp.log(jnp.where(sums > 0, sums, 1)) + most, -jnp.inf)
            found.insert(0, jax.ops.segment_sum(message, np.asarray(parents), num_segments=n_nodes))
        return found

    def posterior(self, evidence: Float[Array, "n b k"]) -> Float[Array, "n b k"]:
        """p(label_b = k | x), for every row of evidence."""
        return jax.grad(lambda e: self.log_likelihood(e).sum())(evidence)

    def counts(self, evidence: Float[Array, "n b k"], weight: Float[Array, " n"]) -> tuple[Array, "LabelTree"]:
        """The log-likelihood of every row of evidence, and the expected numbers of all transitions in rows of these
        weights, in the place of their log-probabilities."""

        def total(labels: LabelTree) -> tuple[Array, Array]:
            log_likelihood = labels.log_likelihood(evidence)
            return (weight * log_likelihood).sum(), log_likelihood

        counts, log_likelihood = jax.grad(total, has_aux=True)(self)
        return log_likelihood, counts

    def given(self, evidence: Float[Array, "b k"]) -> "LabelTree":
        """The law p(labels | x) of one row of evidence: a tree like this one."""

        def posterior(log_p: Array, below: Array) -> Array:
            found = log_p + below
            possible = jnp.isfinite(found.max(axis=-1, keepdims=True))
            return jnp.where(possible, jax.nn.log_softmax(jnp.where(possible, found, 0), axis=-1), log_p)

        root, *levels = (level[:, 0] for level in self._upward(evidence[None]))
        tables = (posterior(table, below[:, None]) for table, below in zip(self.tables, levels, strict=True))
        return LabelTree(posterior(self.root, root[0]), tuple(tables), self.parents)

    def of_blocks(self, blocks: Sequence[int]) -> "LabelTree":
        """The law of the labels of some blocks, in this order, whatever those of the others are."""
        *above, parents = self.parents
        last = self.tables[-1][np.asarray(blocks)]
        return LabelTree(self.root, (*self.tables[:-1], last), (*above, tuple(parents[b] for b in blocks)))

    def given_class(self, s: int | Array) -> "LabelTree":
        """The law of labels in one class of the whole."""
        first, *rest = self.tables
        return LabelTree(jnp.zeros(1, self.root.dtype), (first[:, s][:, None], *rest), self.parents)

    def marginals(self) -> list[Float[Array, "_ _"]]:
        """The probabilities of the classes of all nodes, level by level from the root; those of labels are the last."""
        found = [jnp.exp(self.root)[None]]
        for table, parents in zip(self.tables, self.parents, strict=True):
            found.append(einsum("vs,vst->vt", found[-1][np.asarray(parents)], jnp.exp(table)))
        return found

    def entropy(self) -> Float[Array, ""]:
        """The entropy of the labels and the classes above them together, nats."""
        marginals = self.marginals()
        total = _entropy(self.root)
        for table, parents, above in zip(self.tables, self.parents, marginals, strict=False):
            total = total + (above[np.asarray(parents)] * _entropy(table)).sum()
        return total

    def sample(self, key: PRNGKeyArray, n: int) -> Int[Array, "n b"]:
        """Labels of all blocks, n times."""

        def some(key: PRNGKeyArray, n: int) -> Int[Array, "n b"]:
            return self._downward(key, jnp.broadcast_to(self.root, (n, self.n_classes)), [0.0] * len(self.tables))

        rows = self.rows_at_a_time
        if n <= rows:
            return some(key, n)
        keys = jax.random.split(key, -(-n // rows))
        return jax.lax.map(lambda key: some(key, rows), keys).reshape(-1, self.n_blocks)[:n]

    def sample_posterior(self, key: PRNGKeyArray, evidence: Float[Array, "n b k"]) -> Int[Array, "n b"]:
        """Labels of all blocks together, drawn from p(labels | x), for every row of evidence."""
        root, *levels = (jnp.moveaxis(level, 0, 1) for level in self._upward(evidence))
        return self._downward(key, self.root[None] + root[:, 0], levels)

    def _downward(self, key: PRNGKeyArray, root: Float[Array, "n s"], levels: list[Any]) -> Int[Array, "n b"]:
        """Labels drawn class by class, given log p(x below a node | its class)."""
        keys = jax.random.split(key, len(self.tables) + 1)
        states = _draw(keys[0], root[:, None])
        for key, table, parents, below in zip(keys[1:], self.tables, self.parents, levels, strict=True):
            states = _draw(key, table[np.arange(len(parents))[None], states[:, np.asarray(parents)]] + below)
        return states


def _entropy(log_p: Float[Array, "*v t"]) -> Float[Array, "*v"]:
    p = jnp.exp(log_p)
    return -jnp.where(p > 0, p * jnp.where(p > 0, log_p, 0), 0).sum(axis=-1)


def _draw(key: PRNGKeyArray, log_p: Float[Array, "n v t"]) -> Int[Array, "n v"]:
    """By inversion of the cumulative probabilities, which need not sum to one; where all are zero, of equal ones."""
    most = log_p.max(axis=-1, keepdims=True)
    edges = jnp.cumsum(jnp.where(jnp.isneginf(most), 1, jnp.exp(log_p - most)), axis=-1)
    u = jax.random.uniform(key, (*log_p.shape[:-1], 1), log_p.dtype) * edges[..., -1:]
    return jnp.minimum((edges <= u).sum(axis=-1), log_p.shape[-1] - 1).astype(jnp.int32)


def grid_parents(shape: Sequence[int], levels: int) -> tuple[tuple[int, ...], ...]:
    """The parents of a tree with so many levels of classes over a grid of blocks: every class below the first is that
    of 2 x 2 classes or blocks below it, and the first that of the whole.

    Raises:
        InputError: For more levels than the grid can be halved for.
    """
    grids = [tuple(shape)]
    for _ in range(levels - 1):
        check(max(grids[0]) > 2, f"a grid of {'x'.join(map(str, shape))} blocks has no room for {levels} levels.")
        grids.insert(0, tuple(-(-side // 2) for side in grids[0]))
    found: list[Any] = [(0,) * int(np.prod(grids[0]))]
    for above, below in zip(grids[:-1], grids[1:], strict=True):
        index = [i // 2 for i in np.indices(below)]
        found.append(tuple(int(p) for p in np.ravel_multi_index(index, above).ravel()))
    return tuple(found)
