"""Fitted estimators of scikit-learn, and mixtures of jgmm."""

from typing import Any

import jax
import numpy as np
from sklearn.mixture import GaussianMixture

from jgmm.em.small.families import Matrices, Spheres, arithmetic_of
from jgmm.em.small.loop import as_gmm
from jgmm.em.small.steps import Mixture
from jgmm.errors import InputError, check, short
from jgmm.mixture import GMM, check_weights
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


def from_arrays(weights: Any, means: Any, covariances: Any, family: Any, exact: Any = None) -> GMM:
    """A mixture from scikit-learn's arrays (`GMM.from_parameters`), factored in float64; from `exact` where it says the
    same."""
    check(isinstance(family, str), f"covariance_type must be a name, got {short(family)}.")
    arithmetic: Any = arithmetic_of(COVARIANCES.canonical(family))
    check(arithmetic is not None, f"{family} covariances have no form in scikit-learn.")
    w, m, c = _checked(weights, means, covariances, family, arithmetic)
    if _says_the_same(exact, w, c, arithmetic):
        found = Mixture(exact["log_weights"], m, exact["leaf"])
        return as_gmm(found, arithmetic, jax.dtypes.canonicalize_dtype(exact["leaf"].dtype))
    try:
        leaf = arithmetic.leaf(c)
        positive = bool((arithmetic.thinnest(leaf) > 0).all())
    except np.linalg.LinAlgError:
        positive = False
    check(positive, "covariances must be positive definite.")
    dtype = jax.dtypes.canonicalize_dtype(np.float32 if np.asarray(means).dtype == np.float32 else np.float64)
    with np.errstate(divide="ignore"):
        return as_gmm(Mixture(np.log(w), m, leaf), arithmetic, dtype)


def _checked(
    weights: Any, means: Any, covariances: Any, family: str, arithmetic: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arrays in float64. Raises InputError for what are none, and for shapes that do not fit each other."""
    found = []
    for name, array in (("weights", weights), ("means", means), ("covariances", covariances)):
        try:
            found.append(np.asarray(array, np.float64))
        except (TypeError, ValueError) as error:
            raise InputError(f"{name} must be numbers, got {short(array)}.") from error
        check(bool(np.isfinite(found[-1]).all()), f"{name} must be finite.")
    w, m, c = found
    check(m.ndim == 2 and m.size > 0, f"means must have shape (k, d), got {m.shape}.")
    k, d = m.shape
    check(w.shape == (k,), f"weights must have shape ({k},) as the means, got {w.shape}.")
    one = (d, d) if isinstance(arithmetic, Matrices) else () if isinstance(arithmetic, Spheres) else (d,)
    shape = one if arithmetic.tied else (k, *one)
    check(c.shape == shape, f"{family} covariances of k={k}, d={d} must have shape {shape}, got {c.shape}.")
    check_weights("weights", w)
    return w, m, c


def _says_the_same(exact: Any, weights: np.ndarray, covariances: np.ndarray, arithmetic: Any) -> bool:
    known = isinstance(exact, dict) and exact.keys() == {"log_weights", "leaf"}
    if not known or not all(isinstance(array, np.ndarray) and array.dtype.kind == "f" for array in exact.values()):
        return False
    if exact["leaf"].ndim != {Matrices: 3, Spheres: 1}.get(type(arithmetic), 2):
        return False
    w, c = _written(exact, arithmetic)
    return np.array_equal(w, weights) and np.array_equal(c, covariances)


def _written(exact: dict[str, np.ndarray], arithmetic: Any) -> tuple[np.ndarray, np.ndarray]:
    """The weights and covariances that jgmm writes of its own numbers."""
    return np.exp(exact["log_weights"].astype(np.float64)), arithmetic.dense(exact["leaf"].astype(np.float64))


def scikit_learns(gmm: GMM) -> tuple[str, dict[str, np.ndarray]]:
    """A family that scikit-learn has, and the weights and the leaf of a mixture in it, in the mixture's precision."""
    check(gmm.batch_shape == (), f"expected one mixture, got a batch of shape {gmm.batch_shape}.")
    family, leaf = gmm.covariance.name, np.asarray(jax.tree.leaves(gmm.covariance)[0])
    if family not in FAMILIES:
        family = "tied" if leaf.shape[0] == 1 and gmm.k > 1 else "full"
        leaf = np.linalg.cholesky(np.asarray(gmm.covariance.dense(), np.float64)).astype(gmm.dtype)
    return family, {"log_weights": np.asarray(gmm.log_weights), "leaf": leaf}


def to_estimator(gmm: GMM) -> GaussianMixture:
    """A fitted `sklearn.mixture.GaussianMixture`, in float64. Covariances of families that scikit-learn does not have
    are written as full, or tied, ones.

    Raises:
        InputError: For a batch of mixtures.

    >>> import jgmm
    >>> from jgmm.convert.estimators import to_estimator
    >>> gmm = jgmm.GMM.from_parameters([0.5, 0.5], [[0.0], [4.0]], [1.0, 1.0], "spherical")
    >>> to_estimator(gmm).predict([[3.5]]).tolist()
    [1]
    """
    family, exact = scikit_learns(gmm)
    return fitted(np.asarray(gmm.means, np.float64), family, exact)


def fitted(
    means: np.ndarray, family: str, exact: dict[str, np.ndarray], order: np.ndarray | None = None
) -> GaussianMixture:
    """An estimator of these numbers, its features in another order if one is given."""
    arithmetic: Any = arithmetic_of(family)
    weights, covariances = _written(exact, arithmetic)
    leaf = exact["leaf"].astype(np.float64)
    if order is not None:
        means, covariances = means[:, order], arithmetic.reordered(covariances, order)
        # A permuted matrix is factored from its rows: its covariance has half the digits.
        matrices = isinstance(arithmetic, Matrices)
        leaf = np.stack([_lower(one[order]) for one in leaf]) if matrices else arithmetic.reordered(leaf, order)
    found = GaussianMixture(len(means), covariance_type=family)
    found.weights_, found.means_, found.covariances_ = weights, means, covariances
    found.precisions_, found.precisions_cholesky_ = arithmetic.precisions(leaf)
    found.n_features_in_, found.converged_, found.n_iter_ = means.shape[1], True, 0
    found.lower_bound_, found.lower_bounds_ = -np.inf, []
    setattr(found, EXACT, exact)
    return found


def _lower(rows: np.ndarray) -> np.ndarray:
    """The lower-triangular factor with positive diagonal of rows rowsᵀ."""
    upper: Any = np.linalg.qr(rows.T, mode="r")
    return (upper * np.where(np.diag(upper) < 0, -1, 1)[:, None]).T
