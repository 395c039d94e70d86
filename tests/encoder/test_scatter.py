"""Scatters against their formulas written out with dense matrices, and what robust ones are for."""

import jax.numpy as jnp
import numpy as np
import pytest

from jgmm.data.images import CELL_VARIANCE, mirror_of
from jgmm.encoder.pca import fit_pca
from jgmm.encoder.scatter import LEAST_CONTRAST, scatter_of
from jgmm.errors import InputError

SHAPE = (3, 5, 2)
P = 30


def images_of_differing_contrast(rng, n):
    """Images of this shape that are as likely as their mirror images, and their covariance at contrast one."""
    root = rng.normal(size=(P, P)) * 0.2 + np.eye(P)
    x = rng.normal(size=(n, P)) @ root
    mirrored = x[:, mirror_of(SHAPE)]
    both = np.where(rng.random((n, 1)) < 0.5, x, mirrored)
    covariance = root.T @ root
    mirror = mirror_of(SHAPE)
    return both * np.exp(rng.normal(size=(n, 1))) + 0.1, (covariance + covariance[mirror][:, mirror]) / 2


def dense(scatter):
    return (scatter.axes.T * scatter.variances) @ scatter.axes


def written_out(x, mirror, robust, noise):
    """The scatter by its formulas."""
    if mirror is not None:
        x = np.concatenate([x, x[:, mirror]])
    centered = x - x.mean(axis=0)
    covariance = centered.T @ centered / len(x) + noise * np.eye(P)
    if not robust:
        return covariance
    inverse = np.linalg.inv(covariance)
    energy = (np.einsum("np,pq,nq->n", centered, inverse, centered) + noise * np.trace(inverse)) / P
    w = 1 / (LEAST_CONTRAST + energy)
    found = (centered * w[:, None]).T @ centered / len(x) + w.mean() * noise * np.eye(P)
    return found * np.trace(np.linalg.solve(found, covariance)) / P


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_scatters_are_those_of_their_formulas(mirrored, robust, noise, rng):
    x, _ = images_of_differing_contrast(rng, 300)
    mirror = mirror_of(SHAPE) if mirrored else None
    found = scatter_of(2 * x, scale=0.5, noise_variance=noise, mirror=mirror, robust=robust)
    np.testing.assert_allclose(dense(found), written_out(x, mirror, robust, noise), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(P), atol=1e-12)
    assert (np.diff(found.variances) <= 0).all()


def test_a_robust_symmetric_scatter_is_nearer_to_the_truth(rng):
    """Up to a factor, which the mixture takes care of."""
    x, truth = images_of_differing_contrast(rng, 200)

    def distance(**options):
        s = np.linalg.eigvals(np.linalg.solve(truth, dense(scatter_of(x, **options)))).real
        return np.log(s).var()

    mirror = mirror_of(SHAPE)
    plain, robust, symmetric = distance(), distance(robust=True), distance(mirror=mirror)
    assert distance(robust=True, mirror=mirror) < min(robust, symmetric) < max(robust, symmetric) < plain


def test_codes_of_a_robust_scatter_have_a_mean_square_of_one_also_where_rows_are_few(rng):
    few = rng.normal(size=(12, P))
    for x, rank in ((few, 11), (rng.normal(size=(400, P)), P)):
        pca, spectrum = fit_pca(x, robust=True)
        assert spectrum.rank == pca.n_codes == rank
        assert float((pca.encode(jnp.asarray(x, jnp.float32)) ** 2).mean()) == pytest.approx(1, abs=1e-3)


def test_axes_of_a_symmetric_scatter_are_even_or_odd():
    pixels = np.random.default_rng(0).integers(0, 256, (500, *SHAPE), dtype=np.uint8)
    found = scatter_of(pixels.reshape(500, P), scale=1 / 127.5, noise_variance=CELL_VARIANCE, mirror=mirror_of(SHAPE))
    mirrored = found.axes[:, mirror_of(SHAPE)]
    even, odd = np.abs(mirrored - found.axes).max(axis=1), np.abs(mirrored + found.axes).max(axis=1)
    assert np.minimum(even, odd).max() < 1e-12
    assert (even < 1e-12).sum() == 18  # two columns and their partners, and the middle one


def test_any_scale_and_directions_of_hardly_any_variance(rng):
    x = rng.normal(size=(500, 4)) * np.exp(rng.normal(size=(500, 1)))
    for scale in (1e-40, 1.0, 1e40):
        found = scatter_of(x * scale, robust=True)
        np.testing.assert_allclose(dense(found) / scale**2, dense(scatter_of(x, robust=True)), rtol=1e-4, atol=1e-6)
    x[:, 3] = 3e-6 * rng.standard_t(2, size=500)
    pca, spectrum = fit_pca(x, robust=True)
    assert float((pca.encode(jnp.asarray(x, jnp.float32)) ** 2).mean()) == pytest.approx(1, abs=1e-2)
    assert pca.n_codes == spectrum.rank


def test_bad_input_is_refused(rng):
    x = rng.normal(size=(20, 3))
    for mirror in (np.array([1, 2, 0]), np.array([0, 1, 5])):
        with pytest.raises(InputError, match="applied twice"):
            scatter_of(x, mirror=mirror)
    for robust in (False, True):
        for constant in (np.ones((20, 3)), np.zeros((20, 3))):
            with pytest.raises(InputError, match="constant"):
                fit_pca(constant, robust=robust, noise_variance=0.1)
        with pytest.raises(InputError, match="constant"):
            fit_pca(x, scale=0.0, robust=robust)
    with pytest.raises(InputError, match="keep all"):
        fit_pca(x, 2, robust=True)
