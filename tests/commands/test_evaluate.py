"""`jgmm.evaluate` and `jgmm.complete`, run as a user runs them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import run
from matplotlib.image import imread

import jgmm
from jgmm import complete, evaluate, fit
from jgmm.data import load, to_features
from jgmm.data.resize import resize
from jgmm.errors import InputError
from jgmm.metrics.likelihood import log_probs, scores


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    args = ["--dataset", "digits", "--k", "10", "--max-iter", "10", "--holdout", "0.1", "--dequantize"]
    assert run(fit.main, *args, "--out", folder) == 0
    return folder


@pytest.fixture
def held_out():
    order = np.random.default_rng(0).permutation(1797)
    return load("digits").take(np.sort(order[:180]))


def test_scores_are_those_of_the_source(digits_run, held_out):
    params = jgmm.load(digits_run)
    found = scores(params, held_out.pixels, chunk_size=64)
    pixels = to_features(held_out.pixels).reshape(-1, 8, 8, 1)
    expected = np.asarray(jgmm.log_prob(jgmm.normalize(params, "none"), pixels))
    np.testing.assert_allclose(found.log_prob, expected, rtol=1e-5)
    np.testing.assert_allclose(found.responsibilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(log_probs(params, held_out.pixels), expected, rtol=1e-5)


def test_evaluate_the_run_on_what_was_kept_out(digits_run, held_out, capsys, tmp_path):
    np.save(tmp_path / "own.npy", held_out.pixels[:20])
    against = ["--against", "photos", tmp_path / "own.npy"]
    args = ["--quantile", "0.1", "--two-sided", *against, "--out", tmp_path / "e"]
    assert run(evaluate.main, digits_run, *args) == 0
    printed = capsys.readouterr().out
    assert "photos: resized from (32, 32, 3) to (8, 8, 1)" in printed
    summary = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    config = json.loads((digits_run / "config.json").read_text())
    assert summary["log_likelihood"] == pytest.approx(config["summary"]["log_likelihood_held_out"], rel=1e-5)
    assert summary["examples"] == 180
    assert summary["bits_per_dim"] == pytest.approx(config["summary"]["bits_per_dim_held_out"], abs=0.05)
    assert summary["adjusted_rand"] > 0.25
    with np.load(tmp_path / "e" / "scores.npz") as saved:
        train = np.load(digits_run / "log_prob_train.npy")
        low, high = np.quantile(train, [0.05, 0.95])
        np.testing.assert_array_equal(saved["anomaly"], (saved["log_prob"] < low) | (saved["log_prob"] > high))
        np.testing.assert_array_equal(saved["component"], saved["responsibilities"].argmax(axis=1))
        photos = resize(load("photos"), (8, 8, 1))
        theirs = log_probs(jgmm.load(digits_run), photos.pixels)
        wins = (saved["log_prob"][:, None] > theirs[None]).mean() + 0.5 * (saved["log_prob"][:, None] == theirs).mean()
    assert summary["against"]["photos"]["auroc_likelihood"] == pytest.approx(wins, abs=1e-6)
    assert set(summary["against"]) == {"photos", "own"}
    for name in ("log_prob.png", "clusters.png"):
        assert imread(tmp_path / "e" / name).std() > 0.05


def test_complete_halves(digits_run, capsys, tmp_path):
    out = tmp_path / "left.png"
    assert run(complete.main, digits_run, "--n", "100", "--draws", "1", "--known", "left", "--out", out) == 0
    words = capsys.readouterr().out.replace(";", ",").split()
    missed, blind = float(words[words.index("mean:") + 1]), float(words[words.index("known,") + 1])
    assert missed < 0.9 * blind
    assert imread(out).std() > 0.05


def test_a_saved_source_is_evaluated_and_completes(digits_run, capsys, tmp_path):
    """`jgmm.save` keeps no data: draws stand for the training data, and the data must be named."""
    jgmm.save(tmp_path / "saved", jgmm.load(digits_run))
    assert run(evaluate.main, tmp_path / "saved", "--dataset", "digits", "--out", tmp_path / "e") == 0
    assert "draws of it stand for them" in capsys.readouterr().out
    summary = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert np.isfinite(summary["threshold"])
    args = ["--dataset", "digits", "--n", "2", "--out", tmp_path / "c.png"]
    assert run(complete.main, tmp_path / "saved", *args) == 0
    for command in (evaluate, complete):
        assert run(command.main, tmp_path / "saved") == 2
        assert "name some with --data or --dataset" in capsys.readouterr().err


def test_images_of_another_size(rng):
    grey, color = load("digits").take(np.arange(3)), load("photos").take(np.arange(3))
    large = resize(grey, (32, 32, 3))
    assert large.pixels.shape == (3, 32, 32, 3)
    assert large.pixels.dtype == np.uint8
    assert np.ptp(large.pixels, axis=3).max() == 0
    assert abs(large.pixels.mean() - grey.pixels.mean()) < 5
    luma = resize(color, (32, 32, 1)).pixels[..., 0]
    np.testing.assert_allclose(luma, color.pixels @ np.array([0.299, 0.587, 0.114]), atol=1)
    assert resize(grey, (8, 8, 1)) is grey
    with pytest.raises(InputError, match="8-bit images"):
        resize(replace(grey, pixels=grey.pixels.astype(np.float32)), (32, 32, 3))


def test_bad_input_is_refused(digits_run, capsys, tmp_path):
    np.save(tmp_path / "wide.npy", np.zeros((5, 9, 9, 1), np.uint8))
    assert run(fit.main, "--dataset", "digits", "--k", "2", "--max-iter", "2", "--n-pca", "5", "--residual", "none",
               "--out", tmp_path / "bare") == 0  # fmt: skip
    capsys.readouterr()
    for command, args, message in (
        (evaluate, [tmp_path / "none"], "no run folder"),
        (evaluate, [tmp_path / "bare"], "--residual none"),
        (evaluate, [digits_run, "--quantile", "1"], "--quantile must be between 0 and 1"),
        (evaluate, [digits_run, "--data", tmp_path / "wide.npy"], "expected images of shape"),
        (evaluate, [digits_run, "--dataset", "digitz"], "Did you mean 'digits'"),
        (evaluate, [digits_run, "--against", "mnist"], "unknown data set 'mnist'"),
        (evaluate, [digits_run, "--data", tmp_path / "wide.npy", "--dataset", "digits"], "choose one"),
        (complete, [digits_run, "--n", "0"], "--n must be from 1"),
        (complete, [digits_run, "--out", "x.gif"], "--out expects a name ending in"),
        (complete, [digits_run, "--dataset", "photos"], "the run models images of (8, 8, 1)"),
        (complete, [tmp_path / "bare"], "no density over pixels"),
    ):
        assert run(command.main, *args) == 2
        assert message in " ".join(capsys.readouterr().err.replace("│", " ").split()), args
    assert not (digits_run / "evaluation").exists()
