"""What the benchmarks fit: principal codes of CIFAR-10."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jgmm.covariance.prior import Floor
from jgmm.data import load
from jgmm.em.loop import EMState, run_em
from jgmm.encoder.pca import fit_pca
from jgmm.metrics.likelihood import feature_chunks


def load_pixels(data_dir: Path | None) -> tuple[str, np.ndarray]:
    """The name of the data and the images as rows; the embedded photographs stand in where no folder is given."""
    images = load("cifar10", data_dir) if data_dir else load("photos")
    return images.name, images.pixels.reshape(len(images), -1)


def codes(pixels: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
    """The first d codes, float32, as `python -m jgmm.fit` makes them, and the metric of the pixels for k-means."""
    pca, _ = fit_pca(pixels, None if d == pixels.shape[1] else d, scale=1 / 127.5, shift=-1.0)
    parts = [np.asarray(pca.encode(x))[:n] for x, n in feature_chunks(pixels, "float32")]
    return np.concatenate(parts), np.asarray(pca.code_variances())


def fit(x: np.ndarray, metric: np.ndarray, family: str, k: int, iterations: int, reg_covar: float) -> EMState:
    """So many iterations of EM from k-means, with `reg_covar` for the only floor."""
    return run_em(
        jax.random.key(0),
        jnp.asarray(x),
        k=k,
        covariance_type=family,
        metric=jnp.asarray(metric),
        max_iter=iterations,
        tol=0.0,
        floor=Floor(absolute=reg_covar, relative=0.0),
    )
