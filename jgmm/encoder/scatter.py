"""The scatter of rows: the mean and the axes that whiten them.

The covariance of the rows is one estimate. Of images there are better ones. An image is as likely as its mirror image,

    S = (C + P C Pᵀ) / 2

with the permutation P of the pixels, which has half as many unknowns, and falls into two parts, of even and of odd
features, that are summed and decomposed apart. And images differ in contrast far more than Gaussian vectors do, so that
a few of high contrast decide their covariance; in a robust scatter every image counts in units of its own contrast,

    S = c Σ_n w_n (x_n − m)(x_n − m)ᵀ,    w_n = 1 / (ν + e_n),    e_n = (x_n − m)ᵀ C⁻¹ (x_n − m) / D

which is a step from the covariance towards the likeliest scatter of a multivariate t distribution of ν D degrees of
freedom (Tyler, A distribution-free M-estimator of multivariate scatter, The Annals of Statistics 15, 1987, for ν = 0).
c makes the mean of (x − m)ᵀ S⁻¹ (x − m) / D one. Noise that the rows will be given on top adds its part to C, e_n and
S. Rows that are no more than features all have the same e_n, and S is C. docs/choices.md has what either is worth.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Real

from jgmm.encoder.moments import exact_on_devices, pieces, products
from jgmm.errors import InputError, check, short
from jgmm.numerics.processes import of_all, over_processes

# Directions with less than this share of the largest variance count as having none: below it neither the
# eigenvalues of a float64 covariance nor float32 codes carry digits.
RESOLUTION = 1e-11
# Rows, from so many places, that show where the others lie.
PLACES, SHOWN = 8, 512
# ν: the contrast, as a share of the mean, below which all rows count the same.
LEAST_CONTRAST = 0.1


class Scatter(NamedTuple):
    """Where rows lie.

    Attributes:
        mean: Their middle [P].
        variances: The eigenvalues of their scatter, falling [P].
        axes: Its eigenvectors, in rows [P, P].
    """

    mean: Float[np.ndarray, " p"]
    variances: Float[np.ndarray, " p"]
    axes: Float[np.ndarray, "p p"]


class _Part(NamedTuple):
    """Features that are linear in others: (x_left + sign x_right) / √2, and then those in `own` as they are."""

    left: np.ndarray
    right: np.ndarray
    sign: int
    own: np.ndarray

    def of(self, xp: Any, rows: Any, *more: Any) -> Any:
        """These features of rows, and more columns."""
        pairs = (rows[:, self.left] + self.sign * rows[:, self.right]) * np.sqrt(0.5).astype(rows.dtype)
        return xp.concatenate([pairs, rows[:, self.own], *more], axis=1)

    def back(self, vectors: np.ndarray, p: int) -> np.ndarray:
        """Vectors of these features, in rows, as vectors of all p."""
        n_pairs, found = len(self.left), np.zeros((len(vectors), p))
        found[:, self.left] = vectors[:, :n_pairs] * np.sqrt(0.5)
        found[:, self.right] = self.sign * found[:, self.left]
        found[:, self.own] = vectors[:, n_pairs:]
        return found


class Middle(NamedTuple):
    """Where rows lie, near enough to count from.

    Attributes:
        unit: The power of two that their deviations are near.
        inverse: Its inverse.
        center: Their middle in this unit: the sum of one row, or of two where one float32 has too few digits [m, 1, P].
    """

    unit: np.ndarray
    inverse: np.ndarray
    center: np.ndarray

    def of(self, rows: Any) -> Any:
        """Rows from the middle, in the unit."""
        rows = rows * self.inverse
        for part in self.center:
            rows = rows - part
        return rows

    def at(self, mean: np.ndarray) -> "Middle":
        """The same unit from another middle."""
        return self._replace(center=_in_parts(mean * self.inverse, len(self.center)))


def _in_parts(mean: np.ndarray, n: int) -> np.ndarray:
    """The mean, or two rows whose sum it is, the first of which is float32."""
    rounded = mean.astype(np.float32).astype(np.float64)
    return np.stack([mean] if n == 1 else [rounded, mean - rounded])[:, None]


def _middle(x: Any, mirror: np.ndarray | None) -> Middle:
    """The middle of rows from some places, the same for all processes."""
    starts = np.unique(np.linspace(0, max(len(x) - SHOWN, 0), PLACES).astype(int))
    shown = np.concatenate([np.asarray(x[start : start + SHOWN]) for start in starts])
    shown = shown.reshape(len(shown), -1).astype(np.float64)
    mean = over_processes(shown.sum(axis=0)) / over_processes(np.array(float(len(shown))))
    mean = mean if mirror is None else (mean + mean[mirror]) / 2
    away = np.array([np.abs(shown - mean).max(initial=0), np.abs(shown).max(initial=0)])
    away = of_all(away[None]).max(axis=0)
    unit = np.exp2(np.round(np.log2(next((a for a in away if 0 < a < np.inf), 1.0))))
    return Middle(unit, 1 / unit, _in_parts(mean / unit, 2 if exact_on_devices(x.dtype) else 1))


def mean_and_covariance(x: Real[np.ndarray, "n p"], scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The mean and covariance (divisor N) of scale · x."""
    middle = _middle(x, None)
    mean, _, (covariance,) = _covariances(x, None, middle, parts_of(x.shape[1], None))
    return mean * scale, covariance * scale * scale


