"""The steps of EM in NumPy, and k-means, where it starts. Responsibilities are [K, N]."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jgmm.em.initializers import LLOYD_TOLERANCE, MAX_LLOYD
from jgmm.em.small.families import Arithmetic, Beliefs

TINY = np.finfo(np.float64).tiny


class Mixture(NamedTuple):
    """A mixture of K Gaussians, its covariances as the leaf of their family."""

    log_weights: np.ndarray
    means: np.ndarray
    leaf: np.ndarray


class Seen(NamedTuple):
    """Rows under a mixture: the mean log-likelihood, the objective (with the prior), and the responsibilities."""

    log_likelihood: float
    objective: float
    r: np.ndarray


@dataclass(frozen=True)
class Table:
    """Rows, how EM treats them, and how often each counts. Responsibilities [K, N] sum to that over components."""

    x: np.ndarray
    arithmetic: Arithmetic
    beliefs: Beliefs
    weight: np.ndarray

    def log_joint(self, mixture: Mixture, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """log w_k + log N(x_n | μ_k, Σ_k), [K, N], of some rows."""
        d = self.x.shape[1]
        constant = mixture.log_weights - 0.5 * (self.arithmetic.log_det(mixture.leaf, d) + d * np.log(2 * np.pi))
        distances = self.arithmetic.distances(self.x[rows], mixture.means, self.arithmetic.inverse(mixture.leaf))
        distances *= -0.5
        distances += constant[:, None]
        return distances

    def e_step(self, mixture: Mixture) -> Seen:
        """What the mixture explains."""
        log_p, r = normalized(self.log_joint(mixture))
        total = float(self.weight.sum())
        log_likelihood = float(self.weight @ log_p / total)
        return Seen(log_likelihood, log_likelihood + self._log_prior(mixture) / total, r * self.weight)

    def m_step(self, r: np.ndarray, rows: np.ndarray | slice = slice(None)) -> Mixture:
        """The mixture that maximizes the expected log-posterior of some rows given responsibilities."""
        x, beliefs, k = self.x[rows], self.beliefs, len(r)
        counts = r.sum(axis=1)
        pulled = r @ x + beliefs.mean_strength * beliefs.mean
        means = pulled / np.maximum(counts + beliefs.mean_strength, TINY)[:, None]
        scatter = self.arithmetic.moments(x, r, means)
        if beliefs.mean_strength > 0:
            scatter += self.arithmetic.moments(beliefs.mean[None], np.full((k, 1), beliefs.mean_strength), means)
        log_weights = np.log(np.maximum(counts, TINY) / counts.sum())
        return Mixture(log_weights, means, self.arithmetic.update(scatter, counts, beliefs))

    def _log_prior(self, mixture: Mixture) -> float:
        beliefs, total, d = self.beliefs, 0.0, self.x.shape[1]
        if beliefs.strength > 0:
            believed = beliefs.variance.mean(axis=0, keepdims=True) if self.arithmetic.tied else beliefs.variance
            spread = believed * self.arithmetic.inverse_diagonal(mixture.leaf, d) - np.log(believed)
            log_det = self.arithmetic.log_det(mixture.leaf, d)
            total += beliefs.strength * float((log_det + spread.sum(axis=1)).sum())
        if beliefs.mean_strength > 0:
            inverse = self.arithmetic.inverse(mixture.leaf)
            off = self.arithmetic.distances(beliefs.mean[None], mixture.means, inverse)
            total += beliefs.mean_strength * float(off.sum())
        return -0.5 * total


def normalized(log_joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p(x_n) [N] and p(k | x_n) [K, N]."""
    top = log_joint.max(axis=0)
    r = np.exp(log_joint - top)
    total = r.sum(axis=0)
    r /= total
    return top + np.log(total), r


def one_hot(label: np.ndarray, k: int, weight: np.ndarray) -> np.ndarray:
    """Responsibilities of rows that belong to one component each, and count so often, [K, N]."""
    return (label == np.arange(k)[:, None]) * weight


def kmeans(rng: np.random.Generator, x: np.ndarray, k: int, weight: np.ndarray) -> np.ndarray:
    """The clusters of Lloyd's algorithm from k-means++ seeds, [N]; one left empty moves to the row farthest off."""
    norms = (x * x).sum(axis=1)
    means, last = _seeds(rng, x, norms, k, weight), np.inf
    for _ in range(MAX_LLOYD):
        distances = (means * means).sum(axis=1)[:, None] - 2 * means @ x.T
        label = distances.argmin(axis=0)
        off = np.maximum(distances[label, np.arange(len(x))] + norms, 0)
        r = one_hot(label, k, weight)
        counts = r.sum(axis=1)
        means = np.where(counts[:, None] > 0, r @ x / np.where(counts > 0, counts, 1)[:, None], means)
        empty = np.flatnonzero(counts == 0)
        means[empty] = x[np.argsort(off)[::-1][: len(empty)]]
        inertia = weight @ off
        if last - inertia <= LLOYD_TOLERANCE * inertia:
            break
        last = inertia
    return label


def _seeds(rng: np.random.Generator, x: np.ndarray, norms: np.ndarray, k: int, weight: np.ndarray) -> np.ndarray:
    """Greedy k-means++: of a few rows drawn with probability proportional to the squared distance to the seeds so far,
    the one that leaves the smallest sum of those (Arthur and Vassilvitskii, 2007, section 5)."""
    trials, alike = 2 + int(np.log(k)), bool((weight == weight[0]).all())

    def drawn(share: np.ndarray, n: int) -> np.ndarray:
        ladder = np.cumsum(share)
        return np.minimum(np.searchsorted(ladder, rng.random(n) * ladder[-1], side="right"), len(x) - 1)

    def any_row() -> int:
        return int(rng.integers(len(x)) if alike else drawn(weight, 1)[0])

    chosen = [any_row()]
    nearest = np.maximum(norms + norms[chosen[0]] - 2 * x @ x[chosen[0]], 0)
    for _ in range(1, k):
        share = weight * nearest
        if not share.sum() > 0:  # all rows coincide with seeds: any will do
            chosen.append(any_row())
            continue
        rows = drawn(share, trials)
        left = np.minimum(np.maximum(norms[:, None] + norms[rows] - 2 * x @ x[rows].T, 0), nearest[:, None])
        best = int((weight @ left).argmin())
        chosen.append(int(rows[best]))
        nearest = left[:, best]
    return x[chosen]
