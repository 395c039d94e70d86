"""What EM does with covariances, in NumPy: the families of `jgmm.covariance` whose leaf is one array.

A leaf is what the family's pytree holds: Cholesky factors [K, D, D], variances [K, D], or variances [K]; of tied
covariances, K is 1.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from jaxtyping import Array

from jgmm.covariance.base import Covariance, Family
from jgmm.covariance.diag import Diag
from jgmm.covariance.full import Full
from jgmm.covariance.prior import Floor, Prior
from jgmm.covariance.spherical import Spherical
from jgmm.covariance.tied import Tied, TiedFamily
from jgmm.registry import COVARIANCES

# Squared distances are expanded into products where no term is larger than this: their error is below 1e-6 then.
LARGEST = 2.0**32
# Moments are, where that takes no more digits than this: the error is below 1e-9 of them.
LOSS = 2.0**22
# Arrays [K, D, N] up to this size are made at once: longer than that, a component after the other is faster.
AT_ONCE = 2**17
# Responsibilities below this do not change moments.
NEGLIGIBLE = 1e-15


class Beliefs(NamedTuple):
    """A prior and a floor (`jgmm.covariance.prior`) as NumPy arrays; the variances are [1, D], or [K, D] where the
    prior is told for every component."""

    strength: float
    variance: np.ndarray
    mean_strength: float
    mean: np.ndarray
    absolute: float
    relative: float

    @classmethod
    def of(cls, prior: Prior, floor: Floor, d: int) -> "Beliefs":
        variance = np.atleast_2d(np.asarray(prior.variance, np.float64))
        variance = np.broadcast_to(variance, (len(variance), d))
        relative = d * np.finfo(np.float64).eps if floor.relative is None else float(floor.relative)
        mean = np.broadcast_to(np.asarray(prior.mean, np.float64), (d,))
        return cls(float(prior.strength), variance, float(prior.mean_strength), mean, float(floor.absolute), relative)


class Arithmetic(ABC):
    """The arithmetic of a family, tied or not."""

    def __init__(self, tied: bool):
        self.tied = tied

    @abstractmethod
    def inverse(self, leaf: np.ndarray) -> np.ndarray:
        """What whitens: inverse Cholesky factors, or inverse variances, in the shape of the leaf."""

    @abstractmethod
    def distances(self, x: np.ndarray, means: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        """(x_n − μ_k)ᵀ Σ_k⁻¹ (x_n − μ_k), [K, N]."""

    @abstractmethod
    def log_det(self, leaf: np.ndarray, d: int) -> np.ndarray:
        """log |Σ_k|, [K] or [1]."""

    @abstractmethod
    def inverse_diagonal(self, leaf: np.ndarray, d: int) -> np.ndarray:
        """diag Σ_k⁻¹, [K, D] or [1, D]."""

    @abstractmethod
    def moments(self, x: np.ndarray, r: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Σ_n r_kn (x_n − μ_k)(x_n − μ_k)ᵀ: matrices [K, D, D], or their diagonals [K, D]."""

    @abstractmethod
    def mode(self, scatter: np.ndarray, counts: np.ndarray, beliefs: Beliefs) -> np.ndarray:
        """The leaf given moments, n_k and what is believed."""

    def update(self, scatter: np.ndarray, counts: np.ndarray, beliefs: Beliefs) -> np.ndarray:
        """`mode`, of the sums over components where the covariance is tied."""
        if self.tied:
            shared = beliefs._replace(variance=beliefs.variance.mean(axis=0, keepdims=True))
            return self.mode(scatter.sum(axis=0, keepdims=True), counts.sum(keepdims=True), shared)
        return self.mode(scatter, counts, beliefs)

    @abstractmethod
    def thinnest(self, leaf: np.ndarray) -> np.ndarray:
        """The least variance of a feature given those before it, [K] or [1]: near the floor where Σ_k is singular."""

    @abstractmethod
    def scaled(self, leaf: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """The leaf of diag(scale) Σ_k diag(scale)."""

    @abstractmethod
    def dense(self, leaf: np.ndarray) -> np.ndarray:
        """Σ_k as scikit-learn writes them: [K, D, D], [K, D] or [K], or without K where there is one for all."""

    @abstractmethod
    def leaf(self, covariances: np.ndarray) -> np.ndarray:
        """The inverse of `dense`. Raises numpy.linalg.LinAlgError for matrices that are not positive definite."""

    @abstractmethod
    def precisions(self, leaf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Σ_k⁻¹, and what scikit-learn calls their Cholesky factors, as it writes them."""

    @abstractmethod
    def reordered(self, covariances: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Covariances as scikit-learn writes them, of features in another order."""

    def covariance(self, leaf: Array, d: int) -> Covariance:
        """The family's pytree around a leaf."""
        one = self._wrapped(leaf, d)
        return Tied(one) if self.tied else one

    @abstractmethod
    def _wrapped(self, leaf: Array, d: int) -> Covariance: ...


class Matrices(Arithmetic):
    """Full covariances."""

    def inverse(self, leaf: np.ndarray) -> np.ndarray:
        return np.tril(np.linalg.inv(leaf))

    def distances(self, x: np.ndarray, means: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        if self.tied:
            return squared_distances(x @ inverse[0].T, means @ inverse[0].T, np.ones((1, x.shape[1])))
        if means.size * len(x) <= AT_ONCE:
            y = inverse @ (np.ascontiguousarray(x.T) - means[:, :, None])
            return np.einsum("kdn,kdn->kn", y, y)
        out = np.empty((len(means), len(x)))
        for k, (mean, whitener) in enumerate(zip(means, inverse, strict=True)):
            y = (x - mean) @ whitener.T
            np.einsum("nd,nd->n", y, y, out=out[k])
        return out

    def log_det(self, leaf: np.ndarray, d: int) -> np.ndarray:
        return 2 * np.log(np.diagonal(leaf, axis1=1, axis2=2)).sum(axis=1)

    def inverse_diagonal(self, leaf: np.ndarray, d: int) -> np.ndarray:
        return (np.linalg.inv(leaf) ** 2).sum(axis=1)

    def moments(self, x: np.ndarray, r: np.ndarray, means: np.ndarray) -> np.ndarray:
        if self.tied:
            return _pooled(x, r, means)[None]
        if means.size * len(x) <= AT_ONCE:
            y = np.ascontiguousarray(x.T) - means[:, :, None]
            return (y * r[:, None]) @ y.swapaxes(1, 2)
        out = np.empty((len(means), x.shape[1], x.shape[1]))
        for k, mean in enumerate(means):
            live = np.flatnonzero(r[k] > NEGLIGIBLE)
            y = (x[live] - mean) * np.sqrt(r[k, live])[:, None]
            out[k] = y.T @ y
        return out

    def mode(self, scatter: np.ndarray, counts: np.ndarray, beliefs: Beliefs) -> np.ndarray:
        d = scatter.shape[-1]
        total = np.maximum(counts + beliefs.strength, np.finfo(np.float64).tiny)
        covariance = scatter / total[:, None, None]
        diagonal = np.einsum("kdd->kd", covariance)  # a view, which is written to
        diagonal += beliefs.strength * beliefs.variance / total[:, None]
        diagonal += (beliefs.absolute + beliefs.relative * diagonal.sum(axis=1) / d)[:, None]
        return np.linalg.cholesky(covariance)

    def thinnest(self, leaf: np.ndarray) -> np.ndarray:
        return (np.diagonal(leaf, axis1=1, axis2=2) ** 2).min(axis=1)

    def scaled(self, leaf: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return scale[:, None] * leaf

    def dense(self, leaf: np.ndarray) -> np.ndarray:
        covariances = leaf @ leaf.swapaxes(1, 2)
        return covariances[0] if self.tied else covariances

    def leaf(self, covariances: np.ndarray) -> np.ndarray:
        return np.linalg.cholesky(covariances[None] if self.tied else covariances)

    def precisions(self, leaf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inverse = self.inverse(leaf)
        roots = inverse.swapaxes(1, 2)
        found = roots @ inverse, roots
        return (found[0][0], found[1][0]) if self.tied else found

    def reordered(self, covariances: np.ndarray, order: np.ndarray) -> np.ndarray:
        return covariances[..., order[:, None], order[None]]

    def _wrapped(self, leaf: Array, d: int) -> Covariance:
        return Full(leaf)


class Diagonals(Arithmetic):
    """Diagonal covariances."""

    def inverse(self, leaf: np.ndarray) -> np.ndarray:
        return 1 / leaf

    def distances(self, x: np.ndarray, means: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        return squared_distances(x, means, inverse)

    def log_det(self, leaf: np.ndarray, d: int) -> np.ndarray:
        return np.log(leaf).sum(axis=1)

    def inverse_diagonal(self, leaf: np.ndarray, d: int) -> np.ndarray:
        return 1 / leaf

    def moments(self, x: np.ndarray, r: np.ndarray, means: np.ndarray) -> np.ndarray:
        size = r @ (x * x) + r.sum(axis=1)[:, None] * means**2
        out = size - 2 * means * (r @ x)
        for k in np.flatnonzero((size > LOSS * out).any(axis=1)):
            live = np.flatnonzero(r[k] > NEGLIGIBLE)
            out[k] = r[k, live] @ (x[live] - means[k]) ** 2
        return out

    def mode(self, scatter: np.ndarray, counts: np.ndarray, beliefs: Beliefs) -> np.ndarray:
        total = np.maximum(counts + beliefs.strength, np.finfo(np.float64).tiny)
        return (scatter + beliefs.strength * beliefs.variance) / total[:, None] + beliefs.absolute

    def thinnest(self, leaf: np.ndarray) -> np.ndarray:
        return leaf.min(axis=1)

    def scaled(self, leaf: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return leaf * scale * scale

    def dense(self, leaf: np.ndarray) -> np.ndarray:
        return np.asarray(leaf[0]) if self.tied else leaf

    def leaf(self, covariances: np.ndarray) -> np.ndarray:
        return np.asarray(covariances)[None] if self.tied else covariances

    def precisions(self, leaf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inverse = self.inverse(leaf)
        return self.dense(inverse), self.dense(np.sqrt(inverse))

    def reordered(self, covariances: np.ndarray, order: np.ndarray) -> np.ndarray:
        return covariances[..., order]

    def _wrapped(self, leaf: Array, d: int) -> Covariance:
        return Diag(leaf)


class Spheres(Diagonals):
    """Spherical covariances: the mean of the diagonal."""

    def distances(self, x: np.ndarray, means: np.ndarray, inverse: np.ndarray) -> np.ndarray:
        return super().distances(x, means, np.broadcast_to(inverse[:, None], (len(inverse), x.shape[1])))

    def log_det(self, leaf: np.ndarray, d: int) -> np.ndarray:
        return d * np.log(leaf)

    def inverse_diagonal(self, leaf: np.ndarray, d: int) -> np.ndarray:
        return np.broadcast_to(1 / leaf[:, None], (len(leaf), d))

    def mode(self, scatter: np.ndarray, counts: np.ndarray, beliefs: Beliefs) -> np.ndarray:
        return super().mode(scatter, counts, beliefs).mean(axis=1)

    def thinnest(self, leaf: np.ndarray) -> np.ndarray:
        return leaf

    def reordered(self, covariances: np.ndarray, order: np.ndarray) -> np.ndarray:
        return covariances

    def scaled(self, leaf: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return leaf * scale[0] * scale[0]

    def _wrapped(self, leaf: Array, d: int) -> Covariance:
        return Spherical(leaf, d)


def squared_distances(x: np.ndarray, means: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Σ_d p_kd (x_nd − μ_kd)², [K, N]; `precision` is [K, D] or [1, D]."""
    precision = np.broadcast_to(precision, means.shape)
    weighted = precision * means
    size = precision @ (x * x).T + (weighted * means).sum(axis=1)[:, None]
    out = size - 2 * weighted @ x.T
    for k in np.flatnonzero(size.max(axis=1) > LARGEST):
        out[k] = (x - means[k]) ** 2 @ precision[k]
    return np.maximum(out, 0)


def _pooled(x: np.ndarray, r: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Σ_kn r_kn (x_n − μ_k)(x_n − μ_k)ᵀ by one product, as `Full.pooled_moments`."""
    weight = r.sum(axis=0)
    share = r / np.where(weight > 0, weight, 1)
    y = (x - share.T @ means) * np.sqrt(weight)[:, None]
    overlap = r @ share.T
    np.fill_diagonal(overlap, 0)
    between = overlap.sum(axis=1)[:, None] * means - overlap @ means
    return y.T @ y + means.T @ between


FAMILIES: dict[type, type[Arithmetic]] = {Full: Matrices, Diag: Diagonals, Spherical: Spheres}


def arithmetic_of(family: Family) -> Arithmetic | None:
    """The arithmetic of a family given by name, class or function; None for one that NumPy does not know."""
    found = COVARIANCES.resolve(family)
    tied = found is Tied or isinstance(found, TiedFamily)
    shared = (Full if found is Tied else found.shared) if tied else found
    known = FAMILIES.get(shared) if isinstance(shared, type) else None
    return None if known is None else known(tied)
