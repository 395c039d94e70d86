"""The rotation against a float64 SVD, its own inverse and its Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jgmm.data.images import CELL_VARIANCE
from jgmm.encoder.pca import fit_pca
from jgmm.errors import InputError
from jgmm.registry import RESIDUALS


@pytest.fixture
def x(rng):
    """Variances from 1 to 1e-7 in ten rotated directions, off the origin."""
    rotation = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    return (rng.normal(size=(400, 10)) * np.logspace(0, -3.5, 10)) @ rotation + 5


def test_the_spectrum_is_that_of_a_float64_svd(x):
    _, spectrum = fit_pca(x)
    singular = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(spectrum.variances, singular**2 / len(x), rtol=1e-6)
    assert spectrum.rank == spectrum.n_codes == 10
    assert spectrum.explained == pytest.approx(1)


def test_cifar_spectrum_down_to_its_smallest_eigenvalue(cifar_dir):
    from jgmm.data import load

    pixels = load("cifar10", cifar_dir).pixels[:4000].reshape(4000, -1)[:, :1536]
    _, spectrum = fit_pca(pixels, scale=1 / 127.5, shift=-1.0)
    features = pixels / 127.5 - 1
    singular = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(spectrum.variances, singular**2 / 4000, rtol=1e-4)


@pytest.mark.usefixtures("x64")
def test_codes_are_white_and_decode_inverts_encode(x):
    rotation, _ = fit_pca(x, dtype=np.float64)
    codes = rotation.encode(jnp.asarray(x))
    np.testing.assert_allclose(np.cov(codes.T, bias=True), np.eye(10), atol=1e-7)
    np.testing.assert_allclose(rotation.decode(codes, jnp.zeros((400, 0))), x, rtol=1e-10)
    jacobian = jax.jacobian(lambda row: rotation.encode(row[None])[0])(jnp.asarray(x[0]))
    assert float(rotation.log_det()) == pytest.approx(np.linalg.slogdet(jacobian)[1], rel=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("residual", RESIDUALS)
def test_dropped_directions(residual, x):
    rotation, spectrum = fit_pca(x, 4, residual=residual, dtype=np.float64)
    assert rotation.has_density == (residual != "none")
    assert rotation.encode(jnp.asarray(x)).shape == (400, 4)
    kept = np.asarray(rotation.scale) ** 2
    np.testing.assert_allclose(kept[:4], spectrum.variances[:4], rtol=1e-9)
    expected = {
        "spectrum": spectrum.variances[4:],
        "isotropic": np.full(6, spectrum.variances[4:].mean()),
        "none": [],
    }
    np.testing.assert_allclose(kept[4:], expected[residual], rtol=1e-9)
    if residual == "spectrum":
        whole = rotation.decode(rotation.encode(jnp.asarray(x)), rotation.residual(jnp.asarray(x)))
        np.testing.assert_allclose(whole, x, rtol=1e-9)


def test_constant_features_get_the_floor_and_nothing_divides_by_zero():
    pixels = load_digits().images.reshape(-1, 64).astype(np.uint8)
    rotation, spectrum = fit_pca(pixels, scale=1 / 127.5, shift=-1.0, floor=CELL_VARIANCE)
    assert spectrum.rank == rotation.n_codes == 61  # three pixels are always white
    assert rotation.n_residual == 3
    assert rotation.has_density
    codes = np.asarray(rotation.encode(jnp.asarray(pixels / 127.5 - 1, jnp.float32)))
    np.testing.assert_allclose(codes.var(axis=0), 1, rtol=1e-2)
    np.testing.assert_allclose(np.asarray(rotation.scale)[61:] ** 2, CELL_VARIANCE, rtol=1e-5)


@pytest.mark.parametrize("make", [lambda r: r.normal(size=(6, 20)), lambda r: np.tile(r.normal(size=(5, 20)), (9, 1))])
def test_fewer_rows_than_features_and_duplicated_rows(make, rng):
    x = make(rng)
    rotation, spectrum = fit_pca(x)
    assert spectrum.rank == len(np.unique(x, axis=0)) - 1
    codes, residual = (f(jnp.asarray(x, jnp.float32)) for f in (rotation.encode, rotation.residual))
    assert np.isfinite(codes).all()
    np.testing.assert_allclose(rotation.decode(codes, residual), x, atol=1e-4)
    assert np.isfinite(rotation.log_det())


def test_noise_adds_to_every_variance(x, rng):
    noisy = x + 0.1 * rng.normal(size=x.shape)
    rotation, spectrum = fit_pca(x, noise_variance=0.01)
    np.testing.assert_allclose(spectrum.variances, fit_pca(x)[1].variances + 0.01, rtol=1e-9)
    codes = np.asarray(rotation.encode(jnp.asarray(noisy, jnp.float32)))
    np.testing.assert_allclose(codes.var(axis=0), 1, rtol=0.2)


@pytest.mark.parametrize(
    ("change", "n", "message"),
    [
        (lambda x: x, 11, "from 1 to 10, got 11"),
        (lambda x: x[:3], 4, "from 1 to 3, got 4"),
        (lambda x: x, 0, "got 0"),
        (lambda x: np.ones_like(x) * 1234.567, None, "constant"),
        (lambda x: np.zeros_like(x), None, "constant"),
        (lambda x: np.where(np.arange(10) == 3, np.nan, x), None, "NaN or infinite"),
    ],
)
def test_bad_input_is_refused(change, n, message, x):
    with pytest.raises(InputError, match=message):
        fit_pca(change(x), n)
