"""Gaussian mixtures: p(z) = Σ_k w_k N(z | μ_k, Σ_k)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jgmm.checks import InputError, check
from jgmm.covariance.base import Covariance
from jgmm.products import matmul
from jgmm.tables import COVARIANCES
from jgmm.types import pytree

LOG_2PI = 1.8378770664093453
Features = Sequence[int] | np.ndarray | Array


@pytree
class GMM:
    """A mixture of K Gaussians in D dimensions; or a batch of them, its leaves leading with further axes, for
    `jgmm.distribution` and `jax.vmap`. The functions of this module are for one.

    Fields:
        log_weights: log w_k, natural logarithms of weights that sum to one.
        means: μ_k.
        covariance: Σ_k, of any family (`jgmm.tables.COVARIANCES`).
    """

    log_weights: Float[Array, "*b k"]
    means: Float[Array, "*b k d"]
    covariance: Covariance

    @property
    def k(self) -> int:
        """The number of components."""
        return self.means.shape[-2]

    @property
    def d(self) -> int:
        """The number of features."""
        return self.means.shape[-1]


def covariance_name(gmm: GMM) -> str:
    """The name in `jgmm.tables.COVARIANCES` of a mixture's family."""
    structure: Any = jax.tree.structure(gmm.covariance)
    for name, identity in COVARIANCES.items():
        if jax.tree.structure(jax.eval_shape(lambda make=identity: make(gmm.k, gmm.d))) == structure:
            return name
    raise InputError(f"{type(gmm.covariance).__name__} is in no line of jgmm.tables.COVARIANCES.")


def log_constant(gmm: GMM) -> Float[Array, " k"]:
    """log w_k − (D log 2π + log |Σ_k|) / 2: the log-joint density at distance zero."""
    return gmm.log_weights - 0.5 * (gmm.d * LOG_2PI + gmm.covariance.log_det())


def log_joint(gmm: GMM) -> Callable[[Float[Array, "n d"]], Float[Array, "n k"]]:
    """z -> log w_k + log N(z_n | μ_k, Σ_k), in nats. What depends on the mixture alone is computed once."""
    check_single(gmm)
    distances = gmm.covariance.mahalanobis(gmm.means)
    constant = log_constant(gmm)
    return lambda z: constant[None] - 0.5 * distances(z)


@jax.jit
def log_prob(gmm: GMM, z: Float[Array, "n d"]) -> Float[Array, " n"]:
    """log p(z_n) = logsumexp_k [log w_k + log N(z_n | μ_k, Σ_k)], in nats.

    Raises InputError if z is not of shape (n, d).
    """
    check_points(gmm.d, z)
    return jax.nn.logsumexp(log_joint(gmm)(z), axis=1)


@jax.jit
def responsibilities(gmm: GMM, z: Float[Array, "n d"]) -> Float[Array, "n k"]:
    """p(k | z_n), rows summing to one (Bishop, Pattern Recognition and Machine Learning, eq. 9.13).

    Raises InputError if z is not of shape (n, d).
    """
    check_points(gmm.d, z)
    return jax.nn.softmax(log_joint(gmm)(z), axis=1)


def sample(
    key: PRNGKeyArray, gmm: GMM, n: int, *, component: int | Array | None = None
) -> tuple[Float[Array, "n d"], Int[Array, " n"]]:
    """n draws z from the mixture and the component of each; from one component if `component` is given.

    Pure; `n` is static under jit. Memory is O(n D), whatever the family.
    Raises InputError if n < 0 or the component is not one of the mixture's (checked when it is concrete).
    """
    check_single(gmm)
    check(n >= 0, f"n must be at least 0, got {n}.")
    if component is not None and not isinstance(component, jax.core.Tracer):
        check(0 <= int(component) < gmm.k, f"component must be from 0 to {gmm.k - 1}, got {component}.")
    return _sample(key, gmm, n, component)


