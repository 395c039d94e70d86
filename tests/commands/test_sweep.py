"""Model selection: the criteria, the command, and many starts at once."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import run
from matplotlib.image import imread

import jgmm
from jgmm import sweep
from jgmm.covariance.base import identity_of
from jgmm.covariance.prior import Floor, as_arrays
from jgmm.em.loop import run_em
from jgmm.em.restarts import best_of, fits
from jgmm.metrics.information import aic, bic

SMALL = ["--dataset", "digits", "--n-pca", "6", "--max-iter", "15", "--no-dequantize"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "digits"
    args = [*SMALL, "--k", "4", "--covariance-type", "full", "tied-diag", "--n-init", "3", "--out", folder]
    assert run(sweep.main, *args) == 0
    return folder


def test_a_sweep_leaves_a_table_a_picture_and_the_best_run(swept):
    with (swept / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["covariance_type"], r["k"]) for r in rows] == [("full", "4"), ("tied-diag", "4")]
    best = max(rows, key=lambda r: float(r["held_out"]))
    config = json.loads((swept / "best" / "config.json").read_text())
    assert (config["options"]["covariance_type"], config["options"]["k"]) == (best["covariance_type"], int(best["k"]))
    assert config["summary"]["log_likelihood_held_out"] == pytest.approx(float(best["held_out"]), abs=1e-3)
    assert config["summary"]["log_likelihood_train"] == pytest.approx(float(best["train"]), abs=1e-3)
    n = config["data"]["train_examples"]
    for r in rows:
        total = float(r["train"]) * n
        assert float(r["bic"]) == pytest.approx(bic(total, int(r["parameters"]), n))
        assert float(r["aic"]) == pytest.approx(aic(total, int(r["parameters"])))
    assert imread(swept / "sweep.png").std() > 0.05
    assert jgmm.sample(jax.random.key(0), jgmm.load(swept / "best"), 5).shape == (5, 8, 8, 1)


def test_bad_sweeps_are_refused(swept, capsys, tmp_path):
    for args, message in (
        (["--holdout", "0"], "--holdout must be above 0"),
        (["--k", "0", "3"], "--k must be at least 1"),
        (["--covariance-type", "banded"], "unknown covariance type 'banded'"),
        (["--k", "3", "5000"], "too few for --k 5000"),
        (["--out", swept], "already holds a sweep"),
        (["--holdout", "0.0001"], "is none"),
    ):
        assert run(sweep.main, *SMALL, "--out", tmp_path / "s", *args) == 2
        assert message in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "s").exists()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["full", "tied-diag"])
def test_starts_at_once_end_where_starts_in_turn_do(family, rng):
    x = jnp.asarray(np.concatenate([rng.normal(size=(100, 3)) + 4 * rng.normal(size=3) for _ in range(5)]), jnp.float32)
    floor = Floor(relative=0.0)
    key, ones = jax.random.key(2), jnp.ones(3)
    options = {"k": 4, "max_iter": 30, "tol": 1e-4}
    arrays = as_arrays(None, floor, x.dtype)
    start, ends = best_of(key, x, ones, *arrays, identity=identity_of(family), init="kmeans", n_init=4, **options)
    ours = run_em(key, x, start=start, floor=floor, covariance_type=family, **options)
    theirs = run_em(key, x, n_init=4, floor=floor, covariance_type=family, **options)
    assert ours.history[-1] == pytest.approx(theirs.history[-1], abs=1e-4)
    assert float(ends.max()) == pytest.approx(theirs.history[-1], abs=1e-4)
    assert fits(4, 500, start)
    assert not fits(1, 500, start)
    assert not fits(4, 500_000, start)