def scatter_of(
    x: Any,
    *,
    weight: Float[np.ndarray, " n"] | None = None,
    scale: float = 1.0,
    noise_variance: float = 0.0,
    mirror: Int[np.ndarray, " p"] | None = None,
    robust: bool = False,
    dtype: Any = np.float64,
) -> Scatter:
    """The scatter of the rows of scale · x.

    Args:
        x: Rows of numbers of any type, an array or a stream [N, ...]; of several processes, each has its own.
        weight: How often each row counts; None for once.
        scale: Of the features.
        noise_variance: Of independent noise that the features will be given on top.
        mirror: P, the feature that each feature changes places with in a row that is as likely; an involution.
        robust: Whether every row counts in units of its own contrast.
        dtype: The type whose range the squares of the features must keep within.
    Raises:
        InputError: For data that are not finite, too large to square, or constant, and a mirror that is none.
    """
    p = int(np.prod(x.shape[1:]))
    parts = parts_of(p, mirror)
    with np.errstate(over="ignore", invalid="ignore"):
        middle = _middle(x, mirror)
        mean, total, covariances = _covariances(x, weight, middle, parts)
        covariances = [c * scale**2 for c in covariances]
        largest = max(float(c.max(initial=0)) for c in covariances)
    if not largest < float(np.finfo(dtype).max) ** 0.5:  # false for NaN too
        finite = all(np.isfinite(rows).all() for rows, _ in pieces(x, None))
        check(finite, "the data contain NaN or infinite values: remove those rows first.")
        raise InputError(f"the data are too large to square in {np.dtype(dtype)}: rescale them to a deviation near 1.")
    found = [_eigen(c, noise_variance) for c in covariances]
    constant = np.finfo(np.float64).eps * float(np.abs(mean * scale).max(initial=0)) ** 2
    varies = max(values.max() for values, _ in found) - noise_variance > constant
    check(varies, "the data are constant: every row is the same, there is nothing to fit.")
    if robust:
        found = _robust(x, weight, total, middle.at(mean), scale, parts, covariances, found, noise_variance)
    variances = np.concatenate([values for values, _ in found])
    axes = np.concatenate([part.back(v.T, p) for part, (_, v) in zip(parts, found, strict=True)])
    order = np.argsort(-variances, kind="stable")
    return Scatter(mean * scale, variances[order], axes[order])


def parts_of(p: int, mirror: np.ndarray | None) -> list[_Part]:
    """Parts that rows and their mirror images are uncorrelated in: all features, or the even and the odd ones."""
    every, none = np.arange(p), np.arange(0)
    if mirror is None:
        return [_Part(none, none, 1, every)]
    whole = isinstance(mirror, np.ndarray) and mirror.shape == (p,) and np.issubdtype(mirror.dtype, np.integer)
    inside = whole and bool(((mirror >= 0) & (mirror < p)).all())
    back = inside and np.array_equal(mirror[mirror], every)
    check(back, f"a mirror must be {p} features, and bring them back when it is applied twice, got {short(mirror)}.")
    left = np.flatnonzero(every < mirror)
    even, odd = _Part(left, mirror[left], 1, np.flatnonzero(every == mirror)), _Part(left, mirror[left], -1, none)
    return [even, odd] if left.size else [even]


def _root(xp: Any, rows: Any, weight: Any) -> Any:
    """The root of how often rows count, a column in their dtype."""
    return (xp.ones(len(rows)) if weight is None else xp.sqrt(weight)).astype(rows.dtype)[:, None]


