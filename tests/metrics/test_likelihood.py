"""Bits per dimension by numerical integration."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_mixture

from jgmm.encoder.identity import Identity
from jgmm.errors import InputError
from jgmm.metrics.likelihood import bits_per_dim
from jgmm.source import Source


def test_bits_per_dim_by_numerical_integration(rng):
    """One pixel: the mean of log p over each cell, by a fine grid."""
    gmm = random_mixture(rng, "diag", k=2, d=1, dtype="float32")
    gmm = replace(gmm, means=gmm.means * 0.2, covariance=type(gmm.covariance)(gmm.covariance.variances * 0.05))
    params = Source(gmm, Identity(1), jnp.full(1, 0.1), jnp.full(1, 2.0), (1,))
    pixels = rng.integers(0, 256, size=(5000, 1)).astype(np.uint8)
    grid = (np.arange(256)[:, None] + (np.arange(50) + 0.5) / 50 - 0.5) / 127.5 - 1
    z = grid.reshape(-1, 1)
    means, variances = np.asarray(gmm.means, np.float64)[:, 0], np.asarray(gmm.covariance.variances)[:, 0]
    density = np.exp(-((z - means) ** 2) / (2 * variances)) / np.sqrt(2 * np.pi * variances)
    cells = np.log(density @ np.exp(np.asarray(gmm.log_weights))).reshape(256, 50).mean(axis=1)
    expected = -(cells[pixels[:, 0]].mean() + np.log(1 / 127.5)) / np.log(2)
    assert bits_per_dim(jax.random.key(0), params, pixels) == pytest.approx(expected, abs=5e-3)
    with pytest.raises(InputError, match="uint8 images, got float32"):
        bits_per_dim.__wrapped__(jax.random.key(0), params, pixels.astype(np.float32))
