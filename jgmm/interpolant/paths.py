"""The path p_t of densities between two mixtures, its velocity and its score, in closed form.

For a coupling Σ_l π_l N of (x_0, x_1) and x_t = b_t x_0 + a_t x_1 + γ_t z, every x_t | l is Gaussian, and by the law
of total expectation, with α_l(x) = p(l | x_t = x):

    log p_t(x) = logsumexp_l [log π_l + log N(x | m_l, C_l)]
    u_t(x) = E[ẋ_t | x_t = x] = Σ_l α_l [ṁ_l + Cov(ẋ_t, x_t | l) C_l⁻¹ (x − m_l)]
    ∇ log p_t(x) = −Σ_l α_l C_l⁻¹ (x − m_l)

p and u satisfy ∂_t p = −div(u p), so the flow of u carries p_0 to p_1 (Albergo, Boffi and Vanden-Eijnden, Stochastic
Interpolants, arXiv 2303.08797). All functions take a path, t (a number, or one for every row) and points x [N, D]; they
may be jitted and differentiated. Nothing of size N·L·D is held: pairs are visited one by one.
"""

import abc
from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jgmm.em.screening import negligible
from jgmm.errors import check_count, check_number
from jgmm.interpolant.couplings import Coupling
from jgmm.interpolant.ends import check_times
from jgmm.interpolant.laws import Functional, Law
from jgmm.interpolant.schedules import Coefficients, OfTime, Schedule, coefficients, none
from jgmm.mixture import LOG_2PI, check_points
from jgmm.numerics.arguments import as_floats, as_key, check_kind, is_traced
from jgmm.numerics.pytree import pytree, zeros_of

# A pair that at most this part of the rows has a share in is computed for so many rows alone, if they are enough.
SHARES, FEWEST = (16, 4), 16

Times = Float[Array, "..."] | float | int


