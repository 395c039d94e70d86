"""EM over many devices against EM on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import clusters, differences, few

import jgmm
from jgmm.em import loop
from jgmm.em.hierarchy import hierarchical
from jgmm.em.loop import run_em
from jgmm.numerics.sharding import mesh_of
from jgmm.registry import COVARIANCES

MESHES = ["data=8", "data=4,component=2"]


@pytest.mark.parametrize("mesh", few(MESHES, MESHES[1]))
@pytest.mark.parametrize("family", few(COVARIANCES, "diag", "tied"))
def test_ten_iterations_are_those_of_one_device(family, mesh, rng):
    """1,003 rows, which no mesh cuts evenly."""
    x = clusters(rng, 1003, 6, 4)
    options = {"k": 4, "covariance_type": family, "max_iter": 10, "tol": 0.0}
    alone = run_em(jax.random.key(0), jnp.asarray(x), **options)
    with jax.set_mesh(mesh_of(mesh)):
        found = run_em(jax.random.key(0), x, **options)
    # Factors and noise of low-rank covariances are told apart by what is left over, which costs digits.
    assert max(differences(alone.gmm, found.gmm)) < (3e-5 if "low-rank" in family else 1e-5)
    np.testing.assert_allclose(alone.history, found.history, rtol=1e-6)
    if "component" in mesh:
        assert not found.gmm.means.sharding.is_fully_replicated


@pytest.mark.slow
def test_screening_moves_and_a_learned_prior_are_those_of_one_device(rng):
    x = clusters(rng, 4001, 128, 8, apart=0.3)
    with jax.set_mesh(mesh_of("data=4,component=2")):
        found = run_em(jax.random.key(0), x, k=8, covariance_type="full", max_iter=5, tol=0.0)
        assert found.pairs < 8
    alone = run_em(jax.random.key(0), jnp.asarray(x), k=8, covariance_type="full", max_iter=5, tol=0.0)
    assert max(differences(alone.gmm, found.gmm)) < 1e-5
    options = {"k": 8, "init": "log-energy", "prior": hierarchical(None), "min_count": 400.0, "max_iter": 5, "tol": 0.0}
    alone = run_em(jax.random.key(0), jnp.asarray(x[:, :16]), **options)
    with jax.set_mesh(mesh_of("data=4,component=2")):
        found = run_em(jax.random.key(0), x[:, :16], **options)
    assert found.revived == alone.revived > 0
    assert max(differences(alone.gmm, found.gmm)) < 1e-5


@pytest.mark.slow
def test_fit_em_over_a_mesh_counts_weights_and_starts_where_it_is_told(rng):
    x = clusters(rng, 603, 5, 3)
    weight = rng.integers(0, 3, size=len(x))
    options = {"k": 3, "max_iter": 10, "tol": 0.0, "chunk_size": 100, "covariance_type": "full"}
    alone = jgmm.fit_em(0, x, sample_weight=weight, **options)
    found = jgmm.fit_em(0, x, sample_weight=weight, mesh="data=8", **options)
    np.testing.assert_allclose(alone.history, found.history, rtol=1e-5)
    again = jgmm.fit_em(0, x, start=alone.gmm, max_iter=2, mesh="data=4,component=2")
    assert again.history[0] == pytest.approx(float(alone.gmm.log_prob(x).mean()), abs=1e-4)


@pytest.mark.parametrize("init", few(["kmeans", "random"], "random"))
def test_a_start_from_some_of_the_rows_is_that_of_one_device(init, rng, monkeypatch):
    monkeypatch.setattr(loop, "SOME", 900)
    x = clusters(rng, 403, 6, 3)
    options = {"k": 3, "init": init, "max_iter": 3, "tol": 0.0}
    alone = run_em(jax.random.key(0), jnp.asarray(x), **options)
    with jax.set_mesh(mesh_of("data=4,component=2")):
        found = run_em(jax.random.key(0), x, **options)
    np.testing.assert_allclose(alone.history, found.history, rtol=1e-5)


def test_what_a_mesh_does_not_do_is_refused(rng):
    x = clusters(rng, 50, 3, 2)
    x[0, 0] = np.nan
    with pytest.raises(jgmm.InputError, match="one device"):
        jgmm.fit_em(0, x, k=2, missing="marginal", mesh="data=2")
    with pytest.raises(jgmm.InputError, match="devices"):
        jgmm.fit_em(0, x, k=2, mesh="data=100")
