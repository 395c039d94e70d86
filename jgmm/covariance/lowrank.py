"""Low-rank covariances: Σ_k = W_k W_kᵀ + diag(ψ_k), W_k of R columns; mixtures of factor analyzers.

EM is that of Ghahramani and Hinton (The EM algorithm for mixtures of factor analyzers, 1996), whose statistics are
S β_kᵀ and diag S of the scatter S: with M_k = I + W_kᵀ ψ_k⁻¹ W_k and β_k = M_k⁻¹ W_kᵀ ψ_k⁻¹,

    W ← (S βᵀ / n) (M⁻¹ + β S βᵀ / n)⁻¹,    ψ ← diag(S / n − W β S / n)

Everything is computed through M, which is R x R: no D x D array, and D R operations a row and component.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float, Int

from jgmm.covariance.base import Covariance, Scales, bounded, raw_of, scale_of
from jgmm.covariance.prior import Floor, Prior
from jgmm.covariance.tied import TiedFamily
from jgmm.errors import check_count
from jgmm.numerics.distances import LOSS, LOSS_OF_MOMENT, middle, patch, second_moments, squared_distances
from jgmm.numerics.linalg import einsum, matmul
from jgmm.numerics.pytree import pytree
from jgmm.numerics.sharding import map_components

# Columns where no number is asked for, if that is at most a third of the features.
RANK = 8


@pytree
class LowRank(Covariance):
    """Few directions of large variance, and noise of its own in every feature.

    >>> import jax.numpy as jnp
    >>> from jgmm.covariance.lowrank import LowRank
    >>> LowRank(jnp.array([[[1.0], [2.0]]]), jnp.array([[1.0, 1.0]])).dense().tolist()
    [[[2.0, 2.0], [2.0, 5.0]]]
    """

    factors: Float[Array, "*b k d r"]
    noise: Float[Array, "*b k d"]

    name: ClassVar[str] = "low-rank"
    scales: ClassVar[Scales] = "features"

    @property
    def additive(self) -> bool:
        return False

    @property
    def redundant(self) -> int:
        """Factors may be turned, and no covariance has more than D (D + 1) / 2 numbers."""
        d, r = self.factors.shape[-2:]
        return max(r * (r - 1) // 2, d * (1 + r) - d * (d + 1) // 2)

    @classmethod
    def identity(cls, k: int, d: int, dtype: Any = None, rank: int | None = None) -> "LowRank":
        """Covariances of variance 1 in every feature, part of which is that of the first cosines: EM does not leave
        factors of zero."""
        r = min(RANK, max(1, d // 3)) if rank is None else min(rank, d)
        angle = (jnp.arange(d, dtype=dtype)[:, None] + 0.5) * jnp.arange(1, r + 1, dtype=dtype)[None] * jnp.pi / d
        factors = jnp.cos(angle) * jnp.sqrt(0.5 / r).astype(angle.dtype)
        noise = 1 - (factors**2).sum(axis=1)
        return cls(jnp.tile(factors[None], (k, 1, 1)), jnp.tile(noise[None], (k, 1)))

    @classmethod
    def of_rank(cls, rank: Any) -> "_OfRank":
        return _OfRank(check_count("rank", rank))

    def _scaled_factors(self) -> Float[Array, "#k d r"]:
        """U = ψ^(−1/2) W."""
        return self.factors / jnp.sqrt(self.noise)[:, :, None]

    def _inverse_root(self) -> Float[Array, "#k r r"]:
        """L⁻¹ with M = I + Uᵀ U = L Lᵀ."""
        u = self._scaled_factors()

        def component(gram: Array) -> Array:
            eye = jnp.eye(gram.shape[0], dtype=gram.dtype)
            return solve_triangular(jnp.linalg.cholesky(eye + gram, symmetrize_input=False), eye, lower=True)

        # One at a time: batches of LAPACK's routines beside other loops can stop XLA's threads on CPUs for good.
        return map_components(component, einsum("kdr,kds->krs", u, u))

    def _explainer(self) -> Float[Array, "#k r d"]:
        """C = L⁻¹ Wᵀ ψ⁻¹, so that δᵀ Σ⁻¹ δ = δᵀ ψ⁻¹ δ − |C δ|²."""
        return einsum("krs,kds->krd", self._inverse_root(), self.factors / self.noise[:, :, None])

    def _projector(self) -> Float[Array, "#k r d"]:
        """β = M⁻¹ Wᵀ ψ⁻¹: E[factors | x] = β (x − μ)."""
        return einsum("ksr,ksd->krd", self._inverse_root(), self._explainer())

    def log_det(self) -> Float[Array, " #k"]:
        diagonal = jnp.diagonal(self._inverse_root(), axis1=1, axis2=2)
        return jnp.log(self.noise).sum(axis=1) - 2 * jnp.log(diagonal).sum(axis=1)

    def squared_mahalanobis(self, means: Float[Array, "k d"]) -> Callable[[Float[Array, "n d"]], Float[Array, "n k"]]:
        by_noise, explainer, origin = squared_distances(means, 1 / self.noise), self._explainer(), middle(means)
        k, d = means.shape
        every = jnp.broadcast_to(explainer, (k, *explainer.shape[1:]))
        u, inverse = (jnp.broadcast_to(a, (k, *a.shape[1:])) for a in (self._scaled_factors(), self._inverse_root()))
        deviation = jnp.broadcast_to(jnp.sqrt(self.noise), (k, d))
        shift = einsum("krd,kd->kr", every, means - origin)

        def exact(leaf: tuple[Array, Array, Array, Array], x: Array) -> Float[Array, " n"]:
            # |y − U f|² + |f|² with f = E[factors | x] is the distance, as a sum of squares.
            mean, deviation, u, inverse = leaf
            y = (x - mean[None]) / deviation[None]
            f = matmul(matmul(matmul(y, u), inverse.T), inverse)
            return ((y - matmul(f, u.T)) ** 2).sum(axis=1) + (f**2).sum(axis=1)

        def distances(x: Float[Array, "n d"]) -> Float[Array, "n k"]:
            size = by_noise(x).T
            seen = matmul(explainer.reshape(-1, d), (x - origin).T).reshape(*explainer.shape[:2], -1)
            expanded = size - ((seen - shift[:, :, None]) ** 2).sum(axis=1)
            terms = size + (seen**2).sum(axis=1) + (shift**2).sum(axis=1)[:, None]  # which cancel
            far = (terms > LOSS * jnp.maximum(expanded, d)).any(axis=1)
            return jnp.maximum(patch(far, expanded, exact, (means, deviation, u, inverse), x).T, 0)

        return distances

    def inverse_diagonal(self) -> Float[Array, "#k d"]:
        return 1 / self.noise - (self._explainer() ** 2).sum(axis=1)

    def whiten(self, deviation: Float[Array, "k d"]) -> Float[Array, "k d"]:
        u, y = self._scaled_factors(), deviation / jnp.sqrt(self.noise)
        return bounded(y - einsum("kdr,krs,ks->kd", u, _less(u), einsum("kdr,kd->kr", u, y)))

    def color(self, component: Int[Array, " n"], noise: Float[Array, "n d"]) -> Float[Array, "n d"]:
        k, u = jnp.minimum(component, self.noise.shape[0] - 1), self._scaled_factors()
        more = _more(u)

        def row(leaf: tuple[Array, Array]) -> Array:
            i, e = leaf
            return e + matmul(u[i], matmul(more[i], matmul(u[i].T, e)))

        # Few rows at a time: the factors of all would be n matrices.
        return jnp.sqrt(self.noise)[k] * jax.lax.map(row, (k, noise), batch_size=64)

    def moments(self, x: Float[Array, "n d"], r: Float[Array, "n k"], means: Float[Array, "k d"]) -> Array:
        """S βᵀ, and diag S as the last column."""
        projector, origin = self._projector(), middle(means)
        k, d = means.shape
        every = jnp.broadcast_to(projector, (k, *projector.shape[1:]))
        y, centers = x - origin, means - origin
        shift = einsum("krd,kd->kr", every, centers)
        seen = matmul(y, projector.reshape(-1, d).T).reshape(len(x), *projector.shape[:2]) - shift[None]
        weighed = r[:, :, None] * seen
        expanded = matmul(weighed.reshape(len(x), -1).T, y).reshape(every.shape)
        expanded = expanded - weighed.sum(axis=0)[:, :, None] * centers[:, None]
        far = ((1 / self.variance()) * centers**2).max(axis=1) > LOSS_OF_MOMENT

        def exact(leaf: tuple[Array, Array, Array], x: Array) -> Array:
            mean, weight, projector = leaf
            off = x - mean[None]
            return matmul((weight[:, None] * matmul(off, projector.T)).T, off)

        cross = patch(far & (r.sum(axis=0) > 0), expanded, exact, (means, r.T, every), x)
        diagonal = second_moments(x, r, means, 1 / self.variance())
        return jnp.concatenate([cross.swapaxes(1, 2), diagonal[:, :, None]], axis=2)

    def update(self, scatter: Array, counts: Float[Array, " k"], prior: Prior, floor: Floor) -> "LowRank":
        believed = prior.strength * prior.variances(*scatter.shape[:2])
        total, projector = prior.total(counts), self._projector()
        cross = scatter[:, :, :-1] + believed[:, :, None] * projector.swapaxes(1, 2)
        cross = cross / total[:, None, None]
        diagonal = (jnp.maximum(scatter[:, :, -1], 0) + believed) / total[:, None]
        inverse = self._inverse_root()
        # E[f fᵀ], the mean over rows.
        spread = einsum("ksr,kst->krt", inverse, inverse) + einsum("krd,kds->krs", projector, cross)
        factors = map_components(
            lambda leaf: cho_solve((jnp.linalg.cholesky(leaf[0]), True), leaf[1].T).T, (spread, cross)
        )
        # What is left of the variances has lost the digits of what was taken.
        relative = LOSS * jnp.finfo(cross.dtype).eps if floor.relative is None else floor.relative
        least = jnp.maximum(relative * diagonal, jnp.finfo(cross.dtype).tiny)
        noise = jnp.maximum(diagonal - (factors * cross).sum(axis=2), least)
        return type(self)(factors, noise + floor.absolute)

    def variance(self) -> Float[Array, "#k d"]:
        return self.noise + (self.factors**2).sum(axis=2)

    def dense(self) -> Float[Array, "#k d d"]:
        eye = jnp.eye(self.noise.shape[1], dtype=self.noise.dtype)
        return einsum("kdr,ker->kde", self.factors, self.factors) + self.noise[:, :, None] * eye[None]

    def image_variance(self, a: Float[Array, "p d"]) -> Float[Array, "#k p"]:
        along = map_components(lambda w, a: (matmul(a, w) ** 2).sum(axis=1), self.factors, a)
        return matmul(self.noise, (a * a).T) + along

    def marginal(self, features: Int[Array, " a"]) -> "LowRank":
        return type(self)(self.factors[:, features], self.noise[:, features])

    def conditional(
        self, features: Int[Array, " a"], given: Int[Array, " b"], deviation: Float[Array, "k b"]
    ) -> tuple[Float[Array, "k a"], "LowRank"]:
        known, rest = self.marginal(given), self.marginal(features)
        explained = einsum("krb,kb->kr", known._projector(), deviation)
        # What is left of the factors has the covariance M⁻¹ = L⁻ᵀ L⁻¹.
        left = einsum("kar,ksr->kas", rest.factors, known._inverse_root())
        return einsum("kar,kr->ka", rest.factors, explained), type(self)(left, rest.noise)

    def unconstrained(self, epsilon: float) -> Float[Array, "#k m"]:
        """The logarithms of the noise's deviations, and the factors, row by row."""
        raw = raw_of(jnp.sqrt(self.noise), epsilon)
        return jnp.concatenate([raw, self.factors.reshape(*raw.shape[:1], -1)], axis=1)

    def constrain(self, raw: Float[Array, "#k m"], epsilon: float) -> "LowRank":
        k, d, r = self.factors.shape
        return type(self)(raw[:, d:].reshape(raw.shape[0], d, r), scale_of(raw[:, :d], epsilon) ** 2)

    def scaled(self, s: Float[Array, " d"]) -> "LowRank":
        return type(self)(self.factors * s[None, :, None], self.noise * (s * s)[None])


