"""What is read from disk against the array that was written."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorstore as ts

import jgmm
from jgmm.data.streams import Chosen, Joined, Mapped, stream


@pytest.fixture
def x(rng):
    return rng.normal(size=(107, 3)).astype(np.float32)


def written(kind, folder, x):
    """The array in a file, or a folder, of a kind."""
    path = folder / f"x{kind}"
    if kind == ".npy":
        np.save(path, x)
    elif kind == ".zarr":
        spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(path)}}
        ts.open(spec, create=True, dtype=ts.float32, shape=x.shape).result().write(x).result()
    elif kind == ".parquet":
        table = pa.table({f"feature {i}": column for i, column in enumerate(x.T)})
        pq.write_table(table, path, row_group_size=40)
    else:
        path = folder / "shards"
        path.mkdir()
        for i, part in enumerate(np.array_split(x, 4)):
            np.save(path / f"{i}.npy", part)
    return path


@pytest.mark.parametrize("kind", [".npy", ".zarr", ".parquet", "shards"])
def test_every_kind_is_the_array_that_was_written(kind, tmp_path, x):
    found = stream(written(kind, tmp_path, x))
    assert (found.shape, found.dtype, len(found)) == (x.shape, x.dtype, len(x))
    np.testing.assert_array_equal(found[:], x)
    for start, stop in [(0, 1), (25, 29), (53, 107), (5, 5), (106, 107)]:
        np.testing.assert_array_equal(found[start:stop], x[start:stop])
    np.testing.assert_array_equal(np.concatenate(list(found.pieces())), x)
    np.testing.assert_array_equal(found[np.array([3, 100])], x[[3, 100]])


def test_arrays_sources_and_parts_of_streams(x):
    whole = stream(x)
    rows = np.array([2, 3, 50, 106])
    np.testing.assert_array_equal(Chosen(whole, rows)[1:4], x[rows[1:]])
    np.testing.assert_array_equal(Mapped(whole, lambda piece: piece * 2)[10:20], 2 * x[10:20])
    np.testing.assert_array_equal(Joined([whole, whole])[100:110], np.concatenate([x, x])[100:110])

    class Source:
        """Examples by number, as data sets of grain are."""

        def __len__(self):
            return len(x)

        def __getitem__(self, i):
            return {"label": 0, "features": x[i]}

    np.testing.assert_array_equal(stream(Source())[7:9], x[7:9])


def test_records(tmp_path, x):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(tmp_path / "x.array_record"), "group_size:1")
    for row in x:
        import io

        file = io.BytesIO()
        np.save(file, row)
        writer.write(file.getvalue())
    writer.close()
    np.testing.assert_array_equal(stream(tmp_path / "x.array_record")[3:60], x[3:60])


def test_files_that_are_none_of_ours_are_refused(tmp_path, x):
    (tmp_path / "text.npy").write_text("no numbers")
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    np.save(tmp_path / "columns.npy", np.asfortranarray(x))
    np.save(tmp_path / "short.npy", x)
    with (tmp_path / "short.npy").open("r+b") as file:
        file.truncate(500)
    pq.write_table(pa.table({"name": ["a", "b"]}), tmp_path / "names.parquet")
    (tmp_path / "empty").mkdir()
    for name, words in {
        "text.npy": "no .npy file",
        "objects.npy": "never unpickled",
        "columns.npy": "Fortran",
        "short.npy": "cut short",
        "names.parquet": "no numbers",
        "empty": "holds none",
        "missing.npy": "no file at",
        "x.csv": "no file at",
    }.items():
        with pytest.raises(jgmm.InputError, match=words):
            stream(tmp_path / name)
    with pytest.raises(jgmm.InputError, match="expected a path"):
        stream([1, 2])
