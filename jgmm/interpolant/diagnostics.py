"""How good a path is, and whether the theory's regularity_constants hold.

Times are integrated by Gauss-Legendre quadrature; expectations over x are exact for Gaussian mixtures, or estimated
from draws with a standard error.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm.errors import check_count
from jgmm.interpolant import paths
from jgmm.interpolant.paths import AnyPath, Path, Times
from jgmm.interpolant.schedules import OfTime, derivative
from jgmm.interpolant.solvers import transport
from jgmm.mixture import GMM
from jgmm.numerics.arguments import as_floats, as_key, check_kind

# Nodes of the quadrature over [0, 1], and times at which suprema are taken.
NODES, GRID = 16, 129


class Estimate(NamedTuple):
    """A mean of draws and its standard error."""

    value: float
    error: float


class RegularityConstants(NamedTuple):
    """The constants that the theory asks to be finite, of I(t, x, y) = b_t x + a_t y (Albergo, Boffi and
    Vanden-Eijnden, arXiv 2303.08797, section 2).

    Attributes:
        c1: sup |∂_t I(t, x, y)| / |x − y|; infinite unless ȧ = −ḃ.
        m1: sup_t E|∂_t I(t, x_0, x_1)|⁴.
        m2: sup_t E|∂_tt I(t, x_0, x_1)|².
    """

    c1: float
    m1: float
    m2: float


def kinetic_energy(key: PRNGKeyArray, path: AnyPath, n: int = 10_000) -> Estimate:
    """E ∫ |u_t(x_t)|² dt, the cost of the path: at least W2²(p_0, p_1) (Benamou and Brenier, 2000).

    >>> round(ip.kinetic_energy(key, flow, 1000).value, 1)
    6.9
    """
    paths.check_path(path)
    key, n = as_key(key), check_count("n", n, least=2)
    nodes, weights = _quadrature(path)
    x0, x1, _ = paths.sample(key, path, 0.0, n)
    z = jax.random.normal(jax.random.fold_in(key, 1), x0.shape, x0.dtype)

    def at(t: Array) -> Array:
        x = paths.between(paths.at(path, t[None]), x0, x1, z)
        return (paths.velocity(path, t, x) ** 2).sum(axis=1)

    return _estimate(weights @ jax.lax.map(at, nodes))


def straightness(key: PRNGKeyArray, path: AnyPath, n: int = 2_000) -> Estimate:
    """E ∫ |ẋ_t − (x_1 − x_0)|² dt along the trajectories of u: zero where they are straight and of even speed (Liu,
    Gong and Liu, Flow Straight and Fast, arXiv 2209.03003, equation 7).

    >>> still = ip.path(ip.couple(source, source, "matched", "map"))
    >>> ip.straightness(key, still, 2).value < 1e-6
    True
    """
    paths.check_path(path)
    key, n = as_key(key), check_count("n", n, least=2)
    nodes, weights = _quadrature(path)
    x0, _, _ = paths.sample(key, path, 0.0, n)
    times = jnp.concatenate([nodes, jnp.ones(1, nodes.dtype)])
    x = transport(path, x0, times=times).x
    speed = jax.lax.map(lambda leaf: (paths.velocity(path, leaf[0], leaf[1]) ** 2).sum(axis=1), (nodes, x[:-1]))
    return _estimate(weights @ speed - ((x[-1] - x0) ** 2).sum(axis=1))


def pair_cost(path: Path) -> float:
    """E ∫ |ḃ_t x_0 + ȧ_t x_1|² dt, exact: the cost of the straight pairs, at least the kinetic energy without γ.

    >>> round(ip.pair_cost(flow), 3)
    11.5
    """
    paths.check_pairs(path)
    nodes, weights = _quadrature(path)
    c = paths.at(path, nodes)
    return float(weights @ _second_moment(path, c.b_dot, c.a_dot))


def continuity_residual(path: AnyPath, t: Times, x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """∂_t log p_t + div u_t + u_t · ∇ log p_t at x: zero for every path, but for rounding.

    >>> bool(abs(ip.continuity_residual(flow, 0.5, x)).max() < 1e-4)
    True
    """
    x = paths.points_of(path, x)
    t = as_floats("t", t, x.dtype).astype(x.dtype)
    _, change = jax.jvp(lambda t: paths.log_prob(path, t, x), (t,), (jnp.ones_like(t),))
    u, s, divergence = paths.fields(path, t, x)
    return change + divergence + (u * s).sum(axis=1)


def effective_components(path: AnyPath, t: Times, x: Float[Array, "n d"]) -> Float[Array, "n ..."]:
    """exp of the entropy of α(x_n): from 1, where the pair is certain, to L; between products for every block.

    >>> print(ip.effective_components(flow, 0.0, x).round(3))
    [2.]
    """
    alpha = paths.posterior(path, t, x)
    return jnp.exp(-jax.scipy.special.xlogy(alpha, alpha).sum(axis=-1))


def regularity_constants(path: Path) -> RegularityConstants:
    """The constants of the theory, exact in x; the suprema are over a grid of times.

    >>> ip.regularity_constants(flow).c1
    1.0
    """
    paths.check_pairs(path)
    t = jnp.linspace(0, 1, GRID, dtype=path.means0.dtype)
    (_, a_dot), (_, b_dot) = derivative(path.schedule.a)(t), derivative(path.schedule.b)(t)
    a_ddot, b_ddot = _second_derivative(path.schedule.a)(t), _second_derivative(path.schedule.b)(t)
    opposite = bool(jnp.abs(a_dot + b_dot).max() <= 1e-5 * jnp.abs(a_dot).max())
    c1 = float(jnp.abs(a_dot).max()) if opposite else float("inf")
    m1, m2 = _fourth_moment(path, b_dot, a_dot).max(), _second_moment(path, b_ddot, a_ddot).max()
    return RegularityConstants(c1, float(m1), float(m2))


def fisher_information(key: PRNGKeyArray, gmm: GMM, n: int = 10_000) -> Estimate:
    """E|∇ log p(x)|² of a mixture, which the theory asks to be finite at both ends.

    >>> round(ip.fisher_information(key, source, 1000).value, 1)
    2.2
    """
    check_kind("gmm", gmm, GMM, "a jgmm.GMM")
    key, n = as_key(key), check_count("n", n, least=2)
    x = gmm.sample(key, n)
    gradient = jax.grad(lambda x: gmm.log_prob(x).sum())(x)
    return _estimate((gradient**2).sum(axis=1))


def _second_derivative(f: OfTime) -> OfTime:
    return lambda t: derivative(lambda t: derivative(f)(t)[1])(t)[1]


def _quadrature(path: AnyPath) -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    dtype = path.dtype
    return jnp.asarray((nodes + 1) / 2, dtype), jnp.asarray(weights / 2, dtype)


def _estimate(values: Float[Array, " n"]) -> Estimate:
    draws = np.asarray(values, np.float64)
    return Estimate(float(draws.mean()), float(draws.std(ddof=1) / np.sqrt(len(draws))))


@jax.jit
def _second_moment(path: Path, p: Float[Array, " t"], q: Float[Array, " t"]) -> Float[Array, " t"]:
    """E|p x_0 + q x_1|² at every time: |μ|² + tr S."""
    return _moments(path, p, q)[0]


@jax.jit
def _fourth_moment(path: Path, p: Float[Array, " t"], q: Float[Array, " t"]) -> Float[Array, " t"]:
    """E|p x_0 + q x_1|⁴ at every time: (|μ|² + tr S)² + 2 tr S² + 4 μᵀ S μ of a Gaussian N(μ, S)."""
    return _moments(path, p, q)[1]


def _moments(path: Path, p: Array, q: Array) -> tuple[Array, Array]:
    def pair(leaf: tuple[Array, Array, Array, paths.Law]) -> tuple[Array, Array]:
        log_weight, mean0, mean1, law = leaf
        s00, s01, s11 = law.blocks()

        def at(coefficient: tuple[Array, Array]) -> tuple[Array, Array]:
            p, q = coefficient
            mean, s = p * mean0 + q * mean1, p**2 * s00 + p * q * (s01 + s01.T) + q**2 * s11
            second = mean @ mean + jnp.trace(s)
            return second, second**2 + 2 * (s**2).sum() + 4 * mean @ (s @ mean)

        second, fourth = jax.lax.map(at, (p, q))
        return jnp.exp(log_weight) * second, jnp.exp(log_weight) * fourth

    second, fourth = jax.lax.map(pair, (path.log_weights, path.means0, path.means1, path.law))
    return second.sum(axis=0), fourth.sum(axis=0)