def _less(u: Float[Array, "k d r"]) -> Float[Array, "k r r"]:
    """B with (I + U Uᵀ)^(−1/2) = I − U B Uᵀ."""
    return _of_gram(einsum("kdr,kds->krs", u, u), True)


def _more(u: Float[Array, "k d r"]) -> Float[Array, "k r r"]:
    """B with (I + U Uᵀ)^(1/2) = I + U B Uᵀ."""
    return _of_gram(einsum("kdr,kds->krs", u, u), False)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _of_gram(gram: Float[Array, "k r r"], inverse: bool) -> Float[Array, "k r r"]:
    """The function of Uᵀ U that is 1 / (s (s + 1)) or 1 / (s + 1) of its eigenvalues s² − 1. Its derivative has divided
    differences of that in the place of the eigenvalues', so that equal ones do no harm."""
    s, vectors = _eigen(gram)
    return einsum("kri,ki,ksi->krs", vectors, 1 / (s * (s + 1)) if inverse else 1 / (s + 1), vectors)


@_of_gram.defjvp
def _of_gram_jvp(inverse: bool, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    s, vectors = _eigen(primals[0])
    a, b = s[:, :, None], s[:, None, :]
    slope = -1 / ((a + b) * (a + 1) * (b + 1))
    slope = slope * (a + b + 1) / (a * b) if inverse else slope
    inside = einsum("kri,krs,ksj->kij", vectors, tangents[0], vectors) * slope
    return _of_gram(primals[0], inverse), einsum("kri,kij,ksj->krs", vectors, inside, vectors)


def _eigen(gram: Float[Array, "k r r"]) -> tuple[Float[Array, "k r"], Float[Array, "k r r"]]:
    values, vectors = map_components(lambda one: tuple(jnp.linalg.eigh(one)), gram)
    return jnp.sqrt(1 + jnp.maximum(values, 0)), vectors


@dataclass(frozen=True)
class _OfRank:
    """Low-rank covariances of so many columns, as a family."""

    rank: int

    def __call__(self, k: int, d: int, dtype: Any = None) -> LowRank:
        return LowRank.identity(k, d, dtype, self.rank)

    def from_parameter(self, parameter: Array, k: int, d: int) -> Covariance:
        """Raises InputError, as that of the class."""
        return LowRank.from_parameter(parameter, k, d)


tied_low_rank = TiedFamily(LowRank)


def low_rank(rank: Any, tied: bool = False) -> Any:
    """The family of low-rank covariances of so many columns, of which `tied` ones share one. Raises InputError for less
    than one.

    >>> import jgmm
    >>> from sklearn.datasets import load_digits
    >>> fit = jgmm.fit_em(0, load_digits().data, 5, covariance_type=jgmm.low_rank(4), max_iter=5)
    >>> fit.gmm.covariance.factors.shape
    (5, 64, 4)
    """
    return (tied_low_rank if tied else LowRank).of_rank(rank)
