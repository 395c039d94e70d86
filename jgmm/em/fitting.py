"""`fit_em`: a mixture of the rows of any table, in one call."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm.covariance.base import Family, Scales, blank_of
from jgmm.covariance.prior import Floor, Prior, as_arrays
from jgmm.em.initializers import mean_and_variance
from jgmm.em.loop import EMState, check_enough, check_lengths, check_prior, run_em
from jgmm.em.missing import with_missing
from jgmm.em.rows import RowsInMemory
from jgmm.em.scales import check_scalable, with_scales
from jgmm.em.small.families import Arithmetic
from jgmm.em.small.loop import clustering_units, fit_small, small_arithmetic
from jgmm.em.tables import Table
from jgmm.encoder.base import Encoder, encode_with_residual
from jgmm.encoder.identity import Identity
from jgmm.encoder.standardize import Standardize, on_host, robust
from jgmm.errors import InputError, check, check_count, short
from jgmm.mixture import GMM, check_single
from jgmm.numerics.arguments import as_key, check_kind
from jgmm.numerics.sharding import free_axes, mesh_of
from jgmm.numerics.typing import ArrayLike
from jgmm.registry import ENCODERS, INITIALIZERS

# Added to variances where no floor is asked for, in squared units of z; the second by arithmetic in float32.
FLOOR, FLOOR_IN_SINGLE = 1e-8, 1e-6
# Encoders that leave a mixture of z one of x.
FEATURE_BY_FEATURE = (robust, Standardize, Identity)


@dataclass(frozen=True, eq=False)
class EMFit:
    """A mixture fitted by EM.

    Attributes:
        gmm: The mixture: of x where the encoder leaves the family of the covariances as it is (identity, robust,
            standardize), and of the codes, in the coordinates of `encoder`, with any other.
        encoder: Between x and what `gmm` models.
        history: The objective under the mixture before each iteration: mean nats a row of x. Iterations with several
            scales follow those without.
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
    scales: int = 1,
    max_iter: int = 100,
    tol: float = 1e-4,
    prior: Prior | None = None,
    floor: Floor | None = None,
    chunk_size: int | None = None,
    sample_weight: ArrayLike | None = None,
    missing: str = "error",
    start: GMM | None = None,
    mesh: Any = None,
    callback: Callable[[EMState], None] | None = None,
) -> EMFit:
    """Fit a mixture of k Gaussians to the rows of x by expectation-maximization.

    EM runs on z = encode(x), by default every feature in units of its own interquartile range, so that neither an
    outlier of 1e6 nor features of scale 1e-6 trouble float32; the result is a mixture of x again. `prior` and `floor`
    are in units of z. With encoder="identity" they are in those of x, as in scikit-learn.

    A small table is fitted in NumPy and float64, since compiling would take longer than the fit, and its best start,
    once it has converged, is improved by moves: one component is given up and another one halved, where EM from there
    converges to a higher objective.

    Args:
        key: A JAX random key, or a seed; the same key, data and options give the same mixture.
        x: Finite numbers [N, D]; float64 where JAX has it enabled, else float32. Rows on disk, a `jgmm.stream` or an
            np.memmap, are read anew in every pass and never held in memory as a whole: EM starts, and an encoder is
            fitted, from at most 3 * 2^26 numbers of them.
        k: The number of components; 10 by default, and that of `start` where one is given.
        covariance_type: A family of covariances: a name in `jgmm.registry.COVARIANCES`, a class or a function; "diag"
            by default, and that of `start` where one is given.
        encoder: A name in `jgmm.registry.ENCODERS`, a function or class that fits one, or a fitted encoder. Where
            "robust" or "standardize" would leave the family of the covariances they take one unit for all features
            (spherical), or none.
        init: Where EM starts: a name in `jgmm.registry.INITIALIZERS`, or a function (key, x, k, metric) -> centers.
        n_init: The number of starts, of which the best is returned. By turns they find clusters in the units of z, in
            those of x, and in standard deviations; those of encoders that turn codes in the units of x.
        scales: At how many scales every Gaussian is, about its own covariance (`jgmm.em.scales`): the mixture has as
            many times k components. They are fitted after the k, from these.
        max_iter: The largest number of iterations of a start; a move counts as one.
        tol: EM stops when the objective changes by less than this, in nats a row.
        prior: On the covariances; None is maximum likelihood.
        floor: Of the variances; None is 1e-8, and 1e-6 for larger tables in float32; full matrices get what the dtype
            of the arithmetic needs besides.
        chunk_size: Rows taken at a time; None chooses by K and D.
        sample_weight: How often every row counts [N], zero or more: weights that are whole numbers are as good as
            copies of rows. Priors count in the same units. Encoders other than robust and standardize, and initializers
            without a parameter `weight`, see the rows alone.
        missing: What NaN means: "error", that something is wrong; "marginal", that a value is missing, and the row
            counts by its other features (`jgmm.em.missing`). EM starts from rows in which the means are filled in then;
            its history is that of the features observed. Of encoders, those that keep features apart will do.
        start: A mixture of x to start from instead of clustering.
        mesh: The devices to work on, which all have rows of their own: a `jax.sharding.Mesh` with the axes "data" and
            "component", or what to cut all devices into, such as "data=4,component=2"; None for one device. Where there
            are several processes (`jax.distributed`), each gives its own rows.
        callback: Called with the `EMState` at every start, after every iteration at one scale, and after every move
            that is kept.
    Raises:
        InputError: For data that are no table of finite numbers, fewer rows than k, names that are unknown, numbers
            out of range, and when the likelihood is not finite in this dtype.

    >>> import jgmm
    >>> from sklearn.datasets import load_iris
    >>> fit = jgmm.fit_em(0, load_iris().data, k=3, covariance_type="full")
    >>> fit.converged, fit.gmm.k, round(fit.history[-1], 1)
    (True, 3, -1.2)
    """
    check(missing in ("error", "marginal"), f"missing must be 'error' or 'marginal', got {short(missing)}.")
    check(callback is None or callable(callback), f"callback must be a function of the state, got {short(callback)}.")
    check_count("scales", scales)
    check_lengths(max_iter, n_init, tol, chunk_size)
    key, kind = as_key(key), encoder if isinstance(encoder, Encoder) else ENCODERS.resolve(encoder)
    with nullcontext() if mesh is None else jax.set_mesh(mesh_of(mesh)):
        data = Table.of(key, x, sample_weight, missing == "marginal", chunk_size)
        k = _number_of_components(k, start)
        check_enough(data.few.shape[0], k)
        units = units_of(covariance_type, start, k, data.few)
        if scales > 1:
            family = covariance_type or ("diag" if start is None else start.covariance)
            check_scalable(blank_of(family, k, data.few.shape[1], data.few.dtype))
        if data.gaps is not None:
            apart = kind in FEATURE_BY_FEATURE or isinstance(kind, Standardize | Identity)
            check(apart, "missing values need an encoder that keeps features apart: robust, standardize or identity.")
            check(scales == 1, "scales are fitted to rows without missing values: leave scales out.")
        clusters = isinstance(init, str) and INITIALIZERS.canonical(init) == "kmeans"
        plain = (
            start is None
            and chunk_size is None
            and scales == 1
            and clusters
            and kind in FEATURE_BY_FEATURE
            and data.gaps is None
        )
        small = small_arithmetic(data.few.shape, k, covariance_type or "diag") if plain else None
        floor = default_floor(small is not None or data.few.dtype == jnp.float64) if floor is None else floor
        prior, floor = as_arrays(prior, floor, data.few.dtype)
        check_prior(prior, k, data.few.shape[1])
        same: dict[str, Any] = {"k": k, "n_init": n_init, "max_iter": max_iter, "tol": tol}
        same |= {"prior": prior, "floor": floor, "callback": callback}
        if small is not None:
            return _fit_small(key, data.few, data.weight, kind, units, small, **same)
        found = encoder_of(kind, units, data.few, data.weight)
        return _fit_large(
            key, data, found, scales=scales, covariance_type=covariance_type, init=init, start=start, **same
        )


