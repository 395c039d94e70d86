"""`fit --blocks`: products of block mixtures, from the command to the trainer."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import run
from matplotlib.image import imread

import jgmm
from jgmm import complete, evaluate, fit, generate
from jgmm.checkpoint.models import read_config
from jgmm.encoder.identity import Identity
from jgmm.product.mixture import ProductMixture
from train.batches import Batch
from train.couplings.component import Labels
from train.sources import Mixture

DIGITS = ["--dataset", "digits", "--k", "6", "--blocks", "2", "--holdout", "0.1"]


@pytest.fixture(scope="module")
def product_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "product"
    assert run(fit.main, *DIGITS, "--classes", "4", "3", "--out", folder) == 0
    return folder


def test_a_product_beats_the_plain_mixture_on_held_out_images(product_run, tmp_path):
    source = jgmm.load(product_run)
    assert isinstance(source.gmm, ProductMixture)
    assert [table.shape for table in source.gmm.labels.tables] == [(4, 4, 3), (16, 3, 6)]
    assert source.gmm.parts[0].covariance.name == "full"
    assert source.gmm.parts[0].batch_shape == ()
    config = read_config(product_run)
    assert config["model"]["blocks"] == 16
    assert config["model"]["classes"] == 4
    assert config["options"]["classes"] == [4, 3]
    assert run(fit.main, *DIGITS[:4], "--holdout", "0.1", "--out", tmp_path / "plain") == 0
    plain = read_config(tmp_path / "plain")["summary"]
    assert config["summary"]["bits_per_dim_held_out"] < plain["bits_per_dim_held_out"] - 0.05
    assert imread(product_run / "components.png").std() > 0.05


def test_the_moments_of_its_images_are_exact(product_run):
    source = jgmm.load(product_run)
    x0 = np.asarray(source.sample(jax.random.key(0), 20_000))
    assert abs(x0.mean()) < 0.02
    assert abs(x0.std() - 1) < 0.02
    again, labels = source.sample(jax.random.key(1), 3, return_components=True)
    assert labels.shape == (3, 16)
    fixed = source.sample(jax.random.key(2), 3, component=labels[0])
    assert fixed.shape == again.shape
    assert np.isfinite(source.log_prob(fixed)).all()


@pytest.mark.slow
def test_resumed_it_is_the_same(product_run, tmp_path, capsys):
    folder = tmp_path / "product"
    args = [*DIGITS, "--classes", "4", "3", "--out", folder]
    assert run(fit.main, *args, "--max-iter", "3") == 0
    assert run(fit.main, *args, "--resume", "--max-iter", "100") == 0
    ours, theirs = (jax.tree.leaves(jgmm.load(f)) for f in (folder, product_run))
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
    capsys.readouterr()
    assert run(fit.main, "--out", folder, "--resume") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_the_other_commands_take_it(product_run, tmp_path, capsys):
    assert run(evaluate.main, product_run, "--out", tmp_path / "evaluation") == 0
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    summary = read_config(product_run)["summary"]
    assert found["bits_per_dim"] == pytest.approx(summary["bits_per_dim_held_out"], abs=0.01)
    assert run(generate.main, product_run, "--out", tmp_path / "grid.png") == 0
    assert imread(tmp_path / "grid.png").std() > 0.05
    start = ["--init-from", product_run, "--out", tmp_path / "again", "--max-iter", "2"]
    assert run(fit.main, *DIGITS, *start) == 0
    capsys.readouterr()
    plain = ["--dataset", "digits", "--k", "6", "--init-from", product_run, "--out", tmp_path / "plain"]
    assert run(fit.main, *plain) == 2
    assert "a product of block mixtures, the options ask for" in capsys.readouterr().err
    assert run(fit.main, *DIGITS, "--blocks", "4", "--init-from", product_run, "--out", tmp_path / "other") == 2
    assert "no Gaussians of 16 codes" in capsys.readouterr().err
    assert run(complete.main, product_run, "--out", tmp_path / "completion.png") == 2
    assert "no closed form" in capsys.readouterr().err


def test_options_that_do_not_fit_are_refused(tmp_path, capsys):
    for more, message in [
        (["--classes", "3"], "give their side by --blocks"),
        (["--blocks", "3"], "do not tile images of 8x8"),
        (["--blocks", "2", "--n-pca", "10"], "leave --n-pca"),
        (["--blocks", "2", "--basis", "pca"], "--basis cosine"),
        (["--blocks", "2", "--basis", "principal"], "--basis cosine"),
        (["--scatter", "robust", "--n-pca", "10"], "leave --n-pca out"),
        (["--blocks", "4", "--classes", "2", "2"], "no room for 2 levels"),
        (["--blocks", "2", "--classes", "0"], "--classes"),
    ]:
        assert run(fit.main, "--dataset", "digits", "--k", "3", *more, "--out", tmp_path / "x") == 2
        assert message in capsys.readouterr().err, more
        assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_draws_near_images_have_the_law_of_the_source(product_run):
    """Labels from the posterior given draws of the product, and fresh noise, make draws of the product again."""
    source = jgmm.load(product_run)
    images = source.sample(jax.random.key(0), 4000)
    pixels = source.to_pixels(images)
    coupling = Labels(Mixture(source, Identity(64)), 0.5)
    batch = Batch(images, pixels, None, jnp.arange(4000), jnp.zeros(4000, bool))
    x0 = np.asarray(coupling.x0(jax.random.key(1), batch, None))
    np.testing.assert_allclose(x0.mean(axis=0), images.mean(axis=0), atol=0.15)
    np.testing.assert_allclose(x0.std(axis=0), images.std(axis=0), atol=0.15)
    assert np.corrcoef(x0.reshape(-1), np.asarray(images).reshape(-1))[0, 1] > 0.5


def test_rows_have_no_blocks(tmp_path, capsys):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(50, 6)))
    assert run(fit.main, "--data", tmp_path / "rows.npy", "--k", "2", "--blocks", "2", "--out", tmp_path / "x") == 2
    assert "local basis" in capsys.readouterr().err
