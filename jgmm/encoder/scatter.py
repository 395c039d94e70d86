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

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Real

from jgmm.errors import InputError, check, short
from jgmm.numerics.processes import over_processes

# Directions with less than this share of the largest variance count as having none: below it neither the
# eigenvalues of a float64 covariance nor float32 codes carry digits.
RESOLUTION = 1e-11
# Rows taken at a time while a scatter is summed.
ROWS = 4096
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

    def of(self, rows: np.ndarray) -> np.ndarray:
        pairs = (rows[:, self.left] + self.sign * rows[:, self.right]) * rows.dtype.type(np.sqrt(0.5))
        return np.concatenate([pairs, rows[:, self.own]], axis=1)

    def back(self, vectors: np.ndarray, p: int) -> np.ndarray:
        """Vectors of these features, in rows, as vectors of all p."""
        n_pairs, found = len(self.left), np.zeros((len(vectors), p))
        found[:, self.left] = vectors[:, :n_pairs] * np.sqrt(0.5)
        found[:, self.right] = self.sign * found[:, self.left]
        found[:, self.own] = vectors[:, n_pairs:]
        return found


def mean_and_covariance(x: Real[np.ndarray, "n p"], scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The mean and covariance (divisor N) of scale · x, summed in float64 about the mean."""
    mean, total = _mean(x, None)
    (covariance,) = _covariances(x, None, mean, total, _parts(x.shape[1], None))
    return mean * scale, covariance * scale * scale


def _pieces(x: Any, weight: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Some rows at a time, flat, and how often they count."""
    for start in range(0, len(x), ROWS):
        rows = np.asarray(x[start : start + ROWS])
        yield rows.reshape(len(rows), -1), None if weight is None else weight[start : start + ROWS]


def _mean(x: Any, weight: np.ndarray | None) -> tuple[np.ndarray, float]:
    """The mean of the rows of all processes, and how many there are."""
    first, count = np.zeros(int(np.prod(x.shape[1:]))), 0.0
    for rows, w in _pieces(x, weight):
        first += rows.sum(axis=0, dtype=np.float64) if w is None else w @ rows
        count += len(rows) if w is None else float(w.sum())
    first, count = over_processes(first), float(over_processes(np.array(count)))
    return first / count, count


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
    parts = _parts(p, mirror)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, total = _mean(x, weight)
        mean = mean if mirror is None else (mean + mean[mirror]) / 2
        covariances = [c * scale**2 for c in _covariances(x, weight, mean, total, parts)]
        largest = max(float(c.max(initial=0)) for c in covariances)
    if not largest < float(np.finfo(dtype).max) ** 0.5:  # false for NaN too
        finite = all(np.isfinite(rows).all() for rows, _ in _pieces(x, None))
        check(finite, "the data contain NaN or infinite values: remove those rows first.")
        raise InputError(f"the data are too large to square in {np.dtype(dtype)}: rescale them to a deviation near 1.")
    found = [_eigen(c, noise_variance) for c in covariances]
    constant = np.finfo(np.float64).eps * float(np.abs(mean * scale).max(initial=0)) ** 2
    varies = max(values.max() for values, _ in found) - noise_variance > constant
    check(varies, "the data are constant: every row is the same, there is nothing to fit.")
    if robust:
        found = _robust(x, weight, total, mean, scale, parts, covariances, found, noise_variance)
    variances = np.concatenate([values for values, _ in found])
    axes = np.concatenate([part.back(v.T, p) for part, (_, v) in zip(parts, found, strict=True)])
    order = np.argsort(-variances, kind="stable")
    return Scatter(mean * scale, variances[order], axes[order])


def _parts(p: int, mirror: np.ndarray | None) -> list[_Part]:
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


def _covariances(
    x: Any, weight: np.ndarray | None, mean: np.ndarray, count: float, parts: list[_Part]
) -> list[np.ndarray]:
    totals = [np.zeros((q, q)) for q in (len(part.left) + len(part.own) for part in parts)]
    for rows, w in _pieces(x, weight):
        centered = rows - mean
        if w is not None:
            centered *= np.sqrt(w)[:, None]
        for total, part in zip(totals, parts, strict=True):
            y = part.of(centered)
            total += y.T @ y
    return [over_processes(total) / count for total in totals]


def _eigen(covariance: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    variances, vectors = np.linalg.eigh(covariance)
    return np.maximum(variances, 0) + noise, vectors


def _robust(
    x: Any,
    weight: np.ndarray | None,
    count: float,
    mean: np.ndarray,
    scale: float,
    parts: list[_Part],
    covariances: list[np.ndarray],
    found: list[tuple[np.ndarray, np.ndarray]],
    noise: float,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The eigenvalues and eigenvectors of the robust scatter. Its sums are taken in the coordinates that the covariance
    whitens, where float32 has all the digits that are needed."""
    kept = [(values[used], v[:, used]) for (values, v), used in zip(found, _with_variance(found), strict=True)]
    unit = float(np.sqrt(max(values.max(initial=0) for values, _ in kept)))
    whiten = [(v * (unit / np.sqrt(values))).astype(np.float32) for values, v in kept]
    rank = sum(len(values) for values, _ in kept)
    from_noise = noise * sum(float((1 / values).sum()) for values, _ in kept)
    totals, shares = [np.zeros((w.shape[1], w.shape[1])) for w in whiten], 0.0
    for rows, often in _pieces(x, weight):
        centered = ((rows - mean) * (scale / unit)).astype(np.float32)
        z = [part.of(centered) @ w for part, w in zip(parts, whiten, strict=True)]
        energy = (sum((one * one).sum(axis=1, dtype=np.float64) for one in z) + from_noise) / rank
        w = (1 if often is None else often) / (LEAST_CONTRAST + energy)
        shares += float(w.sum())
        root = np.sqrt(w)[:, None].astype(np.float32)
        for total, one in zip(totals, z, strict=True):
            one *= root
            total += one.T @ one
    robust, shares = [], float(over_processes(np.array(shares)))
    for (values, v), total in zip(kept, totals, strict=True):
        color = v * np.sqrt(values)
        robust.append(_eigen(color @ over_processes(total) @ color.T / count, shares / count * noise))
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
