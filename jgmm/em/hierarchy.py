"""A prior learned from the mixture that EM starts from: what its components have in common.

The variances of a component are few rows' worth of evidence each, but the components of images differ in few ways: the
logarithms of their variances lie near a linear space of low dimension. They are taken together as a matrix, a row a
component, in units of its own sampling noise, and reduced to the singular values that stand out of noise (Gavish and
Donoho, The optimal hard threshold for singular values is 4/√3, 2014, section III.E). That is what each component is
believed to be, in the sense of empirical Bayes, and what it is pulled to as strongly as it has few rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jgmm.covariance.prior import Prior
from jgmm.mixture import GMM


def hierarchical(x: Any, strength: float | None = None) -> Callable[[GMM, Any], Prior]:
    """`learned_from`, as a function of the mixture that EM starts from and its counts alone."""
    return partial(learned_from, strength=strength)


def learned_from(gmm: GMM, counts: Any, *, strength: float | None = None) -> Prior:
    """The prior on a mixture like this one, of components that explain so many rows each.

    Every component is believed to have the mean of all rows, which keeps it from sitting on a few of them, and the
    variances that it has in common with the others. How firmly is what the components tell as well: the mean square of
    what they differ by, less what sampling alone makes them differ by. One component has nothing in common with others,
    and no prior.

    Args:
        gmm: A mixture close to the data.
        counts: The rows that each component explains [K].
        strength: The number of rows that the prior on covariances is worth; None learns it too.
    """
    if gmm.k == 1:
        return Prior()
    n = np.maximum(np.asarray(counts, np.float64), 1.0)
    variance = np.asarray(gmm.covariance.variance(), np.float64)
    mean = np.asarray(gmm.mean(), np.float64)
    off = ((np.asarray(gmm.means, np.float64) - mean) ** 2 / variance).mean(axis=1)
    shared = len(variance) == 1
    center = variance if shared else _common(variance, n)
    if shared:  # one covariance of all rows
        strength = 0.0
    elif strength is None:
        # A variance believed in to s rows differs from its center by a square of 2/s in its logarithm.
        strength = 2 / _left(n, (np.log(variance / center) ** 2).mean(axis=1), 2 / n)
    values = {"strength": strength, "variance": center, "mean_strength": 1 / _left(n, off, 1 / n), "mean": mean}
    return Prior(**{name: jnp.asarray(value, gmm.means.dtype) for name, value in values.items()})


def _left(n: np.ndarray, found: np.ndarray, sampling: np.ndarray) -> float:
    """The mean over rows of what was found beyond what sampling explains, at least one part in their number."""
    return max(float(np.average(found - sampling, weights=n)), 1 / float(n.sum()))


def _common(variance: Float[np.ndarray, "k d"], weights: Float[np.ndarray, " k"]) -> Float[np.ndarray, "k d"]:
    """The variances of every component that are left of exp(logarithms reduced in rank), of the same mean ratio."""
    scale = np.sqrt(weights)[:, None]
    logs = np.log(variance)
    middle = np.average(logs, axis=0, weights=weights)
    noisy = scale * (logs - middle)
    few = noisy if noisy.shape[0] <= noisy.shape[1] else noisy.T
    squares, vectors = np.linalg.eigh(few @ few.T)
    singular = np.sqrt(np.maximum(squares, 0))
    kept = vectors[:, singular > _threshold(singular, few.shape)]
    reduced = kept @ (kept.T @ few)
    reduced = reduced if few is noisy else reduced.T
    center = np.exp(middle + reduced / scale)
    return center * (variance / center).mean(axis=1, keepdims=True)


def _threshold(singular: np.ndarray, shape: tuple[int, ...]) -> float:
    """The singular value of a matrix above which it is no noise, whose size is unknown."""
    ratio = shape[0] / shape[1]
    return float(np.median(singular) * (0.56 * ratio**3 - 0.95 * ratio**2 + 1.82 * ratio + 1.43))