def counted(xp: Any, rows: Any, weight: Any, shared: tuple[Middle, list[_Part]]) -> list[Any]:
    """Rows from the middle, in parts, and a column of ones, all of them times the root of how often they count."""
    middle, parts = shared
    centered = middle.of(rows)
    root = _root(xp, centered, weight)
    if weight is not None:
        centered = centered * root
    return [part.of(xp, centered, root) for part in parts]


def _covariances(
    x: Any, weight: np.ndarray | None, middle: Middle, parts: list[_Part]
) -> tuple[np.ndarray, float, list[np.ndarray]]:
    """The mean of the rows, how many there are, and their covariances in all parts, from one pass over them."""
    totals = products(counted, (middle, parts), x, weight)
    count = float(totals[0][-1, -1])
    shift = totals[0][:-1, -1] / count  # of the mean from the middle; that of odd features is zero
    moments = [total[:-1, :-1] / count for total in totals]
    moments[0] -= np.outer(shift, shift)
    p = middle.center.shape[-1]
    mean = (middle.center.sum(axis=(0, 1)) + parts[0].back(shift[None], p)[0]) * middle.unit
    return mean, count, [moment * middle.unit**2 for moment in moments]


def _eigen(covariance: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    variances, vectors = np.linalg.eigh(covariance)
    return np.maximum(variances, 0) + noise, vectors


class _Whitened(NamedTuple):
    """What it takes to whiten rows: their middle and parts, a matrix for each part, and the part of noise in their
    energies, of so many directions in all."""

    middle: Middle
    parts: list[_Part]
    whiten: list[np.ndarray]
    from_noise: np.ndarray
    rank: np.ndarray


def _of_own_contrast(xp: Any, rows: Any, weight: Any, shared: _Whitened) -> list[Any]:
    """Whitened rows in units of their own contrast, in parts, and a column of these units."""
    centered = shared.middle.of(rows).astype(np.float32)
    z = [part.of(xp, centered) @ w for part, w in zip(shared.parts, shared.whiten, strict=True)]
    energy = (sum((one * one).sum(axis=1) for one in z) + shared.from_noise) / shared.rank
    root = _root(xp, centered, (1 if weight is None else weight) / (LEAST_CONTRAST + energy))
    return [xp.concatenate([one * root, root], axis=1) for one in z]


def _robust(
    x: Any,
    weight: np.ndarray | None,
    count: float,
    middle: Middle,
    scale: float,
    parts: list[_Part],
    covariances: list[np.ndarray],
    found: list[tuple[np.ndarray, np.ndarray]],
    noise: float,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The eigenvalues and eigenvectors of the robust scatter. Its sums are taken in the coordinates that the covariance
    whitens, where float32 has all the digits that are needed."""
    kept = [(values[used], v[:, used]) for (values, v), used in zip(found, _with_variance(found), strict=True)]
    unit = float(middle.unit) * scale
    whiten = [(v * (unit / np.sqrt(values))).astype(np.float32) for values, v in kept]
    rank = np.array(sum(len(values) for values, _ in kept))
    from_noise = np.array(noise * sum(float((1 / values).sum()) for values, _ in kept))
    totals = products(_of_own_contrast, _Whitened(middle, parts, whiten, from_noise, rank), x, weight)
    mean_share = float(totals[0][-1, -1]) / count
    robust = []
    for (values, v), total in zip(kept, totals, strict=True):
        color = v * np.sqrt(values)
        robust.append(_eigen(color @ (total[:-1, :-1] / count) @ color.T, mean_share * noise))
    return _of_mean_one(robust, covariances, noise)


def _of_mean_one(
    robust: list[tuple[np.ndarray, np.ndarray]], covariances: list[np.ndarray], noise: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The scatter times the mean of what the rows measure in it."""
    energies, rank = 0.0, 0
    for (values, v), covariance, used in zip(robust, covariances, _with_variance(robust), strict=True):
        seen = v[:, used]
        energies += float(((((covariance @ seen) * seen).sum(axis=0) + noise) / values[used]).sum())
        rank += int(used.sum())
    return [(values * (energies / rank), v) for values, v in robust]


def _with_variance(found: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Which directions of every part count as having any."""
    least = RESOLUTION * max(values.max() for values, _ in found)
    return [values > least for values, _ in found]
