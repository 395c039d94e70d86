"""`fit --mesh`, `--distributed`, `--stream`, `--weights` and `--minibatch`."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import clusters, differences, refused, run

import jgmm
from jgmm import fit
from jgmm.checkpoint.models import read_config

# EM on the rows as they are, to its end.
PLAIN = ["--k", "4", "--n-pca", "none", "--covariance-type", "full", "--max-iter", "10", "--tol", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rows in a file, how often they count, and a run on them."""
    folder, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    x, weight = clusters(rng, 803, 6, 4), rng.integers(0, 3, size=803)
    np.save(folder / "x.npy", x)
    np.save(folder / "weight.npy", weight)
    np.save(folder / "copies.npy", np.repeat(x, weight, axis=0))
    assert run(fit.main, "--data", folder / "x.npy", *PLAIN, "--out", folder / "alone") == 0
    return folder


def same(folder, other, tolerance=1e-5):
    """Whether two runs come to the same mixture."""
    a, b = jgmm.load(folder / "alone"), jgmm.load(other)
    return max(differences(a.gmm, b.gmm)) < tolerance


def log_likelihood(folder):
    return read_config(folder)["summary"]["log_likelihood_train"]


def test_a_mesh_and_a_stream_make_the_same_run(folder, tmp_path, capsys):
    args = ["--data", folder / "x.npy", *PLAIN]
    cut = ["--mesh", "data=4,component=2", "--stream", "always"]
    assert run(fit.main, *args, *cut, "--out", tmp_path / "cut") == 0
    assert "read in every pass" in capsys.readouterr().out
    assert same(folder, tmp_path / "cut")
    assert not (tmp_path / "cut" / "progress").exists()
    assert log_likelihood(tmp_path / "cut") == pytest.approx(log_likelihood(folder / "alone"), abs=1e-4)
    # It goes on with other devices.
    more = ["--resume", "--max-iter", "12"]
    assert run(fit.main, "--out", tmp_path / "cut", *more, "--mesh", "data=2") == 0
    assert run(fit.main, "--out", folder / "alone", *more) == 0
    assert same(folder, tmp_path / "cut", 1e-4)


def test_weights_are_copies(folder, tmp_path):
    """With the components of a PCA, which count weights too; from one start, since draws are others."""
    args = ["--k", "1", "--covariance-type", "full", "--prior-strength", "0", "--n-pca", "3"]
    weighed = ["--data", folder / "x.npy", "--weights", folder / "weight.npy", "--out", tmp_path / "weighed"]
    assert run(fit.main, *args, *weighed) == 0
    assert run(fit.main, *args, "--data", folder / "copies.npy", "--out", tmp_path / "copies") == 0
    found = [log_likelihood(tmp_path / name) for name in ("weighed", "copies")]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_batches_come_close_in_few_passes(folder, tmp_path):
    assert run(fit.main, "--data", folder / "x.npy", *PLAIN, "--minibatch", "100", "--out", tmp_path / "run") == 0
    assert log_likelihood(tmp_path / "run") == pytest.approx(log_likelihood(folder / "alone"), abs=0.2)
    assert "progress" not in {p.name for p in (tmp_path / "run").iterdir()}


def test_bad_input_is_refused_and_leaves_nothing(folder, tmp_path, capsys):
    np.save(tmp_path / "few.npy", np.ones(3))
    np.save(tmp_path / "negative.npy", np.full(803, -1.0))
    np.save(tmp_path / "number.npy", np.array(1.0))
    args, out = ["--data", folder / "x.npy", "--k", "2"], tmp_path / "refused"
    for options, words in [
        (["--weights", tmp_path / "few.npy"], "803 numbers"),
        (["--weights", tmp_path / "negative.npy"], "numbers from 0"),
        (["--weights", tmp_path / "number.npy"], "803 numbers"),
        (["--weights", tmp_path / "missing.npy"], "no .npy file"),
        (["--mesh", "data=99"], "99 devices"),
        (["--mesh", "everything"], "is written as"),
        (["--minibatch", "1"], "at least --k 2"),
        (["--minibatch", "50", "--n-init", "2"], "--minibatch"),
        (["--minibatch", "50", "--covariance-type", "low-rank"], "stepwise EM"),
    ]:
        assert words in refused(capsys, *args, *options, "--out", out)
        assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 4])
def test_several_processes_make_the_same_run(n, folder, tmp_path):
    """On loopback, each with its own part of 800 rows."""
    np.save(tmp_path / "x.npy", np.load(folder / "x.npy")[:800])
    alone, together = tmp_path / "one", tmp_path / "several"
    assert run(fit.main, "--data", tmp_path / "x.npy", *PLAIN, "--out", alone) == 0
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(n), "JAX_NUM_CPU_DEVICES": "1"}
    words = [sys.executable, "-m", "jgmm.fit", "--data", tmp_path / "x.npy", *PLAIN, "--out", together, "--distributed"]
    processes = [
        subprocess.Popen(
            [str(word) for word in words],
            env=os.environ | shared | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(n)
    ]
    for process in processes:
        out, _ = process.communicate(timeout=240)
        assert process.returncode == 0, out
    found = [jgmm.load(folder) for folder in (alone, together)]
    assert max(differences(*(source.gmm for source in found))) < 1e-5
    assert np.load(together / "log_prob_train.npy").shape == (800,)
    for a, b in zip(*(jax.tree.leaves(source.encoder) for source in found), strict=True):
        np.testing.assert_allclose(a, b)
