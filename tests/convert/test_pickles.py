"""Pickles of estimators: what is read, and that nothing hostile runs."""

import bz2
import io
import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture

from jgmm.convert.pickles import Held, read_pickle, write_pickle
from jgmm.errors import InputError


class Calls:
    """A pickle that calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Sets:
    """A pickle that gives something a state."""

    def __init__(self, function, arguments, state):
        self.call = function, arguments, state

    def __reduce__(self):
        return self.call


class Pretends:
    """A type of objects that says it has none."""

    def __reduce__(self):
        return np.dtype, ("O", False, True), (3, "|", None, None, None, -1, -1, 0)


def wrapped(**fields):
    """What joblib writes in the place of an array."""
    wrapper = joblib.numpy_pickle.NumpyArrayWrapper.__new__(joblib.numpy_pickle.NumpyArrayWrapper)
    wrapper.__dict__ |= {"subclass": np.ndarray, "shape": (1,), "order": "C", "dtype": np.dtype(float)} | fields
    return pickle.dumps(wrapper)


def by_name(module, name):
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"."


def hostile(mark):
    """Streams that would make the file `mark`, or change what others use, if anything in them ran."""
    touch = f"open({str(mark)!r}, 'w').close()"
    inner = pickle.dumps(Calls(exec, touch))
    return {
        "eval": pickle.dumps(Calls(eval, touch)),
        "exec": pickle.dumps(Calls(exec, touch)),
        "os.system": pickle.dumps(Calls(os.system, f"touch {mark}")),
        "posix.system": by_name("posix", "system"),
        "subprocess": pickle.dumps(Calls(subprocess.call, ["touch", str(mark)])),
        "open": pickle.dumps(Calls(open, str(mark), "w")),
        "import": pickle.dumps(Calls(__import__, "antigravity")),
        "getattr": pickle.dumps(Calls(getattr, [], "append")),
        "pickle in pickle": pickle.dumps(Calls(pickle.loads, inner)),
        "numpy.load": pickle.dumps(Calls(np.load, str(mark))),
        "numpy function": pickle.dumps(Calls(np.fromfile, str(mark))),
        "inside a dictionary": pickle.dumps({"gmm": Calls(eval, touch), "pca": None}),
        "in an estimator": pickle.dumps(Sets(GaussianMixture, (), {"means_": Calls(eval, touch)})),
        "protocol 0": pickle.dumps(Calls(eval, touch), protocol=0),
        "class of another library": pickle.dumps(subprocess.Popen),
        "sys.modules": by_name("sys", "modules"),
        "objects in joblib's array": wrapped(dtype=np.dtype(object)) + inner,
        "another kind of array": wrapped(subclass=np.memmap) + inner,
        "no type of numbers": wrapped(dtype="object") + inner,
        "state of a class": b"\x80\x02cnumpy\nndarray\n}U\x05shapeK\x01sb.",
        "compressed": bz2.compress(pickle.dumps(Calls(eval, touch))),
        "an array of hidden objects": pickle.dumps(
            Sets(np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (1,), Pretends(), False, b"A" * 8))
        ),
        "fields": pickle.dumps(np.dtype([("a", "f8")])),
        "a view of memory": pickle.dumps(Calls(np.ndarray, (4,))),
        "state of a function": b"\x80\x02c_codecs\nencode\n}U\x0c__defaults__K\x07\x85sb.",
        "extension": b"\x80\x02\x82\x01.",
        "persistent": b"\x80\x02U\x01aQ.",
    }


@pytest.mark.parametrize("name", hostile("x"))
def test_hostile_pickles_are_refused_and_nothing_runs(name, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "gmm.pkl"
    before = set(sys.modules)
    path.write_bytes(hostile(mark)[name])
    with pytest.raises(InputError, match=r"refused|damaged"):
        read_pickle(path)
    assert not mark.exists()
    assert "antigravity" not in set(sys.modules) - before
    assert isinstance(np.ndarray.shape, type(np.ndarray.size))


def test_what_is_refused_is_named(tmp_path):
    path = tmp_path / "gmm.pkl"
    path.write_bytes(pickle.dumps(Calls(eval, "1")))
    with pytest.raises(InputError, match=r"holds builtins.eval, which no such file needs. Nothing of it"):
        read_pickle(path)


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("lzma", 3)])
def test_files_of_joblib_are_read(compress, tmp_path):
    estimator = GaussianMixture(3, random_state=np.random.RandomState(0)).fit(load_iris().data)
    joblib.dump({"gmm": estimator, "pca": None}, tmp_path / "a.pkl", compress=compress)
    found = read_pickle(tmp_path / "a.pkl")
    assert isinstance(found["gmm"], Held)
    assert found["gmm"].kind == "GaussianMixture"
    assert found["pca"] is None
    for name in ("weights_", "means_", "covariances_", "lower_bound_", "n_features_in_"):
        np.testing.assert_array_equal(getattr(found["gmm"], name), getattr(estimator, name))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_pickles_are_read(protocol, tmp_path):
    estimator = GaussianMixture(2, covariance_type="tied").fit(load_iris().data.astype(np.float32))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(estimator, protocol=protocol))
    np.testing.assert_array_equal(read_pickle(tmp_path / "a.pkl").covariances_, estimator.covariances_)


def test_what_is_written_is_what_joblib_writes(tmp_path):
    write_pickle(tmp_path / "a.pkl", {"x": np.arange(5.0)})
    np.testing.assert_array_equal(joblib.load(tmp_path / "a.pkl")["x"], np.arange(5.0))


def test_names_of_features_are_read(tmp_path):
    estimator = GaussianMixture(2).fit(load_iris().data)
    estimator.feature_names_in_ = np.array(["a", "b", "c", "d"], dtype=object)
    for protocol in (0, 2, 4):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(estimator, protocol=protocol))
        joblib.dump(estimator, tmp_path / "b.pkl")
        for name in ("a.pkl", "b.pkl"):
            found = read_pickle(tmp_path / name)
            assert found.feature_names_in_.tolist() == ["a", "b", "c", "d"]
            np.testing.assert_array_equal(found.means_, estimator.means_)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x04\x95"])
def test_damaged_files_are_refused(content, tmp_path):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(InputError, match="damaged|refused"):
        read_pickle(tmp_path / "a.pkl")
    whole = io.BytesIO()
    joblib.dump(np.arange(1000.0), whole)
    (tmp_path / "b.pkl").write_bytes(whole.getvalue()[:-100])
    with pytest.raises(InputError, match="damaged"):
        read_pickle(tmp_path / "b.pkl")
