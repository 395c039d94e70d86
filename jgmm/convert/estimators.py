"""Fitted estimators of scikit-learn, and mixtures of jgmm."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.mixture import GaussianMixture

from jgmm.em.small.families import Matrices, arithmetic_of
from jgmm.em.small.loop import as_gmm
from jgmm.em.small.steps import Mixture
from jgmm.errors import check, short
from jgmm.mixture import GMM
from jgmm.numerics.arguments import as_floats
from jgmm.registry import COVARIANCES

FAMILIES = ("full", "tied", "diag", "spherical")
# What a fitted estimator has.
ATTRIBUTES = ("covariance_type", "weights_", "means_", "covariances_")
# An attribute of estimators that jgmm has made: its own numbers, of which scikit-learn's are functions. Mixtures come
# back from them bit by bit, as long as scikit-learn's attributes are what they were.
EXACT = "jgmm_"


def from_estimator(estimator: Any) -> GMM:
    """The mixture of a fitted `sklearn.mixture.GaussianMixture`, or of anything that has its attributes; in float64
    where JAX has it enabled and the attributes are.

    Raises:
        InputError: For one that is not fitted, or whose attributes do not fit each other.

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.mixture import GaussianMixture
    >>> from jgmm.convert.estimators import from_estimator
    >>> from_estimator(GaussianMixture(3).fit(load_iris().data))
    GMM(k=3, d=4, covariance='full', dtype=float32)
    """
    check_fitted(estimator)
    family, weights, means, covariances = (getattr(estimator, name) for name in ATTRIBUTES)
    return from_arrays(weights, means, covariances, family, getattr(estimator, EXACT, None))


def check_fitted(estimator: Any) -> None:
    """Raise InputError unless an estimator has the attributes of a fitted mixture."""
    missing = [name for name in ATTRIBUTES if not hasattr(estimator, name)]
    check(not missing, f"expected a fitted GaussianMixture, got {short(estimator)} without {', '.join(missing)}.")


def from_arrays(weights: Any, means: Any, covariances: Any, family: str, exact: Any = None) -> GMM:
    """A mixture from scikit-learn's arrays (`GMM.from_parameters`); from `exact` where it says the same."""
    check(isinstance(family, str), f"covariance_type must be a name, got {short(family)}.")
    COVARIANCES.canonical(family)
    dtype = np.asarray(means).dtype
    dtype = jax.dtypes.canonicalize_dtype(dtype if dtype in (np.float32, np.float64) else np.float64)
    arithmetic: Any = arithmetic_of(family)
    if _says_the_same(exact, weights, covariances, arithmetic):
        found = Mixture(exact["log_weights"], np.asarray(means), exact["leaf"])
        return as_gmm(found, arithmetic, jax.dtypes.canonicalize_dtype(exact["leaf"].dtype))
    given = {"weights": weights, "means": means, "covariances": covariances}
    arrays = {name: jnp.asarray(as_floats(name, array), dtype) for name, array in given.items()}
    return GMM.from_parameters(**arrays, covariance_type=family)


def _says_the_same(exact: Any, weights: Any, covariances: Any, arithmetic: Any) -> bool:
    known = isinstance(exact, dict) and exact.keys() == {"log_weights", "leaf"}
    if not known or not all(isinstance(array, np.ndarray) for array in exact.values()):
        return False
    as_written = np.exp(exact["log_weights"]), arithmetic.dense(exact["leaf"])
    return all(np.array_equal(a, np.asarray(b)) for a, b in zip(as_written, (weights, covariances), strict=True))


def to_estimator(gmm: GMM) -> GaussianMixture:
    """A fitted `sklearn.mixture.GaussianMixture` in the dtype of the mixture. Covariances of families that scikit-learn
    does not have are written as full, or tied, ones.

    Raises:
        InputError: For a batch of mixtures.

    >>> import jgmm
    >>> from jgmm.convert.estimators import to_estimator
    >>> gmm = jgmm.GMM.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
    >>> to_estimator(gmm).predict([[3.5]]).tolist()
    [1]
    """
    check(gmm.batch_shape == (), f"expected one mixture, got a batch of shape {gmm.batch_shape}.")
    family, leaf = gmm.covariance.name, np.asarray(jax.tree.leaves(gmm.covariance)[0])
    if family not in FAMILIES:
        family = "tied" if leaf.shape[0] == 1 and gmm.k > 1 else "full"
        leaf = np.linalg.cholesky(np.asarray(gmm.covariance.dense()))
    exact = {"log_weights": np.asarray(gmm.log_weights), "leaf": leaf}
    arithmetic: Any = arithmetic_of(family)
    return fitted(np.exp(exact["log_weights"]), np.asarray(gmm.means), arithmetic.dense(leaf), family, exact)


def fitted(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray, family: str, exact: dict[str, np.ndarray]
) -> GaussianMixture:
    """An estimator with these attributes, and those that follow from them."""
    found = GaussianMixture(len(means), covariance_type=family)
    found.weights_, found.means_, found.covariances_ = weights, means, covariances
    arithmetic: Any = arithmetic_of(family)
    inverse = arithmetic.inverse(arithmetic.leaf(covariances))
    if isinstance(arithmetic, Matrices):
        roots = inverse.swapaxes(1, 2)
        precisions = roots @ inverse
        pair = (precisions[0], roots[0]) if arithmetic.tied else (precisions, roots)
    else:
        pair = inverse, np.sqrt(inverse)
    found.precisions_, found.precisions_cholesky_ = pair
    found.n_features_in_, found.converged_, found.n_iter_ = means.shape[1], True, 0
    found.lower_bound_, found.lower_bounds_ = -np.inf, []
    setattr(found, EXACT, exact)
    return found
