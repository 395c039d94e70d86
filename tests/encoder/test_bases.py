"""Local bases of images: against their definitions, scipy's transforms, and what a rotation must be."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from jgmm.encoder.bases import block_of, patterns, turn
from jgmm.encoder.pca import fit_pca
from jgmm.encoder.rotated import RotatedPCA
from jgmm.errors import InputError
from jgmm.registry import BASES

LOCAL = [name for name in BASES if name != "pca"]


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize(("shape", "block"), [((4, 8, 3), 4), ((6, 3, 1), 3), ((4, 4, 5), 2), ((5, 5, 2), 5)])
def test_patterns_are_orthonormal_and_live_in_one_block(name, shape, block):
    rows = patterns(BASES[name], shape, block)
    p = int(np.prod(shape))
    np.testing.assert_allclose(rows @ rows.T, np.eye(p), atol=1e-12)
    blocks = np.zeros(shape)
    blocks += (np.arange(shape[0]) // block)[:, None, None] * 100 + (np.arange(shape[1]) // block)[None, :, None]
    for i, row in enumerate(rows):
        touched = np.unique(blocks.ravel()[np.abs(row) > 1e-12])
        assert len(touched) == 1
        # The patterns of a block follow each other.
        first = i // (block * block * shape[2]) * block * block * shape[2]
        assert touched == np.unique(blocks.ravel()[np.abs(rows[first]) > 1e-12])


def test_cosines_are_those_of_scipy(rng):
    image = rng.normal(size=(8, 8, 1))
    codes = patterns(BASES["cosine"], (8, 8, 1), 4) @ image.ravel()
    blocks = image[:, :, 0].reshape(2, 4, 2, 4).swapaxes(1, 2)
    expected = scipy.fft.dctn(blocks, axes=(2, 3), norm="ortho")
    np.testing.assert_allclose(codes.reshape(2, 2, 4, 4), expected, atol=1e-12)


def test_haar_wavelets_of_a_block_of_two():
    expected = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    np.testing.assert_allclose(patterns(BASES["haar"], (2, 2, 1), 2), expected, atol=1e-12)


def test_a_constant_image_is_one_wavelet_a_block_and_one_opponent_color():
    codes = patterns(BASES["haar"], (8, 8, 3), 8) @ np.ones(192)
    assert (np.abs(codes) > 1e-9).sum() == 1
    assert codes[0] == pytest.approx(np.sqrt(192))


def test_the_block_is_chosen_or_refused():
    assert [block_of((side, side, 3)) for side in (8, 16, 28, 32, 31, 96)] == [2, 4, 7, 8, 1, 8]
    assert block_of((32, 48, 3), 16) == 16
    with pytest.raises(InputError, match="blocks of 5x5 do not tile images of 12x18: choose one of 1, 2, 3, 6"):
        block_of((12, 18, 3), 5)
    with pytest.raises(InputError, match="one of images"):
        block_of((64,))


@pytest.mark.parametrize("name", LOCAL)
def test_codes_of_any_rank_stay_white(name, rng):
    """20 of 32 directions with variance: as many codes, turned by a rotation, and the rest where it was."""
    shape, rank = (4, 4, 2), 20
    x = rng.normal(size=(500, rank)) @ rng.normal(size=(rank, 32))
    pca, spectrum = fit_pca(x, floor=1e-4)
    assert spectrum.rank == pca.n_codes == rank
    rotation = turn(patterns(BASES[name], shape, 2), np.asarray(pca.components[:rank], np.float64))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(rank), atol=1e-6)
    encoder = RotatedPCA.of(pca, rotation)
    z = np.asarray(encoder.encode(jnp.asarray(x, jnp.float32)))
    np.testing.assert_allclose(np.cov(z.T, bias=True), np.eye(rank), atol=2e-2)
    assert float(encoder.log_det()) == pytest.approx(float(pca.log_det()), rel=1e-5)
    rest = encoder.residual(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(encoder.decode(jnp.asarray(z), rest), x, atol=1e-3)


def test_turned_codes_of_all_directions_are_the_whitened_image_in_the_basis(rng):
    x = rng.normal(size=(300, 16)) @ rng.normal(size=(16, 16))
    pca, _ = fit_pca(x)
    rows = patterns(BASES["cosine"], (4, 4, 1), 2)
    encoder = RotatedPCA.of(pca, turn(rows, np.asarray(pca.components, np.float64)))
    x = jnp.asarray(x, jnp.float32)
    whitened_image = np.asarray(pca.encode(x) @ pca.components)
    np.testing.assert_allclose(encoder.encode(x), whitened_image @ rows.T, atol=2e-3)


def test_what_is_no_rotation_is_refused(rng):
    pca, _ = fit_pca(rng.normal(size=(50, 4)))
    with pytest.raises(InputError, match="orthonormal"):
        RotatedPCA.of(pca, np.eye(4) * 1.1)
    with pytest.raises(InputError, match=r"shape \(4, 4\)"):
        RotatedPCA.of(pca, np.eye(3))
