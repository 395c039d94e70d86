"""Gaussian mixtures: p(x) = Σ_k w_k N(x | μ_k, Σ_k)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.covariance.base import Covariance, Family
from jgmm.errors import InputError, check, check_count, short
from jgmm.numerics.arguments import as_floats, as_key, check_kind, feature_index, is_traced
from jgmm.numerics.linalg import matmul
from jgmm.numerics.pytree import pytree
from jgmm.numerics.typing import ArrayLike, Features
from jgmm.registry import COVARIANCES

LOG_2PI = 1.8378770664093453
# How far weights may sum from one.
TOLERANCE = 1e-4
# Halvings of the interval that holds a quantile: more than the digits of a float32, or of a float64.
HALVINGS = 64

T = TypeVar("T")


class Parameters(NamedTuple):
    """A mixture as scikit-learn writes it: weights [K], means [K, D], and covariances [K, D, D] (full), [K, D] (diag)
    or [K] (spherical), without the axis K where all components share one."""

    weights: Array
    means: Array
    covariances: Array


@pytree
class GMM:
    """A mixture of K Gaussians in D dimensions, or a batch of them, whose leaves lead with further axes.

    Shapes follow torch.distributions: with batch shape B, `sample(key, S)` is of shape S + B + (D,), and `log_prob(x)`
    takes x of shape (..., D) whose leading axes broadcast against B. A mixture is a pytree: `jax.jit`, `jax.vmap` and
    `jax.grad` take it as data. Draws are μ_k + A_k ε with k from the weights: differentiable in means and covariances
    within the component that was drawn, not in the weights; `log_prob` is differentiable in everything.

    Attributes:
        log_weights: log w_k, natural logarithms of weights that sum to one.
        means: μ_k.
        covariance: Σ_k, of any family (`jgmm.registry.COVARIANCES`).
    Raises:
        InputError: For weights that do not sum to one, where they are known.

    >>> import jax, jgmm
    >>> gmm = jgmm.GMM.from_parameters([0.5, 0.5], [[0.0, 0.0], [4.0, 0.0]], [1.0, 1.0], "spherical")
    >>> gmm
    GMM(k=2, d=2, covariance='spherical', dtype=float32)
    >>> gmm.sample(jax.random.key(0), 3).shape
    (3, 2)
    >>> print(gmm.mean())
    [2. 0.]
    """

    log_weights: Float[Array, "*b k"]
    means: Float[Array, "*b k d"]
    covariance: Covariance

    def __post_init__(self) -> None:
        if isinstance(self.log_weights, jax.Array | np.ndarray) and not is_traced(self.log_weights):
            check_weights("exp(log_weights)", np.exp(np.asarray(self.log_weights, np.float64)))

    @classmethod
    def from_parameters(
        cls, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike, covariance_type: Family | None = None
    ) -> "GMM":
        """A mixture from scikit-learn's three arrays (`Parameters`).

        Args:
            weights: [K], not negative, summing to one.
            means: [K, D].
            covariances: In the shape of their family.
            covariance_type: The family; None tells it from the shape of the covariances.
        Raises:
            InputError: For shapes that do not fit, a shape that several families have (K = D, say) where none is
                named, weights that do not sum to one, and covariances that are not positive definite.

        >>> import jgmm
        >>> jgmm.GMM.from_parameters([1.0], [[0.0, 0.0]], [[2.0, 1.0], [1.0, 2.0]])
        GMM(k=1, d=2, covariance='tied', dtype=float32)
        """
        given = {"weights": weights, "means": means, "covariances": covariances}
        arrays = [as_floats(name, a) for name, a in given.items()]
        dtype = jnp.result_type(*arrays, jnp.float32)
        weights, means, covariances = (a.astype(dtype) for a in arrays)
        check(means.ndim == 2, f"means must have shape (k, d), got {means.shape}.")
        k, d = means.shape
        check(weights.shape == (k,), f"weights must have shape ({k},) as the means, got {weights.shape}.")
        told = covariance_type is not None
        family = COVARIANCES.resolve(covariance_type) if told else _family_of(k, d, covariances.shape)
        known = hasattr(family, "from_parameter")
        check(known, f"covariance_type must be a name or a class of covariances, got {covariance_type!r}.")
        covariance = family.from_parameter(covariances, k, d)
        if not is_traced(weights, means, covariances):
            check_weights("weights", weights)
            finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(covariance))
            check(finite and bool((covariance.variance() > 0).all()), "covariances must be positive definite.")
        return cls(jnp.log(weights), means, covariance)

    def to_parameters(self) -> Parameters:
        """The three arrays of `from_parameters`, with the batch shape before each of them."""
        covariances = over_batch(lambda covariance: covariance.parameter(), len(self.batch_shape))(self.covariance)
        return Parameters(self.weights, self.means, covariances)

    def __repr__(self) -> str:
        try:
            batch = f", batch_shape={self.batch_shape}" if self.batch_shape else ""
            return f"GMM(k={self.k}, d={self.d}, covariance={self.covariance.name!r}, dtype={self.means.dtype}{batch})"
        except AttributeError:  # JAX puts placeholders into the leaves of trees
            return f"GMM({self.log_weights!r}, {self.means!r}, {self.covariance!r})"

    @property
    def k(self) -> int:
        """The number of components."""
        return self.means.shape[-2]

    @property
    def d(self) -> int:
        """The number of features."""
        return self.means.shape[-1]

    @property
    def dtype(self) -> Any:
        """Of the parameters."""
        return self.means.dtype

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes of the leaves; () for a single mixture."""
        return self.means.shape[:-2]

    @property
    def weights(self) -> Float[Array, "*b k"]:
        """w_k."""
        return jnp.exp(self.log_weights)

    @property
    def n_parameters(self) -> int:
        """How many numbers of one mixture are free: K − 1 weights, K D means, and the covariances'. For BIC and AIC."""
        raw = over_batch(lambda covariance: covariance.unconstrained(0.0), len(self.batch_shape))
        rows, size = jax.eval_shape(raw, self.covariance).shape[-2:]
        return self.k - 1 + self.k * self.d + rows * (size - self.covariance.redundant)

    def component_log_prob(self, x: ArrayLike) -> Float[Array, "*m k"]:
        """log N(x | μ_k, Σ_k) of every component, nats; the last axis is that of components.

        Raises:
            InputError: For x of another width, or leading axes that do not broadcast with the batch shape.
        """
        return _component_log_prob(self, self._points(x))

    def log_prob(self, x: ArrayLike) -> Float[Array, "*m"]:
        """log p(x) = logsumexp_k [log w_k + log N(x | μ_k, Σ_k)], nats. Raises InputError as `component_log_prob`.

        >>> import jgmm
        >>> print(jgmm.GMM.from_parameters([1.0], [[0.0]], [1.0], "spherical").log_prob([[0.0], [1.0]]).round(3))
        [-0.919 -1.419]
        """
        return _log_prob(self, self._points(x))

    def responsibilities(self, x: ArrayLike) -> Float[Array, "*m k"]:
        """p(k | x), summing to one over the last axis (Bishop, Pattern Recognition and Machine Learning, 2006, eq.
        9.13). Raises InputError as `component_log_prob`."""
        return _responsibilities(self, self._points(x))

    def predict(self, x: ArrayLike) -> Int[Array, "*m"]:
        """The component of the largest responsibility. Raises InputError as `component_log_prob`, and for points that
        are not finite: they belong to none."""
        return jnp.argmax(_log_joint(self, as_floats("x", x, self.means.dtype)), axis=-1)

    def sample(
        self,
        key: PRNGKeyArray,
        shape: int | tuple[int, ...] = (),
        *,
        component: int | Array | None = None,
        return_components: bool = False,
    ) -> Any:
        """Independent draws x of shape S + B + (D,), and with `return_components` their components, S + B.

        Pure; the shape is static under jit. Memory is that of the draws, whatever the family.

        Args:
            key: A JAX random key.
            shape: S; a number n is (n,).
            component: Draw from this component alone.
            return_components: Return (x, components).
        Raises:
            InputError: For a negative length, and a component that is not one of the mixture's.
        """
        key = as_key(key)
        check_kind("return_components", return_components, (bool, np.bool_), "True or False")
        lead = (shape,) if isinstance(shape, int | np.integer) else shape
        whole = isinstance(lead, tuple) and all(isinstance(s, int | np.integer) for s in lead)
        check(whole, f"shape must be a number or a tuple of numbers, such as (1000,), got {short(shape)}.")
        check(all(s >= 0 for s in lead), f"n must be at least 0, got {shape}.")
        if component is not None and not isinstance(component, jax.core.Tracer):
            check_count("component", component, least=0, most=self.k - 1)
        x, k = _sample(key, self, tuple(int(s) for s in lead), component)
        return (x, k) if return_components else x

    def mean(self) -> Float[Array, "*b d"]:
        """E[x] = Σ_k w_k μ_k."""
        return _mean(self)

    def variance(self) -> Float[Array, "*b d"]:
        """diag Cov[x] = Σ_k w_k [diag Σ_k + (μ_k − E[x])²], by the law of total variance."""
        return _variance(self)

    def std(self) -> Float[Array, "*b d"]:
        """The square root of `variance`."""
        return jnp.sqrt(_variance(self))

    def covariance_matrix(self) -> Float[Array, "*b d d"]:
        """Cov[x] = Σ_k w_k [Σ_k + (μ_k − E[x])(μ_k − E[x])ᵀ]."""
        return _covariance_matrix(self)

    def cdf(self, x: ArrayLike) -> Float[Array, "*m d"]:
        """P(X_d ≤ x_d) of every feature by itself. Raises InputError as `component_log_prob`."""
        points = self._points(x)
        _broadcast(self, points)
        return _cdf(self, points)

    def quantile(self, q: ArrayLike) -> Float[Array, "*qbd"]:
        """The q-quantile of every feature by itself, of shape q.shape + B + (D,), by bisection. Not differentiable.

        Raises:
            InputError: Unless 0 < q < 1.
        """
        levels = as_floats("q", q, self.means.dtype).astype(self.means.dtype)
        if not isinstance(levels, jax.core.Tracer):
            check(bool(((levels > 0) & (levels < 1)).all()), f"q must be above 0 and below 1, got {short(q)}.")
        return _quantile(self, levels)

    def marginal(self, features: Features) -> "GMM":
        """The mixture p(x_a) of the features a, in the order given; a boolean mask keeps those where it is true.

        Raises:
            InputError: If a feature is not one of the mixture's or is named twice.
        """
        return _marginal(self, jnp.asarray(feature_index("features", features, self.d)))

    def conditional(self, features: Features | None, given: Features, values: ArrayLike) -> "GMM":
        """The mixture p(x_a | x_b = values) of the features a given the features b.

        Its parameters (Bishop, Pattern Recognition and Machine Learning, 2006, eqs. 2.81, 2.82):

            w_k ∝ w_k N(x_b | μ_b, Σ_bb),   μ_a|b = μ_a + Σ_ab Σ_bb⁻¹ (x_b − μ_b),   Σ_a|b = Σ_aa − Σ_ab Σ_bb⁻¹ Σ_ba

        Args:
            features: a, or None for all that are not given, in ascending order.
            given: b.
            values: Of shape (..., len(b)), one value for each given feature; the leading axes broadcast against the
                batch shape and become that of the result.
        Raises:
            InputError: If a and b overlap, a feature is not one of the mixture's, or the values do not match.

        >>> import jgmm
        >>> gmm = jgmm.GMM.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.5, 1.0]]])
        >>> print(gmm.conditional([0], given=[1], values=[2.0]).mean().round(3))
        [1.]
        """
        b = feature_index("given", given, self.d)
        if features is None:
            check(b.shape[0] < self.d, "given names every feature: nothing is left to be conditional.")
            a = jnp.setdiff1d(jnp.arange(self.d), b, size=self.d - b.shape[0])
        else:
            a = feature_index("features", features, self.d)
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
                both = np.intersect1d(a, b).tolist()
                check(not both, f"features and given must not overlap, both name {both}.")
        a, b = jnp.asarray(a), jnp.asarray(b)
        known = as_floats("values", values, self.means.dtype).astype(self.means.dtype)
        fits = known.ndim >= 1 and known.shape[-1] == b.shape[0]
        check(fits, f"values must have shape (..., {b.shape[0]}) as given, got {known.shape}.")
        batch = _batch(known.shape[:-1], self.batch_shape)
        known = jnp.broadcast_to(known, (*batch, b.shape[0]))
        if self.batch_shape == ():  # one mixture, which is not copied for many values
            return over_batch(lambda v: _conditional(self, a, b, v), len(batch))(known)
        return over_batch(lambda g, v: _conditional(g, a, b, v), len(batch))(_expand(self, batch), known)

    def _points(self, x: ArrayLike) -> Array:
        return as_floats("x", x, self.means.dtype, finite=False)


