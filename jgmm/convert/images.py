"""Sources of images as SourceFM's script writes them: a pickle {'gmm', 'pca'} of scikit-learn's estimators fitted to
images in [-1, 1], channel by channel, and statistics {'mean', 'std'} of its draws [1, C, H, W].

Images of jgmm are [H, W, C]; features change places on the way. That script gives every channel the mean of its pixels'
means, and of their deviations, and so does a source that is read.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jgmm.convert.estimators import EXACT, check_fitted, fitted, from_arrays, scikit_learns
from jgmm.covariance.full import Full
from jgmm.em.small.families import arithmetic_of
from jgmm.encoder.base import Encoder, decode_means
from jgmm.encoder.identity import Identity
from jgmm.encoder.pca import PCA
from jgmm.errors import InputError, check, short
from jgmm.mixture import GMM
from jgmm.registry import COVARIANCES
from jgmm.source import Source


def channels_first(shape: tuple[int, int, int]) -> Int[np.ndarray, " d"]:
    """The place in an image [H, W, C] of every feature of the same image as [C, H, W].

    >>> from jgmm.convert.images import channels_first
    >>> channels_first((1, 2, 3)).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    return np.arange(math.prod(shape)).reshape(shape).transpose(2, 0, 1).ravel()


def source_from(
    content: dict[str, Any], statistics: dict[str, Any] | None, shape: tuple[int, int, int] | None = None
) -> Source:
    """The source that the two files say.

    Args:
        content: 'gmm' and 'pca', fitted estimators, or what has their attributes.
        statistics: 'mean' and 'std' [1, C, H, W]; None for pixels in [-1, 1] as they are.
        shape: Of an image (H, W, C); None tells it from the statistics, or as a square of three channels.
    Raises:
        InputError: For parts that are missing, and shapes that do not fit.
    """
    estimator: Any = content.get("gmm")
    pca = content.get("pca")
    check(estimator is not None, f"expected a dictionary with 'gmm' and 'pca', got {short(list(content))}.")
    check_fitted(estimator)
    means = np.asarray(estimator.means_)
    check(means.ndim == 2, f"means must have shape (k, d), got {means.shape}.")
    if pca is not None:
        missing = [name for name in ("mean_", "components_", "explained_variance_") if not hasattr(pca, name)]
        check(not missing, f"expected a fitted PCA, got {short(pca)} without {', '.join(missing)}.")
    p = means.shape[1] if pca is None else np.asarray(pca.components_).shape[1]
    if statistics is not None:
        mean, std = _maps(statistics, p)
        shape = (mean.shape[2], mean.shape[3], mean.shape[1])
    shape = _shape(p, shape)
    family, order = estimator.covariance_type, np.argsort(channels_first(shape))
    if pca is None:
        arithmetic = arithmetic_of(family) if isinstance(family, str) and family in COVARIANCES else None
        check(arithmetic is not None, f"{short(family)} covariances have no form in scikit-learn.")
        covariances = _turned(arithmetic, np.asarray(estimator.covariances_), order)
        exact = getattr(estimator, EXACT, None)
        gmm = from_arrays(estimator.weights_, means[:, order], covariances, family, exact)
        encoder: Encoder = Identity(p)
    else:
        gmm = from_arrays(estimator.weights_, means, estimator.covariances_, family)
        encoder = _encoder(pca, order, gmm.dtype)
        check(encoder.n_codes == gmm.d, f"the PCA has {encoder.n_codes} components, the mixture {gmm.d} features.")
    if statistics is None:
        return Source(gmm, encoder, jnp.zeros((1, 1, 1), gmm.dtype), jnp.ones((1, 1, 1), gmm.dtype), shape)
    channel = [jnp.asarray(a.mean(axis=(0, 2, 3))[None, None], gmm.dtype) for a in (mean, std)]
    return Source(gmm, encoder, channel[0], channel[1], shape)


