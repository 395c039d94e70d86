"""The commands, run as a user runs them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fit_by_sklearn, refused, run
from matplotlib.image import imread

import jgmm
from jgmm import __main__ as command
from jgmm import complete, evaluate, fit, generate, sweep
from jgmm.checkpoint import models
from jgmm.checkpoint.models import read_config
from jgmm.commands import codes
from jgmm.commands.options import Options
from jgmm.data import load, to_features
from train import __main__ as train_command
from train import sample as train_sample

SMALL = ["--dataset", "digits", "--k", "5", "--max-iter", "8"]


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert run(fit.main, *SMALL, "--holdout", "0.1", "--out", folder) == 0
    return folder


def test_a_run_folder_holds_everything(digits_run):
    names = {p.name for p in digits_run.iterdir()}
    pictures = {"components.png", "samples.png", "spectrum.png", "likelihood.png"}
    prior = {"prior_mean.npy", "prior_variance.npy"}
    assert names == {"config.json", "metrics.jsonl", "params", "log_prob_train.npy"} | prior | pictures
    for name in pictures:
        assert imread(digits_run / name).std() > 0.05
    config = json.loads((digits_run / "config.json").read_text())
    assert config["data"]["sha256"] == load("digits").sha256
    assert config["data"]["train_examples"] + config["data"]["held_out_examples"] == 1797
    assert config["options"]["k"] == 5
    metrics = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    assert [m["iteration"] for m in metrics] == list(range(1, 9))
    np.testing.assert_allclose([m["objective"] for m in metrics], config["history"])
    assert {"bits_per_dim_train", "bits_per_dim_held_out", "seconds_per_iteration"} <= config["summary"].keys()


def test_the_run_loads_and_its_numbers_are_those_reported(digits_run):
    params = jgmm.load(digits_run)
    x0 = jgmm.sample(jax.random.key(0), params, 2000)
    assert x0.shape == (2000, 8, 8, 1)
    assert abs(float(x0.mean())) < 0.05
    assert abs(float(x0.std()) - 1) < 0.05
    config = read_config(digits_run)
    order = np.random.default_rng(0).permutation(1797)
    train = load("digits").pixels[np.sort(order[180:])]
    features = to_features(train).reshape(-1, 8, 8, 1)
    log_p = jgmm.log_prob(params, (jnp.asarray(features) - params.mean[None]) / params.std[None])
    per_image = float(np.asarray(log_p, np.float64).mean()) - 64 * float(np.log(params.std).mean())
    assert per_image == pytest.approx(config["summary"]["log_likelihood_train"], rel=1e-5)


def test_the_same_command_gives_the_same_bits(digits_run, tmp_path):
    assert run(fit.main, *SMALL, "--holdout", "0.1", "--out", tmp_path / "again") == 0
    for a, b in zip(*(jax.tree.leaves(jgmm.load(p)) for p in (digits_run, tmp_path / "again")), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_reference_names_and_maximum_likelihood_equal_scikit_learn(tmp_path):
    """No rotation, full covariances, no prior, float64: scikit-learn's mixture from the same start."""
    args = [
        "--n_components",
        3,
        "--covariance_type",
        "full",
        "--n-pca",
        "none",
        "--output_dir",
        tmp_path / "run",
    ]
    args += ["--data_root", tmp_path, "--n_stat_samples", 500, "--batch_size", 128, "--random_state", 7]
    args += ["--dataset", "digits", "--prior-strength", 0, "--dtype", "float64", "--reg-covar", 1e-3]
    args += ["--tol", 0, "--init", "random", "--no-dequantize", "--min-count", 0, "--max-iter"]
    assert run(fit.main, *args, 1) == 0
    jax.config.update("jax_enable_x64", True)
    try:
        start = jgmm.load(tmp_path / "run").gmm
        x = to_features(load("digits").pixels, np.float64)
        theirs = fit_by_sklearn(start, "full", x, 4, reg_covar=1e-3)
        args[args.index(tmp_path / "run")] = tmp_path / "longer"
        assert run(fit.main, *args, 5) == 0
        jax.config.update("jax_enable_x64", True)
        ours = jgmm.load(tmp_path / "longer").gmm
        np.testing.assert_allclose(ours.means, theirs.means_, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(ours.covariance.dense(), theirs.covariances_, rtol=1e-6, atol=1e-8)
    finally:
        jax.config.update("jax_enable_x64", False)


def test_own_vectors(tmp_path, rng):
    np.save(tmp_path / "blobs.npy", rng.normal(size=(300, 2)) + 6 * (np.arange(300) % 3)[:, None])
    assert run(fit.main, "--data", tmp_path / "blobs.npy", "--k", 3, "--out", tmp_path / "blobs") == 0
    assert jgmm.sample(jax.random.key(0), jgmm.load(tmp_path / "blobs"), 4).shape == (4, 2)


@pytest.mark.slow
def test_mirror_images_and_starting_from_a_run(digits_run, tmp_path):
    options = ["--init-from", digits_run, "--augmentation", "--covariance-type", "tied-diag"]
    assert run(fit.main, *SMALL, *options, "--out", tmp_path / "mirrored") == 0
    assert read_config(tmp_path / "mirrored")["data"]["train_examples"] == 2 * 1797
    ours, theirs = jgmm.load(tmp_path / "mirrored"), jgmm.load(digits_run)
    np.testing.assert_array_equal(ours.encoder.whiten, theirs.encoder.whiten)


@pytest.mark.slow
def test_dequantized_fits_code_better(digits_run, tmp_path):
    """Bits per dimension suppose the noise; a fit that has seen it cannot do worse on the images it was fitted to."""
    assert run(fit.main, *SMALL, "--holdout", "0.1", "--no-dequantize", "--out", tmp_path / "run") == 0
    bits = [read_config(p)["summary"]["bits_per_dim_held_out"] for p in (tmp_path / "run", digits_run)]
    assert bits[1] < bits[0]
    assert jgmm.load(digits_run).encoder.n_codes == 64  # the noise fills the constant pixels


@pytest.mark.slow
def test_projection_without_residual(tmp_path):
    assert run(fit.main, *SMALL, "--n-pca", 10, "--residual", "none", "--out", tmp_path / "run") == 0
    summary = read_config(tmp_path / "run")["summary"]
    assert "log_likelihood_of_codes" in summary
    assert "bits_per_dim_train" not in summary


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, capsys):
    """The fit is done but cannot be saved: it stays resumable, and resuming ends as if nothing had happened."""
    save_arrays = models.save_arrays

    def full_disk(path, tree):
        if path.name == "params":
            raise OSError(28, "No space left on device")
        save_arrays(path, tree)

    monkeypatch.setattr(models, "save_arrays", full_disk)
    assert "the disk is full" in refused(capsys, *SMALL, "--out", tmp_path / "run")
    monkeypatch.undo()
    assert run(fit.main, "--out", tmp_path / "run", "--resume") == 0
    assert run(fit.main, *SMALL, "--out", tmp_path / "whole") == 0
    for a, b in zip(*(jax.tree.leaves(jgmm.load(tmp_path / n)) for n in ("run", "whole")), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_basis_that_was_learned_is_kept(tmp_path, monkeypatch, capsys):
    """It is better than what it is learned from, and an interrupted fit goes on without learning it again."""
    learned = [*SMALL, "--basis", "learned", "--holdout", "0.2", "--seed", "1"]
    assert run(fit.main, *learned, "--out", tmp_path / "whole") == 0

    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jgmm.commands.fitting.run_em", stop)
        with pytest.raises(KeyboardInterrupt):
            fit.main([str(a) for a in (*learned, "--out", tmp_path / "run")])
    with monkeypatch.context() as patch:
        patch.setattr("jgmm.commands.codes.learned_turns", stop)
        assert run(fit.main, "--out", tmp_path / "run", "--resume") == 0
    for a, b in zip(*(jax.tree.leaves(jgmm.load(tmp_path / n)) for n in ("run", "whole")), strict=True):
        np.testing.assert_array_equal(a, b)
    assert run(fit.main, *learned, "--basis", "cosine", "--out", tmp_path / "cosine") == 0
    better, start = (read_config(tmp_path / n)["summary"]["bits_per_dim_held_out"] for n in ("whole", "cosine"))
    assert better < start
    assert "leave --n-pca out" in refused(capsys, *learned, "--n-pca", "20", "--out", tmp_path / "fewer")


def test_the_tolerance_grows_with_the_codes():
    """1e-5 nats a code, and never less than scikit-learn's 1e-3; what is asked for is taken as it is."""
    blank = codes.Codes(None, None, np.zeros((1, 3072)), 0.0, False)
    assert codes.tolerance(Options(), blank) == pytest.approx(0.03072)
    assert codes.tolerance(Options(), blank._replace(values=np.zeros((1, 64)))) == 1e-3
    assert codes.tolerance(Options(tol=0.0), blank) == 0.0


def test_generate(digits_run, tmp_path, capsys):
    out, npz = tmp_path / "grid.png", tmp_path / "x0.npz"
    generate.main([str(digits_run), "--n", "9", "--out", str(out), "--npz", str(npz), "--component", "2"])
    assert imread(out).shape[:2] == (4 * (3 * 9 - 1), 4 * (3 * 9 - 1))
    arrays = np.load(npz)
    assert arrays["x0"].shape == (9, 8, 8, 1)
    assert (arrays["components"] == 2).all()
    np.testing.assert_array_equal(arrays["x0"], jgmm.sample(jax.random.key(0), jgmm.load(digits_run), 9, component=2))
    for bad, message in (
        (["--n", "0"], "--n must be at least 1"),
        (["--component", "5"], "from 0 to 4"),
        (["--out", str(tmp_path / "no" / "where.png")], "there is no folder"),
        (["--npz", "x0"], "--npz expects a name ending in .npz"),
        (["--out", "grid.txt"], "--out expects a name ending in .png"),
    ):
        assert run(generate.main, digits_run, *bad) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--dataset", "digit"], "unknown data set 'digit'. Did you mean 'digits'?"),
        (["--covariance-type", "ful"], "Did you mean 'full'?"),
        (["--kk", "3"], "--k"),
        (["--k", "many"], "--k"),
        (["--k", "0"], "--k must be at least 1, got 0"),
        (["--k", "1798"], "1797 examples are too few for --k 1798"),
        (["--n-pca", "65"], "--n-pca must be at most min(N, D) = 64, got 65"),
        (["--n-pca", "some"], "--n-pca expects all, none or a number"),
        (["--n-pca", "0"], "--n-pca must be at least 1, got 0"),
        (["--holdout", "1"], "--holdout must be from 0"),
        (["--holdout", "0.0001"], "is none"),
        (["--tol", "-1"], "--tol must be at least 0"),
        (["--seed", "-1"], "--seed must be from 0"),
        (["--init-from", "nowhere"], "no run folder at"),
        (["--resume"], "holds no fit to resume"),
        (["--data", "nowhere.npy"], "name two different data"),
        (["--pixels", "nonsense"], "unknown convention of pixels 'nonsense'"),
        (["--out", "run-\udcfc"], "set LC_ALL=C.UTF-8"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_written(args, message, capsys, tmp_path):
    assert run(fit.main, *SMALL, *args, "--out", tmp_path / "run") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


def test_bad_data_and_folders_are_refused(capsys, tmp_path, digits_run):
    np.save(tmp_path / "constant.npy", np.ones((50, 4)))
    assert "constant" in refused(capsys, "--data", tmp_path / "constant.npy", "--k", 2, "--out", tmp_path / "a")
    assert "already holds a run" in refused(capsys, *SMALL, "--out", digits_run)
    assert "--holdout differs" in refused(capsys, *SMALL, "--holdout", "0.2", "--out", digits_run, "--resume")
    (tmp_path / "file").write_text("")
    assert "cannot write to" in refused(capsys, *SMALL, "--out", tmp_path / "file" / "run")
    assert "pass --k 5" in refused(capsys, *SMALL, "--k", 6, "--init-from", digits_run, "--out", tmp_path / "b")
    for power, name in ((30, "e"), (200, "f")):
        np.save(tmp_path / "huge.npy", np.random.default_rng(0).normal(size=(50, 4)) * 10.0**power)
        message = refused(capsys, "--data", tmp_path / "huge.npy", "--k", 2, "--out", tmp_path / name)
        assert "rescale" in message
    flat = tmp_path / "flat.npy"
    np.save(flat, np.random.default_rng(0).normal(size=(20, 2)))
    assert "mirror images" in refused(capsys, "--data", flat, "--k", 2, "--augmentation", "--out", tmp_path / "c")
    local = refused(capsys, "--data", flat, "--k", 2, "--basis", "haar", "--out", tmp_path / "d")
    assert "a local basis is one of images" in local
    tiles = refused(capsys, *SMALL, "--basis", "cosine", "--block", 3, "--out", tmp_path / "e")
    assert "blocks of 3x3 do not tile images of 8x8: choose one of 1, 2, 4, 8" in tiles
    assert "name one with --basis" in refused(capsys, *SMALL, "--basis", "pca", "--block", 2, "--out", tmp_path / "f")
    bare = refused(capsys, *SMALL, "--basis", "zca", "--n-pca", "none", "--out", tmp_path / "g")
    assert "--basis zca turns the principal components" in bare
    assert not any((tmp_path / name).exists() for name in "abcdefg")


def test_no_data_and_no_network_names_three_remedies(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("JGMM_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    message = refused(capsys, "--k", 2, "--out", tmp_path / "run")
    assert "Three remedies" in message
    assert not (tmp_path / "run").exists()


def test_help_imports_nothing_heavy():
    doors = "jgmm.__main__, jgmm.fit, jgmm.generate, jgmm.sweep, jgmm.evaluate, jgmm.complete, train.__main__"
    doors += ", jgmm.convert.__main__"
    heavy = "{'jax', 'matplotlib', 'orbax', 'sklearn', 'flax'}"
    code = f"import sys, {doors}\nassert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    text = subprocess.run([sys.executable, "-m", "jgmm.fit", "--help"], check=True, capture_output=True, text=True)
    assert "--covariance-type" in text.stdout
    listed = subprocess.run([sys.executable, "-m", "jgmm"], check=True, capture_output=True, text=True).stdout
    for door in ("fit", "generate", "sweep", "evaluate", "complete", "convert"):
        assert f"python -m jgmm.{door}" in listed
    unknown = subprocess.run([sys.executable, "-m", "jgmm", "fitt"], capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "unknown command 'fitt'" in unknown.stderr


@pytest.mark.parametrize("door", [fit, sweep, evaluate, complete, generate, command, train_command, train_sample])
def test_every_command_says_its_version(door, capsys):
    assert run(door.main, "--version") == 0
    assert capsys.readouterr().out == f"jgmm {jgmm.__version__}\n"


def _start(folder, *args):
    command = [
        sys.executable,
        "-m",
        "jgmm.fit",
        "--dataset",
        "digits",
        "--k",
        "40",
        "--max-iter",
        "60",
        "--tol",
        "0",
    ]
    command += ["--n-init", "2", "--covariance-type", "full", "--out", str(folder), *args]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
    )


def _kill_test(tmp_path: Path, n: int) -> None:
    """Fits killed with -9 at random moments and resumed end with the same bits as one left alone."""
    clock = time.monotonic()
    assert _start(tmp_path / "whole").wait() == 0
    whole_time = time.monotonic() - clock
    whole = jgmm.load(tmp_path / "whole")
    rng = np.random.default_rng(0)
    for i in range(n):
        folder = tmp_path / f"killed-{i}"
        process = _start(folder)
        time.sleep(rng.uniform(0.2, 0.95) * whole_time)
        process.send_signal(signal.SIGKILL)
        process.wait()
        resumable = (folder / "progress" / "options.json").exists()
        process = _start(folder, *(["--resume"] if resumable else []))
        assert process.wait() == 0 or (folder / "config.json").exists(), process.stderr.read().decode()
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(jgmm.load(folder)), strict=True):
            np.testing.assert_array_equal(a, b)
        histories = [read_config(p)["history"] for p in (tmp_path / "whole", folder)]
        assert histories[0] == histories[1]


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    _kill_test(tmp_path, 1)


@pytest.mark.slow
def test_killed_at_ten_moments(tmp_path):
    _kill_test(tmp_path, 10)


def test_a_resumed_fit_keeps_its_options(tmp_path, capsys):
    process = _start(tmp_path / "run")
    while not (tmp_path / "run" / "progress" / "options.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "--k differs" in refused(capsys, "--out", tmp_path / "run", "--resume", "--k", 41)
    assert "interrupted fit" in refused(capsys, "--out", tmp_path / "run", "--dataset", "digits")
    with pytest.raises(jgmm.InputError, match="half-written"):
        jgmm.load(tmp_path / "run")


@pytest.mark.slow
def test_the_second_run_of_the_same_shapes_does_not_compile(tmp_path):
    def seconds_compiling(name):
        command = [sys.executable, "-m", "jgmm.fit", "--dataset", "digits", "--k", "10", "--out", str(tmp_path / name)]
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        config = json.loads((tmp_path / name / "config.json").read_text())
        first = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
        return config["summary"]["compile_seconds"], first["compile_seconds"]

    (first, _), (second, first_iteration) = seconds_compiling("first"), seconds_compiling("second")
    print(f"compiling: {first:.1f} s, then {second:.1f} s, of which {first_iteration:.1f} s in the first iteration")
    assert second < 0.5 * first
    assert first_iteration < 1
