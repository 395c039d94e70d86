"""Sums of products on devices that have no float64, against those of NumPy in float64."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jgmm.data import load
from jgmm.data.images import CELL_VARIANCE, mirror_of
from jgmm.data.streams import Sliced
from jgmm.encoder.moments import exact_products
from jgmm.encoder.pca import fit_pca
from jgmm.encoder.scatter import mean_and_covariance, scatter_of
from jgmm.numerics.sharding import mesh_of


@pytest.fixture
def as_accelerators(monkeypatch):
    """CPU devices add up as GPUs and TPUs do."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


def spectrum_of(x):
    return np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2 / len(x)


def rows_of_eight_decades(rng, n, p):
    turn = np.linalg.qr(rng.normal(size=(p, p)))[0]
    return ((rng.normal(size=(n, p)) * np.logspace(0, -4, p)) @ turn + 3).astype(np.float32)


def test_products_have_48_bits(rng):
    y = (rng.normal(size=(256, 40)) * 10.0 ** rng.uniform(-12, 12, 40)).astype(np.float32)
    y[:, 3], y[:, 4] = 0, 1
    found = jax.jit(exact_products)(jnp.asarray(y))
    exact = y.astype(np.float64)
    size = np.sqrt((exact**2).sum(axis=0)) + 1e-30
    error = np.asarray(found.high, np.float64) + np.asarray(found.low, np.float64) - exact.T @ exact
    assert (np.abs(error) / np.outer(size, size)).max() < 1e-9
    assert np.isnan(exact_products(jnp.asarray(y).at[7, 5].set(jnp.inf)).high[5, 5])


@pytest.mark.parametrize("mesh", [None, "data=8", "data=4,component=2"])
def test_the_spectrum_is_that_of_a_float64_svd(mesh, as_accelerators, rng):
    x = rows_of_eight_decades(rng, 2000, 60)
    with nullcontext() if mesh is None else jax.set_mesh(mesh_of(mesh)):
        found = scatter_of(x)
    np.testing.assert_allclose(found.variances, spectrum_of(x.astype(np.float64)), rtol=1e-4)
    np.testing.assert_allclose(found.mean, x.astype(np.float64).mean(axis=0), rtol=1e-8)


def test_the_spectrum_of_cifar_is_that_of_a_float64_svd(cifar_dir, as_accelerators):
    pixels = load("cifar10", cifar_dir).pixels[:1500].reshape(1500, -1)[:, :768]
    found = scatter_of(pixels, scale=1 / 127.5)
    np.testing.assert_allclose(found.variances, spectrum_of(pixels / 127.5), rtol=1e-4)


@pytest.mark.parametrize("robust", [False, True])
def test_weights_mirrors_and_robust_scatters_are_those_of_the_host(robust, monkeypatch, rng):
    pixels, weight = rng.integers(0, 256, (5000, 4, 5, 2)).astype(np.uint8), rng.uniform(0, 2, 5000)
    options = {
        "weight": weight,
        "scale": 1 / 127.5,
        "noise_variance": CELL_VARIANCE,
        "mirror": mirror_of((4, 5, 2)),
        "robust": robust,
    }
    host = scatter_of(Sliced(pixels), **options)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    found = scatter_of(Sliced(pixels), **options)
    np.testing.assert_allclose(found.variances, host.variances, rtol=1e-6)
    np.testing.assert_allclose(np.abs((found.axes * host.axes).sum(axis=1)), 1, rtol=1e-6)
    np.testing.assert_allclose(found.mean, host.mean, rtol=1e-8)


def test_rows_of_more_digits_than_float32_are_added_by_the_host(as_accelerators, rng):
    x = rng.normal(size=(300, 3)) + 1e8
    np.testing.assert_allclose(mean_and_covariance(x)[1], np.cov(x.T, bias=True), rtol=1e-6)


def test_infinite_data_are_refused(as_accelerators, rng):
    x = rng.normal(size=(300, 3)).astype(np.float32)
    x[200, 1] = np.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        fit_pca(x)
