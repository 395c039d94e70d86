"""`fit --scales` and `fit --rank`: what is fitted, resumed and refused."""

import jax
import numpy as np
import pytest
from helpers import refused, run

import jgmm
from jgmm import fit
from jgmm.checkpoint.models import read_config

ARGS = ["--dataset", "digits", "--k", "6", "--holdout", "0.1"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scales") / "whole"
    assert run(fit.main, *ARGS, "--scales", "3", "--out", folder) == 0
    return folder


def test_scales_are_better(whole, tmp_path, capsys):
    """And are fitted once."""
    assert run(fit.main, *ARGS, "--out", tmp_path) == 0
    assert jgmm.load(whole).gmm.k == 18
    bits = [read_config(folder)["summary"]["bits_per_dim_held_out"] for folder in (tmp_path, whole)]
    assert bits[1] < bits[0]
    capsys.readouterr()
    assert run(fit.main, "--out", whole, "--resume") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert "cannot be undone" in refused(capsys, "--out", whole, "--resume", "--max-iter", 500, "--tol", 0)


@pytest.mark.slow
def test_scales_are_fitted_after_the_gaussians(whole, tmp_path, capsys, monkeypatch):
    """Interrupted while they are, the fit goes on with them."""

    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("jgmm.commands.fitting.with_scales", stop)
        with pytest.raises(KeyboardInterrupt):
            fit.main([*ARGS, "--scales", "3", "--out", str(tmp_path / "stopped")])
    assert "go on with" in capsys.readouterr().out
    assert run(fit.main, "--out", tmp_path / "stopped", "--resume") == 0
    for a, b in zip(*(jax.tree.leaves(jgmm.load(folder)) for folder in (tmp_path / "stopped", whole)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_rank_is_kept_and_belongs_to_low_rank_covariances(tmp_path, capsys):
    args = ["--dataset", "digits", "--k", "3", "--max-iter", "3", "--rank", "2"]
    assert run(fit.main, *args, "--covariance-type", "tied-low-rank", "--out", tmp_path / "run") == 0
    assert jgmm.load(tmp_path / "run").gmm.covariance.shared.factors.shape[2] == 2
    assert run(fit.main, "--out", tmp_path / "run", "--resume", "--max-iter", "5") == 0
    for options, words in [
        (["--rank", "2", "--covariance-type", "diag"], "no rank"),
        (["--rank", "2", "--covariance-type", "tied"], "no rank"),
        (["--rank", "0", "--covariance-type", "low-rank"], "--rank"),
        (["--scales", "2", "--covariance-type", "tied"], "of their own"),
        (["--scales", "0"], "--scales"),
    ]:
        assert words in refused(capsys, *args[:4], *options, "--out", tmp_path / "refused")
        assert not (tmp_path / "refused").exists()