def _fit_large(
    key: PRNGKeyArray,
    data: Table,
    encoder: Encoder,
    *,
    scales: int,
    covariance_type: Family | None,
    init: Any,
    start: GMM | None,
    **options: Any,
) -> EMFit:
    """`fit_em` by JAX."""
    rows, offset = data.codes(encoder)
    known = rows.x if isinstance(rows, RowsInMemory) and data.rows is None else None
    few = encode_with_residual(encoder, data.few)[0] if known is None else known
    state = run_em(
        key,
        rows,
        covariance_type=covariance_type,
        init=init,
        # Clusters are those of x where codes are turned.
        metric=_metrics(few, data.weight, encoder)
        if isinstance(encoder, Standardize | Identity)
        else encoder.code_variances(),
        start=None if start is None else _start(start, encoder, few),
        **options,
    )
    gmm, history, converged = state.gmm, state.history, state.converged
    same = {"max_iter": options["max_iter"], "tol": options["tol"]}
    if data.gaps is not None:
        holes = jnp.where(data.gaps, jnp.nan, few)
        gmm, history, converged = with_missing(gmm, holes, data.weight, state.prior, options["floor"], **same)
        volume = jnp.where(data.gaps, 0, -0.5 * jnp.log(encoder.code_variances())[None]).sum(axis=1)
        offset = float(jnp.average(volume, weights=data.weight))
    if scales > 1:
        gmm, further, converged = with_scales(gmm, rows, scales, state.prior, options["floor"], **same)
        history = history + further
    history = [objective + offset for objective in history]
    of_x = encoder.decode_mixture(gmm)
    if of_x is None:
        return EMFit(gmm, encoder, history, converged)
    return EMFit(of_x, Identity(of_x.d), history, converged)


