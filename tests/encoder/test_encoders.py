"""Every encoder against its own Jacobian and brute force. A new line in the registry inherits every test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, random_mixture

from jgmm.encoder.base import Encoder
from jgmm.encoder.images import decode_images, encode_images
from jgmm.encoder.standardize import Standardize, robust
from jgmm.encoder.zca import fit_zca
from jgmm.registry import ENCODERS

pytestmark = pytest.mark.usefixtures("x64")
encoders = pytest.mark.parametrize("name", ENCODERS)
D = 4


def fitted(name, x):
    found = ENCODERS[name]
    return getattr(found, "fit", found)(x)


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.normal(size=(300, D)) @ rng.normal(size=(D, D)) + 5 * rng.normal(size=D))


@encoders
def test_decoding_inverts_encoding(name, x):
    encoder = fitted(name, x)
    assert encoder.name in ENCODERS
    z, rest = encoder.encode(x), encoder.residual(x)
    assert z.shape == (300, encoder.n_codes)
    np.testing.assert_allclose(encoder.decode(z, rest), x, rtol=1e-5, atol=1e-5)


@encoders
def test_the_jacobian_and_its_determinant(name, x):
    encoder = fitted(name, x)
    jacobian = jax.jacobian(lambda z: encoder.decode(z[None], z[None, :0])[0])(jnp.zeros(D))
    np.testing.assert_allclose(encoder.jacobian(jnp.array([2, 0])), jacobian[jnp.array([2, 0])], rtol=1e-5, atol=1e-6)
    assert float(encoder.log_det()) == pytest.approx(-np.linalg.slogdet(jacobian)[1], rel=1e-5, abs=1e-6)
    # The defaults of the base class, which an encoder of one's own has, say the same.
    default = Encoder.jacobian(encoder, jnp.arange(D))
    np.testing.assert_allclose(default, jacobian, rtol=1e-5, atol=1e-6)
    assert float(Encoder.log_det(encoder)) == pytest.approx(float(encoder.log_det()), rel=1e-5, abs=1e-6)


@encoders
@pytest.mark.parametrize("family", ["full", "diag", "tied-spherical"])
def test_variances_of_features(name, family, x, rng):
    encoder, covariance = fitted(name, x), random_mixture(rng, family, 3, D).covariance
    a = np.asarray(encoder.jacobian(jnp.arange(D)))
    matrices = np.broadcast_to(covariance.dense(), (3, D, D))
    expected = np.einsum("pd,kde,pe->kp", a, matrices, a)
    found = np.broadcast_to(encoder.image_variance(covariance), (3, D))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(np.broadcast_to(Encoder.image_variance(encoder, covariance), (3, D)), found, rtol=1e-4)
    np.testing.assert_allclose(encoder.code_variances(), (a**2).sum(axis=0), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["identity", "robust", "standardize"])
@pytest.mark.parametrize("family", ["full", "diag", "tied"])
def test_a_mixture_of_codes_is_one_of_x(name, family, x, rng):
    encoder, gmm = fitted(name, x), random_mixture(rng, family, 3, D)
    of_x = encoder.decode_mixture(gmm)
    expected = gmm.log_prob(encoder.encode(x)) + encoder.log_det()
    np.testing.assert_allclose(of_x.log_prob(x), expected, rtol=1e-9)
    again = encoder.encode_mixture(of_x)
    np.testing.assert_allclose(again.means, gmm.means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(dense(again), dense(gmm), rtol=1e-9, atol=1e-12)


def test_standardized_features_have_deviation_one(x):
    z = Standardize.fit(x).encode(x)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-12)
    common = Standardize.fit(x, common=True)
    assert np.ptp(common.scale) == 0
    far = jnp.concatenate([x, jnp.full((3, D), 1e9)])
    np.testing.assert_allclose(robust(far).scale, robust(x).scale, rtol=0.1)
    np.testing.assert_allclose(robust(x).mean, np.median(x, axis=0), rtol=1e-12)
    rare = jnp.zeros((100, 1)).at[0].set(1.0)  # whose quartiles are the same
    np.testing.assert_allclose(robust(rare).scale, rare.std(), rtol=1e-12)
    np.testing.assert_allclose((common.encode(x) ** 2).mean(), 1, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_standardizing_float32_neither_overflows_nor_vanishes(scale, x):
    x = (jnp.asarray(x, jnp.float32) * scale).astype(jnp.float32)
    z = Standardize.fit(x).encode(x)
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-4)
    constant = Standardize.fit(jnp.full((10, 2), scale, jnp.float32))
    np.testing.assert_array_equal(constant.scale, 1)


def test_images_are_whitened_as_images(rng):
    pixels = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 12))
    space = fit_zca(pixels, epsilon=0.0)
    images = jnp.asarray(pixels.reshape(400, 2, 2, 3), jnp.float32)
    codes = encode_images(space, images)
    assert codes.shape == images.shape
    np.testing.assert_allclose(np.cov(codes.reshape(400, 12).T, bias=True), np.eye(12), atol=1e-3)
    np.testing.assert_allclose(decode_images(space, codes), images, atol=1e-3)