def log_constant(gmm: GMM) -> Float[Array, " k"]:
    """log w_k − (D log 2π + log |Σ_k|) / 2: the log-joint density at distance zero."""
    return gmm.log_weights - 0.5 * (gmm.d * LOG_2PI + gmm.covariance.log_det())


def log_joint(gmm: GMM) -> Callable[[Float[Array, "n d"]], Float[Array, "n k"]]:
    """x -> log w_k + log N(x_n | μ_k, Σ_k), nats, of one mixture. What depends on it alone is computed once."""
    check_single(gmm)
    distances = gmm.covariance.squared_mahalanobis(gmm.means)
    constant = log_constant(gmm)
    return lambda x: constant[None] - 0.5 * distances(x)


def over_batch(f: Callable[..., T], axes: int) -> Callable[..., T]:
    """f, mapped over so many leading axes."""
    for _ in range(axes):
        f = jax.vmap(f)
    return f


def check_single(gmm: GMM) -> None:
    """Raise InputError for a batch of mixtures."""
    check(gmm.batch_shape == (), f"expected one mixture, got a batch of shape {gmm.batch_shape}: use jax.vmap.")


def check_weights(name: str, weights: Array | np.ndarray) -> None:
    """Raise InputError unless they sum to one along the last axis and none is negative. Traced ones are not seen."""
    if isinstance(weights, jax.core.Tracer):
        return
    totals = np.asarray(weights, np.float64).sum(axis=-1).ravel()
    check((np.asarray(weights) >= 0).all(), f"{name} must not be negative.")
    far = totals[~(np.abs(totals - 1) < TOLERANCE)]
    check(far.size == 0, f"{name} must sum to 1, got {far[:1].sum():.6g}.")


