"""Stepwise EM: against EM, against averages of raw moments, and against batch EM on held-out rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few
from sklearn.datasets import load_digits, load_iris

import jgmm
from jgmm.em import stepwise
from jgmm.em.rows import RowsInMemory
from jgmm.em.steps import em_step
from jgmm.errors import InputError

OTHERS = ["diag", "spherical", "tied-diag", "tied-spherical"]
FAMILIES = few(["full", "tied", *OTHERS], "full")


def batches(n=3):
    return np.array_split(np.random.default_rng(0).permutation(load_iris().data), n)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("family", FAMILIES)
def test_batches_that_are_forgotten_at_once_are_iterations_of_em(family):
    x, prior = load_iris().data, jgmm.Prior(strength=4.0, mean_strength=1.0)
    state = jgmm.partial_fit(None, x, 3, covariance_type=family, prior=prior)
    gmm, z = state.z_gmm, state.encoder.encode(jnp.asarray(x))
    # The prior counts against all rows there were.
    more = [(x, None), (x, np.full(150, 2.0))]
    for batch, weight in more:
        seen = float(state.seen) + 150 * (1 if weight is None else 2)
        rows = RowsInMemory(z, jnp.full(150, seen / 150))
        gmm = em_step(gmm, rows, state.prior, state.floor).gmm
        state = jgmm.partial_fit(state, batch, sample_weight=weight, power=0.0)
        for a, b in zip(jax.tree.leaves(state.z_gmm), jax.tree.leaves(gmm), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("x64")
def test_statistics_are_the_running_average_of_raw_moments():
    first, *rest = batches()
    state = jgmm.partial_fit(None, first, 2, covariance_type="full", floor=jgmm.Floor(absolute=0.0, relative=0.0))
    raw = None
    for t, batch in enumerate([first, *rest]):
        z = np.asarray(state.encoder.encode(jnp.asarray(batch)))
        r = np.asarray(state.z_gmm.responsibilities(z)) / len(z)
        new = r.sum(axis=0), r.T @ z, np.einsum("nk,ni,nj->kij", r, z, z)
        share = (t + 1) ** -0.6
        raw = new if raw is None else tuple((1 - share) * a + share * b for a, b in zip(raw, new, strict=True))
        if t > 0:
            state = jgmm.partial_fit(state, batch, power=0.6)
            counts, sums, squares = raw
            means = sums / counts[:, None]
            covariance = squares / counts[:, None, None] - means[:, :, None] * means[:, None]
            np.testing.assert_allclose(state.z_gmm.means, means, atol=1e-10)
            np.testing.assert_allclose(state.z_gmm.covariance.dense(), covariance, atol=1e-10)
            np.testing.assert_allclose(state.z_gmm.weights, counts, atol=1e-12)


def test_a_short_batch_counts_by_its_rows():
    x = np.random.default_rng(0).permutation(load_iris().data)
    state = jgmm.partial_fit(None, x[:149], 3)
    after = jgmm.partial_fit(state, x[149:])
    np.testing.assert_allclose(after.gmm.weights, state.gmm.weights, atol=0.02)


def test_one_pass_is_nearly_as_good_as_batch_em_and_better_than_its_beginning():
    rng = np.random.default_rng(0)
    x = rng.permutation(load_digits().data) + rng.uniform(size=(1797, 64))
    train, held_out = x[:1400], x[1400:]
    prior, parts = jgmm.Prior(strength=5.0), np.array_split(train, 7)
    state = jgmm.partial_fit(None, parts[0], 5, prior=prior)
    scores = [float(state.gmm.log_prob(held_out).mean())]
    for part in parts[1:]:
        state = jgmm.partial_fit(state, part)
        scores.append(float(state.gmm.log_prob(held_out).mean()))
    whole = jgmm.fit_em(0, train, 5, covariance_type="diag", prior=prior)
    assert scores[-1] > scores[0] + 1
    assert scores[-1] > float(whole.gmm.log_prob(held_out).mean()) - 3
    assert float(state.seen) == 1400


def test_it_is_saved_and_goes_on_as_if_it_had_not_been(tmp_path):
    first, second, third = batches()
    state = jgmm.partial_fit(None, first, 3, covariance_type="full", prior=jgmm.Prior(strength=2.0))
    state = jgmm.partial_fit(state, second)
    jgmm.save(tmp_path / "state", state)
    found = jgmm.partial_fit(jgmm.load(tmp_path / "state"), third)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(jgmm.partial_fit(state, third)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s, x: jgmm.partial_fit(s, x[:, :3]), "rows of 4 features"),
        (lambda s, x: jgmm.partial_fit(s, x[:0]), "empty"),
        (lambda s, x: jgmm.partial_fit(s, x, k=4), "leave them out"),
        (lambda s, x: jgmm.partial_fit(s, x, covariance_type="full", key=5), "key, covariance_type are those"),
        (lambda s, x: jgmm.partial_fit(s, x, power=1.5), "at most 1"),
        (lambda s, x: jgmm.partial_fit(None, x, covariance_type="low-rank"), "low-rank"),
        (lambda s, x: jgmm.partial_fit(None, x[:2], k=3), "too few"),
        (lambda s, x: jgmm.partial_fit(s, np.full((3, 4), np.nan)), "NaN"),
    ],
)
def test_batches_that_do_not_fit_are_refused(call, words):
    x = load_iris().data
    with pytest.raises(InputError, match=words):
        call(jgmm.partial_fit(None, x, 2), x)


def test_steps_become_shorter_from_pass_to_pass(monkeypatch, rng):
    """Rows that come again are no more rows, and make steps no longer."""
    x, means = rng.normal(size=(600, 2)).astype(np.float32), []
    real = stepwise._advanced

    def watched(*arguments):
        found = real(*arguments)
        means.append(np.asarray(found.z_gmm.means)[0])
        return found

    monkeypatch.setattr(stepwise, "_advanced", watched)
    options = {"k": 1, "covariance_type": "diag", "prior": None, "floor": jgmm.Floor(), "tol": 0.0}
    stepwise.run_stepwise(jax.random.key(0), x, None, 60, max_iter=12, callback=lambda state: None, **options)
    moved = np.linalg.norm(np.diff(np.array(means), axis=0), axis=1)
    assert len(moved) == 12 * 10 - 1
    assert moved[-30:].mean() < 0.5 * moved[:10].mean()
