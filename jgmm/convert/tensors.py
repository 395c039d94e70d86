"""Files of PyTorch, `.pt`, without PyTorch: a ZIP archive of one pickle and the bytes of every tensor.

The reader admits tensors, parameters and dictionaries of them; the name of anything else is refused before it is
imported (as `torch.load(weights_only=True)` does).
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jgmm.convert.restricted import Restricted, refusing
from jgmm.errors import check, short

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
        InputError: For a file that is damaged, of PyTorch before 1.6, or holds anything but tensors, which is named;
            nothing of it has been run.
    """
    with refusing(path, "file of tensors of PyTorch 1.6 or newer"), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("data.pkl")]
        check(len(names) == 1, f"{path} is no file of PyTorch: it has no data.pkl.")
        return _Reader(archive, names[0]).load()


class _Reader(Restricted):
    def __init__(self, archive: zipfile.ZipFile, name: str):
        admitted: dict[str, Any] = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": _parameter,
        }
        for module in ("torch", "torch.storage"):
            admitted |= {f"{module}.{kind}": _Name(module, kind) for kind in STORAGES}
        super().__init__(io.BytesIO(archive.read(name)), admitted)
        self.archive, self.folder = archive, name.removesuffix("data.pkl")
        order = self.folder + "byteorder"
        self.order = "<" if order not in archive.namelist() or archive.read(order) == b"little" else ">"

    def built(self, made: Any, state: Any) -> Any:
        """A state_dict says of which versions its parts are, which nobody asks for."""
        return made if isinstance(made, OrderedDict) else super().built(made, state)

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The numbers of a storage."""
        kind, storage, key, _, n = pid
        check(kind == "storage" and isinstance(storage, _Name), f"expected a storage of numbers, got {short(pid)}.")
        dtype = STORAGES[storage.name]
        written = dtype if dtype.kind == "V" else dtype.newbyteorder(self.order)  # bfloat16 has no byte order
        found = np.frombuffer(self.archive.read(f"{self.folder}data/{key}"), written)
        check(len(found) >= index(n), f"the storage {key} is cut short.")
        return found.astype(dtype, copy=False)


def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """The array of a tensor. Raises IndexError for one that reaches beyond its storage."""
    offset, size, stride = index(offset), tuple(map(index, size)), tuple(map(index, stride))
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
