"""What a pair of components (x_0, x_1) looks like on the way: the Gaussian of p·x_0 + q·x_1 + noise at every t.

With x_t = b x_0 + a x_1 + γ z and deviations y = x_t − E[x_t],

    C = Cov(x_t) = b² Σ00 + ab (Σ01 + Σ10) + a² Σ11 + γ² I
    E[p x_0 + q x_1 + r z | x_t] − its mean = Cov(p x_0 + q x_1 + r z, x_t) C⁻¹ y,  with
    Cov(p x_0 + q x_1 + r z, x_t) = pb Σ00 + pa Σ01 + qb Σ10 + qa Σ11 + rγ I

A law holds this for L pairs in its leaves, each of which leads with L; the methods are those of one pair, whose leaves
do not. The coefficients come as arrays of one time, or of one for every row.

`Aligned` has coordinates, found once for all t, in which x_0 and x_1 are tied one by one: everything at a time t is
elementwise in them. `Dense` factors C at every t.
"""

import abc
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float

from jgmm.interpolant.schedules import Coefficients
from jgmm.numerics.linalg import matmul
from jgmm.numerics.pytree import pytree


class Functional(NamedTuple):
    """p x_0 + q x_1 + r z, with rγ in the place of r."""

    p: Float[Array, " t"]
    q: Float[Array, " t"]
    r: Float[Array, " t"]


