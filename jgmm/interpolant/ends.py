"""What the two ends of a path must be."""

import jax
import numpy as np
from jaxtyping import Array

from jgmm.errors import check
from jgmm.mixture import GMM

# How far weights may sum from one.
TOLERANCE = 1e-4


def check_same_space(source: GMM, target: GMM) -> None:
    """Raise InputError unless both mixtures have as many features, and weights that sum to one."""
    check(source.d == target.d, f"the mixtures must have the same dimension, got {source.d} and {target.d}.")
    for name, gmm in (("source", source), ("target", target)):
        check_weights(gmm.weights, name)


def check_weights(weights: Array | np.ndarray, name: str) -> None:
    """Raise InputError unless they sum to one and none is negative."""
    if isinstance(weights, jax.core.Tracer):
        return
    total = float(np.asarray(weights, np.float64).sum())
    check(abs(total - 1) < TOLERANCE, f"the weights of the {name} must sum to 1, got {total:.6g}.")
    check((np.asarray(weights) >= 0).all(), f"the weights of the {name} must not be negative.")


def check_times(t: Array, n: int) -> Array:
    """Times as an array of one or of n. Raises InputError for another shape, and for concrete t outside [0, 1]."""
    check(t.ndim == 0 or t.shape in ((1,), (n,)), f"t must be a number or an array of {n}, got shape {t.shape}.")
    if not isinstance(t, jax.core.Tracer):
        inside = bool(((t >= 0) & (t <= 1)).all())
        check(inside, f"t must be from 0 (the source) to 1 (the data), got {float(t.min()):g} to {float(t.max()):g}.")
    return t.reshape(-1)
