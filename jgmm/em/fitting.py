"""`fit_em`: a mixture of the rows of any table, in one call."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm.covariance.base import Covariance, Family, identity_of
from jgmm.covariance.prior import Floor, Prior, as_arrays
from jgmm.em.loop import EMState, run_em
from jgmm.em.rows import RowsInMemory
from jgmm.em.steps import in_family
from jgmm.encoder.base import Encoder, encode_with_residual
from jgmm.encoder.identity import Identity
from jgmm.encoder.standardize import Standardize, robust
from jgmm.errors import InputError, check
from jgmm.mixture import GMM, check_single
from jgmm.numerics.typing import ArrayLike
from jgmm.registry import ENCODERS


@dataclass(frozen=True, eq=False)
class EMFit:
    """A mixture fitted by EM.

    Attributes:
        gmm: The mixture: of x where the encoder leaves the family of the covariances as it is (identity, robust,
            standardize), and of the codes, in the coordinates of `encoder`, with any other.
        encoder: Between x and what `gmm` models.
        history: The objective under the mixture before each iteration: mean nats a row of x.
        converged: Whether the last change of the objective was below `tol`.
        n_iter: How many iterations the best start made.

    >>> import jgmm
    >>> from sklearn.datasets import load_iris
    >>> fit = jgmm.fit_em(0, load_iris().data, k=3, covariance_type="full")
    >>> fit.gmm.predict(load_iris().data).shape
    (150,)
    """

    gmm: GMM
    encoder: Encoder
    history: list[float]
    converged: bool

    @property
    def n_iter(self) -> int:
        return len(self.history)

    def __repr__(self) -> str:
        state = "converged" if self.converged else "not converged"
        return f"EMFit({self.gmm!r}, objective={self.history[-1]:.6g}, n_iter={self.n_iter}, {state})"


def fit_em(
    key: PRNGKeyArray | int,
    x: ArrayLike,
    k: int | None = None,
    *,
    covariance_type: Family | None = None,
    encoder: Any = "robust",
    init: Any = "kmeans",
    n_init: int = 1,
    max_iter: int = 100,
    tol: float = 1e-3,
    prior: Prior | None = None,
    floor: Floor | None = None,
    chunk_size: int | None = None,
    start: GMM | None = None,
    callback: Callable[[EMState], None] = lambda state: None,
) -> EMFit:
    """Fit a mixture of k Gaussians to the rows of x by expectation-maximization.

    EM runs on z = encode(x), by default every feature in units of its own interquartile range, so that neither an
    outlier of 1e6 nor features of scale 1e-6 trouble float32; the result is a mixture of x again. `prior` and `floor`
    are in units of z. With encoder="identity" they are in those of x, as in scikit-learn.

    Args:
        key: A JAX random key, or a seed; the same key, data and options give the same mixture.
        x: Finite numbers [N, D]; float64 where JAX has it enabled, else float32.
        k: The number of components; 10 by default, and that of `start` where one is given.
        covariance_type: A family of covariances: a name in `jgmm.registry.COVARIANCES`, a class or a function; "diag"
            by default, and that of `start` where one is given.
        encoder: A name in `jgmm.registry.ENCODERS`, a function or class that fits one, or a fitted encoder. Where
            "robust" or "standardize" would leave the family of the covariances they take one unit for all features
            (spherical), or none.
        init: Where EM starts: a name in `jgmm.registry.INITIALIZERS`, or a function (key, x, k, metric) -> centers.
        n_init: The number of starts, of which the best is returned.
        max_iter: The largest number of iterations of a start.
        tol: EM stops when the objective changes by less than this, in nats a row.
        prior: On the covariances; None is maximum likelihood.
        floor: Of the variances; None is 1e-6, and what float32 needs besides.
        chunk_size: Rows taken at a time; None chooses by K and D.
        start: A mixture of x to start from instead of clustering.
        callback: Called with the `EMState` at every start and after every iteration.
    Raises:
        InputError: For data that are no table of finite numbers, fewer rows than k, names that are unknown, numbers
            out of range, and when the likelihood is not finite in this dtype.

    >>> import jgmm
    >>> from sklearn.datasets import load_iris
    >>> fit = jgmm.fit_em(0, load_iris().data, k=3, covariance_type="full")
    >>> fit.converged, fit.gmm.k, round(fit.history[-1], 1)
    (True, 3, -1.2)
    """
    key, rows = as_key(key), as_rows(x)
    k = _number_of_components(k, start)
    arrays = as_arrays(prior, floor, rows.dtype)
    # Without a name the family is that of the starting mixture.
    identity = identity_of("diag" if covariance_type is None else covariance_type)
    family = jax.eval_shape(lambda: identity(k, rows.shape[1], rows.dtype))
    if start is not None and covariance_type is None:
        family = start.covariance
    found = _encoder(encoder, family, rows)
    z, log_residual = encode_with_residual(found, rows)
    first = None
    if start is not None:
        first = _start(start, found, z)
        if first.covariance.name != family.name:
            first = in_family(first, RowsInMemory(z), *arrays, identity=identity)
    state = run_em(
        key,
        z,
        k=k,
        covariance_type=identity,
        init=init,
        # Clusters are those of x where codes are turned, and of standardized features where they are not.
        metric=None if isinstance(found, Standardize) else found.code_variances(),
        n_init=n_init,
        max_iter=max_iter,
        tol=tol,
        prior=prior,
        floor=floor,
        chunk_size=chunk_size,
        start=first,
        callback=callback,
    )
    offset = float(found.log_det() + log_residual.mean()) if found.has_density else 0.0
    history = [objective + offset for objective in state.history]
    of_x = found.decode_mixture(state.gmm)
    if of_x is None:
        return EMFit(state.gmm, found, history, state.converged)
    return EMFit(of_x, Identity(of_x.d), history, state.converged)


def as_key(key: Any) -> PRNGKeyArray:
    """A JAX key; a whole number from 0 is a seed. Raises InputError for anything else."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if typed or (isinstance(key, jax.Array) and key.dtype == jnp.uint32 and key.ndim == 1):
        return key
    try:
        seed = operator.index(key)
    except TypeError:
        raise InputError(f"key must be a JAX key, such as jax.random.key(0), or a seed, got {key!r}.") from None
    check(not isinstance(key, bool) and 0 <= seed < 2**32, f"a seed must be from 0 to below 2**32, got {key}.")
    return jax.random.key(seed)


