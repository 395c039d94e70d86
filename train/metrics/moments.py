"""How far two samples of features are apart: Fréchet's distance between Gaussians, and a distance of kernels."""

import numpy as np
from jaxtyping import Float

from jgmm.errors import check

# Rows of a matrix of kernels at a time.
ROWS = 2048


def frechet(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """The squared Wasserstein-2 distance of Gaussians with the moments of two samples (Dowson and Landau, 1982; Heusel
    et al., arXiv 1706.08500, where the features are those of Inception and the distance is called FID):

        |m_a − m_b|² + tr(S_a + S_b − 2 (S_a^½ S_b S_a^½)^½)

    It falls with the number of samples, and compares nothing but samples of one size.

    Raises:
        InputError: For fewer samples than there are features, whose covariance has no inverse.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(1000, 2))
    >>> round(frechet(x, x + np.array([3.0, 4.0])), 6)
    25.0
    """
    a, b = _samples(a, b, a.shape[1] + 1, "the Fréchet distance")
    root = _root(np.cov(a.T).reshape(a.shape[1], -1))
    s_b = np.cov(b.T).reshape(root.shape)
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ s_b @ root), 0)).sum()
    shift = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return float(shift + (root**2).sum() + np.trace(s_b) - 2 * overlap)


def kernel_distance(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """The squared maximum mean discrepancy with the kernel (x·y / d + 1)³, estimated without bias from all pairs
    (Bińkowski et al., arXiv 1801.01401, where the features are those of Inception and it is called KID).

    Raises:
        InputError: For fewer than two samples.
    """
    a, b = _samples(a, b, 2, "the kernel distance")
    own = sum(
        (_total(x, x) - ((((x * x).sum(axis=1) / x.shape[1]) + 1) ** 3).sum()) / (len(x) * (len(x) - 1)) for x in (a, b)
    )
    return float(own - 2 * _total(a, b) / (len(a) * len(b)))


def sliced_wasserstein(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], directions: int = 256, seed: int = 0
) -> float:
    """The sliced Wasserstein-2 distance, √(mean over random directions u of W2²(uᵀa, uᵀb)) (Bonneel et al., Sliced and
    Radon Wasserstein barycenters of measures, 2015), of samples of one size.

    Raises:
        InputError: For samples of different sizes.
    """
    check(len(a) == len(b) > 0, f"the sliced distance needs as many samples of both, got {len(a)} and {len(b)}.")
    u = np.random.default_rng(seed).normal(size=(a.shape[1], directions)).astype(np.float32)
    u /= np.linalg.norm(u, axis=0)
    apart = np.sort(a.astype(np.float32) @ u, axis=0) - np.sort(b.astype(np.float32) @ u, axis=0)
    return float(np.sqrt((apart.astype(np.float64) ** 2).mean()))


def _samples(a: np.ndarray, b: np.ndarray, least: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    n = min(len(a), len(b))
    check(n >= least, f"{name} of {a.shape[1]} features needs at least {least} samples of each kind, got {n}.")
    return a.astype(np.float64), b.astype(np.float64)


def _root(a: np.ndarray) -> np.ndarray:
    e, v = np.linalg.eigh(a)
    return (v * np.sqrt(np.maximum(e, 0))) @ v.T


def _total(a: np.ndarray, b: np.ndarray) -> float:
    """Of the kernels of all pairs."""
    d = a.shape[1]
    return sum(float(((a[i : i + ROWS] @ b.T / d + 1) ** 3).sum()) for i in range(0, len(a), ROWS))
