"""A source that copies is told from one that does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import run
from scipy.spatial.distance import cdist

import jgmm
from jgmm import fit
from jgmm.checkpoint.models import read_config
from jgmm.commands.inputs import prepare
from jgmm.commands.options import Options
from jgmm.encoder.identity import Identity
from jgmm.errors import InputError
from jgmm.metrics.memorization import memorization, nearest_distance


def test_distances_by_brute_force(rng):
    x, to = (rng.normal(size=(n, 6)).astype(np.float32) for n in (40, 9000))
    expected = cdist(x, to).min(axis=1)
    np.testing.assert_allclose(nearest_distance(jnp.asarray(x), jnp.asarray(to)), expected, rtol=1e-3)


def test_components_on_single_rows_are_copies(rng):
    x = rng.normal(size=(400, 6)).astype(np.float32)
    train, held_out = x[:200], x[200:]
    on_rows = jgmm.GMM.from_parameters(np.full(50, 1 / 50), train[:50], np.full((50, 6), 1e-6))
    whole = jgmm.GMM.from_parameters([1.0], [[0.0] * 6], np.ones((1, 6)))
    copies = [
        memorization(jax.random.key(0), jgmm.unnormalized(gmm, Identity(6), (6,)), train, held_out, 300).copies
        for gmm in (on_rows, whole)
    ]
    assert copies[0] == 300
    assert copies[1] < 10
    source = jgmm.unnormalized(whole, Identity(6), (6,))
    with pytest.raises(InputError, match=r"held_out must be images of shape \('n', 6\), got \(200, 5\)"):
        memorization(jax.random.key(0), source, train, held_out[:, :5])


@pytest.mark.slow
def test_the_default_fit_does_not_draw_its_images(tmp_path):
    """Digits, 50 components of some 30 images each."""
    args = ["--dataset", "digits", "--k", "50", "--max-iter", "8", "--holdout", "0.2", "--out", tmp_path / "run"]
    assert run(fit.main, *args) == 0
    data = prepare(Options.from_json(read_config(tmp_path / "run")["options"]), 50)
    found = memorization(jax.random.key(0), jgmm.load(tmp_path / "run"), data.train.pixels, data.held_out.pixels, 1000)
    assert found.copies == 0
