"""Files that are whole or not there, digests that notice every bit, one writer, and no pickle that is run."""

import errno
import json
import multiprocessing
import os
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_mixture, run

import jgmm
from jgmm import evaluate, generate
from jgmm.checkpoint.arrays import fingerprint
from jgmm.checkpoint.files import (
    digest_of_file,
    read_arrays,
    read_json,
    sealed,
    whole,
    write_array,
    write_arrays,
    write_json,
)
from jgmm.checkpoint.interrupted import kept_options
from jgmm.checkpoint.journal import Journal, Mark
from jgmm.checkpoint.lock import LOCK, locked
from jgmm.data import arrays, cifar
from jgmm.errors import InputError
from train import base, runs
from train.config import Config


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "x.npy"
    write_array(path, np.arange(3))

    def failing(error):
        with whole(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(InputError, match="cannot write .*x.npy: the disk is full"):
        failing(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        failing(KeyboardInterrupt())
    np.testing.assert_array_equal(np.load(path), np.arange(3))
    assert list(tmp_path.iterdir()) == [path]


def test_json_and_arrays_notice_every_bit(tmp_path):
    content = {"b": [1, 2.5], "a": {"text": "ü"}}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    sha256 = write_arrays(tmp_path / "x.npz", {"a": np.arange(4.0)})
    assert sha256 == digest_of_file(tmp_path / "x.npz")
    rng = np.random.default_rng(0)
    for path, read in (
        (tmp_path / "x.json", read_json),
        (tmp_path / "x.npz", lambda path: read_arrays(path, sha256)),
    ):
        original = path.read_bytes()
        for bit in rng.integers(0, 8 * len(original), 60):
            flipped = bytearray(original)
            flipped[bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(flipped)
            if path.suffix == ".json" and _same_json(flipped, content):
                continue  # a space between the parts of JSON
            with pytest.raises(InputError, match=str(path)):
                read(path)


def _same_json(text, content):
    try:
        found = json.loads(text.decode())
    except ValueError:
        return False
    return found == sealed(content)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool", "uint8"])
def test_the_fingerprint_of_arrays_notices_every_bit_and_no_device(dtype):
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (8, 6)), dtype)
    before = fingerprint({"x": x, "n": jnp.int32(3)})
    cut = jax.sharding.NamedSharding(jax.make_mesh((8,), ("a",)), jax.sharding.PartitionSpec("a"))
    assert fingerprint({"x": jax.device_put(x, cut), "n": jnp.int32(3)}) == before
    content = bytearray(np.asarray(x).tobytes())
    for place in (0, len(content) // 2, len(content) - 1):
        other = bytearray(content)
        other[place] ^= 1
        array = np.frombuffer(bytes(other), x.dtype).reshape(x.shape)
        assert fingerprint({"x": jnp.asarray(array), "n": jnp.int32(3)}) != before
    assert fingerprint({"x": x[::-1], "n": jnp.int32(3)}) != before


def test_arrays_that_are_not_finite_have_no_fingerprint():
    with pytest.raises(InputError, match="not finite"):
        fingerprint({"x": jnp.array([1.0, jnp.nan])})


def test_a_journal_goes_on_where_it_was_marked(tmp_path):
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path, Mark())
    journal.write({"step": 1})
    mark = journal.mark
    journal.write({"step": 2})
    with path.open("a") as file:
        file.write('{"step": 3')
    again = Journal(path, mark)
    again.write({"step": 2, "again": True})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 2, "again": True}]
    path.write_text(path.read_text().replace("1", "7"))
    with pytest.raises(InputError, match="is damaged.*Delete it"):
        Journal(path, again.mark)
    path.unlink()
    Journal(path, again.mark).write({"step": 3})
    assert path.read_text() == '{"step": 3}\n'


def _hold(folder, taken, done):
    with locked(folder):
        taken.set()
        done.wait(60)


def test_a_folder_has_one_writer_and_the_lock_of_a_dead_one_is_taken(tmp_path):
    folder, spawn = tmp_path / "run", multiprocessing.get_context("spawn")
    taken, done = spawn.Event(), spawn.Event()
    other = spawn.Process(target=_hold, args=(folder, taken, done))
    other.start()
    assert taken.wait(60)
    with pytest.raises(InputError, match=f"is being written by process {other.pid} on"), locked(folder):
        pass
    other.kill()
    other.join()
    assert (folder / LOCK).exists()
    with locked(folder):
        (folder / "file").write_text("")
    assert [p.name for p in folder.iterdir()] == ["file"]


def test_a_lock_leaves_no_empty_folder(tmp_path):
    with locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


class Hostile:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _hostile_files(folder, mark):
    """A pickle, and arrays of objects in the forms that NumPy writes."""
    (folder / "x.pickle").write_bytes(pickle.dumps(Hostile(mark)))
    objects = np.array([Hostile(mark)], dtype=object)
    np.save(folder / "x.npy", objects, allow_pickle=True)
    np.savez(folder / "x.npz", x=objects, pixels=objects, labels=objects)
    with zipfile.ZipFile(folder / "pickle.npz", "w") as archive:
        archive.writestr("pixels.npy", pickle.dumps(Hostile(mark)))
    return sorted(p for p in folder.iterdir() if p.is_file())


def test_no_loader_runs_a_pickle(tmp_path, rng):
    """Every function that reads a file, given every hostile one."""
    mark, files = tmp_path / "executed", tmp_path / "files"
    files.mkdir()
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    for hostile in _hostile_files(files, mark):
        content = hostile.read_bytes()
        for i in range(1, 6):
            (batches / f"data_batch_{i}").write_bytes(content)
        folder = tmp_path / f"run-{hostile.name}"
        jgmm.save(folder, random_mixture(rng, "diag", dtype="float32"))
        for path in [p for p in folder.rglob("*") if p.is_file() and p.name != "config.json"]:
            path.write_bytes(content)
        training = tmp_path / f"flow-{hostile.name}"
        (training / "progress").mkdir(parents=True)
        for name in ("config.json", "origin.npz", "progress/options.json"):
            (training / name).write_bytes(content)
        loaders = {
            "arrays": lambda file=hostile: arrays.load(file),
            "cifar": lambda: cifar.load(tmp_path),
            "read_arrays": lambda file=hostile: read_arrays(file, None),
            "read_json": lambda file=hostile: read_json(file),
            "load": lambda folder=folder: jgmm.load(folder),
            "load of a training": lambda training=training: jgmm.load(training),
            "training": lambda training=training: runs.read(training),
            "base": lambda training=training: base.load(training, {"base": _no_base()}, Config()),
            "options": lambda training=training: kept_options(training),
        }
        for name, load in loaders.items():
            try:
                load()
                pytest.fail(f"{name} read {hostile.name}")
            except InputError:
                pass
            assert not mark.exists(), f"{name} ran the pickle in {hostile.name}"
    for command in (evaluate, generate):
        assert run(command.main, training) == 2
    assert not mark.exists()


def _no_base():
    identity = {"type": "identity", "static": {"n_codes": 1}, "fields": {}}
    scale = {"shape": [], "dtype": "float32"}
    return {
        "space": identity,
        "source": {"type": "Gaussian", "static": {"shape": [1, 1, 1]}, "fields": {"scale": scale}},
    }