@partial(jax.jit, static_argnames="n")
def _sample(key: PRNGKeyArray, gmm: GMM, n: int, component: int | Array | None) -> tuple[Array, Array]:
    key_component, key_noise = jax.random.split(key)
    if component is None:  # by inversion of the cumulative weights
        edges = jnp.cumsum(jnp.exp(gmm.log_weights))
        u = jax.random.uniform(key_component, (n,), gmm.means.dtype) * edges[-1]
        k = jnp.minimum(jnp.searchsorted(edges, u, side="right"), gmm.k - 1).astype(jnp.int32)
    else:
        k = jnp.full(n, component, jnp.int32)
    noise = jax.random.normal(key_noise, (n, gmm.d), gmm.means.dtype)
    return gmm.means[k] + gmm.covariance.colour(k, noise), k


@jax.jit
def mean(gmm: GMM) -> Float[Array, " d"]:
    """E[z] = Σ_k w_k μ_k."""
    check_single(gmm)
    return matmul(jnp.exp(gmm.log_weights), gmm.means)


@jax.jit
def variance(gmm: GMM) -> Float[Array, " d"]:
    """diag Cov[z] = Σ_k w_k [diag Σ_k + (μ_k − E[z])²], by the law of total variance."""
    check_single(gmm)
    spread = gmm.covariance.variance() + (gmm.means - mean(gmm)[None]) ** 2
    return matmul(jnp.exp(gmm.log_weights), spread)


def marginal(gmm: GMM, features: Features) -> GMM:
    """The mixture p(z_a) of the features a, in the order given.

    Raises InputError if a feature is not one of the mixture's or is named twice.
    """
    return _marginal(gmm, _check_features(gmm, features))


@jax.jit
def _marginal(gmm: GMM, index: Int[Array, " a"]) -> GMM:
    return replace(gmm, means=gmm.means[:, index], covariance=gmm.covariance.marginal(index))


def conditional(gmm: GMM, given: Features, values: Float[Array, " b"]) -> GMM:
    """The mixture p(z_a | z_b = values) of the features a that are not in `given`, in ascending order.

    Its parameters (Bishop, Pattern Recognition and Machine Learning, eqs. 2.81, 2.82):

        w_k ∝ w_k N(z_b | μ_b, Σ_bb),   μ_a|b = μ_a + Σ_ab Σ_bb⁻¹ (z_b − μ_b),   Σ_a|b = Σ_aa − Σ_ab Σ_bb⁻¹ Σ_ba

    One vector of values; `jax.vmap` over `values` gives a batch of mixtures.
    Raises InputError if `given` is not a proper, repetition-free subset of the features, or does not match values.
    """
    b = _check_features(gmm, given)
    check(values.shape == (b.shape[0],), f"values must have shape ({b.shape[0]},) as given, got {values.shape}.")
    check(b.shape[0] < gmm.d, "given names every feature: nothing is left to be conditional.")
    return _conditional(gmm, b, values)


@jax.jit
def _conditional(gmm: GMM, b: Int[Array, " b"], values: Float[Array, " b"]) -> GMM:
    a = jnp.setdiff1d(jnp.arange(gmm.d), b, size=gmm.d - b.shape[0])
    evidence = log_joint(_marginal(gmm, b))(values[None])[0]
    shift, covariance = gmm.covariance.conditional(a, b, values[None] - gmm.means[:, b])
    return GMM(jax.nn.log_softmax(evidence), gmm.means[:, a] + shift, covariance)


def check_points(d: int, z: Array) -> None:
    """Raise InputError unless z is of shape (n, d)."""
    check(z.ndim == 2 and z.shape[1] == d, f"expected points of shape (n, {d}), got {z.shape}.")


def check_single(gmm: GMM) -> None:
    """Raise InputError for a batch of mixtures."""
    batch = gmm.means.shape[:-2]
    check(batch == (), f"expected one mixture, got a batch of shape {batch}: use jgmm.distribution, or jax.vmap.")


def _check_features(gmm: GMM, features: Features) -> Array:
    check_single(gmm)
    if not isinstance(features, jax.core.Tracer):
        index = np.asarray(features)
        check(index.ndim == 1 and index.size > 0, f"features must be a non-empty list, got shape {index.shape}.")
        inside = ((index >= 0) & (index < gmm.d)).all()
        check(inside, f"features must be from 0 to {gmm.d - 1}, got {index.tolist()}.")
        check(np.unique(index).size == index.size, f"a feature is named twice: {index.tolist()}.")
    return jnp.asarray(features, jnp.int32)
