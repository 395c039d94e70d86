"""What holds covariances up: a prior, which says what is believed, and a floor, which keeps arithmetic possible."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jgmm.errors import check, check_number, short
from jgmm.numerics.arguments import as_floats, is_traced
from jgmm.numerics.typing import ArrayLike

# A number, an array of one, or the shape of that.
Number = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Prior:
    """A normal-inverse-Wishart prior on the mean and the covariance of every component.

        log p(μ, Σ) = −(strength / 2) [log |Σ| + tr C Σ⁻¹] − (mean_strength / 2) (μ − m)ᵀ Σ⁻¹ (μ − m) + constant

    with C = diag(variance) and m = mean, so that the mode given n observations with mean x̄, and scatter S about μ, is

        μ = (n x̄ + mean_strength · m) / (n + mean_strength)
        Σ = (S + strength · C + mean_strength · (μ − m)(μ − m)ᵀ) / (n + strength)

    (Bishop, Pattern Recognition and Machine Learning, 2006, appendix B, parametrized by pseudo-counts). With a prior on
    means a component cannot sit on a single row.

    Attributes:
        strength: The number of observations that the prior on covariances is worth; 0 is maximum likelihood.
        variance: The variances it believes in, in squared units of the features: a number, or an array that broadcasts
            to [K, D]. Spherical covariances take its mean over features, tied ones over components.
        mean_strength: The number of observations that the prior on means is worth; 0 is maximum likelihood.
        mean: The mean it believes in: a number, or [D].

    >>> from jgmm.covariance.prior import Prior
    >>> Prior(strength=1.0)
    Prior(strength=1.0, variance=1.0, mean_strength=0.0, mean=0.0)
    """

    strength: Number = 0.0
    variance: ArrayLike = 1.0
    mean_strength: Number = 0.0
    mean: ArrayLike = 0.0

    def variances(self, k: int, d: int) -> Float[Array, "k d"]:
        """The variances believed in, of k covariances: the mean over components where they share one."""
        variance = jnp.asarray(self.variance)
        if k == 1 and variance.ndim == 2:
            variance = variance.mean(axis=0, keepdims=True)
        return jnp.broadcast_to(variance, (k, d))

    def total(self, counts: Array) -> Array:
        """counts + strength, and never zero: a component without rows or prior keeps the floor alone."""
        return jnp.maximum(counts + self.strength, jnp.finfo(counts.dtype).tiny)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Floor:
    """What is added to variances so that they stay positive in floating point.

    Attributes:
        absolute: Added to every variance, in squared units of the features; scikit-learn's reg_covar.
        relative: relative · tr Σ_k / D is added to every variance of a full covariance besides: a component with fewer
            rows than features has a singular scatter. None is D · eps of the dtype, the least that keeps a Cholesky
            factorization of a singular matrix positive (Higham, Accuracy and Stability of Numerical Algorithms,
            section 10.1): at D = 3,072, 4e-4 of the mean variance in float32 and 7e-13 in float64. 0 is scikit-learn's
            formula in any dtype.

    >>> from jgmm.covariance.prior import Floor
    >>> Floor(absolute=1e-3)
    Floor(absolute=0.001, relative=None)
    """

    absolute: Number = 1e-6
    relative: Number | None = None


def as_arrays(prior: Any, floor: Any, dtype: Any) -> tuple[Prior, Floor]:
    """Both in a dtype, with the defaults in the place of None. Raises InputError for what is neither."""
    prior, floor = Prior() if prior is None else prior, Floor() if floor is None else floor
    check(isinstance(prior, Prior), f"prior must be a jgmm.Prior(strength=..., variance=...), got {short(prior)}.")
    check(isinstance(floor, Floor), f"floor must be a jgmm.Floor(absolute=..., relative=...), got {short(floor)}.")
    of_prior = {name: _as_array(name, value, dtype) for name, value in vars(prior).items()}
    of_floor = {name: _as_array(name, value, dtype) for name, value in vars(floor).items() if value is not None}
    return Prior(**of_prior), Floor(**of_floor)


def around_data(x: Float[Array, "n d"], strength: float | None = None) -> Prior:
    """A prior on covariances worth `strength` rows, one by default, towards the mean variance of the features of x."""
    return Prior(strength=1.0 if strength is None else strength, variance=float(x.var(axis=0).mean()))


def _as_array(name: str, value: Any, dtype: Any) -> Array:
    if is_traced(value):
        return jnp.asarray(value, dtype)
    if name not in ("variance", "mean"):
        check_number(name, value, least=0)
    array = as_floats(name, value)
    positive = name != "variance" or bool((array > 0).all())
    check(positive, f"the variance that a prior believes in must be above 0, got {short(value)}.")
    return jnp.asarray(array, dtype)