def as_rows(x: ArrayLike) -> Float[Array, "n d"]:
    """A table of finite numbers, in float32, or in float64 where x is and JAX has it enabled.

    Raises:
        InputError: For anything else.
    """
    try:
        rows = jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a table of numbers of shape (n, d), got {type(x).__name__}: {error}") from None
    check(rows.ndim == 2 and rows.shape[1] > 0, f"expected data of shape (n, d), got {rows.shape}.")
    check(jnp.issubdtype(rows.dtype, jnp.number) and not jnp.iscomplexobj(rows), f"expected numbers, got {rows.dtype}.")
    rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
    check(bool(jnp.isfinite(rows).all()), "the data contain NaN or infinite values: remove those rows first.")
    return rows


def _number_of_components(k: Any, start: GMM | None) -> int:
    if start is not None:
        check_single(start)
        check(k is None or k == start.k, f"the starting mixture has k={start.k}, the fit k={k}: leave k out.")
        return start.k
    if k is None:
        return 10
    try:
        number = operator.index(k)
    except TypeError:
        raise InputError(f"k must be a whole number, got {k!r}.") from None
    check(number >= 1, f"k must be at least 1, got {k}.")
    return number


def _encoder(encoder: Any, family: Covariance, x: Float[Array, "n d"]) -> Encoder:
    if isinstance(encoder, Encoder):
        return encoder
    found = ENCODERS.resolve(encoder)
    fit = getattr(found, "fit", found)
    if found not in (robust, Standardize):
        return fit(x)
    return Identity.fit(x) if family.scales == "none" else fit(x, common=family.scales == "common")


def _start(start: GMM, encoder: Encoder, z: Float[Array, "n d"]) -> GMM:
    """The starting mixture in codes."""
    d = encoder.n_codes
    check(start.d == d, f"the starting mixture has k={start.k} and d={start.d}, the data d={d}.")
    codes = encoder.encode_mixture(jax.tree.map(lambda leaf: jnp.asarray(leaf, z.dtype), start))
    if codes is None:
        raise InputError(f"a mixture of x cannot be turned into codes of {encoder.name!r}: start without it.")
    return codes
