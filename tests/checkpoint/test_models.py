"""A source comes back from disk bit for bit, and anything else is refused with one clear line."""

import json

import jax
import numpy as np
import pytest
from helpers import SOURCE_SHAPE, random_source

import jgmm
from jgmm.encoder.identity import Identity
from jgmm.errors import InputError
from jgmm.registry import COVARIANCES
from jgmm.source import Source


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
    (path / "config.json").write_text(json.dumps(config | changes))


def _with_other_shape(path):
    structure = json.loads((path / "config.json").read_text())["structure"]
    structure["fields"]["gmm"]["fields"]["means"]["shape"] = [4, 5]
    return structure


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
        (lambda p: _edit(p, format=3), "format 3, newer than the 2"),
        (lambda p: _edit(p, kind="other.thing"), "another kind \\('other.thing'\\)"),
        (lambda p: (p / "config.json").write_text("{"), "not valid JSON"),
        (lambda p: (p / "config.json").write_text("[]"), "another kind"),
        (lambda p: (p / "config.json").unlink(), "half-written.*--resume"),
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
