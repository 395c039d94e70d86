"""What a user brings along: a covariance family, an initializer, an encoder, a source and a coupling of their own."""

from dataclasses import field, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

import jgmm
from jgmm.covariance.base import AxisAligned
from jgmm.encoder.base import Encoder
from jgmm.errors import InputError
from jgmm.numerics.pytree import pytree
from jgmm.registry import COVARIANCES, ENCODERS, INITIALIZERS
from train import loop
from train.config import PRESETS
from train.couplings.base import Coupling
from train.flow import load
from train.registry import COUPLINGS, SOURCES
from train.sources import NoiseSource

NOISE = 0.25


@pytree
class KnownNoise(AxisAligned):
    """Σ = noise · I, known beforehand: nothing is learned."""

    n_features: int = field(metadata={"static": True})
    noise: float = field(metadata={"static": True})

    name: ClassVar[str] = "known-noise"

    @classmethod
    def identity(cls, k, d, dtype=None):
        return cls(d, NOISE)

    def variance(self):
        return jnp.full((1, self.n_features), self.noise)

    def moments(self, x, r, means):
        return 0 * r.sum(axis=0)

    def update(self, scatter, counts, prior, floor):
        return self

    def marginal(self, features):
        return replace(self, n_features=features.shape[0])

    def unconstrained(self, epsilon):
        return jnp.zeros((1, 0))

    def constrain(self, raw, epsilon):
        return self


@pytest.fixture
def x(rng):
    return (rng.normal(size=(600, 2)) * 0.5 + 4 * rng.integers(0, 3, 600)[:, None]).astype(np.float32)


@pytest.fixture
def registered():
    """Registers members for one test."""
    added = []

    def register(registry, name, member):
        registry.register(name, member)
        added.append((registry, name))

    yield register
    for registry, name in added:
        registry.unregister(name)


def em_by_hand(x, means, weights, iterations):
    for _ in range(iterations):
        distances = ((x[:, None] - means[None]) ** 2).sum(axis=2)
        r = softmax(np.log(weights) - distances / (2 * NOISE), axis=1)
        weights, means = r.mean(axis=0), (r.T @ x) / r.sum(axis=0)[:, None]
    return weights, means


def test_a_family_of_ones_own(x, registered, tmp_path):
    fit = jgmm.fit_em(0, x, k=3, covariance_type=KnownNoise, tol=0.0, max_iter=5)
    start = jgmm.fit_em(0, x, k=3, covariance_type=KnownNoise, tol=0.0, max_iter=1).gmm
    weights, means = em_by_hand(x.astype(np.float64), np.asarray(start.means), np.asarray(start.weights), 4)
    np.testing.assert_allclose(fit.gmm.means, means, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fit.gmm.weights, weights, rtol=1e-5)
    draws = fit.gmm.sample(jax.random.key(0), 20_000, component=1)
    np.testing.assert_allclose(draws.var(axis=0), NOISE, rtol=0.05)
    assert fit.gmm.n_parameters == 2 + 3 * 2
    assert fit.gmm.conditional(None, [0], [1.0]).d == 1
    trained = jgmm.fit_gradient(jax.random.key(0), fit.gmm, x, epochs=2).model
    assert isinstance(trained.covariance, KnownNoise)

    with pytest.raises(InputError, match="COVARIANCES.register"):
        jgmm.save(tmp_path / "early", fit.gmm)
    registered(COVARIANCES, "known-noise", KnownNoise)
    jgmm.save(tmp_path / "gmm", fit.gmm)
    again = jgmm.load(tmp_path / "gmm")
    assert again.covariance.noise == NOISE
    np.testing.assert_array_equal(again.log_prob(x), fit.gmm.log_prob(x))
    by_name = jgmm.fit_em(0, x, k=3, covariance_type="known-noise", tol=0.0, max_iter=5)
    np.testing.assert_array_equal(by_name.gmm.means, fit.gmm.means)


def test_loading_a_family_that_nobody_registered_says_so(x, registered, tmp_path):
    COVARIANCES.register("known-noise", KnownNoise)
    jgmm.save(tmp_path / "gmm", jgmm.fit_em(0, x, k=2, covariance_type=KnownNoise, max_iter=1).gmm)
    COVARIANCES.unregister("known-noise")
    with pytest.raises(InputError, match="nothing is registered under the name 'known-noise'"):
        jgmm.load(tmp_path / "gmm")


