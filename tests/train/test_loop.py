"""The trainer as a user runs it: training, stopping, going on, several devices, several processes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import run
from matplotlib.image import imread

import jgmm
from jgmm import interpolant as ip
from jgmm.checkpoint.files import write_json
from jgmm.covariance.diag import Diag
from jgmm.encoder.identity import Identity
from jgmm.mixture import GMM
from jgmm.numerics import sharding
from jgmm.source import Source
from train import __main__ as command
from train import batches, config, flow, runs, sample, setup
from train import step as steps
from train.checkpoints import Checkpoints, abstract
from train.log import Log

# For data of one's own, and for digits.
OWN = ["--preset", "tiny", "--base", "8", "--multipliers", "1", "--blocks", "1", "--batch-size", "32"]
OWN += ["--log-every", "2", "--save-every", "4", "--sample-every", "100", "--n-samples", "4", "--nfe", "2"]
SMALL = [*OWN, "--dataset", "digits"]
# The same on one device, in a process of its own.
ALONE = {"JAX_NUM_CPU_DEVICES": "1"}


def started(*args, **variables):
    words = [sys.executable, "-m", "train", *map(str, args)]
    return subprocess.Popen(
        words, env=os.environ | ALONE | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process, code=0):
    out, _ = process.communicate(timeout=600)
    assert process.returncode == code, out
    return out


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def last_step(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def arrays(folder, step):
    """All leaves of the state that was saved."""
    kept = runs.kept_config(folder)
    content = runs.read(folder)
    structure = nnx.eval_shape(lambda: setup.network(kept, tuple(content["shape"]), content["classes"]))
    target = jax.eval_shape(lambda p: steps.begin(kept, p), nnx.split(structure)[1])
    with Checkpoints(folder) as saved:
        places = sharding.of_state(sharding.mesh(), target, False)
        return jax.tree.leaves(saved.load(abstract(target, places), step).state)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Twelve steps without interruption, on one device."""
    folder = tmp_path_factory.mktemp("flow") / "whole"
    finished(started(*SMALL, "--steps", 12, "--out", folder))
    return folder


def test_a_run_folder_holds_everything(whole):
    names = {p.name for p in whole.iterdir()}
    files = {"config.json", "origin.npz", "metrics.jsonl", "checkpoints", "tensorboard", "samples-0000012.png"}
    assert names == files
    assert [json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text().splitlines()] == list(
        range(2, 13, 2)
    )
    assert '"samples": "ema"' in (whole / "metrics.jsonl").read_text()
    with Checkpoints(whole, 2) as saved:
        assert saved.steps == [8, 12]
    assert imread(whole / "samples-0000012.png").std() > 0.05
    assert any((whole / "tensorboard").iterdir())


def test_a_training_begins_with_the_averaged_parameters_of_another(whole, tmp_path, capsys):
    """The first step of the warm-up has the learning rate 0. A training without a checkpoint begins so again."""
    folder, asked = tmp_path / "after", [*SMALL, "--init-from", whole, "--steps", 1]
    assert run(command.main, *asked, "--base", 16, "--out", folder) == 2
    assert "was trained with --base 8, and here it is 16" in capsys.readouterr().err
    assert run(command.main, *asked, "--conditional", "--out", folder) == 2
    assert "(8, 8, 1) with 0 classes, expected (8, 8, 1) with 10" in capsys.readouterr().err
    assert not folder.exists()
    average = jax.tree.leaves(flow.load(whole).parameters)
    for words in (asked, ["--resume", "--steps", 1]):
        assert run(command.main, *words, "--out", folder) == 0
        for a, b in zip(jax.tree.leaves(flow.load(folder, "last").parameters), average, strict=True):
            np.testing.assert_array_equal(a, b)
        shutil.rmtree(folder / "checkpoints")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_stopped_and_resumed_equals_uninterrupted(number, code, tmp_path, monkeypatch, capsys):
    """`make test-slow` kills with -9, too, ten times."""
    folder, straight, write = tmp_path / "stopped", tmp_path / "straight", Log.log

    def write_and_signal(log, at, values):
        write(log, at, values)
        if at == 4 and not (folder / "checkpoints" / "4").exists():
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Log, "log", write_and_signal)
    assert run(command.main, *SMALL, "--steps", 100_000, "--save-every", 100_000, "--out", folder) == code
    assert "stopped after step 4; go on with: python -m train" in capsys.readouterr().out
    assert run(command.main, "--resume", "--steps", 6, "--out", folder) == 0
    monkeypatch.undo()
    # The same number of steps in one go, from the same seed.
    assert run(command.main, *SMALL, "--steps", 6, "--out", straight) == 0
    for a, b in zip(arrays(folder, 6), arrays(straight, 6), strict=True):
        np.testing.assert_array_equal(a, b)
    assert losses(folder) == losses(straight)


