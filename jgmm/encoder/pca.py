"""Principal component analysis (PCA): into the whitened principal basis, and back.

    z = diag(scale)⁻¹ V (x − mean),        x = mean + Vᵀ diag(scale) z,        log |∂z/∂x| = −Σ log scale

The rows of V are principal directions in falling order of variance, scale their standard deviations. The first
`n_codes` entries of z are the codes that a mixture models; the others are the residual, standard normal, so
that the model remains a density over all of x (Tipping and Bishop, Probabilistic principal component analysis,
1999, is the isotropic case).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import DTypeLike

from jgmm.covariance.base import Covariance
from jgmm.data.streams import Stream
from jgmm.encoder.base import Encoder
from jgmm.encoder.scatter import RESOLUTION, scatter_of
from jgmm.errors import InputError, check, check_count, check_number, short
from jgmm.numerics.arguments import check_kind, check_table
from jgmm.numerics.linalg import matmul
from jgmm.numerics.pytree import pytree
from jgmm.registry import RESIDUALS


@pytree
class PCA(Encoder):
    """Fitted principal components; `components` has a row for every feature of x, or n_codes rows without a residual.

    >>> import numpy as np
    >>> from jgmm.encoder.pca import fit_pca
    >>> x = np.random.default_rng(0).normal(size=(200, 3)) * [3.0, 1.0, 0.1]
    >>> pca, spectrum = fit_pca(x, 2)
    >>> pca.n_codes, pca.n_residual, bool(spectrum.explained > 0.99)
    (2, 1, True)
    """

    mean: Float[Array, " p"]
    components: Float[Array, "m p"]
    scale: Float[Array, " m"]
    n_codes: int = field(metadata={"static": True})

    name: ClassVar[str] = "pca"

    @classmethod
    def fit(cls, x: Float[Array, "n p"]) -> "PCA":
        return fit_pca(np.asarray(x), dtype=x.dtype)[0]

    @property
    def n_residual(self) -> int:
        return self.components.shape[0] - self.n_codes

    @property
    def has_density(self) -> bool:
        return self.components.shape[0] == self.components.shape[1]

    def encode(self, x: Float[Array, "n p"]) -> Float[Array, "n d"]:
        return self._project(x, slice(None, self.n_codes))

    def residual(self, x: Float[Array, "n p"]) -> Float[Array, "n q"]:
        return self._project(x, slice(self.n_codes, None))

    def decode(self, z: Float[Array, "n d"], residual: Float[Array, "n q"]) -> Float[Array, "n p"]:
        whole = jnp.concatenate([z, residual], axis=1) * self.scale[None]
        return self.mean[None] + matmul(whole, self.components)

    def jacobian(self, features: Int[Array, " a"]) -> Float[Array, "a m"]:
        return (self.components[:, features] * self.scale[:, None]).T

    def log_det(self) -> Float[Array, ""]:
        return -jnp.log(self.scale).sum()

    def image_variance(self, covariance: Covariance) -> Float[Array, "#k p"]:
        a = self.components * self.scale[:, None]  # rows of ∂x/∂z, transposed
        codes, rest = a[: self.n_codes], a[self.n_codes :]
        return covariance.image_variance(codes.T) + (rest**2).sum(axis=0)[None]

    def code_variances(self) -> Float[Array, " d"]:
        return self.scale[: self.n_codes] ** 2

    def _project(self, x: Array, rows: slice) -> Array:
        return matmul(x - self.mean[None], self.components[rows].T) / self.scale[rows][None]


@dataclass(frozen=True)
class Spectrum:
    """What a PCA found in the data, in float64 on the host.

    Attributes:
        variances: the eigenvalues of the covariance of x (divisor N), or of its robust scatter, falling.
        rank: how many of them are above the resolution; the others are directions without variance.
        floor: the variance those directions are given.
        n_codes: how many directions are kept as codes.
    """

    variances: np.ndarray
    rank: int
    floor: float
    n_codes: int

    @property
    def explained(self) -> float:
        """The share of the variance that the codes keep, from 0 to 1."""
        return float(self.variances[: self.n_codes].sum() / self.variances.sum())


def keep_spectrum(dropped: np.ndarray) -> np.ndarray:
    """Every dropped direction keeps its own variance."""
    return dropped


def keep_mean(dropped: np.ndarray) -> np.ndarray:
    """All dropped directions share their mean variance: probabilistic PCA."""
    return np.full_like(dropped, dropped.mean()) if dropped.size else dropped


def keep_none(dropped: np.ndarray) -> None:
    """Dropped directions are lost: a plain projection, without a density over x."""
    return


def fit_pca(
    x: Any,
    n_components: int | None = None,
    *,
    weight: Any = None,
    residual: str | Callable[[np.ndarray], np.ndarray | None] = "spectrum",
    scale: float = 1.0,
    shift: float = 0.0,
    noise_variance: float = 0.0,
    mirror: Int[np.ndarray, " p"] | None = None,
    robust: bool = False,
    floor: float | None = None,
    dtype: DTypeLike = np.float32,
) -> tuple[PCA, Spectrum]:
    """The principal components of the rows of scale · x + shift.

    The spectrum of natural images spans eight decades, of which a float32 covariance keeps seven: sums lose no digits
    on any device (`jgmm.encoder.moments`), and the eigendecomposition is done in float64 on the host.

    Args:
        x: rows [N, P] of numbers of any type; 8-bit pixels need not be converted first (`scale`, `shift`). A stream
            (`jgmm.stream`), whose rows may have any shape, is read some rows at a time.
        n_components: how many directions become codes; None for all. Directions without variance never do.
        weight: how often each row counts [N]; None for once.
        residual: what becomes of the others, a name in `jgmm.registry.RESIDUALS`, or a function.
        noise_variance: of independent noise that the features will be given on top, such as dequantization.
        mirror: the feature that each changes places with in a row that is as likely (`jgmm.encoder.scatter`).
        robust: whether the components are those of a robust scatter, in the place of the covariance.
        floor: the variance of directions without any; None for 1e-6 of the mean variance.
        dtype: of the result.
    Raises:
        InputError: For n_components outside 1..min(n, p), and for data that are all constant or not finite.
    """
    x = x if isinstance(x, Stream) else check_table("x", x)
    n, p = len(x), int(np.prod(x.shape[1:]))
    weight = None if weight is None else _checked(weight, n)
    if n_components is not None:
        n_components = check_count("n_components", n_components, most=min(n, p))
    for name, value in {"scale": scale, "shift": shift}.items():
        check_number(name, value)
    check_number("noise_variance", noise_variance, least=0)
    check(_is_single_or_double(dtype), f"dtype must be float32 or float64, got {short(dtype)}.")
    if floor is not None:
        check_number("floor", floor, least=0, open_ends=True)
    check_kind("robust", robust, (bool, np.bool_), "True or False")
    whole = n_components in (None, p) or not robust
    check(whole, "the variances that a robust scatter gives to directions that are dropped are not theirs: keep all.")
    keep = RESIDUALS.resolve(residual)
    mean, variances, axes = scatter_of(
        x, weight=weight, scale=scale, noise_variance=noise_variance, mirror=mirror, robust=robust, dtype=dtype
    )
    rank = int((variances > RESOLUTION * variances[0]).sum())
    floor = 1e-6 * float(variances.mean()) if floor is None else floor
    n_codes = min(n_components or p, rank)
    used = np.where(np.arange(p) < rank, variances, floor)
    if n_codes < p:
        rest = keep(used[n_codes:])
        used = used[:n_codes] if rest is None else np.concatenate([used[:n_codes], rest])
    pca = PCA(
        jnp.asarray((mean + shift).astype(dtype)),
        jnp.asarray(axes[: len(used)].astype(dtype)),
        jnp.asarray(np.sqrt(used).astype(dtype)),
        n_codes,
    )
    return pca, Spectrum(variances, rank, floor, n_codes)


def _checked(weight: Any, n: int) -> np.ndarray:
    """How often n rows count. Raises InputError for anything else."""
    try:
        often = np.asarray(weight, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"weight must be {n} numbers, got {short(weight)}.") from error
    check(often.shape == (n,), f"weight must be {n} numbers, got {short(weight)}.")
    positive = bool(np.isfinite(often).all()) and bool((often >= 0).all()) and bool((often > 0).any())
    check(positive, "weight must be numbers from 0, and not all 0.")
    return often


def _is_single_or_double(dtype: Any) -> bool:
    try:
        return dtype is not None and np.dtype(dtype).name in ("float32", "float64")
    except (TypeError, ValueError):
        return False