def default_floor(in_double: bool) -> Floor:
    """What holds variances up in units of z, where nothing is asked for."""
    return Floor(absolute=FLOOR if in_double else FLOOR_IN_SINGLE)


def _fit_small(
    key: PRNGKeyArray,
    rows: Float[Array, "n d"],
    weight: Float[Array, " n"] | None,
    kind: Any,
    scales: set[Scales],
    arithmetic: Arithmetic,
    **options: Any,
) -> EMFit:
    """`fit_em` in NumPy."""
    x = np.asarray(rows, np.float64)
    w = None if weight is None else np.asarray(weight, np.float64)
    middle, scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
    if kind is not Identity and "none" not in scales:
        middle, scale = on_host(x, w, "common" in scales, kind is robust)
    w = np.ones(len(x)) if w is None else w
    found = fit_small(key, x, w, middle, scale, arithmetic, dtype=rows.dtype, **options)
    return EMFit(found.gmm, Identity(found.gmm.d), found.history, found.converged)


def _metrics(z: Float[Array, "n d"], weight: Float[Array, " n"] | None, encoder: Standardize | Identity) -> np.ndarray:
    scale = np.sqrt(np.asarray(encoder.code_variances(), np.float64))
    deviation = np.sqrt(np.asarray(mean_and_variance(z, weight)[1], np.float64))
    return clustering_units(deviation, scale) ** -2


def _number_of_components(k: Any, start: GMM | None) -> int:
    if start is not None:
        check_kind("start", start, GMM, "a jgmm.GMM; its means alone are an `init`, a function that returns them")
        check_single(start)
        check(k is None or k == start.k, f"the starting mixture has k={start.k}, the fit k={k}: leave k out.")
        return start.k
    return 10 if k is None else check_count("k", k)


def units_of(covariance_type: Family | None, start: GMM | None, k: int, x: Array) -> set[Scales]:
    """Which changes of units leave the families as they are that a fit and its start are in."""
    found = set() if start is None else {start.covariance.scales}
    if start is None or covariance_type is not None:
        found.add(blank_of(covariance_type or "diag", k, x.shape[1], x.dtype).scales)
    return found


def _blank_codes(encoder: Encoder, dtype: Any) -> tuple[Array, Array]:
    return jnp.zeros((1, encoder.n_codes), dtype), jnp.zeros((1, encoder.n_residual), dtype)


def encoder_of(kind: Any, scales: set[Scales], x: Float[Array, "n d"], weight: Float[Array, " n"] | None) -> Encoder:
    """The encoder asked for, with such scales as leave all families concerned as they are."""
    if isinstance(kind, Encoder):
        width = jax.eval_shape(lambda: kind.decode(*_blank_codes(kind, x.dtype))).shape[1]
        check(width == x.shape[1], f"the encoder is of {width} features, the data have {x.shape[1]}.")
        return kind
    fit = getattr(kind, "fit", kind)
    if kind not in (robust, Standardize):
        return fit(x)
    if "none" in scales:
        return Identity.fit(x)
    if free_axes():  # no device has as many rows
        w = None if weight is None else np.asarray(weight)
        return Standardize(*map(jnp.asarray, on_host(np.asarray(x), w, "common" in scales, kind is robust)))
    return fit(x, common="common" in scales, weight=weight)


def _start(start: GMM, encoder: Encoder, z: Float[Array, "n d"]) -> GMM:
    """The starting mixture in codes."""
    d = encoder.n_codes
    check(start.d == d, f"the starting mixture has k={start.k} and d={start.d}, the data d={d}.")
    codes = encoder.encode_mixture(jax.tree.map(lambda leaf: jnp.asarray(leaf, z.dtype), start))
    if codes is None:
        raise InputError(f"a mixture of x cannot be turned into codes of {encoder.name!r}: start without it.")
    return codes