def test_an_initializer_of_ones_own(x, registered):
    def first_rows(key, x, k, metric):
        return x[:k]

    by_object = jgmm.fit_em(0, x, k=3, init=first_rows, max_iter=3)
    registered(INITIALIZERS, "first-rows", first_rows)
    by_name = jgmm.fit_em(1, x, k=3, init="first-rows", max_iter=3)
    np.testing.assert_array_equal(by_object.gmm.means, by_name.gmm.means)
    with pytest.raises(InputError, match="is taken"):
        INITIALIZERS.register("kmeans", first_rows)


@pytree
class Turned(Encoder):
    """z = R (x − mean), R a rotation of the plane; only what an encoder must say."""

    mean: jax.Array
    angle: jax.Array

    name: ClassVar[str] = "turned"
    n_codes: ClassVar[int] = 2

    @classmethod
    def fit(cls, x):
        return cls(x.mean(axis=0), jnp.asarray(0.5))

    def _rotation(self):
        c, s = jnp.cos(self.angle), jnp.sin(self.angle)
        return jnp.array([[c, -s], [s, c]])

    def encode(self, x):
        return (x - self.mean[None]) @ (2 * self._rotation())

    def decode(self, z, residual):
        return z @ (0.5 * self._rotation().T) + self.mean[None]


def test_an_encoder_of_ones_own(x, registered, tmp_path):
    fit = jgmm.fit_em(0, x, k=3, encoder=Turned, covariance_type="full")
    assert isinstance(fit.encoder, Turned)
    source = jgmm.normalize(jgmm.unnormalized(fit.gmm, fit.encoder, (2,)), "pixel")
    x0 = source.sample(jax.random.key(0), 50_000)
    np.testing.assert_allclose(x0.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(x0.std(axis=0), 1, atol=0.03)
    # A rotation and a scale of 2: full covariances fitted to x itself have the same density.
    of_x = jgmm.fit_em(0, x, k=3, encoder="identity", covariance_type="full")
    found = jgmm.unnormalized(fit.gmm, fit.encoder, (2,)).log_prob(x).mean()
    assert float(found) == pytest.approx(float(of_x.gmm.log_prob(x).mean()), abs=1e-3)
    assert fit.history[-1] == pytest.approx(of_x.history[-1], abs=1e-3)
    registered(ENCODERS, "turned", Turned)
    jgmm.save(tmp_path / "source", source)
    np.testing.assert_array_equal(jgmm.load(tmp_path / "source").log_prob(x), source.log_prob(x))
    by_instance = jgmm.fit_em(0, x, k=3, encoder=fit.encoder, covariance_type="full")
    np.testing.assert_array_equal(by_instance.gmm.means, fit.gmm.means)


@pytree
class Uniform(NoiseSource):
    """Uniform on [-√3, √3]: mean 0 and deviation 1."""

    shape: tuple[int, ...] = field(metadata={"static": True})
    scale: jax.Array = field(default_factory=lambda: jnp.ones(()))

    @classmethod
    def build(cls, config, images, space):
        return cls(images.shape)

    def draw(self, key, n):
        return self.scale * jax.random.uniform(key, (n, *self.shape), minval=-(3**0.5), maxval=3**0.5)


@pytree
class Sorted(Coupling):
    """Draws and images in the order of their means."""

    source: NoiseSource

    def x0(self, key, batch, order):
        x0 = self.source.draw(key, batch.images.shape[0])
        rank = jnp.argsort(jnp.argsort(batch.images.mean(axis=(1, 2, 3))))
        return x0[jnp.argsort(x0.mean(axis=(1, 2, 3)))][rank]


@pytest.mark.slow
def test_a_source_and_a_coupling_of_ones_own(registered, tmp_path, rng):
    registered(SOURCES, "uniform", Uniform)
    registered(COUPLINGS, "sorted", lambda config, images, source, space: Sorted(source))
    np.save(tmp_path / "images.npy", rng.normal(size=(16, 2, 2, 2)).astype(np.float32))
    size = {"multipliers": (1,), "base": 4, "head_channels": 4, "steps": 1, "batch_size": 8}
    names = {"data": tmp_path / "images.npy", "source": "uniform", "coupling": "sorted", "out": tmp_path / "run"}
    loop.train(replace(PRESETS["tiny"], **size, **names))
    flow = load(tmp_path / "run")
    assert isinstance(flow.source, Uniform)
    draws = flow.source.draw(jax.random.key(0), 100)
    assert draws.shape == (100, 2, 2, 2)
    assert 1.5 < np.abs(draws).max() <= 3**0.5
