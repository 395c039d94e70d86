"""What holds covariances up: a prior, which says what is believed, and a floor, which keeps arithmetic possible."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jgmm.errors import check, check_number, short
from jgmm.numerics.arguments import is_traced

Number = Float[Array, ""] | float


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Prior:
    """An inverse-Wishart prior on every covariance, worth `strength` observations of variance `variance`.

        log p(Σ) = −(strength / 2) [log |Σ| + variance · tr Σ⁻¹] + constant

    so that the mode given n observations with scatter S is Σ = (S + strength · variance · I) / (n + strength) (Bishop,
    Pattern Recognition and Machine Learning, 2006, appendix B, parametrized by pseudo-counts).

    Attributes:
        strength: The number of observations the prior is worth; 0 is maximum likelihood.
        variance: The variance it believes in, in squared units of the features.

    >>> from jgmm.covariance.prior import Prior
    >>> Prior(strength=1.0)
    Prior(strength=1.0, variance=1.0)
    """

    strength: Number = 0.0
    variance: Number = 1.0

    def mean_of(self, scatter: Array, counts: Array) -> Array:
        """(scatter + strength · variance) / (counts + strength), for scatters along single directions."""
        return (scatter + self.strength * self.variance) / self.total(counts)

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
    for name, value in {**vars(prior), **vars(floor)}.items():
        if value is not None and not is_traced(value):
            check_number(name, value, least=0, open_ends=name == "variance")
    return jax.tree.map(lambda v: jnp.asarray(v, dtype), (prior, floor))
