"""Files of PyTorch, `.pt` or `.pth`, without PyTorch: a ZIP archive of one pickle and the bytes of every tensor, or as
versions before 1.6 wrote them, pickles one after the other and then the bytes.

The reader admits tensors, parameters and dictionaries of them; the name of anything else is refused before it is
imported (as `torch.load(weights_only=True)` does).
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jgmm.convert.restricted import Restricted, refusing
from jgmm.errors import check, short

# A tensor may repeat its storage up to so many numbers.
EXPANDED = 2**24
# The number that files of PyTorch before 1.6 begin with.
MAGIC = 0x1950A86A20F9469CFC6C
# Types of numbers by the names of their storages.
STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class _Name(NamedTuple):
    """A name of another library, which is written and never imported."""

    module: str
    name: str


class _Storage(NamedTuple):
    key: str
    array: np.ndarray


class _Tensor(NamedTuple):
    storage: _Storage


def read_tensors(path: Path) -> Any:
    """What a file of PyTorch holds, its tensors as arrays.

    Raises:
        InputError: For a file that is damaged, or holds anything but tensors, which is named; nothing of it has been
            run.
    """
    with refusing(path, "file of tensors of PyTorch"):
        if not zipfile.is_zipfile(path):
            return _read_legacy(path)
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            check(len(names) == 1, f"{path} is no file of PyTorch: it has no data.pkl.")
            folder = names[0].removesuffix("data.pkl")
            order = folder + "byteorder"
            little = order not in archive.namelist() or archive.read(order) == b"little"
            file = io.BytesIO(archive.read(names[0]))
            return _Reader(file, lambda key, _: archive.read(f"{folder}data/{key}"), little).load()


def _read_legacy(path: Path) -> Any:
    """Three pickles that say what the file is, one of what it holds, one of the keys of its storages, and then each
    with its length. The fourth is read twice: to find where it ends, and once the storages are there."""
    with path.open("rb") as file:
        magic = Restricted(file, {}).load()
        check(magic == MAGIC, f"{path} is no file of PyTorch: it does not begin as one.")
        Restricted(file, {}).load()
        little = bool(Restricted(file, {}).load()["little_endian"])
        start, size = file.tell(), path.stat().st_size
        sizes: dict[str, int] = {}
        nothing: dict[str, bytes] = {}

        def no_bytes(key: str, n: int) -> bytes:
            sizes[key] = n
            check(n >= 0 and sum(sizes.values()) <= size, f"the storage {key} is longer than {path}.")
            return nothing.setdefault(key, bytes(n))

        _Reader(file, no_bytes, little).load()
        stored = {}
        for key in Restricted(file, {}).load():
            file.read(8)  # how many numbers, which the fourth has said
            stored[key] = file.read(sizes[key])
        file.seek(start)
        return _Reader(file, lambda key, _: stored[key], little).load()


class _Reader(Restricted):
    """Reads a pickle of tensors; `read(key, n)` gives the n bytes of a storage."""

    def __init__(self, file: Any, read: Callable[[str, int], bytes], little: bool):
        admitted: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": _parameter,
        }
        for module in ("torch", "torch.storage"):
            admitted |= {f"{module}.{kind}": _Name(module, kind) for kind in STORAGES}
        super().__init__(file, admitted)
        self.read_storage, self.order = read, "<" if little else ">"

    def built(self, made: Any, state: Any) -> Any:
        """A state_dict says of which versions its parts are, which nobody asks for."""
        return made if isinstance(made, OrderedDict) else super().built(made, state)

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The numbers of a storage."""
        kind, storage, key, _, n = pid[:5]
        check(kind == "storage" and isinstance(storage, _Name), f"expected a storage of numbers, got {short(pid)}.")
        check(pid[5:] in ((), (None,)), "it has views of storages, which no such file needs.")
        dtype = STORAGES[storage.name]
        written = dtype if dtype.kind == "V" else dtype.newbyteorder(self.order)  # bfloat16 has no byte order
        found = np.frombuffer(self.read_storage(str(key), index(n) * dtype.itemsize), written)
        check(len(found) >= index(n), f"the storage {key} is cut short.")
        return found.astype(dtype, copy=False)


def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """The array of a tensor. Raises IndexError for one that reaches beyond its storage."""
    offset, size, stride = index(offset), tuple(map(index, size)), tuple(map(index, stride))
    if math.prod(size) > max(len(storage), EXPANDED):
        raise IndexError("a tensor repeats its storage too often")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride), default=0) < 0 or (0 not in size and last >= len(storage)):
        raise IndexError("a tensor reaches beyond its storage")
    strides = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False).copy()


def _parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write arrays by their names, as `torch.load` reads them.

    Raises:
        InputError: For arrays of a type that PyTorch does not have.
    """
    names = {dtype: name for name, dtype in STORAGES.items()}
    for name, array in tensors.items():
        check(array.dtype in names, f"{name} is {array.dtype}, which PyTorch does not have.")
    stored = {name: _Tensor(_Storage(str(i), np.ascontiguousarray(a))) for i, (name, a) in enumerate(tensors.items())}
    pickled, folder = io.BytesIO(), path.stem
    _Writer(pickled, names).dump(stored)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{folder}/data.pkl", pickled.getvalue())
        archive.writestr(f"{folder}/byteorder", "little")
        for tensor in stored.values():
            array = tensor.storage.array
            written = array if array.dtype.kind == "V" else array.astype(array.dtype.newbyteorder("<"))
            archive.writestr(f"{folder}/data/{tensor.storage.key}", written.tobytes())
        archive.writestr(f"{folder}/version", "3\n")


Pickler: Any = pickle._Pickler  # type: ignore[attr-defined]  # the one in Python, whose `dispatch` can be added to


class _Writer(Pickler):
    """Writes names that need not be importable, and tensors as calls of PyTorch's function that makes them."""

    dispatch = Pickler.dispatch.copy()

    def __init__(self, file: io.BytesIO, names: dict[np.dtype, str]):
        super().__init__(file, protocol=2)
        self.names = names

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Storage):
            return None
        return "storage", _Name("torch", self.names[obj.array.dtype]), obj.key, "cpu", obj.array.size

    def save_name(self, obj: _Name) -> None:
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    def save_tensor(self, obj: _Tensor) -> None:
        array = obj.storage.array
        strides = tuple(step // array.itemsize for step in array.strides)
        self.save_name(_Name("torch._utils", "_rebuild_tensor_v2"))
        self.save((obj.storage, 0, array.shape, strides, False, _Call(_Name("collections", "OrderedDict"))))
        self.write(pickle.REDUCE)

    def save_call(self, obj: "_Call") -> None:
        self.save_name(obj.name)
        self.write(pickle.EMPTY_TUPLE + pickle.REDUCE)

    dispatch[_Name], dispatch[_Tensor] = save_name, save_tensor


class _Call(NamedTuple):
    """What a function without arguments makes."""

    name: _Name


_Writer.dispatch[_Call] = _Writer.save_call
