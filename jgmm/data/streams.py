"""Rows that stay on disk: what is larger than memory is read in pieces, in every pass anew.

    stream("rows.npy")          a file of NumPy's
    stream("rows.zarr")         an array of Zarr, read by TensorStore
    stream("shards/")           a folder of .npy, .parquet or .array_record files, one after the other
    stream("table.parquet")     the numeric columns of a table, read by PyArrow
    stream(array)               anything with `shape`, `dtype` and slices: np.memmap, h5py.Dataset, zarr.Array

A stream has `shape` and `dtype`, and `stream[start:stop]` reads.
"""

import abc
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jgmm.errors import InputError, check, fault, short

# About this many numbers are taken at a time.
PIECE = 2**22
# Chosen rows are read one by one where they are so many times as far apart as there are of them.
SPAN = 16
ENDINGS = (".npy", ".zarr", ".parquet", ".array_record", ".arrayrecord")


class Stream(abc.ABC):
    """Examples [N, ...] on disk."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @abc.abstractmethod
    def read(self, start: int, stop: int) -> np.ndarray:
        """The examples from `start` to `stop`."""

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """The size of all examples."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def pieces(self) -> Iterator[np.ndarray]:
        """All examples, some at a time."""
        size = max(1, PIECE // int(np.prod(self.shape[1:])))
        for start in range(0, len(self), size):
            yield self.read(start, min(start + size, len(self)))

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            return self.read(start, max(start, stop))[::step]
        index = np.atleast_1d(np.asarray(rows))
        index = np.flatnonzero(index) if index.dtype == bool else index
        return np.stack([self.read(int(i), int(i) + 1)[0] for i in index]) if index.size else self.read(0, 0)


# What is read or in memory.
Examples = np.ndarray | Stream


class File(Stream):
    """Numbers one after the other in a file, from some byte on; read, not mapped, so that they take no memory."""

    def __init__(self, path: str | os.PathLike, offset: int, shape: tuple[int, ...], dtype: np.dtype):
        self.path, self.offset, self.shape, self.written = Path(path), offset, shape, np.dtype(dtype)
        self.dtype = self.written.newbyteorder("=")

    @classmethod
    def of_npy(cls, path: Path) -> "File":
        """Of a .npy file. Raises InputError for a file that is none, or is cut short."""
        try:
            with open(path, "rb") as file:
                version = np.lib.format.read_magic(file)
                read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
                shape, by_column, dtype = read[version[0]](file)
                offset = file.tell()
        except (ValueError, KeyError) as error:
            raise InputError(f"{path} is no .npy file of numbers: {error}.") from error
        check(not dtype.hasobject, f"{path} holds objects, which are never unpickled: expected numbers.")
        check(not by_column, f"{path} is in Fortran order, column by column: write it with np.ascontiguousarray.")
        there = path.stat().st_size - offset
        needed = int(np.prod(shape)) * dtype.itemsize
        check(there >= needed, f"{path} is cut short: it has {there} of {needed} bytes.")
        return cls(path, offset, shape, dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        rows = np.empty((max(stop - start, 0), *self.shape[1:]), self.written)
        view, each = rows.reshape(-1).view(np.uint8).data, int(np.prod(self.shape[1:])) * self.dtype.itemsize
        place, done = self.offset + start * each, 0
        with open(self.path, "rb", buffering=0) as file:
            file.seek(place)
            while done < len(view):
                n = file.readinto(view[done:])
                check(n, f"{self.path} ends before row {stop}: it has become shorter.")
                done += n
        return rows.astype(self.dtype, copy=False)


class Sliced(Stream):
    """Anything with `shape`, `dtype` and slices."""

    def __init__(self, array: Any):
        self.array, self.shape, self.dtype = array, tuple(array.shape), np.dtype(array.dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        return np.asarray(self.array[start:stop])


class Joined(Stream):
    """Streams of one width, one after the other."""

    def __init__(self, parts: Sequence[Stream]):
        first = parts[0]
        for part in parts:
            alike = part.shape[1:] == first.shape[1:] and part.dtype == first.dtype
            words = [f"{list(one.shape)} {one.dtype}" for one in (first, part)]
            check(alike, f"the parts of a stream must be alike, got {words[0]} and {words[1]}.")
        self.parts, self.ends = parts, np.cumsum([len(part) for part in parts])
        self.shape, self.dtype = (int(self.ends[-1]), *first.shape[1:]), first.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        found, i = [], bisect_right(self.ends, start)
        while start < stop:
            first = int(self.ends[i]) - len(self.parts[i])
            end = min(stop, int(self.ends[i]))
            found.append(self.parts[i].read(start - first, end - first))
            start, i = end, i + 1
        if not found:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return found[0] if len(found) == 1 else np.concatenate(found)


class Chosen(Stream):
    """Some examples of a stream, in their order: reads what lies between the first and the last of a piece."""

    def __init__(self, stream: Stream, rows: np.ndarray):
        self.stream, self.rows = stream, rows
        self.shape, self.dtype = (len(rows), *stream.shape[1:]), stream.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        rows = self.rows[start:stop]
        if len(rows) == 0:
            return self.stream.read(0, 0)
        first = int(rows[0])
        if rows[-1] - first > SPAN * len(rows):
            return np.concatenate([self.stream.read(int(row), int(row) + 1) for row in rows])
        return self.stream.read(first, int(rows[-1]) + 1)[rows - first]


class Mapped(Stream):
    """f of the examples of a stream, piece by piece."""

    def __init__(self, stream: Stream, f: Callable[[np.ndarray], np.ndarray]):
        first = f(stream.read(0, 1))
        self.stream, self.f = stream, f
        self.shape, self.dtype = (len(stream), *first.shape[1:]), first.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.f(self.stream.read(start, stop))


class Parquet(Stream):
    """The columns of a Parquet file, numbers all, as float32, or float64 where one is."""

    def __init__(self, path: Path):
        pq = _imported("pyarrow.parquet", "Parquet files", "pyarrow")
        self.file = pq.ParquetFile(path)
        kinds = [np.dtype(field.type.to_pandas_dtype()) for field in self.file.schema_arrow]
        numbers = all(np.issubdtype(kind, np.number) or kind.kind == "b" for kind in kinds)
        check(numbers, f"{path} has columns that are no numbers: expected a table of features.")
        self.dtype = np.result_type(np.float32, *(kind for kind in kinds if kind == np.float64))
        meta = self.file.metadata
        self.ends = np.cumsum([meta.row_group(i).num_rows for i in range(meta.num_row_groups)])
        self.shape = (meta.num_rows, len(kinds))
        self.kept: tuple[int, np.ndarray] | None = None

    def read(self, start: int, stop: int) -> np.ndarray:
        found, i = [np.empty((0, self.shape[1]), self.dtype)], bisect_right(self.ends, start)
        while start < stop:
            group = self._group(i)
            first, end = int(self.ends[i]) - len(group), min(stop, int(self.ends[i]))
            found.append(group[start - first : end - first])
            start, i = end, i + 1
        return np.concatenate(found)

    def _group(self, i: int) -> np.ndarray:
        kept = self.kept
        if kept is None or kept[0] != i:
            columns = self.file.read_row_group(i).columns
            kept = self.kept = (i, np.stack([c.to_numpy().astype(self.dtype) for c in columns], axis=1))
        return kept[1]


class Records(Stream):
    """The examples of a random-access source, such as those of grain and `tfds.data_source`: an array each, or a
    dictionary that has one."""

    def __init__(self, source: Any, of: Callable[[Any], np.ndarray] | None = None):
        self.source, self.of = source, of or _array_in
        first = self.of(source[0])
        self.shape, self.dtype = (len(source), *first.shape), first.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        index = range(start, stop)
        if len(index) == 0:
            return np.empty((0, *self.shape[1:]), self.dtype)
        several = getattr(self.source, "__getitems__", None)
        return np.stack([self.of(e) for e in (several(index) if several else map(self.source.__getitem__, index))])


def _array_in(example: Any) -> np.ndarray:
    if isinstance(example, dict):
        name = next((name for name in ("image", "x", "features") if name in example), None)
        if name is None:
            raise InputError(f"examples have {sorted(example)}: expected an array under 'image', 'x' or 'features'.")
        example = example[name]
    return np.asarray(example)


def _of_records(path: Path) -> Stream:
    module = _imported("array_record.python.array_record_data_source", "array_record files", "array-record")
    return Records(module.ArrayRecordDataSource([str(path)]), _of_bytes)


def _of_bytes(record: bytes) -> np.ndarray:
    """An example that `np.save` has written."""
    import io

    try:
        return np.load(io.BytesIO(record), allow_pickle=False)
    except ValueError as error:
        raise InputError(
            "a record is not what np.save writes: read other ones with jgmm.stream(tfds.data_source(...))."
        ) from error


def _of_zarr(path: Path) -> Stream:
    import tensorstore as ts

    for driver in ("zarr3", "zarr"):
        try:
            spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(path.absolute())}}
            return Tensor(ts.open(spec, open=True).result())
        except ValueError as error:
            said = error
    raise InputError(f"{path} is no array of Zarr: {str(said).splitlines()[0]}")


class Tensor(Stream):
    """An array of TensorStore's."""

    def __init__(self, array: Any):
        self.array, self.shape, self.dtype = array, tuple(array.shape), array.dtype.numpy_dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.array[start:stop].read().result()


def _of_folder(path: Path) -> Stream:
    files = sorted(p for p in path.iterdir() if p.suffix in ENDINGS)
    kinds = {p.suffix for p in files}
    check(len(files) > 0, f"{path} holds none of {', '.join('*' + e for e in ENDINGS)}.")
    check(len(kinds) == 1, f"{path} holds files of several kinds, {', '.join(sorted(kinds))}: expected one.")
    return Joined([stream(p) for p in files])


def stream(x: Any) -> Stream:
    """Rows that are read from disk in every pass, for `jgmm.fit_em` and the like.

    Args:
        x: A path (FILE.npy, FILE.zarr, FILE.parquet, FILE.array_record, or a folder of files of one kind, in the order
            of their names), or an object with `shape`, `dtype` and slices, or one with `len` and an example at every
            index, such as `tfds.data_source` returns.
    Raises:
        InputError: For anything else, and for files that are missing, damaged, or of no numbers.

    >>> import jgmm
    >>> import numpy as np
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(folder + "/rows.npy", np.random.default_rng(0).normal(size=(1000, 3)))
    ...     rows = jgmm.stream(folder + "/rows.npy")
    ...     rows.shape, jgmm.fit_em(0, rows, k=2).gmm
    ((1000, 3), GMM(k=2, d=3, covariance='diag', dtype=float32))
    """
    if isinstance(x, Stream):
        return x
    if isinstance(x, str | os.PathLike):
        return _of_path(Path(x))
    if all(hasattr(x, name) for name in ("shape", "dtype", "__getitem__")):
        return Sliced(x)
    several = hasattr(x, "__getitem__") and hasattr(x, "__len__") and not isinstance(x, list | tuple | dict)
    check(several, f"expected a path, an array or a source of examples to stream, got {short(x)}.")
    return Records(x)


def _of_path(path: Path) -> Stream:
    ways = {".npy": File.of_npy, ".zarr": _of_zarr, ".parquet": Parquet}
    try:
        check(path.exists(), f"no file at {path}: expected one of {', '.join(ENDINGS)}, or a folder of them.")
        if path.is_dir() and path.suffix != ".zarr":
            return _of_folder(path)
        check(path.suffix in ENDINGS, f"{path} is none of {', '.join(ENDINGS)}: what else is on disk is not streamed.")
        return ways.get(path.suffix, _of_records)(path)
    except InputError:
        raise
    except Exception as error:  # libraries raise many kinds for a file that is none of their own
        raise InputError(f"cannot read {path}: {fault(error) or str(error).splitlines()[0]}.") from error


def _imported(module: str, purpose: str, package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{purpose} are read by {package}, which is missing: pip install {package}.") from error