class Law(abc.ABC):
    """The Gaussian laws of L pairs as a pytree; the methods are those of a slice of one pair."""

    @abc.abstractmethod
    def terms(self, c: Coefficients, y: Float[Array, "n d"]) -> tuple[Float[Array, " n"], Float[Array, " #n"]]:
        """yᵀ C⁻¹ y and log |C|."""

    @abc.abstractmethod
    def solve(self, c: Coefficients, y: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """C⁻¹ y."""

    @abc.abstractmethod
    def regress(self, c: Coefficients, f: Functional, y: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Cov(f, x_t) C⁻¹ y."""

    @abc.abstractmethod
    def trace(self, c: Coefficients, f: Functional) -> Float[Array, " #n"]:
        """tr Cov(f, x_t) C⁻¹."""

    @abc.abstractmethod
    def color(self, first: Float[Array, "n d"], second: Float[Array, "n d"]) -> tuple[Array, Array]:
        """Noise N(0, I) twice -> deviations of x_0 and of x_1."""

    @abc.abstractmethod
    def blocks(self) -> tuple[Float[Array, "d d"], Float[Array, "d d"], Float[Array, "d d"]]:
        """Σ00, Σ01, Σ11."""


@pytree
class Aligned(Law):
    """x_0 = P ξ_0, x_1 = P ξ_1, where the pairs (ξ_0, ξ_1)_i have variances v0_i, v1_i and covariance v01_i, and are
    independent of each other, or all of correlation matrix K.

    So x_t = P D_t ξ with D_t² = b² v0 + 2ab v01 + a² v1 + γ² and Cov(ξ) = K: a flow that scales fixed coordinates. With
    γ ≠ 0, P must be orthogonal and K the identity.

    Attributes:
        v0, v1, v01: as above.
        basis, inverse: P and P⁻¹; None for the identity.
        factor, whitener: Cholesky factor of K and its inverse; None for the identity.
        log_det: log |P K Pᵀ|.
    """

    v0: Float[Array, "... d"]
    v1: Float[Array, "... d"]
    v01: Float[Array, "... d"]
    log_det: Float[Array, "..."]
    basis: Float[Array, "... d d"] | None = None
    inverse: Float[Array, "... d d"] | None = None
    factor: Float[Array, "... d d"] | None = None
    whitener: Float[Array, "... d d"] | None = None

    def _squares(self, c: Coefficients) -> Float[Array, "#n d"]:
        a, b, noise = (v[:, None] for v in (c.a, c.b, c.noise))
        v0, v1, v01 = (v[None] for v in (self.v0, self.v1, self.v01))
        return b**2 * v0 + 2 * a * b * v01 + a**2 * v1 + noise

    def _gain(self, c: Coefficients, f: Functional) -> Float[Array, "#n d"]:
        a, b = c.a[:, None], c.b[:, None]
        p, q, r = (v[:, None] for v in f)
        v0, v1, v01 = (v[None] for v in (self.v0, self.v1, self.v01))
        return (p * b * v0 + (p * a + q * b) * v01 + q * a * v1 + r) / self._squares(c)

    def terms(self, c: Coefficients, y: Array) -> tuple[Array, Array]:
        squares = self._squares(c)
        u = _times(y, self.inverse) / jnp.sqrt(squares)
        log_det = self.log_det + jnp.log(squares).sum(axis=1)
        return (_times(u, self.whitener) ** 2).sum(axis=1), log_det

    def solve(self, c: Coefficients, y: Array) -> Array:
        scale = jnp.sqrt(self._squares(c))
        u = _times(_times(y, self.inverse) / scale, self.whitener)
        return _times(_times(u, _transposed(self.whitener)) / scale, _transposed(self.inverse))

    def regress(self, c: Coefficients, f: Functional, y: Array) -> Array:
        return _times(self._gain(c, f) * _times(y, self.inverse), self.basis)

    def trace(self, c: Coefficients, f: Functional) -> Array:
        return self._gain(c, f).sum(axis=1)

    def color(self, first: Array, second: Array) -> tuple[Array, Array]:
        v0, v1, v01 = (v[None] for v in (self.v0, self.v1, self.v01))
        first = _times(first, self.factor)
        scale = jnp.sqrt(v0)
        left = jnp.sqrt(jnp.maximum(v1 - (v01 / scale) ** 2, 0))
        return _times(scale * first, self.basis), _times(v01 / scale * first + left * second, self.basis)

    def blocks(self) -> tuple[Array, Array, Array]:
        def block(v: Array, w: Array) -> Array:
            """P diag(v) K diag(w) Pᵀ."""
            left = _times(jnp.diag(v), self.basis).T
            right = _times(jnp.diag(w), self.basis).T
            return matmul(_times(left, _transposed(self.factor)), _times(right, _transposed(self.factor)).T)

        if self.factor is None:  # any three diagonals
            one = jnp.ones_like(self.v0)
            return block(self.v0, one), block(self.v01, one), block(self.v1, one)
        s0, s1 = jnp.sqrt(self.v0), jnp.sqrt(self.v1)
        return block(s0, s0), block(s0, s1), block(s1, s1)


@pytree
class Dense(Law):
    """Any joint covariance. C may be singular at t = 0 and 1: D eps times its mean variance is added."""

    s00: Float[Array, "... d d"]
    s01: Float[Array, "... d d"]
    s11: Float[Array, "... d d"]

    def _factor(self, c: Coefficients) -> Float[Array, "t d d"]:
        a, b, noise = (v[:, None, None] for v in (c.a, c.b, c.noise))
        eye = jnp.eye(self.s00.shape[0], dtype=self.s00.dtype)
        covariance = b**2 * self.s00[None] + a * b * (self.s01 + self.s01.T)[None] + a**2 * self.s11[None]
        covariance = covariance + noise * eye[None]
        floor = jnp.finfo(eye.dtype).eps * jnp.trace(covariance, axis1=1, axis2=2)
        return jnp.linalg.cholesky(covariance + floor[:, None, None] * eye[None], symmetrize_input=False)

    def _cross(self, c: Coefficients, f: Functional) -> Float[Array, "t d d"]:
        a, b = c.a[:, None, None], c.b[:, None, None]
        p, q, r = (v[:, None, None] for v in f)
        s00, s01, s10, s11 = (s[None] for s in (self.s00, self.s01, self.s01.T, self.s11))
        return p * b * s00 + p * a * s01 + q * b * s10 + q * a * s11 + r * jnp.eye(self.s00.shape[0])[None]

    def terms(self, c: Coefficients, y: Array) -> tuple[Array, Array]:
        factor = self._factor(c)
        u = jax.vmap(lambda m, v: solve_triangular(m, v, lower=True))(factor, _columns(y, factor))
        log_det = 2 * jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
        return (_rows(u, y) ** 2).sum(axis=1), log_det

    def solve(self, c: Coefficients, y: Array) -> Array:
        factor = self._factor(c)
        return _rows(jax.vmap(lambda m, v: cho_solve((m, True), v))(factor, _columns(y, factor)), y)

    def regress(self, c: Coefficients, f: Functional, y: Array) -> Array:
        cross = self._cross(c, f)
        return _rows(matmul(cross, _columns(self.solve(c, y), cross)), y)

    def trace(self, c: Coefficients, f: Functional) -> Array:
        solved = jax.vmap(lambda m, v: cho_solve((m, True), v))(self._factor(c), self._cross(c, f).swapaxes(1, 2))
        return jnp.trace(solved, axis1=1, axis2=2)

    def color(self, first: Array, second: Array) -> tuple[Array, Array]:
        joint = jnp.block([[self.s00, self.s01], [self.s01.T, self.s11]])
        values, vectors = jnp.linalg.eigh(joint)  # which may be singular
        deviations = matmul(
            jnp.concatenate([first, second], axis=1), (vectors * jnp.sqrt(jnp.maximum(values, 0))[None]).T
        )
        return deviations[:, : first.shape[1]], deviations[:, first.shape[1] :]

    def blocks(self) -> tuple[Array, Array, Array]:
        return self.s00, self.s01, self.s11


def _times(y: Float[Array, "n d"], matrix: Float[Array, "d d"] | None) -> Float[Array, "n d"]:
    """A y_n for every row; y where A is the identity."""
    return y if matrix is None else matmul(y, matrix.T)


def _transposed(matrix: Array | None) -> Array | None:
    return None if matrix is None else matrix.T


def _columns(y: Float[Array, "n d"], matrices: Float[Array, "t d d"]) -> Float[Array, "t d m"]:
    """The rows that go with each matrix, as columns: all with the only one, or one with each."""
    return y.reshape(matrices.shape[0], -1, y.shape[1]).swapaxes(1, 2)


def _rows(columns: Float[Array, "t d m"], like: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return columns.swapaxes(1, 2).reshape(like.shape)
