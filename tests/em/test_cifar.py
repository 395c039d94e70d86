"""Figures on the real CIFAR-10: skipped where it is missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SKLEARN, dense, fit_by_sklearn

import jgmm
from jgmm.data import load
from jgmm.em.loop import run_em
from jgmm.encoder.pca import fit_pca
from jgmm.source import Source


@pytest.fixture(scope="module")
def pixels(cifar_dir):
    return load("cifar10", cifar_dir).pixels.reshape(50_000, -1)


@pytest.fixture(scope="module")
def rotation(pixels):
    return fit_pca(pixels, 300, scale=1 / 127.5, shift=-1.0, dtype=np.float64)[0]


def codes(rotation, pixels, d, dtype):
    """Unwhitened codes, as scikit-learn's PCA gives them."""
    x = (pixels / 127.5 - 1 - np.asarray(rotation.mean)) @ np.asarray(rotation.components[:d]).T
    return x.astype(dtype)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", SKLEARN)
def test_parity_with_scikit_learn_in_64_dimensions(family, rotation, pixels):
    """Twenty iterations on 5,000 images in float64: weights, means and covariances within 1e-6 relative."""
    x = codes(rotation, pixels[:5000], 64, np.float64)
    start = run_em(jax.random.key(0), jnp.asarray(x), k=10, covariance_type=family, max_iter=1).gmm
    shape = SKLEARN[family]
    theirs = fit_by_sklearn(start, family, x, 20)
    ours = run_em(jax.random.key(0), jnp.asarray(x), k=10, start=start, max_iter=20, tol=0.0).gmm
    for a, b in (
        (np.exp(ours.log_weights), theirs.weights_),
        (ours.means, theirs.means_),
        (shape(dense(ours)), theirs.covariances_),
    ):
        error = np.abs(np.asarray(a) - b).max() / np.abs(b).max()
        print(f"{family}: {error:.1e}")
        assert error < 1e-6


@pytest.mark.slow
def test_float32_against_float64_in_300_dimensions(rotation, pixels):
    """K=10 full on 10,000 images: the same parameters within 1e-5 relative, and after twenty iterations within 1e-4."""
    x = codes(rotation, pixels[:10_000], 300, np.float32)
    options = {"k": 10, "max_iter": 20, "tol": 0.0}
    start = run_em(jax.random.key(0), jnp.asarray(x), k=10, covariance_type="full", max_iter=1).gmm
    single = run_em(jax.random.key(0), jnp.asarray(x), start=start, **options).gmm
    reported = float(np.asarray(single.log_prob(jnp.asarray(x)), np.float64).mean())
    jax.config.update("jax_enable_x64", True)
    try:
        start, single = (jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), g) for g in (start, single))
        wide = jnp.asarray(x, jnp.float64)
        double = run_em(jax.random.key(0), wide, start=start, **options).gmm
        of_single, of_double = (float(g.log_prob(wide).mean()) for g in (single, double))
    finally:
        jax.config.update("jax_enable_x64", False)
    same, after = abs(reported / of_single - 1), abs(of_single / of_double - 1)
    print(f"same parameters: {same:.1e}, after 20 iterations: {after:.1e}")
    assert same < 1e-5
    assert after < 1e-4


@pytest.mark.slow
def test_exact_statistics_against_200_000_samples(pixels):
    """A mixture of all 3,072 directions: channel means and deviations of x0 within 3 standard errors of 0 and 1."""
    rotation, _ = fit_pca(pixels[:6000], scale=1 / 127.5, shift=-1.0)
    x = np.asarray(rotation.encode(jnp.asarray(pixels[:6000] / 127.5 - 1, jnp.float32)))
    gmm = run_em(jax.random.key(0), jnp.asarray(x), k=10, max_iter=5, metric=rotation.code_variances()).gmm
    one = jnp.ones((1, 1, 1))
    params = jgmm.normalize(Source(gmm, rotation, 0 * one, one, (32, 32, 3)))
    per_image, squares = [], []
    for i in range(100):
        x0 = np.asarray(jgmm.sample(jax.random.key(i), params, 2000))
        per_image.append(x0.mean(axis=(1, 2)))
        squares.append((x0**2).mean(axis=(1, 2)))
    mean, square = (np.concatenate(v).astype(np.float64) for v in (per_image, squares))
    in_errors = [
        np.abs(v.mean(axis=0) - target) / (v.std(axis=0) / np.sqrt(len(v))) for v, target in ((mean, 0), (square, 1))
    ]
    print("mean and mean square, standard errors from 0 and 1:", np.round(in_errors, 2))
    assert np.max(in_errors) < 3
