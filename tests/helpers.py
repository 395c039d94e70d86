"""Mixtures and data that several tests use."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

import jgmm
from jgmm import fit
from jgmm.commands import cli
from jgmm.covariance.base import identity_of
from jgmm.covariance.prior import as_arrays
from jgmm.encoder.pca import fit_pca
from jgmm.mixture import GMM
from jgmm.source import Source

SOURCE_SHAPE = (3, 4, 2)


def few(names, *fast):
    """Cases of which only these are run with every `make test`; the others are slow ones."""
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


def run(main, *args):
    """Run a command in this process; returns its exit code."""
    try:
        cli.run(lambda: main([str(a) for a in args]))
    except SystemExit as exit:
        return exit.code
    finally:
        jax.config.update("jax_enable_x64", False)
    return 0


def refused(capsys, *args):
    """The message of a refused command, which must exit with 2."""
    assert run(fit.main, *args) == 2
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


def random_mixture(rng: np.random.Generator, name: str, k: int = 3, d: int = 4, dtype: str = "float64") -> GMM:
    """A mixture of the family with generic parameters: the family's update of a random scatter."""
    identity = identity_of(name)(k, d, dtype)
    a = rng.normal(size=(k, 3 * d, d)) * rng.uniform(0.5, 2, size=(k, 1, d))
    x = jnp.asarray(a.reshape(-1, d), dtype)
    r = jnp.asarray(np.repeat(np.eye(k), 3 * d, axis=0), dtype)
    scatter = method(identity, "moments", x, r, jnp.zeros((k, d), dtype))
    weights = rng.dirichlet(np.full(k, 5.0))
    means = jnp.asarray(2 * rng.normal(size=(k, d)), dtype)
    prior, floor = as_arrays(None, None, dtype)
    covariance = method(identity, "update", scatter, r.sum(axis=0), prior, floor)
    return GMM(jnp.log(jnp.asarray(weights, dtype)), means, covariance)


def random_source(rng, family="full", n_codes=5, residual="spectrum", normalize="channel", dtype="float32"):
    """A source of 3x4 images with two channels whose pixels are correlated and off the origin."""
    x = rng.normal(size=(300, 24)) @ rng.normal(size=(24, 24)) * 0.3 + rng.normal(size=24)
    encoder, _ = fit_pca(x, n_codes, residual=residual, dtype=np.dtype(dtype).type)
    gmm = random_mixture(rng, family, d=n_codes, dtype=dtype)
    one = jnp.ones((1, 1, 1), dtype)
    return jgmm.normalize(Source(gmm, encoder, 0 * one, one, SOURCE_SHAPE), normalize)


@partial(jax.jit, static_argnums=1)
def method(covariance, name, *args):
    """A method of the covariance contract, compiled: call by call JAX would compile every operation by itself."""
    return getattr(covariance, name)(*args)


@jax.jit
def distances(covariance, means, x):
    """(x − μ_k)ᵀ Σ_k⁻¹ (x − μ_k), compiled."""
    return covariance.squared_mahalanobis(means)(x)


def dense(gmm: GMM) -> np.ndarray:
    """Σ_k as a [K, D, D] array, tied or not."""
    return np.broadcast_to(np.asarray(method(gmm.covariance, "dense")), (gmm.k, gmm.d, gmm.d))


def log_joint_by_scipy(gmm: GMM, z: np.ndarray) -> np.ndarray:
    """log w_k + log N(z_n | μ_k, Σ_k), [N, K], by scipy."""
    parts = [
        multivariate_normal(np.asarray(m), c, allow_singular=True).logpdf(z)
        for m, c in zip(gmm.means, dense(gmm), strict=True)
    ]
    return np.asarray(gmm.log_weights) + np.stack(parts, axis=-1)


# How scikit-learn shapes the covariances [K, D, D] of each of its four types.
SKLEARN = {
    "full": lambda c: c,
    "tied": lambda c: c[0],
    "diag": lambda c: np.diagonal(c, axis1=1, axis2=2),
    "spherical": lambda c: c[:, 0, 0],
}


def fit_by_sklearn(start: GMM, family: str, x: np.ndarray, iterations: int, **options) -> GaussianMixture:
    """scikit-learn's mixture after so many iterations from the same start."""
    weights = np.exp(start.log_weights)
    model = GaussianMixture(
        start.k,
        covariance_type=family,
        weights_init=weights / weights.sum(),
        means_init=np.asarray(start.means),
        precisions_init=SKLEARN[family](np.linalg.inv(dense(start))),
        max_iter=iterations,
        tol=0,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # tol=0: it never says it has converged
        return model.fit(x)


def clusters(rng, n, d, k, apart=3.0):
    """Rows around k means."""
    means = apart * rng.normal(size=(k, d))
    return (means[rng.integers(k, size=n)] + rng.normal(size=(n, d)) * rng.uniform(0.5, 2, size=d)).astype(np.float32)


def differences(a, b):
    """The largest one of every parameter, relative to the largest of it."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return [float(np.abs(np.asarray(p) - np.asarray(q)).max() / np.abs(np.asarray(p)).max()) for p, q in pairs]
