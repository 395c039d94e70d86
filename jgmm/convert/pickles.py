"""Pickles of fitted estimators, read without running anything in them (`jgmm.convert.restricted`).

Arrays are made from their bytes and nothing else, so that no file chooses what NumPy does with memory; estimators
become a plain `Held` with their attributes, and no method of theirs is called.
"""

import bz2
import gzip
import io
import lzma
import math
import pickle
import re
import zlib
from collections import OrderedDict
from collections.abc import Callable
from operator import index
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jgmm.convert.restricted import Restricted, refusing

# The first bytes of compressed files, and what opens them.
COMPRESSED: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"\x78": zlib.decompress,
    b"BZ": bz2.decompress,
    b"\xfd7zXZ": lzma.decompress,
    b"\x5d\x00": lzma.decompress,
}
# Types of numbers and of texts, as NumPy names them.
TYPE = re.compile(r"[<>|=]?(?:[biufcSU]\d+|\?)")


class Held:
    """An estimator's class and attributes, and nothing else of it."""

    kind: ClassVar[str]

    def __init__(self, *args: Any, **kwargs: Any):
        pass


def _held(name: str) -> type[Held]:
    return type(name, (Held,), {"kind": name})


class _Type:
    """A type of numbers, or of objects (None)."""

    def __init__(self, text: Any, *_: Any):
        known = isinstance(text, str) and (text in ("O8", "O", "|O") or TYPE.fullmatch(text) is not None)
        if not known:
            raise pickle.UnpicklingError("it holds an array of no numbers, which no fitted mixture needs")
        self.dtype = None if "O" in text else np.dtype(text)

    def ordered(self, state: Any) -> "_Type":
        """With the order of bytes that a file says; what else it says of a plain type is known."""
        if self.dtype is not None and isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])
        return self


class _Array:
    """An array, made where its bytes are known."""

    def __init__(self, *_: Any):
        self.array: Any = None

    def filled(self, kind: Any, shape: Any, by_column: Any, content: Any) -> "_Array":
        shape = tuple(index(n) for n in shape)
        if not isinstance(kind, _Type):
            raise pickle.UnpicklingError("it holds an array of no numbers, which no fitted mixture needs")
        if kind.dtype is None:
            texts = content.array if isinstance(content, _Array) else content
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise pickle.UnpicklingError("it holds an array of objects, which no fitted mixture needs")
            self.array = np.array(texts, dtype=str).reshape(shape)
            return self
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        found = np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if by_column else "C")
        self.array = found.astype(kind.dtype.newbyteorder("="))
        return self


class _Wrapper(Held):
    """What joblib writes in the place of an array, whose bytes follow."""

    kind = "NumpyArrayWrapper"


class _Name:
    """A name that is told, and not called."""


def _scalar(kind: _Type, content: Any = b"") -> Any:
    return _Array().filled(kind, (1,), False, content).array[0]


def _from_buffer(content: Any, kind: _Type, shape: Any, order: str, *_: Any) -> _Array:
    return _Array().filled(kind, shape, order == "F", content)


def _encoded(text: str, encoding: str) -> bytes:
    """How pickles before protocol 3 write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes a text in {encoding}, which no fitted mixture needs")
    return text.encode("latin1")


def _reconstructed(kind: Any, *_: Any) -> Any:
    """How pickles before protocol 2 make objects."""
    if not (isinstance(kind, type) and issubclass(kind, Held)):
        raise pickle.UnpicklingError("it makes an object that no fitted mixture needs")
    return kind()


_MIXTURE, _PCA, _ARRAY, _REDUCER = _held("GaussianMixture"), _held("PCA"), _Name(), _reconstructed
# What files of fitted mixtures hold, by the names that versions of Python, scikit-learn and NumPy have for it.
ADMITTED: dict[str, Any] = {
    "numpy.ndarray": _ARRAY,
    "numpy.dtype": _Type,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy._core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "numpy.random._pickle.__randomstate_ctor": _held("RandomState"),
    "numpy.random._pickle.__bit_generator_ctor": _held("BitGenerator"),
    "numpy.random._mt19937.MT19937": _held("MT19937"),
    "joblib.numpy_pickle.NumpyArrayWrapper": _Wrapper,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encoded,
    "copyreg._reconstructor": _REDUCER,
    "copy_reg._reconstructor": _REDUCER,
    "builtins.object": _Name(),
    "__builtin__.object": _Name(),
    "sklearn.mixture._gaussian_mixture.GaussianMixture": _MIXTURE,
    "sklearn.mixture.gaussian_mixture.GaussianMixture": _MIXTURE,
    "jgmm.em.estimator.GaussianMixture": _MIXTURE,
    "sklearn.decomposition._pca.PCA": _PCA,
    "sklearn.decomposition.pca.PCA": _PCA,
}


class _Reader(Restricted):
    def __init__(self, file: Any):
        super().__init__(file, ADMITTED)

    def built(self, made: Any, state: Any) -> Any:
        if isinstance(made, _Wrapper) and isinstance(state, dict):
            return self._array_of(state)
        if isinstance(made, Held):
            plain = isinstance(state, dict) and all(isinstance(key, str) for key in state)
            made.__dict__ |= state if plain else {"state": state}
            return made
        if isinstance(made, _Type):
            return made.ordered(state)
        if isinstance(made, _Array):
            _, shape, kind, by_column, content = state
            return made.filled(kind, shape, by_column, content)
        return super().built(made, state)

    def _array_of(self, said: dict[str, Any]) -> _Array:
        """The array whose bytes follow in the file."""
        kind, shape = said.get("dtype"), tuple(index(n) for n in said["shape"])
        if not isinstance(kind, _Type) or said.get("subclass") is not _ARRAY:
            raise pickle.UnpicklingError("it holds an array of no numbers, which no fitted mixture needs")
        if kind.dtype is None:
            return _Reader(self.file).load()
        if said.get("numpy_array_alignment_bytes") is not None:
            self.file.read(self.file.read(1)[0])
        content = self.file.read(math.prod(shape) * kind.dtype.itemsize)
        return _Array().filled(kind, shape, said.get("order") == "F", content)


def read_pickle(path: Path) -> Any:
    """What a pickle, or a file of joblib, holds: dictionaries, numbers, arrays and `Held` estimators.

    Raises:
        InputError: For a file that is damaged, or holds anything else, which is named; nothing of it has been run.
    """
    with refusing(path, "pickle of a fitted mixture"):
        raw = path.read_bytes()
        unpack = next((f for start, f in COMPRESSED.items() if raw.startswith(start)), bytes)
        return _settled(_Reader(io.BytesIO(unpack(raw))).load(), {})


def _settled(found: Any, known: dict[int, Any]) -> Any:
    """What was read, with arrays in the places of what they were made by."""
    if id(found) in known:
        return known[id(found)]
    if isinstance(found, _Array):
        return found.array
    if isinstance(found, dict):
        known[id(found)] = {}
        known[id(found)].update({key: _settled(value, known) for key, value in found.items()})
        return known[id(found)]
    if isinstance(found, list | tuple):
        return type(found)(_settled(value, known) for value in found)
    if isinstance(found, Held):
        known[id(found)] = found
        found.__dict__.update({key: _settled(value, known) for key, value in vars(found).items()})
    return found


def write_pickle(path: Path, content: Any) -> None:
    """Write a pickle, which joblib reads as well."""
    path.write_bytes(pickle.dumps(content, protocol=4))