def _turned(arithmetic: Any, covariances: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Covariances of features in another order. Raises InputError for ones of another shape."""
    try:
        return arithmetic.reordered(covariances, order)
    except IndexError as error:
        raise InputError(f"covariances of shape {covariances.shape} are not of {len(order)} features.") from error


def _maps(statistics: Any, p: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean and deviation of every pixel [1, C, H, W] in float64. Raises InputError for anything else."""
    found: list[Any] = [statistics.get(name) for name in ("mean", "std")] if isinstance(statistics, dict) else [None]
    known = all(isinstance(array, np.ndarray) and array.dtype.kind in "fiu" for array in found)
    check(known, f"expected statistics with the arrays mean and std, got {short(statistics)}.")
    mean, std = (array.astype(np.float64) for array in found)
    fits = mean.shape == std.shape and mean.ndim == 4 and mean.size == p
    check(fits, f"expected the mean and std of images of {p} numbers, [1, C, H, W], got {mean.shape}, {std.shape}.")
    check(bool((std > 0).all()) and bool(np.isfinite(mean).all()), "the statistics need deviations above zero.")
    return mean, std


def content_from(source: Source) -> tuple[dict[str, Any], dict[str, Float[np.ndarray, "1 c h w"]]]:
    """The two files of a source: a mixture of pixels without a PCA, which the script's own sampler draws from, and the
    normalization of every pixel. A mixture of codes becomes one of full covariances [K, P, P].

    Raises:
        InputError: For a source of vectors, a product, and one that has no density over images.
    """
    check(len(source.shape) == 3, f"expected a source of images, got one of shape {source.shape}: write its mixture.")
    if not isinstance(source.gmm, GMM):
        raise InputError("a product of blocks is no mixture that scikit-learn has.")
    gmm = source.gmm if isinstance(source.encoder, Identity) else _of_pixels(source.gmm, source)
    family, exact = scikit_learns(gmm)
    order = channels_first((source.shape[0], source.shape[1], source.shape[2]))
    found = fitted(np.asarray(gmm.means, np.float64), family, exact, order)
    maps = [np.broadcast_to(np.asarray(a), source.shape).transpose(2, 0, 1)[None] for a in (source.mean, source.std)]
    return {"gmm": found, "pca": None}, dict(zip(("mean", "std"), map(np.ascontiguousarray, maps), strict=True))


def _shape(p: int, shape: tuple[int, ...] | None) -> tuple[int, int, int]:
    side = math.isqrt(p // 3)
    if shape is None:
        check(3 * side * side == p, f"{p} features are no square image of three channels: say its shape, H W C.")
        return side, side, 3
    fits = len(shape) == 3 and min(shape) > 0 and math.prod(shape) == p
    check(fits, f"an image {tuple(shape)} does not have {p} features.")
    return (shape[0], shape[1], shape[2])


def _encoder(pca: Any, order: Int[np.ndarray, " d"], dtype: Any) -> PCA:
    """scikit-learn's PCA, whose codes have the variances of the data unless they are whitened; what it leaves out is
    lost."""
    components, mean = np.asarray(pca.components_)[:, order], np.asarray(pca.mean_)[order]
    n = len(components)
    scale = np.sqrt(np.asarray(pca.explained_variance_)) if getattr(pca, "whiten", False) else np.ones(n)
    return PCA(jnp.asarray(mean, dtype), jnp.asarray(components, dtype), jnp.asarray(scale, dtype), n)


def _of_pixels(gmm: GMM, source: Source) -> GMM:
    """The mixture of pixels in [-1, 1] that a mixture of codes is: Σ = A Σ_k Aᵀ + R Rᵀ with the jacobian [A R]."""
    encoder = source.encoder
    check(encoder.has_density, "this source has no density over images: its residual was dropped.")
    a, r = np.split(np.asarray(encoder.jacobian(jnp.arange(math.prod(source.shape))), np.float64), [gmm.d], axis=1)
    dense, residual = np.asarray(gmm.covariance.dense(), np.float64), r @ r.T
    roots = np.stack([np.linalg.cholesky(a @ one @ a.T + residual) for one in dense])
    every = jnp.asarray(np.broadcast_to(roots, (gmm.k, *roots.shape[1:])), gmm.dtype)
    return GMM(gmm.log_weights, decode_means(encoder, gmm), Full(every))
