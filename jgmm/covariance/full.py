"""Full covariances, held as lower Cholesky factors: Σ_k = L_k L_kᵀ."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float, Int

from jgmm.covariance.base import Covariance, Distances, Scales, bounded, raw_of, scale_of
from jgmm.covariance.prior import Floor, Prior
from jgmm.errors import check
from jgmm.numerics.distances import middle, squared_distances
from jgmm.numerics.linalg import grouped_matvec, lower_factor, matmul
from jgmm.numerics.pytree import pytree
from jgmm.numerics.sharding import map_components

# Screening the E-step pays from so many features and components.
SCREENED_FEATURES, SCREENED_COMPONENTS = 128, 8
# Power iterations for the largest eigenvalue, and the factors by which its estimate is raised until a Cholesky
# factorization proves it an upper bound.
POWER_ITERATIONS = 40
RAISES = (1.003, 1.03, 1.5)
# What rounding may take from a bound.
ROUNDING = 1e-3
# How far a matrix may differ from its transpose, relative to its largest value.
ASYMMETRY = 1e-3


@pytree
class Full(Covariance):
    """One symmetric positive-definite matrix for every component.

    >>> import jax.numpy as jnp
    >>> from jgmm.covariance.full import Full
    >>> Full.from_dense(jnp.array([[[4.0, 2.0], [2.0, 2.0]]])).cholesky.tolist()
    [[[2.0, 0.0], [1.0, 1.0]]]
    """

    cholesky: Float[Array, "*b k d d"]

    name: ClassVar[str] = "full"
    scales: ClassVar[Scales] = "features"
    sparse_below: ClassVar[float] = 0.5

    @classmethod
    def identity(cls, k: int, d: int, dtype: Any = None) -> "Full":
        return cls(jnp.tile(jnp.eye(d, dtype=dtype)[None], (k, 1, 1)))

    @classmethod
    def from_dense(cls, covariance: Float[Array, "k d d"]) -> "Full":
        """From the matrices Σ_k; NaN where one is not positive definite."""
        # One matrix at a time: a batched factorization holds several copies of all of them.
        return cls(map_components(lambda c: jnp.linalg.cholesky(c, symmetrize_input=False), covariance))

    def inverse_factors(self) -> Float[Array, "k d d"]:
        """L_k⁻¹. Inverting once and multiplying beats a triangular solve for every chunk of rows."""
        return map_components(
            lambda factor: solve_triangular(factor, jnp.eye(factor.shape[0], dtype=factor.dtype), lower=True),
            self.cholesky,
        )

    def squared_mahalanobis(self, means: Float[Array, "k d"]) -> Callable[[Array], Array]:
        whiteners = self.inverse_factors()
        if whiteners.shape[0] == 1 < means.shape[0]:  # shared: whiten the rows once for all components
            whitener, origin = whiteners[0], middle(means)
            unit = jnp.ones((1, 1), means.dtype)
            distances = squared_distances(matmul(means - origin, whitener.T), unit)
            return lambda x: distances(matmul(x - origin, whitener.T))

        return _distances(means, whiteners).every

    @property
    def screened(self) -> bool:
        k, d, _ = self.cholesky.shape
        return k >= SCREENED_COMPONENTS and d >= SCREENED_FEATURES

    def distances(self, means: Float[Array, "k d"]) -> Distances:
        return _distances(means, self.inverse_factors())

    def log_det(self) -> Float[Array, " #k"]:
        return 2 * jnp.log(jnp.diagonal(self.cholesky, axis1=1, axis2=2)).sum(axis=1)

    def inverse_diagonal(self) -> Float[Array, "#k d"]:
        return (self.inverse_factors() ** 2).sum(axis=1)

    def color(self, component: Int[Array, " n"], noise: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return grouped_matvec(self.cholesky, component, noise)

    def moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        def component(leaf: tuple[Array, Array], x: Array) -> Array:
            mean, weight = leaf
            y = x - mean[None]
            return matmul((y * weight[:, None]).T, y)  # (D, D)

        return map_components(component, (means, r.T), x)

    def squares(self, x: Float[Array, "k d"], weights: Float[Array, " k"]) -> Array:
        return (weights[:, None] * x)[:, :, None] * x[:, None, :]

    def pooled_moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        # With m_n = Σ_k r_nk μ_k / s_n and s_n = Σ_k r_nk:  Σ_nk r_nk (x_n − μ_k)(x_n − μ_k)ᵀ
        #   = Σ_n s_n (x_n − m_n)(x_n − m_n)ᵀ + ½ Σ_kl G_kl (μ_k − μ_l)(μ_k − μ_l)ᵀ,  G_kl = Σ_n r_nk r_nl / s_n:
        # one product for all components, and no difference of large numbers.
        weight = r.sum(axis=1, keepdims=True)
        share = r / jnp.where(weight > 0, weight, 1)
        origin = jnp.median(means, axis=0, keepdims=True)  # which a component far away does not move
        centers = means - origin
        y = x - origin - matmul(share, centers)
        within = matmul((y * weight).T, y)
        overlap = matmul(r.T, share)
        overlap = overlap - jnp.diag(jnp.diagonal(overlap))
        between = overlap.sum(axis=1, keepdims=True) * centers - matmul(overlap, centers)
        return (within + matmul(centers.T, between))[None]

    def update(self, scatter: Array, counts: Float[Array, " k"], prior: Prior, floor: Floor) -> "Full":
        believed = prior.strength * prior.variances(*scatter.shape[:2])
        d_eps = scatter.shape[-1] * jnp.finfo(scatter.dtype).eps
        relative = d_eps if floor.relative is None else floor.relative

        def component(leaf: tuple[Array, Array, Array], prior: Prior, floor: Floor, relative: Any) -> Array:
            s, count, pull = leaf
            eye = jnp.eye(s.shape[0], dtype=s.dtype)
            covariance = (0.5 * (s + s.T) + pull[:, None] * eye) / prior.total(count)
            added = floor.absolute + relative * jnp.trace(covariance) / eye.shape[0]
            return jnp.linalg.cholesky(covariance + added * eye, symmetrize_input=False)

        return type(self)(map_components(component, (scatter, counts, believed), prior, floor, relative))

    def variance(self) -> Float[Array, "#k d"]:
        return (self.cholesky**2).sum(axis=2)

    def image_variance(self, a: Float[Array, "p d"]) -> Float[Array, "#k p"]:
        return map_components(lambda factor, a: (matmul(a, factor) ** 2).sum(axis=1), self.cholesky, a)

    def dense(self) -> Float[Array, "#k d d"]:
        return matmul(self.cholesky, self.cholesky.swapaxes(1, 2))

    def factor(self) -> Float[Array, "#k d d"]:
        return self.cholesky

    def scaled(self, s: Float[Array, " d"]) -> "Full":
        return type(self)(s[None, :, None] * self.cholesky)

    def parameter(self) -> Float[Array, "k d d"]:
        return self.dense()

    @classmethod
    def from_parameter(cls, parameter: Array, k: int, d: int) -> "Full":
        check(parameter.shape == (k, d, d), f"full covariances must have shape {(k, d, d)}, got {parameter.shape}.")
        if not isinstance(parameter, jax.core.Tracer):
            off = jnp.abs(parameter - parameter.swapaxes(1, 2)).max()
            symmetric = bool(off <= ASYMMETRY * jnp.abs(parameter).max())
            check(symmetric, "full covariances must be symmetric: a matrix differs from its transpose.")
        return cls.from_dense(parameter)

    def marginal(self, features: Int[Array, " a"]) -> "Full":
        # Rows of L: their product is the sub-matrix, and the R of a QR its Cholesky factor, without squaring.
        rows = self.cholesky[:, features]
        return type(self)(lower_factor(rows))

    def conditional(
        self, features: Int[Array, " a"], given: Int[Array, " b"], deviation: Float[Array, "k b"]
    ) -> tuple[Float[Array, "k a"], "Full"]:
        covariance = self.dense()
        within = covariance[:, features[:, None], features[None]]
        across = covariance[:, given[:, None], features[None]]
        factor = jnp.broadcast_to(self.marginal(given).cholesky, (deviation.shape[0], given.shape[0], given.shape[0]))
        gain = jnp.broadcast_to(across, (deviation.shape[0], *across.shape[1:]))
        gain = jax.vmap(lambda f, c: cho_solve((f, True), c))(factor, gain)  # Σ_bb⁻¹ Σ_ba
        shift = matmul(deviation[:, None], gain)[:, 0]
        left = within - matmul(across.swapaxes(1, 2), gain[: across.shape[0]])
        return shift, type(self).from_dense(0.5 * (left + left.swapaxes(1, 2)))

    def whiten(self, deviation: Float[Array, "k d"]) -> Float[Array, "k d"]:
        factors = jnp.broadcast_to(self.cholesky, (deviation.shape[0], *self.cholesky.shape[1:]))
        return _substitute(factors, deviation)

    def unconstrained(self, epsilon: float) -> Float[Array, "#k m"]:
        rows, columns = np.tril_indices(self.cholesky.shape[-1], -1)
        scale = jnp.diagonal(self.cholesky, axis1=1, axis2=2)
        return jnp.concatenate([raw_of(scale, epsilon), self.cholesky[:, rows, columns]], axis=1)

    def constrain(self, raw: Float[Array, "#k m"], epsilon: float) -> "Full":
        d = self.cholesky.shape[-1]
        values = jnp.concatenate([scale_of(raw[:, :d], epsilon), raw[:, d:], jnp.zeros_like(raw[:, :1])], axis=1)
        place = np.full((d, d), values.shape[1] - 1)  # above the diagonal: the zero at the end
        place[np.diag_indices(d)] = np.arange(d)
        place[np.tril_indices(d, -1)] = d + np.arange(d * (d - 1) // 2)
        return type(self)(values[:, place])


@jax.custom_jvp
def _substitute(factors: Float[Array, "k d d"], right: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """L_k⁻¹ b_k, `bounded`."""
    y = solve_triangular(factors, right[:, :, None], lower=True)[:, :, 0]
    # Where substitution overflows, infinities may have cancelled; a NaN that came in stays.
    overflown = ~jnp.isfinite(y) & ~jnp.isnan(right).any(axis=1, keepdims=True)
    return bounded(jnp.where(overflown, jnp.inf, y))


@_substitute.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """dy = L⁻¹ (db − dL y), and nothing where y was cut: so that no gradient is infinite either."""
    factors, right = primals
    y = _substitute(factors, right)
    moved = tangents[1] - (jnp.tril(tangents[0]) * y[:, None, :]).sum(axis=2)
    dy = solve_triangular(factors, moved[:, :, None], lower=True)[:, :, 0]
    return y, jnp.where(jnp.abs(y) < bounded(jnp.full_like(y, jnp.inf)), dy, 0)


def _distances(means: Float[Array, "k d"], whiteners: Float[Array, "k d d"]) -> Distances:
    def norms(x: Array, leaf: tuple[Array, Array]) -> Array:
        mean, whitener = leaf
        y = matmul(x - mean[None], whitener.T)  # (N, D)
        return jnp.sum(y * y, axis=1)

    leaves = means, whiteners

    def every(x: Float[Array, "n d"]) -> Float[Array, "n k"]:
        return map_components(lambda leaf, x: norms(x, leaf), leaves, x).T

    def drift(to: Full, to_means: Float[Array, "k d"]) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        return map_components(lambda leaf: _drift(*leaf), (whiteners, to.cholesky, to_means - means))

    return Distances(every, leaves, norms, drift)


def _drift(whitener: Float[Array, "d d"], to: Float[Array, "d d"], shift: Float[Array, " d"]) -> tuple[Array, Array]:
    """With y = L⁻¹(x − μ), the new y is L'⁻¹L y − L'⁻¹(μ' − μ), and the least singular value of L'⁻¹L is the inverse of
    the largest of L⁻¹L'. That s bounds the square of that is proved by a Cholesky factor of s I − (L⁻¹L')ᵀ(L⁻¹L');
    without one, σ = 0 is always true."""
    a = matmul(whitener, to)
    gram = matmul(a.T, a)

    eye = jnp.eye(gram.shape[0], dtype=gram.dtype)

    def proof(bound: Array, raised: Array) -> tuple[Array, None]:
        def attempt() -> Array:
            factor = jnp.linalg.cholesky(raised * eye - gram, symmetrize_input=False)
            return jnp.where(jnp.isfinite(factor[-1, -1]), raised, jnp.inf)

        return jax.lax.cond(jnp.isfinite(bound), lambda: bound, attempt), None

    raises = jnp.array(RAISES, gram.dtype) * _largest_eigenvalue(gram)
    bound, _ = jax.lax.scan(proof, jnp.full((), jnp.inf, gram.dtype), raises)
    moved = jnp.linalg.norm(solve_triangular(to, shift, lower=True))
    return (1 - ROUNDING) / jnp.sqrt(bound), (1 + ROUNDING) * moved


def _largest_eigenvalue(a: Float[Array, "d d"]) -> Float[Array, ""]:
    """Of a symmetric positive-definite matrix, by power iteration: approached from below."""
    start = jnp.cos(jnp.arange(a.shape[0], dtype=a.dtype))  # any vector that favors no direction

    def power(_: Array, v: Array) -> Array:
        u = matmul(a, v)
        return u / jnp.linalg.norm(u)

    v = jax.lax.fori_loop(0, POWER_ITERATIONS, power, start)
    return jnp.linalg.norm(matmul(a, v))
