"""Mixtures as arrays by their names, in .npz and .safetensors: weights [K], means [K, D], covariances in the shape of
their family as scikit-learn writes them, and covariance_type."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jgmm.convert.estimators import from_arrays
from jgmm.errors import InputError, check
from jgmm.mixture import GMM

NAMES = ("weights", "means", "covariances")


def _parts(gmm: GMM) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array) for name, array in gmm.to_parameters()._asdict().items()}


def _made(path: Path, arrays: dict[str, Any], family: Any) -> GMM:
    missing = [name for name in NAMES if name not in arrays]
    check(not missing, f"{path} has no {', '.join(missing)}: expected weights, means, covariances, covariance_type.")
    check(family is not None, f"{path} does not say covariance_type.")
    return from_arrays(arrays["weights"], arrays["means"], arrays["covariances"], str(family))


def read_npz(path: Path) -> GMM:
    """Raises InputError for anything else."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(f"{path} is no .npz file of numbers, or is damaged ({error}).") from error
    return _made(path, arrays, arrays.get("covariance_type"))


def write_npz(path: Path, gmm: GMM) -> None:
    """Raises InputError for a family without scikit-learn's form."""
    with path.open("wb") as file:
        arrays: dict[str, Any] = {**_parts(gmm), "covariance_type": np.array(gmm.covariance.name)}
        np.savez(file, **arrays)


def read_safetensors(path: Path) -> GMM:
    """Raises InputError for anything else, and where safetensors is not installed."""
    library = installed("safetensors")
    try:
        with library.safe_open(path, framework="numpy") as file:
            metadata, arrays = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (library.SafetensorError, OSError) as error:
        raise InputError(f"{path} is no .safetensors file, or is damaged ({error}).") from error
    return _made(path, arrays, metadata.get("covariance_type"))


def write_safetensors(path: Path, gmm: GMM) -> None:
    """Raises InputError for a family without scikit-learn's form, and where safetensors is not installed."""
    installed("safetensors")
    from safetensors.numpy import save_file

    save_file(_parts(gmm), path, metadata={"covariance_type": gmm.covariance.name})


def installed(name: str) -> ModuleType:
    """A library that jgmm does not need otherwise. Raises InputError where it is missing."""
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"such files need {name}: pip install 'jgmm[convert]'.") from error
