"""Components of too few rows are given up for halves of large ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense, few

from jgmm.covariance.prior import Prior, as_arrays
from jgmm.em.loop import run_em
from jgmm.em.relocation import split
from jgmm.em.rows import RowsInMemory
from jgmm.em.steps import e_step
from jgmm.mixture import GMM
from jgmm.registry import COVARIANCES


@pytest.fixture
def x(rng):
    """A narrow and a wide cluster at one place, and three rows far away."""
    both = rng.normal(size=(600, 5)) * np.where(np.arange(600) % 2, 1.0, 6.0)[:, None]
    return jnp.asarray(np.concatenate([both, 60 + rng.normal(size=(3, 5))]), jnp.float32)


@pytest.mark.parametrize("family", few(COVARIANCES, "full", "tied"))
def test_the_place_of_a_small_component_goes_to_half_of_a_large_one(family, x, rng):
    start = GMM.from_parameters([0.995, 0.005], [[0.0] * 5, [60.0] * 5], np.ones((2, 5)) * 19, "diag")
    state = run_em(jax.random.key(0), x, k=2, covariance_type=family, start=start, max_iter=1)
    rows = RowsInMemory(x)
    counts = e_step(state.gmm, rows).counts
    prior, floor = as_arrays(Prior(strength=1.0, variance=jnp.ones((2, 5))), None, x.dtype)
    small = jnp.array([False, True])
    gmm, _ = split(state.gmm, rows, counts, small, prior, floor)
    np.testing.assert_allclose(gmm.weights.sum(), 1, rtol=1e-5)
    assert float(gmm.weights.min()) > 0.15
    assert np.abs(np.asarray(gmm.means)).max() < 10
    if "tied" not in family:
        spread = np.trace(dense(gmm), axis1=1, axis2=2)
        assert spread[1] > 2 * spread[0]  # the half that was explained badly is the wide one


def test_small_components_move_where_that_helps_and_the_objective_does_not_fall(x):
    def fit(min_count):
        start = GMM.from_parameters([0.9, 0.095, 0.005], [[0.0] * 5, [1.0] * 5, [60.0] * 5], np.full((3, 5), 19.0))
        return run_em(
            jax.random.key(0), x, k=3, start=start, min_count=min_count, max_iter=30, prior=Prior(strength=1.0)
        )

    kept, moved = fit(0.0), fit(10.0)
    assert kept.counts.min() == pytest.approx(3, abs=0.1)
    assert kept.revived == 0
    for state in (kept, moved):
        assert np.diff(state.history).min() > -1e-4
    assert moved.history[-1] >= kept.history[-1] - 1e-4
    assert moved.settled or moved.counts.min() >= 10