class AnyPath(abc.ABC):
    """What the functions of this file need: how x_t is mixed of pairs of Gaussians, whose shares depend on x.

    >>> isinstance(flow, ip.AnyPath)
    True
    """

    if TYPE_CHECKING:  # fields

        @property
        def schedule(self) -> Schedule:
            """a_t and b_t."""
            ...

        @property
        def smoothing(self) -> OfTime:
            """γ_t²."""
            ...

    @property
    @abc.abstractmethod
    def d(self) -> int:
        """The number of features."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """Of points."""

    @abc.abstractmethod
    def log_density(self, c: Coefficients, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """log p_t."""

    @abc.abstractmethod
    def shares(self, c: Coefficients, x: Float[Array, "n d"]) -> Any:
        """α_l(x_n), in a form that `mixed` reads."""

    @abc.abstractmethod
    def mixed(self, c: Coefficients, x: Float[Array, "n d"], f: Callable[..., Any], shares: Any) -> Any:
        """Σ_l α_l f(pair l, c, x), a pytree of arrays [N, D], or [N] that add over the features."""

    @abc.abstractmethod
    def ends(self, keys: Array, n: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """n draws of (x_0, x_1), by three keys."""


@pytree
class Path(AnyPath):
    """A coupling with a schedule and a smoothing; made by `path`.

    Attributes:
        log_weights: log π_l of the L pairs.
        means0, means1: the means of x_0 and x_1 in each.
        law: the covariances of each.
        schedule, smoothing: a_t, b_t and γ_t².

    >>> flow.d
    2
    """

    log_weights: Float[Array, " l"]
    means0: Float[Array, "l d"]
    means1: Float[Array, "l d"]
    law: Law
    schedule: Schedule = field(metadata={"static": True})
    smoothing: OfTime = field(metadata={"static": True})

    def __repr__(self) -> str:
        return f"Path(pairs={self.means0.shape[0]}, d={self.d}{'' if self.smoothing is none else ', smoothed'})"

    @property
    def d(self) -> int:
        """The number of features."""
        return self.means0.shape[1]

    @property
    def dtype(self) -> Any:
        return self.means0.dtype

    def log_density(self, c: Coefficients, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        return jax.nn.logsumexp(log_joint(self, c, x), axis=1)

    def shares(self, c: Coefficients, x: Float[Array, "n d"]) -> Float[Array, "n l"]:
        return jax.nn.softmax(log_joint(self, c, x), axis=1)

    def mixed(self, c: Coefficients, x: Float[Array, "n d"], f: Callable[..., Any], shares: Float[Array, "n l"]) -> Any:
        return _mixed(self, c, x, f, shares)

    def ends(self, keys: Array, n: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        return _ends(self, keys, n)


def path_of(coupling: Coupling, schedule: Schedule, smoothing: OfTime) -> Path:
    """The path of a coupling of two mixtures."""
    law = coupling.law(smoothing is not none)
    return Path(coupling.log_weights, coupling.means0, coupling.means1, law, schedule, smoothing)


def log_prob(path: AnyPath, t: Times, x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """log p_t(x_n), in nats. Raises InputError for t outside [0, 1] and points of another dimension.

    >>> print(ip.log_prob(flow, 0.5, x).round(3))
    [-1.7680001]
    """
    return _log_prob(path, *_checked(path, t, x))


def posterior(path: AnyPath, t: Times, x: Float[Array, "n d"]) -> Float[Array, "n ... l"]:
    """α_l(x_n) = p(l | x_t = x_n), summing to one over the last axis; between products for every block, [N, B, L].
    Raises InputError as `log_prob`.

    >>> print(ip.posterior(flow, 0.5, x).round(3))
    [[0. 1.]]
    """
    return _posterior(path, *_checked(path, t, x))


def velocity(path: AnyPath, t: Times, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """u_t(x_n) = E[ẋ_t | x_t = x_n]. Raises InputError as `log_prob`.

    >>> print(ip.velocity(flow, 0.5, x).round(3))
    [[3.5990002 0.       ]]
    """
    return _expectation(path, *_checked(path, t, x), _motion)


def expected_source(path: AnyPath, t: Times, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """E[x_0 | x_t = x_n]. Raises InputError as `log_prob`.

    >>> print(ip.expected_source(flow, 0.5, x).round(3))
    [[-0.8  0. ]]
    """
    return _expectation(path, *_checked(path, t, x), _source)


def expected_target(path: AnyPath, t: Times, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """E[x_1 | x_t = x_n]. Raises InputError as `log_prob`.

    >>> print(ip.expected_target(flow, 0.5, x).round(3))
    [[2.8000002 0.       ]]
    """
    return _expectation(path, *_checked(path, t, x), _target)


def score(path: AnyPath, t: Times, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """∇ log p_t(x_n). Raises InputError as `log_prob`.

    >>> print(ip.score(flow, 0.5, x).round(3))
    [[1.5990001 0.       ]]
    """
    return _score(path, *_checked(path, t, x))


def drift(path: AnyPath, t: Times, x: Float[Array, "n d"], epsilon: float | Array) -> Float[Array, "n d"]:
    """u_t + ε ∇ log p_t: with diffusion √(2ε) dW its solutions have the densities p_t, forward in time. Backward they
    follow u_t − ε ∇ log p_t. Raises InputError as `log_prob`.

    >>> ip.drift(flow, 0.5, x, epsilon=0.1).shape
    (1, 2)
    """
    if not is_traced(epsilon):
        check_number("epsilon", epsilon)
    u, s, _ = fields(path, t, x)
    return u + epsilon * s


def divergence(path: AnyPath, t: Times, x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """div u_t(x_n), in closed form (`fields`). Raises InputError as `log_prob`.

    >>> print(ip.divergence(flow, 0.5, x).round(3))
    [-2.394]
    """
    return fields(path, t, x).divergence


class Fields(NamedTuple):
    """u_t, ∇ log p_t and div u_t at points."""

    velocity: Float[Array, "n d"]
    score: Float[Array, "n d"]
    divergence: Float[Array, " n"]


def fields(path: AnyPath, t: Times, x: Float[Array, "n d"]) -> Fields:
    """Velocity, score and divergence together. With u_l, s_l those of a pair, ∇α_l = α_l (s_l − ∇ log p_t), so

        div u = Σ_l α_l [tr(Cov(ẋ_t, x_t | l) C_l⁻¹) + s_l · u_l] − ∇ log p_t · u

    Raises InputError as `log_prob`.

    >>> ip.fields(flow, 0.5, x)._fields
    ('velocity', 'score', 'divergence')
    """
    return _fields(path, *_checked(path, t, x))


def sample(
    key: PRNGKeyArray, path: AnyPath, t: Times, n: int
) -> tuple[Float[Array, "n d"], Float[Array, "n d"], Float[Array, "n d"]]:
    """n draws of (x_0, x_1, x_t); t is a number or one for every draw, n is static under jit.

    Raises:
        InputError: If n < 0 or t is outside [0, 1].

    >>> x0, x1, xt = ip.sample(key, flow, 0.5, 10)
    >>> xt.shape
    (10, 2)
    """
    check_path(path)
    key, n = as_key(key), check_count("n", n, least=0)
    return _sample(key, path, check_times(as_floats("t", t).astype(path.dtype), n), n)


def check_path(path: Any) -> None:
    """Raise InputError for anything but a path."""
    check_kind("path", path, AnyPath, "a path, as jgmm.interpolant.path makes it of a coupling")


def check_pairs(path: Any) -> None:
    """Raise InputError for anything but a path between two plain mixtures."""
    check_path(path)
    check_kind("path", path, Path, "a path between two plain mixtures: this sums over all pairs of components")


def points_of(path: AnyPath, x: Any) -> Float[Array, "n d"]:
    """Points of a path as an array. Raises InputError for what are none."""
    check_path(path)
    points = as_floats("x", x, path.dtype)
    check_points(path.d, points)
    return points


def _checked(path: AnyPath, t: Times, x: Any) -> tuple[Array, Array]:
    x = points_of(path, x)
    return check_times(as_floats("t", t, x.dtype).astype(x.dtype), x.shape[0]), x


def at(path: AnyPath, t: Float[Array, " t"]) -> Coefficients:
    """The schedule and the smoothing of a path at times t."""
    return coefficients(path.schedule, path.smoothing, t)


def between(c: Coefficients, x0: Array, x1: Array, z: Array) -> Float[Array, "n d"]:
    """b_t x_0 + a_t x_1 + γ_t z."""
    return c.b[:, None] * x0 + c.a[:, None] * x1 + jnp.sqrt(c.noise)[:, None] * z


Pair = tuple[Array, Array, Law]


def _pairs(path: Path) -> Pair:
    return path.means0, path.means1, path.law


def _mean(pair: Pair, p: Array, q: Array) -> Float[Array, "t d"]:
    """E[p x_0 + q x_1] of a pair."""
    return p[:, None] * pair[0][None] + q[:, None] * pair[1][None]


def log_joint(path: Path, c: Coefficients, x: Array) -> Float[Array, "n l"]:
    """log π_l + log N(x_n | m_l, C_l)."""

    def component(pair: Pair) -> Array:
        distance, log_det = pair[2].terms(c, x - _mean(pair, c.b, c.a))
        return -0.5 * (distance + log_det + path.d * LOG_2PI)

    return path.log_weights[None] + jax.lax.map(component, _pairs(path)).T


@jax.jit
def _log_prob(path: AnyPath, t: Array, x: Array) -> Array:
    return path.log_density(at(path, t), x)


@jax.jit
def _posterior(path: AnyPath, t: Array, x: Array) -> Any:
    return path.shares(at(path, t), x)


def _mixed(
    path: Path, c: Coefficients, x: Array, f: Callable[[Pair, Coefficients, Array], Any], alpha: Float[Array, "n l"]
) -> Any:
    """Σ_l α_l f(pair l, c, x), a pytree of arrays [N, ...].

    Of a pair that few rows have a share in, more than rounding, only those are computed.
    """
    n = x.shape[0]
    sizes = [n // part for part in SHARES if n // part >= FEWEST]

    def add(total: Any, leaf: tuple[Array, Pair]) -> tuple[Any, None]:
        weight, pair = leaf
        relevant = ~(weight <= negligible(path.log_weights.shape[0], weight.dtype))  # NaN is relevant

        def some(size: int) -> Callable[[Any], Any]:
            def rows_of(a: Array, rows: Array) -> Array:
                return a if a.shape[0] == 1 < n else a.at[rows].get(mode="clip")

            def added(total: Any) -> Any:
                rows = jnp.nonzero(relevant, size=size, fill_value=n)[0]
                values = f(pair, jax.tree.map(lambda a: rows_of(a, rows), c), rows_of(x, rows))
                share = weight.at[rows].get(mode="fill", fill_value=0)
                return jax.tree.map(lambda s, v: s.at[rows].add(_scaled(share, v), mode="drop"), total, values)

            return added

        def every(total: Any) -> Any:
            return jax.tree.map(lambda s, v: s + _scaled(weight, v), total, f(pair, c, x))

        enough = jnp.searchsorted(jnp.array(sizes, jnp.int32), relevant.sum())
        return jax.lax.switch(enough, [*map(some, sizes), every], total), None

    pair = jax.tree.map(lambda leaf: leaf[0], _pairs(path))
    zero = zeros_of(f, pair, c, x)
    return jax.lax.scan(add, zero, (alpha.T, _pairs(path)))[0]


def _scaled(weight: Float[Array, " n"], values: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    return weight.reshape(-1, *[1] * (values.ndim - 1)) * values


@partial(jax.jit, static_argnames="functional")
def _expectation(path: AnyPath, t: Array, x: Array, functional: Callable[[Coefficients], Functional]) -> Array:
    """E[p x_0 + q x_1 + r z | x_t = x]."""

    def component(pair: Pair, c: Coefficients, x: Array) -> Array:
        f = functional(c)
        return _mean(pair, f.p, f.q) + pair[2].regress(c, f, x - _mean(pair, c.b, c.a))

    return path.mixed(at(path, t), x, component, _posterior(path, t, x))


def _motion(c: Coefficients) -> Functional:
    return Functional(c.b_dot, c.a_dot, c.noise_dot)


def _source(c: Coefficients) -> Functional:
    return Functional(jnp.ones_like(c.a), jnp.zeros_like(c.a), jnp.zeros_like(c.a))


def _target(c: Coefficients) -> Functional:
    return Functional(jnp.zeros_like(c.a), jnp.ones_like(c.a), jnp.zeros_like(c.a))


@jax.jit
def _score(path: AnyPath, t: Array, x: Array) -> Array:
    def component(pair: Pair, c: Coefficients, x: Array) -> Array:
        return -pair[2].solve(c, x - _mean(pair, c.b, c.a))

    return path.mixed(at(path, t), x, component, _posterior(path, t, x))


@jax.jit
def _fields(path: AnyPath, t: Array, x: Array) -> Fields:
    def component(pair: Pair, c: Coefficients, x: Array) -> tuple[Array, Array, Array]:
        f, y = _motion(c), x - _mean(pair, c.b, c.a)
        u, s = _mean(pair, f.p, f.q) + pair[2].regress(c, f, y), -pair[2].solve(c, y)
        return pair[2].trace(c, f) + (s * u).sum(axis=1), u, s

    total, u, s = path.mixed(at(path, t), x, component, _posterior(path, t, x))
    return Fields(u, s, total - (s * u).sum(axis=1))


@partial(jax.jit, static_argnames="n")
def _sample(key: PRNGKeyArray, path: AnyPath, t: Array, n: int) -> tuple[Array, Array, Array]:
    keys = jax.random.split(key, 4)
    x0, x1 = path.ends(keys[:3], n)
    return x0, x1, between(at(path, t), x0, x1, jax.random.normal(keys[3], (n, path.d), path.dtype))


def _ends(path: Path, keys: Array, n: int) -> tuple[Array, Array]:
    chosen = jax.random.categorical(keys[0], path.log_weights, shape=(n,))
    first, second = (jax.random.normal(key, (n, path.d), path.dtype) for key in keys[1:])
    noise = jnp.concatenate([first, second], axis=1)
    mine = jax.nn.one_hot(chosen, path.log_weights.shape[0], dtype=path.dtype)

    def component(pair: Pair, _: Coefficients, noise: Array) -> tuple[Array, Array]:
        deviation0, deviation1 = pair[2].color(noise[:, : path.d], noise[:, path.d :])
        return pair[0][None] + deviation0, pair[1][None] + deviation1

    return _mixed(path, at(path, jnp.zeros(1, path.dtype)), noise, component, mine)
