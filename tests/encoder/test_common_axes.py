"""Axes that clusters have in common: found again where they were planted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ortho_group

from jgmm.encoder.common_axes import common_axes, learned_turns
from jgmm.encoder.rotated import RotatedPCA
from jgmm.errors import InputError


def matches(found, planted):
    """Whether rows are those planted, in any order and of any sign."""
    return np.abs(found @ planted.T).max(axis=1).min() > 0.99


def test_planted_axes_are_found(rng):
    planted = ortho_group(5, seed=0).rvs()
    variances = np.exp(rng.normal(size=(20, 5)))
    covariances = np.einsum("ai,ka,aj->kij", planted, variances, planted)
    q = np.asarray(common_axes(jnp.asarray(covariances, jnp.float32), jnp.full(20, 0.05)))
    np.testing.assert_allclose(q @ q.T, np.eye(5), atol=1e-5)
    assert matches(q, planted)


def test_every_group_of_codes_has_axes_of_its_own(rng):
    """Rows of clusters that differ along planted axes in each half of the codes; an empty cluster changes nothing."""
    planted = ortho_group(3, seed=1).rvs(2)
    clusters = rng.integers(1, 9, size=20_000)
    deviations = np.exp(rng.normal(size=(9, 2, 3)))
    y = deviations[clusters] * rng.normal(size=(20_000, 2, 3))
    x = np.einsum("gai,nga->ngi", planted, y).reshape(-1, 6).astype(np.float32)
    turns = learned_turns(x, clusters, 3)
    assert all(matches(turn, axes) for turn, axes in zip(turns, planted, strict=True))


def test_a_turned_encoder_turns_codes_and_nothing_else(rng):
    x = jnp.asarray(rng.normal(size=(100, 6)) @ rng.normal(size=(6, 6)), jnp.float32)
    start, turns = RotatedPCA.fit(x), ortho_group(3, seed=2).rvs(2)
    turned = start.turned(turns)
    z = turned.encode(x)
    expected = np.einsum("gab,ngb->nga", turns, np.asarray(start.encode(x)).reshape(-1, 2, 3)).reshape(-1, 6)
    np.testing.assert_allclose(z, expected, atol=1e-4)
    np.testing.assert_allclose(turned.decode(z, jnp.zeros((100, 0))), x, atol=1e-3)
    sign, log_det = jnp.linalg.slogdet(jax.jacobian(lambda row: turned.encode(row[None])[0])(x[0]))
    assert log_det == pytest.approx(float(turned.log_det()), abs=1e-3)
    with pytest.raises(InputError, match="of 3 codes, the encoder has 6"):
        start.turned(turns[:1])