def check_points(d: int, x: Array) -> None:
    """Raise InputError unless x is of shape (n, d)."""
    check(x.ndim == 2 and x.shape[1] == d, f"expected points of shape (n, {d}), got {x.shape}.")


def _family_of(k: int, d: int, shape: tuple[int, ...]) -> Any:
    """The one family whose parameters have this shape."""
    shapes = {}
    for name, family in COVARIANCES.items():
        try:
            identity = getattr(family, "identity", family)
            shapes[name] = jax.eval_shape(lambda make=identity: make(k, d).parameter()).shape
        except InputError:  # it has no parameters in scikit-learn's form
            continue
    fitting = [name for name, expected in shapes.items() if expected == shape]
    expected = ", ".join(f"{name} {expected}" for name, expected in shapes.items())
    check(len(fitting) > 0, f"covariances of shape {shape} fit no family for k={k} and d={d}: expected {expected}.")
    check(len(fitting) == 1, f"covariances of shape {shape} may be {' or '.join(fitting)}: pass covariance_type.")
    return COVARIANCES[fitting[0]]


@jax.jit
def _component_log_prob(gmm: GMM, x: Float[Array, "*n d"]) -> Float[Array, "*m k"]:
    batch = gmm.batch_shape
    shape = _broadcast(gmm, x)
    if batch == ():  # many points in one mixture: matrix products
        rows = x.reshape(prod(shape), gmm.d)
        distances, log_det = gmm.covariance.squared_mahalanobis(gmm.means)(rows), gmm.covariance.log_det()
        return (-0.5 * (gmm.d * LOG_2PI + log_det[None] + distances)).reshape(*shape, gmm.k)

    def single(gmm: GMM, x: Array) -> Array:
        y = gmm.covariance.whiten(x[None] - gmm.means)
        return -0.5 * (gmm.d * LOG_2PI + gmm.covariance.log_det() + (y * y).sum(axis=1))

    inner = shape[len(shape) - len(batch) :]
    rows = jnp.broadcast_to(x, (*shape, gmm.d)).reshape(prod(shape[: len(shape) - len(batch)]), *inner, gmm.d)
    mapped: Callable[..., Array] = over_batch(lambda g, r: jax.vmap(single, (None, 0))(g, r), len(inner))
    found = mapped(_expand(gmm, inner), jnp.moveaxis(rows, 0, -2))
    return jnp.moveaxis(found, -2, 0).reshape(*shape, gmm.k)


