"""Pickles of fitted estimators, read without running anything in them.

The reader admits NumPy's arrays, the states of random numbers, and the names of estimators, whose attributes it keeps
in a plain `Held`: no method of theirs is called. The name of anything else is refused before it is imported.
"""

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np
from joblib import numpy_pickle
from joblib.numpy_pickle_utils import _validate_fileobject_and_memmap as decompressed

from jgmm.errors import InputError, check


class Held:
    """An estimator's class and attributes, and nothing else of it."""

    kind: ClassVar[str]

    def __new__(cls, *args: Any, **kwargs: Any) -> "Held":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass


def _held(name: str) -> type[Held]:
    return type(name, (Held,), {"kind": name})


def _latin1(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes a text in {encoding}, which no fitted mixture needs")
    return text.encode("latin1")


# What files of fitted mixtures hold, by the names that versions of scikit-learn and NumPy have for it. What restores
# arrays and scalars is what they say themselves.
ADMITTED: dict[str, Any] = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
    "numpy._core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
    "numpy.core.multiarray.scalar": np.float64(0).__reduce__()[0],
    "numpy._core.multiarray.scalar": np.float64(0).__reduce__()[0],
    "numpy._core.numeric._frombuffer": np.empty(0).__reduce_ex__(5)[0],
    "numpy.core.numeric._frombuffer": np.empty(0).__reduce_ex__(5)[0],
    "_codecs.encode": _latin1,
    "numpy.random._pickle.__randomstate_ctor": _held("RandomState"),
    "numpy.random._pickle.__bit_generator_ctor": _held("BitGenerator"),
    "numpy.random._mt19937.MT19937": _held("MT19937"),
    "joblib.numpy_pickle.NumpyArrayWrapper": numpy_pickle.NumpyArrayWrapper,
    "collections.OrderedDict": OrderedDict,
    "sklearn.mixture._gaussian_mixture.GaussianMixture": _held("GaussianMixture"),
    "sklearn.mixture.gaussian_mixture.GaussianMixture": _held("GaussianMixture"),
    "jgmm.em.estimator.GaussianMixture": _held("GaussianMixture"),
    "sklearn.decomposition._pca.PCA": _held("PCA"),
    "sklearn.decomposition.pca.PCA": _held("PCA"),
}


class Reader(numpy_pickle.NumpyUnpickler):
    """joblib's reader of pickles, which admits a few names."""

    dispatch = numpy_pickle.NumpyUnpickler.dispatch.copy()

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in ADMITTED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which no fitted mixture needs")
        return ADMITTED[f"{module}.{name}"]

    def load_build(self) -> None:
        """Give an object its attributes; classes and functions are left as they are, and arrays hold numbers."""
        made, state = self.stack[-2], self.stack[-1]
        if isinstance(made, Held):
            plain = isinstance(state, dict) and all(isinstance(key, str) for key in state)
            self.stack.pop()
            made.__dict__ |= state if plain else {"state": state}
            return
        if isinstance(made, numpy_pickle.NumpyArrayWrapper):
            known = isinstance(state, dict) and isinstance(state.get("dtype"), np.dtype)
            if not known or state["dtype"].hasobject or state.get("subclass") is not np.ndarray:
                raise pickle.UnpicklingError("it holds an array of objects, which no fitted mixture needs")
        elif not isinstance(made, np.ndarray | np.dtype):
            raise pickle.UnpicklingError(f"it changes {made!r}, which no fitted mixture needs")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def read_pickle(path: Path) -> Any:
    """What a pickle, or a file of joblib, holds: dictionaries, numbers, arrays and `Held` estimators.

    Raises:
        InputError: For a file that is damaged, or holds anything else, which is named; nothing of it has been run.
    """
    try:
        with open(path, "rb") as file, decompressed(file, str(path)) as (stream, _):
            check(not isinstance(stream, str), f"{path} was written by joblib before 0.10: write it anew.")
            return Reader(str(path), stream, True).load()
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}.") from error
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} is refused, {error}. Nothing of it has been run.") from None
    except Exception as error:  # a damaged or hostile stream may raise anything
        raise InputError(f"{path} is no pickle of a fitted mixture, or is damaged ({error}).") from error


def write_pickle(path: Path, content: Any) -> None:
    """Write a file of joblib."""
    buffer = io.BytesIO()
    joblib.dump(content, buffer)
    path.write_bytes(buffer.getvalue())
