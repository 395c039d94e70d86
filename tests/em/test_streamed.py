"""EM over rows that are read from disk in every pass against EM over rows in memory."""

import numpy as np
import pytest
from helpers import clusters, differences, few

import jgmm
from jgmm.em import loop, streamed


@pytest.fixture
def data(rng, tmp_path):
    x = clusters(rng, 5003, 6, 4)
    np.save(tmp_path / "x.npy", x)
    return x, tmp_path / "x.npy"


OPTIONS = {"k": 4, "max_iter": 10, "tol": 0.0, "chunk_size": 500}


@pytest.mark.parametrize(
    "options", [{"covariance_type": "full"}, {"encoder": "pca"}, {"scales": 2}], ids=lambda o: next(iter(o))
)
def test_the_fit_is_that_of_rows_in_memory(options, data):
    x, path = data
    alone = jgmm.fit_em(0, x, **OPTIONS, **options)
    found = jgmm.fit_em(0, jgmm.stream(path), **OPTIONS, **options)
    assert max(differences(alone.gmm, found.gmm)) < 1e-4
    np.testing.assert_allclose(alone.history, found.history, rtol=1e-6)


def test_weights_and_a_mesh_that_reads(data, rng):
    x, path = data
    weight = rng.integers(0, 3, size=len(x))
    alone = jgmm.fit_em(0, x, sample_weight=weight, **OPTIONS)
    found = jgmm.fit_em(0, np.load(path, mmap_mode="r"), sample_weight=weight, mesh="data=4,component=2", **OPTIONS)
    np.testing.assert_allclose(alone.history, found.history, rtol=1e-4)


def test_a_start_from_some_of_the_rows_is_the_same_in_memory_and_from_disk(data, monkeypatch):
    x, path = data
    monkeypatch.setattr(loop, "SOME", 6000)
    alone = jgmm.fit_em(0, x, encoder="identity", **OPTIONS)
    found = jgmm.fit_em(0, jgmm.stream(path), encoder="identity", **OPTIONS)
    assert max(differences(alone.gmm, found.gmm)) < 1e-5


def test_every_row_is_read_once_a_pass_and_the_next_chunk_ahead(data):
    x, path = data
    rows = streamed.on_disk(jgmm.stream(path), None, np.float32, asked=700)
    for _ in range(2):
        total = rows.sum(lambda x, weight: (x * weight[:, None]).sum(axis=0), 10**6)
        np.testing.assert_allclose(total, x.sum(axis=0, dtype=np.float64), rtol=1e-4)
    assert len(rows.reader.ahead) == 1


@pytest.mark.parametrize("mesh", few(["data=1,component=2", "component=4"], "data=1,component=2"))
def test_one_part_of_the_rows_and_several_of_the_components(mesh, data):
    x, path = data
    alone = jgmm.fit_em(0, x, encoder="identity", **OPTIONS)
    found = jgmm.fit_em(0, jgmm.stream(path), encoder="identity", mesh=mesh, **OPTIONS)
    np.testing.assert_allclose(alone.history, found.history, rtol=1e-5)


def test_a_file_that_becomes_shorter_is_an_error_in_words(data):
    x, path = data

    def shorten(state):
        with path.open("r+b") as file:
            file.truncate(1000)

    with pytest.raises(jgmm.InputError, match="has become shorter"):
        jgmm.fit_em(0, jgmm.stream(path), **OPTIONS, callback=shorten)


def test_numbers_of_other_machines_are_read(tmp_path, data):
    x, path = data
    np.save(tmp_path / "big.npy", x.astype(">f4"))
    assert jgmm.stream(tmp_path / "big.npy").dtype == np.float32
    np.testing.assert_array_equal(jgmm.stream(tmp_path / "big.npy")[5:9], x[5:9])


def test_bad_streams_are_refused(tmp_path, rng):
    x = rng.normal(size=(100, 3)).astype(np.float32)
    x[50, 1] = np.nan
    np.save(tmp_path / "nan.npy", x)
    np.save(tmp_path / "cube.npy", x.reshape(10, 10, 3))
    for name, options, words in [
        ("nan.npy", {}, "NaN"),
        ("cube.npy", {}, "table of shape"),
        ("nan.npy", {"missing": "marginal"}, "in memory"),
        ("nan.npy", {"sample_weight": [1.0]}, "shape"),
    ]:
        with pytest.raises(jgmm.InputError, match=words):
            jgmm.fit_em(0, jgmm.stream(tmp_path / name), k=2, **options)
