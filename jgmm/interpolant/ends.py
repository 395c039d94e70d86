"""What the two ends of a path must be."""

import jax
from jaxtyping import Array

from jgmm.errors import check
from jgmm.mixture import GMM, check_weights
from jgmm.numerics.arguments import check_kind


def check_same_space(source: GMM, target: GMM) -> None:
    """Raise InputError unless both mixtures have as many features, and weights that sum to one."""
    for name, gmm in (("source", source), ("target", target)):
        check_kind(name, gmm, GMM, "a jgmm.GMM; the mixture of a jgmm.Source is its gmm")
    check(source.d == target.d, f"the mixtures must have the same dimension, got {source.d} and {target.d}.")
    for name, gmm in (("source", source), ("target", target)):
        check_weights(f"the weights of the {name}", gmm.weights)


def check_times(t: Array, n: int) -> Array:
    """Times as an array of one or of n. Raises InputError for another shape, and for concrete t outside [0, 1]."""
    check(t.size > 0, "t must be at least one number, got none.")
    check(t.ndim == 0 or t.shape in ((1,), (n,)), f"t must be a number or an array of {n}, got shape {t.shape}.")
    if not isinstance(t, jax.core.Tracer):
        inside = bool(((t >= 0) & (t <= 1)).all())
        check(inside, f"t must be from 0 (the source) to 1 (the data), got {float(t.min()):g} to {float(t.max()):g}.")
    return t.reshape(-1)