def state_after(options, n, places=1):
    """The losses of n steps and the parameters after them, in this process, on its eight devices or on one."""
    made = setup.build(options)
    structure, parameters = nnx.split(setup.network(options, made.images.shape, made.classes))
    mesh = jax.make_mesh((places,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:places])
    state = steps.begin(options, parameters)
    where = sharding.of_state(mesh, state, options.fsdp)
    state = jax.device_put(state, where)
    inputs = jax.device_put(made.inputs, sharding.replicated(mesh))
    advance = jax.jit(steps.make_step(options, structure), out_shardings=(where, sharding.replicated(mesh)))
    seen = []
    for i in range(n):
        index = sharding.spread(batches.indices(options.seed, i, len(made.images), options.batch_size), mesh)
        state, values = advance(state, inputs, index, None)
        seen.append(float(values["loss"]))
    return seen, state


def options_of(*extra):
    return config.parse([*SMALL, *map(str, extra)])


@pytest.fixture(scope="module")
def on_one_device():
    return state_after(options_of(), 6)


@pytest.mark.parametrize("extra", [pytest.param((), marks=pytest.mark.slow), ("--fsdp", "--accumulate", 2)])
def test_eight_devices_and_parts_of_batches_train_alike(extra, on_one_device):
    seen, state = state_after(options_of(*extra), 6, 8)
    np.testing.assert_allclose(seen, on_one_device[0], rtol=1e-4)
    for a, b in zip(jax.tree.leaves(state.parameters), jax.tree.leaves(on_one_device[1].parameters), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
    cut = [leaf for leaf in jax.tree.leaves(state.parameters) if not leaf.sharding.is_fully_replicated]
    assert bool(cut) == ("--fsdp" in extra)


def both_finished(*args):
    """What two processes have said."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    variables = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    both = [started(*args, "--distributed", JAX_PROCESS_ID=str(i), **variables) for i in range(2)]
    return [finished(process) for process in both]


@pytest.mark.slow
def test_two_processes_train_alike(whole, tmp_path):
    """And what they saved is restored on another mesh."""
    folder = tmp_path / "two"
    assert "2 process(es)" in both_finished(*SMALL, "--steps", 8, "--out", folder)[0]
    np.testing.assert_allclose(losses(folder), losses(whole)[:4], rtol=1e-4)
    both_finished("--resume", "--steps", 10, "--out", folder)
    finished(started("--resume", "--steps", 12, "--out", folder))
    np.testing.assert_allclose(losses(folder), losses(whole), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("coupling", ["cache", "semidiscrete"])
def test_two_processes_couple_alike(coupling, tmp_path):
    asked = [*SMALL, "--steps", 4, "--coupling", coupling]
    asked += ["--potential-rounds", 1] if coupling == "semidiscrete" else []
    both_finished(*asked, "--out", tmp_path / "two")
    finished(started(*asked, "--out", tmp_path / "one"))
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)


@pytest.mark.parametrize(("steps", "expected"), [(4, []), pytest.param(6, [4.9657135], marks=pytest.mark.slow)])
def test_a_training_of_version_0_1_goes_on_as_it_would_have(steps, expected, tmp_path, capsys):
    """Begun by version 0.1 from one Gaussian fitted to the digits, in ZCA space, and taken on by it to this loss."""
    with tarfile.open(Path(__file__).parent / "training_0_1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    command.main(["--resume", "--out", str(tmp_path / "training"), "--steps", str(steps)])
    assert "resuming after step 4" in capsys.readouterr().out
    assert losses(tmp_path / "training")[2:] == pytest.approx(expected, rel=1e-5)


def test_learning_stops_where_the_loss_is_not_finite(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(steps, "draw_times", lambda key, n, kind: jnp.full(n, jnp.nan))
    assert run(command.main, *SMALL, "--steps", 4, "--out", tmp_path / "nan") == 2
    assert "not finite in step 1" in capsys.readouterr().err


def test_sampling(whole, tmp_path, capsys):
    grid, way, npz = (tmp_path / name for name in ("g.png", "way.png", "x.npz"))
    args = ["--n", "5", "--solver", "heun", "--nfe", "6", "--out", grid, "--trajectory", way, "--npz", npz]
    assert run(sample.main, whole, *args, "--batch-size", "3") == 0
    assert "heun, 6 evaluations of the velocity, average parameters" in capsys.readouterr().out
    with np.load(npz) as found:
        assert found["images"].shape == found["x0"].shape == (5, 8, 8, 1)
    assert imread(grid).std() > 0.05
    assert imread(way).std() > 0.05


@pytest.mark.slow
def test_conditional_flows_and_assignments(tmp_path, capsys):
    folder = tmp_path / "labels"
    extra = ["--conditional", "--coupling", "ot", "--source", "mle", "--times", "logit-normal", "--steps", "4"]
    assert run(command.main, *SMALL, *extra, "--out", folder) == 0
    npz = tmp_path / "x.npz"
    assert run(sample.main, folder, "--n", "6", "--guidance", "2", "--label", "3", "--nfe", "2", "--npz", npz) == 0
    with np.load(npz) as found:
        assert (found["labels"] == 3).all()
    assert run(sample.main, folder, "--label", "10", "--npz", npz) == 2
    assert "--label must be from 0 to 9" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_needs_neither_its_source_nor_for_sampling_its_data(tmp_path, capsys):
    """With images of floating point, oblong, and of more channels than a picture has."""
    pixels = np.random.default_rng(0).normal(size=(64, 4, 2, 4))
    np.save(tmp_path / "latents.npy", pixels)
    one = jnp.ones((1, 1, 1))
    mixture = GMM(jnp.log(jnp.full(2, 0.5)), jnp.zeros((2, 32)), Diag.identity(2, 32))
    jgmm.save(tmp_path / "gmm", Source(mixture, Identity(32), 0 * one, one, (4, 2, 4)))
    folder, npz = tmp_path / "flow", tmp_path / "x.npz"
    how = ["--source", tmp_path / "gmm", "--coupling", "component", "--rho", "0.5", "--norm-align", "--space", "zca"]
    how += ["--data", tmp_path / "latents.npy", "--steps", "2", "--save-every", "2", "--out", folder]
    assert run(command.main, *OWN, *how) == 0
    assert not list(folder.glob("*.png"))
    shutil.rmtree(tmp_path / "gmm")
    (tmp_path / "latents.npy").rename(tmp_path / "moved.npy")
    more = ["--steps", "4", "--no-conditional", "--flips", "--norm-align"]
    assert run(command.main, "--resume", "--out", folder, "--data", tmp_path / "moved.npy", *more) == 0
    assert last_step(folder) == 4
    assert runs.kept_config(folder).steps == 4
    np.save(tmp_path / "moved.npy", pixels + 1)
    assert run(command.main, "--resume", "--out", folder, "--data", tmp_path / "moved.npy", "--steps", "6") == 2
    assert "does not hold the data" in capsys.readouterr().err
    (tmp_path / "moved.npy").unlink()
    assert run(sample.main, folder, "--n", "3", "--nfe", "2", "--npz", npz) == 0
    with np.load(npz) as found:
        assert found["images"].shape == (3, 4, 2, 4)
    assert run(sample.main, folder, "--n", "3", "--nfe", "2") == 2
    assert "which no picture shows: write them with --npz" in capsys.readouterr().err
    (folder / "origin.npz").write_bytes(b"")
    assert run(sample.main, folder, "--npz", npz) == 2
    assert "origin.npz is damaged" in capsys.readouterr().err


def test_bad_input_is_refused(whole, tmp_path, capsys):
    np.save(tmp_path / "bare.npy", np.zeros((64, 8, 8, 1), np.uint8))
    np.savez(tmp_path / "words.npz", pixels=np.zeros((64, 8, 8, 1), np.uint8), labels=np.full(64, "cat"))
    np.save(tmp_path / "odd.npy", np.zeros((64, 9, 9, 1), np.uint8))
    for args, message in (
        (["--data", tmp_path / "bare.npy", "--conditional"], "--conditional needs labels"),
        (["--data", tmp_path / "words.npz", "--conditional"], "labels that are integers from 0"),
        (["--data", tmp_path / "odd.npy", "--multipliers", "1", "2"], "sides are divisible by 2, got 9 x 9"),
        (["--batch-size", "12"], "8 devices cannot share evenly"),
        (["--accumulate", "3"], "equal parts"),
        (["--accumulate", "8"], "8 devices cannot share evenly"),
        (["--nfe", "0"], "--nfe must be at least 1"),
        (["--solver", "heun", "--nfe", "5"], "multiple"),
        (["--rho", "0.5"], "--rho is no option of --coupling independent"),
        (["--epsilon", "0.5", "--coupling", "ot"], "--epsilon is no option of --coupling ot"),
        (["--coupling", "component"], "draws from a mixture"),
        (["--source", tmp_path / "none"], "which is none"),
        (["--batch-size", "4096"], "fewer than --batch-size"),
        (["--out", whole], "already holds a run"),
        (["--ema", "1.5"], "--ema must be from 0"),
        (["--base", "9"], "--base must be even"),
        (["--multipliers", "0"], "--multipliers must be at least one number from 1 up"),
        (["--base", "36", "--head-channels", "5"], "does not divide the 36 channels"),
        (["--source", "Gaussian"], "--source expects gaussian, mle or a run folder"),
        (["--seed", str(2**40)], "--seed must be from 0 to below 2**32"),
        (["--time-scale", "nan"], "--time-scale must be above 0 and finite"),
    ):
        small = OWN if "--data" in args else SMALL
        assert run(command.main, *small, "--out", tmp_path / "new", *args) == 2, args
        assert message in " ".join(capsys.readouterr().err.split()), args
        assert not (tmp_path / "new").exists()
    assert run(command.main, "--preset", "mixture", "--out", tmp_path / "new") == 2
    assert "--source is empty: --preset mixture needs one" in capsys.readouterr().err
    assert run(command.main, "--resume", "--out", whole, "--learning-rate", "0.1") == 2
    assert "--learning-rate differs" in capsys.readouterr().err
    assert run(command.main, "--resume", "--out", tmp_path / "none") == 2
    assert "no training at" in capsys.readouterr().err
    assert run(sample.main, whole, "--npz", tmp_path / "none" / "x.npz") == 2
    assert "there is no folder" in capsys.readouterr().err
    assert run(sample.main, whole, "--guidance", "2") == 2
    assert "is not conditional" in capsys.readouterr().err
    assert run(sample.main, whole, "--step", "5") == 2
    assert "no checkpoint of step 5" in capsys.readouterr().err


def test_a_checkpoint_of_another_network_is_named(whole, tmp_path, capsys):
    content = runs.read(whole)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("checkpoints", "origin.npz"):
        (other / name).symlink_to(whole / name)
    content["config"]["base"] = 16
    write_json(other / "config.json", content)
    assert run(sample.main, other) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "the checkpoint is of another network: parameters/" in message
    assert "expected (" in message


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, capsys):
    import orbax.checkpoint as ocp

    def full(self, step, **options):
        if step > 4:
            raise OSError(28, "No space left on device")
        return real(self, step, **options)

    real = ocp.CheckpointManager.save
    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    folder = Path(tmp_path / "full")
    assert run(command.main, *SMALL, "--steps", 8, "--out", folder) == 2
    assert "the disk is full. The checkpoints before it are whole: [4]" in capsys.readouterr().err
    assert len(arrays(folder, 4)) > 10


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(tmp_path, rng):
    straight, folder = tmp_path / "straight", tmp_path / "killed"
    steps_made = 400
    finished(started(*SMALL, "--steps", steps_made, "--out", straight))
    options = [*SMALL, "--steps", steps_made, "--out", folder]
    for _ in range(10):
        process = started(*options)
        time.sleep(rng.uniform(8, 20))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (folder / "checkpoints").is_dir() and any(p.name.isdigit() for p in (folder / "checkpoints").iterdir()):
            options = ["--resume", "--out", folder]
        else:  # killed before the first checkpoint: there is nothing to go on with
            shutil.rmtree(folder, ignore_errors=True)
    finished(started(*options))
    for a, b in zip(arrays(folder, steps_made), arrays(straight, steps_made), strict=True):
        np.testing.assert_array_equal(a, b)
    assert losses(folder) == losses(straight)


@pytest.mark.slow
def test_the_trained_field_comes_close_to_the_exact_one():
    """Mixture to mixture in the plane, points as images of one pixel with two channels."""
    source, target = (ip.random_mixture(jax.random.key(i), 3, 2) for i in (1, 2))
    path = ip.path(ip.couple(source, target))
    options = replace(config.PRESETS["tiny"], base=64, multipliers=(1,), warmup=100, learning_rate=2e-3, ema=0.99)
    structure, parameters = nnx.split(setup.network(options, (1, 1, 2), 0))
    optimizer = steps.optimizer_of(options)

    @jax.jit
    def advance(carry, key):
        parameters, average, state = carry
        for_times, for_draws = jax.random.split(key)
        t = steps.draw_times(for_times, 1024, "uniform")
        x0, x1, _ = ip.sample(for_draws, path, t, 1024)

        def loss(parameters):
            images = (x.reshape(-1, 1, 1, 2) for x in (x0, x1))
            return steps.flow_matching_loss(nnx.merge(structure, parameters), t, *images, None, None)

        value, gradient = jax.value_and_grad(loss)(parameters)
        updates, state = optimizer.update(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        return (parameters, optax.incremental_update(parameters, average, 1 - options.ema), state), value

    carry = (parameters, parameters, optimizer.init(parameters))
    for key in jax.random.split(jax.random.key(0), 2000):
        carry, _ = advance(carry, key)
    model = nnx.merge(structure, carry[1])
    errors = []
    for t in (0.1, 0.3, 0.5, 0.7, 0.9):
        _, _, x = ip.sample(jax.random.key(5), path, t, 4000)
        exact = ip.velocity(path, t, x)
        found = model(jnp.full(4000, t), x.reshape(-1, 1, 1, 2)).reshape(-1, 2)
        errors.append(float(jnp.sqrt(((found - exact) ** 2).sum() / (exact**2).sum())))
    print("relative error of the velocity:", np.round(errors, 4))
    assert np.mean(errors) < 0.1