def _log_joint(gmm: GMM, x: Array) -> Array:
    if gmm.batch_shape == ():
        shape = _broadcast(gmm, x)
        return log_joint(gmm)(x.reshape(prod(shape), gmm.d)).reshape(*shape, gmm.k)
    found = _component_log_prob(gmm, x)
    return found + gmm.log_weights[(None,) * (found.ndim - gmm.log_weights.ndim)]


@jax.jit
def _log_prob(gmm: GMM, x: Array) -> Array:
    return jax.nn.logsumexp(_log_joint(gmm, x), axis=-1)


@jax.jit
def _responsibilities(gmm: GMM, x: Array) -> Array:
    return jax.nn.softmax(_log_joint(gmm, x), axis=-1)


@partial(jax.jit, static_argnames="shape")
def _sample(key: PRNGKeyArray, gmm: GMM, shape: tuple[int, ...], component: Any) -> tuple[Array, Array]:
    batch, n = gmm.batch_shape, prod(shape)
    keys = jax.random.split(key, batch) if batch else key
    draws, k = over_batch(lambda key, g: _sample_one(key, g, n, component), len(batch))(keys, gmm)
    return jnp.moveaxis(draws, -2, 0).reshape(*shape, *batch, gmm.d), jnp.moveaxis(k, -1, 0).reshape(*shape, *batch)


