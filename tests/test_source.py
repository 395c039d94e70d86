"""Normalized draws and densities: exact statistics, memory, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SOURCE_SHAPE as SHAPE
from helpers import dense, random_source
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import jgmm
from jgmm.covariance.base import identity_of
from jgmm.encoder.identity import Identity
from jgmm.errors import InputError
from jgmm.mixture import GMM
from jgmm.registry import COVARIANCES, NORMALIZATIONS
from jgmm.source import Source, sampled_moments

families = pytest.mark.parametrize("family", COVARIANCES)


@pytest.mark.usefixtures("x64")
@families
def test_log_prob_is_that_of_the_gaussians_in_pixels(family, rng):
    params = random_source(rng, family, dtype="float64")
    x0 = jgmm.sample(jax.random.key(0), params, 7)
    rotation, gmm = params.encoder, params.gmm
    a = np.asarray(rotation.components * rotation.scale[:, None])
    std = np.broadcast_to(params.std, SHAPE).ravel()
    mean = np.broadcast_to(params.mean, SHAPE).ravel()
    parts = []
    for m, c in zip(np.asarray(gmm.means), dense(gmm), strict=True):
        cov = np.eye(24)
        cov[:5, :5] = c
        center = (np.asarray(rotation.mean) + m @ a[:5] - mean) / std
        parts.append(multivariate_normal(center, (a.T @ cov @ a) / np.outer(std, std)).logpdf(x0.reshape(7, 24)))
    expected = logsumexp(np.asarray(gmm.log_weights) + np.stack(parts, axis=-1), axis=1)
    np.testing.assert_allclose(jgmm.log_prob(params, x0), expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("family", "normalize"),
    [*((family, "channel") for family in COVARIANCES), ("full", "pixel"), ("tied-diag", "scalar")],
)
def test_samples_are_normalized(family, normalize, rng):
    params = random_source(rng, family, normalize=normalize)
    n = 200_000
    x0 = np.asarray(jgmm.sample(jax.random.key(1), params, n), np.float64)
    axes = (0, *(axis + 1 for axis in NORMALIZATIONS[normalize](SHAPE)))
    # Pixels of one image are correlated: the error of the pooled mean is that of the mean of the image.
    per_image = x0.mean(axis=axes[1:]) if len(axes) > 1 else x0
    error = per_image.std(axis=0) / np.sqrt(n)
    assert np.all(np.abs(x0.mean(axis=axes)) < 4 * error)
    squares = (x0**2).mean(axis=axes[1:]) if len(axes) > 1 else x0**2
    assert np.all(np.abs((x0**2).mean(axis=axes) - 1) < 4 * squares.std(axis=0) / np.sqrt(n))


def test_no_normalization_gives_pixels(rng):
    params = random_source(rng, normalize="none")
    assert float(jnp.abs(params.mean).max()) == 0
    assert float(jnp.abs(params.std - 1).max()) == 0
    assert NORMALIZATIONS["none"](SHAPE) is None


def test_statistics_from_samples_tend_to_the_exact_ones(rng):
    params = random_source(rng)
    estimated = jgmm.normalize(params, "channel", samples=(jax.random.key(3), 20_000, 1500))
    np.testing.assert_allclose(estimated.mean, params.mean, atol=0.05)
    np.testing.assert_allclose(estimated.std, params.std, rtol=0.02)


def test_sampling_is_pure_jits_vmaps_and_names_its_components(rng):
    params = random_source(rng)
    key = jax.random.key(5)
    x0, k = jgmm.sample(key, params, 9, return_components=True)
    assert x0.shape == (9, *SHAPE)
    assert x0.dtype == jnp.float32
    np.testing.assert_array_equal(x0, jgmm.sample(key, params, 9))
    jitted = jax.jit(lambda key, params: jgmm.sample(key, params, 9))
    np.testing.assert_allclose(jitted(key, params), x0, rtol=1e-5, atol=1e-5)
    many = jax.vmap(lambda key: jgmm.sample(key, params, 9))(jax.random.split(key, 3))
    one = jgmm.sample(jax.random.split(key, 3)[1], params, 9)
    np.testing.assert_allclose(many[1], one, rtol=1e-4, atol=1e-5)
    assert k.shape == (9,)
    each = jax.vmap(lambda c: jgmm.sample(key, params, 4, component=c, return_components=True)[1])(jnp.arange(3))
    np.testing.assert_array_equal(each, np.repeat([[0], [1], [2]], 4, axis=1))


def test_eight_devices_draw_what_one_draws(rng):
    assert jax.device_count() == 8
    params = random_source(rng)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    draw = jax.jit(lambda key, params: jgmm.sample(key, params, 64), out_shardings=sharding)
    x0 = draw(
        jax.random.key(0),
        jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())),
    )
    assert len(x0.sharding.device_set) == 8
    np.testing.assert_allclose(x0, jgmm.sample(jax.random.key(0), params, 64), rtol=1e-4, atol=1e-5)


def test_sampling_a_full_mixture_adds_under_200_mb():
    """512 draws, K=100, D=300 full: gathered factors would be 184 MB on top of 36 MB of parameters."""
    k, d = 100, 300
    gmm = GMM(jnp.full(k, -np.log(k)), jnp.zeros((k, d)), identity_of("full")(k, d))
    params = Source(gmm, Identity(d), jnp.zeros(1), jnp.ones(1), (d,))
    compiled = jax.jit(lambda key, params: jgmm.sample(key, params, 512)).lower(jax.random.key(0), params).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 20e6


def test_a_source_without_residual_has_no_density(rng):
    params = random_source(rng, residual="none")
    x0 = jgmm.sample(jax.random.key(0), params, 3)
    with pytest.raises(InputError, match="no density over images"):
        jgmm.log_prob(params, x0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: jgmm.log_prob(p, jnp.zeros((2, 4, 3, 2))),
            r"images of shape \('n', 3, 4, 2\), got \(2, 4, 3, 2\)",
        ),
        (lambda p: jgmm.sample(jax.random.key(0), p, -1), "at least 0"),
        (lambda p: jgmm.sample(jax.random.key(0), p, 2, component=-1), "from 0 to 2"),
        (lambda p: jgmm.normalize(p, "channels"), "Did you mean 'channel'"),
        (lambda p: sampled_moments(p, jax.random.key(0), 1, 8), "n ≥ 2"),
    ],
)
def test_bad_input_is_refused(call, message, rng):
    with pytest.raises(InputError, match=message):
        call(random_source(rng))
