"""What commands write is signed, and nothing of somebody else's is overwritten."""

import errno
import io
import itertools

import numpy as np
import pytest
from helpers import random_source, run
from matplotlib.image import imread

import jgmm
from jgmm import evaluate, generate
from jgmm.commands.outputs import arrays, picture, signed_by
from jgmm.errors import InputError
from jgmm.figures.images import sample_grid


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_pictures_are_signed_and_whole(name, tmp_path, rng):
    path = tmp_path / name
    sample_grid(path, rng.normal(size=(4, 8, 8, 3)))
    before = imread(path)
    assert signed_by(path) is None or signed_by(path) != "me"
    with picture(path, "me") as temporary:
        sample_grid(temporary, rng.normal(size=(4, 8, 8, 3)))
    assert signed_by(path) == "me"
    assert imread(path).shape == before.shape
    assert list(tmp_path.iterdir()) == [path]


def test_arrays_are_signed_and_finite(tmp_path):
    path = tmp_path / "x.npz"
    arrays(path, {"x": np.arange(3.0)}, "me")
    assert signed_by(path) == "me"
    with np.load(path) as found:
        np.testing.assert_array_equal(found["x"], np.arange(3.0))
    with pytest.raises(InputError, match="x has values that are not finite"):
        arrays(path, {"x": np.array([np.nan])}, "me")
    assert signed_by(path) == "me"


@pytest.mark.parametrize("at", range(8))
def test_an_array_file_is_whole_or_none_whichever_call_fails(at, tmp_path, monkeypatch):
    """zipfile tries another mode where opening fails, and so empties a file that it should add to."""
    real, calls = io.open, itertools.count()

    def faulty(*args, **options):
        if next(calls) == at:
            raise OSError(errno.EIO, "input/output error")
        return real(*args, **options)

    monkeypatch.setattr(io, "open", faulty)
    path = tmp_path / "x.npz"
    try:
        arrays(path, {"x": np.arange(3.0)}, "me")
    except InputError:
        assert not path.exists()
    else:
        assert list(np.load(path)) == ["x"]


def test_nothing_of_somebody_elses_is_overwritten(tmp_path, rng, capsys):
    jgmm.save(tmp_path / "run", random_source(rng))
    npz, theirs = tmp_path / "x.npz", tmp_path / "theirs.npz"
    np.savez(theirs, x=np.arange(3))
    content = theirs.read_bytes()
    for _ in range(2):
        assert run(generate.main, tmp_path / "run", "--n", 4, "--npz", npz) == 0
    assert run(generate.main, tmp_path / "run", "--n", 10**14, "--npz", npz) == 2
    assert "GiB of memory, of which" in capsys.readouterr().err
    assert run(generate.main, tmp_path / "run", "--n", 20_000) == 2
    assert "a picture shows at most 10,000 images; write them with --npz" in capsys.readouterr().err
    assert run(generate.main, tmp_path / "run", "--n", 4, "--npz", theirs) == 2
    assert "was not written by python -m jgmm.generate: choose another name, or pass --force" in capsys.readouterr().err
    assert theirs.read_bytes() == content
    assert run(generate.main, tmp_path / "run", "--n", 4, "--npz", theirs, "--force") == 0
    out = tmp_path / "out"
    out.mkdir()
    (out / "scores.npz").write_bytes(content)
    assert run(evaluate.main, tmp_path / "run", "--dataset", "digits", "--out", out) == 2
    assert "scores.npz was not written by python -m jgmm.evaluate" in capsys.readouterr().err