def _sample_one(key: PRNGKeyArray, gmm: GMM, n: int, component: int | Array | None) -> tuple[Array, Array]:
    key_component, key_noise = jax.random.split(key)
    if component is None:  # by inversion of the cumulative weights
        edges = jnp.cumsum(gmm.weights)
        u = jax.random.uniform(key_component, (n,), gmm.means.dtype) * edges[-1]
        k = jnp.minimum(jnp.searchsorted(edges, u, side="right"), gmm.k - 1).astype(jnp.int32)
    else:
        k = jnp.full(n, component, jnp.int32)
    noise = jax.random.normal(key_noise, (n, gmm.d), gmm.means.dtype)
    return gmm.means[k] + gmm.covariance.color(k, noise), k


@jax.jit
def _mean(gmm: GMM) -> Array:
    return over_batch(lambda g: matmul(g.weights, g.means), len(gmm.batch_shape))(gmm)


@jax.jit
def _variance(gmm: GMM) -> Array:
    def single(gmm: GMM) -> Array:
        spread = gmm.covariance.variance() + (gmm.means - _mean(gmm)[None]) ** 2
        return matmul(gmm.weights, spread)

    return over_batch(single, len(gmm.batch_shape))(gmm)


@jax.jit
def _covariance_matrix(gmm: GMM) -> Array:
    def single(gmm: GMM) -> Array:
        w, off = gmm.weights, gmm.means - _mean(gmm)[None]
        within = jnp.broadcast_to(gmm.covariance.dense(), (gmm.k, gmm.d, gmm.d))
        return (w[:, None, None] * within).sum(axis=0) + matmul((w[:, None] * off).T, off)

    return over_batch(single, len(gmm.batch_shape))(gmm)


