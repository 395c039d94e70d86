"""A source comes back from disk bit for bit, and anything else is refused with one clear line."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import SOURCE_SHAPE, random_mixture, random_source

import jgmm
from jgmm.checkpoint.files import write_json
from jgmm.encoder.identity import Identity
from jgmm.errors import InputError
from jgmm.registry import COVARIANCES
from jgmm.source import Source

RUNS = Path(__file__).parent / "runs_0_1"


@pytest.mark.parametrize("family", COVARIANCES)
def test_every_family_comes_back_bit_for_bit(family, rng, tmp_path):
    params = random_source(rng, family)
    jgmm.save(tmp_path / "run", params, {"note": "by hand"})
    again = jgmm.load(tmp_path / "run")
    assert jax.tree.structure(params) == jax.tree.structure(again)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["note"] == "by hand"
    assert config["model"]["covariance_type"] == family
    assert {"jgmm", "jax", "numpy", "python"} <= config["versions"].keys()


def test_without_rotation_and_without_residual(rng, tmp_path):
    dropped = random_source(rng, residual="none")
    plain = Source(dropped.gmm, Identity(5), dropped.mean[0, 0], dropped.std[0, 0], (5,))
    for name, params in (("dropped", dropped), ("plain", plain)):
        jgmm.save(tmp_path / name, params)
        assert jax.tree.structure(jgmm.load(tmp_path / name)) == jax.tree.structure(params)
    assert dropped.shape == SOURCE_SHAPE


def test_float64_is_not_silently_rounded(rng, tmp_path):
    jax.config.update("jax_enable_x64", True)
    try:
        params = random_source(rng, dtype="float64")
        jgmm.save(tmp_path / "run", params)
        assert jgmm.load(tmp_path / "run").gmm.means.dtype == np.float64
    finally:
        jax.config.update("jax_enable_x64", False)
    with pytest.raises(InputError, match="jax_enable_x64"):
        jgmm.load(tmp_path / "run")


def _edit(path, **changes):
    config = json.loads((path / "config.json").read_text())
    del config["sha256"]
    write_json(path / "config.json", config | changes)


def _with_other_shape(path):
    structure = json.loads((path / "config.json").read_text())["structure"]
    structure["fields"]["gmm"]["fields"]["means"]["shape"] = [4, 5]
    return structure


def _change(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def _empty_arrays(path):
    for file in (path / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")


def _largest(path):
    return max((f for f in (path / "params").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def _truncate(path):
    _largest(path).write_bytes(_largest(path).read_bytes()[:100])


def _flip(path):
    content = bytearray(_largest(path).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 50] = bytes(255 - b for b in content[middle : middle + 50])
    _largest(path).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: _edit(p, format=4), "format 4, newer than the 3"),
        (lambda p: _edit(p, kind="other.thing"), "another kind \\('other.thing'\\)"),
        (lambda p: (p / "config.json").write_text("{"), "not valid JSON"),
        (lambda p: (p / "config.json").write_text("[]"), "no JSON object"),
        (lambda p: (p / "config.json").unlink(), "not a jgmm run"),
        (lambda p: [(p / "config.json").unlink(), (p / "progress").mkdir()], "half-written.*--resume"),
        (lambda p: _change(p / "config.json", '"k": 3', '"k": 4'), "not as it was written"),
        (lambda p: __import__("shutil").rmtree(p / "params"), "damaged"),
        (_empty_arrays, "damaged"),
        (lambda p: (p / "config.json").write_text('{"kind": "jgmm.source", "format": 1}'), "a part of it is missing"),
        (_truncate, "damaged"),
        (_flip, "damaged"),
        (lambda p: _edit(p, structure=_with_other_shape(p)), "damaged"),
        (lambda p: __import__("shutil").rmtree(p), "no run folder at"),
        (lambda p: [__import__("shutil").rmtree(p), p.mkdir()], "not a jgmm run"),
        (lambda p: [__import__("shutil").rmtree(p), p.write_text("a file")], "no run folder at"),
    ],
)
def test_what_is_not_a_finished_run_is_refused(damage, message, rng, tmp_path):
    jgmm.save(tmp_path / "run", random_source(rng))
    damage(tmp_path / "run")
    with pytest.raises(InputError, match=message):
        jgmm.load(tmp_path / "run")


def test_a_finished_run_is_not_overwritten(rng, tmp_path):
    jgmm.save(tmp_path / "run", random_source(rng))
    with pytest.raises(InputError, match="already holds a finished run"):
        jgmm.save(tmp_path / "run", random_source(rng))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        jgmm.save(tmp_path / "file" / "run", random_source(rng))


@pytest.mark.parametrize("family", COVARIANCES)
def test_mixtures_come_back_bit_for_bit(family, rng, tmp_path):
    gmm = random_mixture(rng, family, dtype="float32")
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), gmm)
    for name, model in (("one", gmm), ("batch", batch)):
        jgmm.save(tmp_path / name, model)
        again = jgmm.load(tmp_path / name)
        assert jax.tree.structure(again) == jax.tree.structure(model)
        for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("covariance_type", "tied", "context", "activation"),
    [("full", False, 3, nnx.relu), ("diag", True, 3, nnx.tanh), ("spherical", False, 0, nnx.silu)],
)
def test_conditional_mixtures_come_back_bit_for_bit(covariance_type, tied, context, activation, rng, tmp_path):
    options = {"hidden_features": (8, 5), "activation": activation, "epsilon": 1e-4, "rngs": nnx.Rngs(1)}
    model = jgmm.ConditionalGMM(2, context, 4, covariance_type, tied, **options)
    jgmm.save(tmp_path / "model", model)
    again = jgmm.load(tmp_path / "model")
    assert again.covariance_type == model.covariance_type
    known = (jnp.asarray(rng.normal(size=(6, context)), jnp.float32),) if context else ()
    x = jnp.asarray(rng.normal(size=(6, 2)), jnp.float32)
    np.testing.assert_array_equal(again(*known).log_prob(x), model(*known).log_prob(x))


def test_what_cannot_be_saved_is_refused_and_nothing_is_written(rng, tmp_path):
    gmm = random_mixture(rng, "diag", dtype="float32")
    broken = replace(gmm, means=gmm.means.at[0, 0].set(jnp.nan))
    own = jgmm.ConditionalGMM(2, 1, activation=lambda x: x, rngs=nnx.Rngs(0))
    for model, info, message in (
        (broken, None, "not finite"),
        (own, None, "ACTIVATIONS.register"),
        (gmm, {"array": np.ones(3)}, "info must be JSON"),
        ({"means": 1}, None, "expected a model of jgmm to save"),
    ):
        with pytest.raises(InputError, match=message):
            jgmm.save(tmp_path / "run", model, info)
        assert not (tmp_path / "run").exists()
    jgmm.save(tmp_path / "run", gmm, {"kind": "mine", "format": 99})
    assert jgmm.load(tmp_path / "run").k == gmm.k
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty, it holds notes.txt"):
        jgmm.save(tmp_path / "mine", gmm)


def test_a_component_of_weight_zero_is_saved(tmp_path):
    gmm = jgmm.GMM.from_parameters([1.0, 0.0], [[0.0], [1.0]], [1.0, 1.0], "spherical")
    jgmm.save(tmp_path / "run", gmm)
    np.testing.assert_array_equal(jgmm.load(tmp_path / "run").weights, [1, 0])
    nearly = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), gmm)
    jgmm.save(tmp_path / "bfloat16", nearly)
    assert jgmm.load(tmp_path / "bfloat16").means.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("name", "family", "encoder"), [("full-pca", "full", "pca"), ("tied-diag-pixels", "tied-diag", "identity")]
)
def test_runs_of_version_0_1_still_load(name, family, encoder):
    """Fitted by `python -m jgmm.fit` of version 0.1 to 200 rows of three features."""
    source = jgmm.load(RUNS / name)
    assert (source.gmm.covariance.name, source.encoder.name, source.shape) == (family, encoder, (3,))
    expected = np.load(RUNS / f"{name}.npz")
    np.testing.assert_allclose(source.sample(jax.random.key(0), 5), expected["x0"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(source.log_prob(expected["x0"]), expected["log_prob"], rtol=1e-6)