def _scales(gmm: GMM) -> Float[Array, "*b k d"]:
    """The standard deviation of every feature in every component."""
    scales = jnp.sqrt(over_batch(lambda g: g.covariance.variance(), len(gmm.batch_shape))(gmm))
    return jnp.broadcast_to(scales, gmm.means.shape)


@jax.jit
def _cdf(gmm: GMM, x: Array) -> Array:
    scales = _scales(gmm)
    x = x.reshape(*[1] * (gmm.means.ndim - 1 - x.ndim), *x.shape)[..., None, :]
    lead = (None,) * (x.ndim - gmm.means.ndim)
    below = jax.scipy.special.ndtr((x - gmm.means[lead]) / scales[lead])
    return (gmm.weights[..., None][lead] * below).sum(axis=-2)


@jax.jit
def _quantile(gmm: GMM, q: Float[Array, "*q"]) -> Array:
    scales = _scales(gmm)
    lead = (None,) * q.ndim
    q = q.reshape(*q.shape, *[1] * (gmm.means.ndim - 1))
    # The quantile of a mixture lies between the least and the greatest of those of its components.
    ends = gmm.means[lead] + jax.scipy.special.ndtri(q)[..., None] * scales[lead]
    start = ends.min(axis=-2), ends.max(axis=-2)

    def halve(_: Array, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        middle = low + (high - low) / 2
        below = _cdf(gmm, middle) < q
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, HALVINGS, halve, start)
    return low + (high - low) / 2


@jax.jit
def _marginal(gmm: GMM, index: Int[Array, " a"]) -> GMM:
    def single(gmm: GMM) -> GMM:
        return replace(gmm, means=gmm.means[:, index], covariance=gmm.covariance.marginal(index))

    return over_batch(single, len(gmm.batch_shape))(gmm)


@jax.jit
def _conditional(gmm: GMM, a: Int[Array, " a"], b: Int[Array, " b"], values: Float[Array, " b"]) -> GMM:
    evidence = log_joint(_marginal(gmm, b))(values[None])[0]
    shift, covariance = gmm.covariance.conditional(a, b, values[None] - gmm.means[:, b])
    return GMM(jax.nn.log_softmax(evidence), gmm.means[:, a] + shift, covariance)


def _broadcast(gmm: GMM, x: Array) -> tuple[int, ...]:
    check(x.ndim >= 1 and x.shape[-1] == gmm.d, f"expected points of shape (..., {gmm.d}), got {x.shape}.")
    return _batch(x.shape[:-1], gmm.batch_shape)


def _batch(lead: tuple[int, ...], batch: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return jnp.broadcast_shapes(lead, batch)
    except ValueError:
        raise InputError(f"leading axes {lead} do not broadcast with mixtures of batch shape {batch}.") from None


def _expand(gmm: GMM, batch: tuple[int, ...]) -> GMM:
    """The leaves broadcast to a batch shape of as many axes or more."""
    own = len(gmm.batch_shape)

    def leaf_of(leaf: Array) -> Array:
        return jnp.broadcast_to(leaf, (*batch, *leaf.shape[own:]))

    return jax.tree.map(leaf_of, gmm)
