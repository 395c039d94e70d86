"""Mixtures as arrays by their names, in .npz and .safetensors: weights [K], means [K, D], covariances in the shape of
their family as scikit-learn writes them, and covariance_type."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jgmm.convert.estimators import from_arrays
from jgmm.convert.restricted import refusing
from jgmm.em.engines import in_numpy
from jgmm.em.small.families import arithmetic_of
from jgmm.errors import InputError, check
from jgmm.mixture import GMM
from jgmm.registry import COVARIANCES

NAMES = ("weights", "means", "covariances")


def _parts(gmm: GMM) -> tuple[str, dict[str, np.ndarray]]:
    """The family and the arrays, in float64. Raises InputError for a family that scikit-learn has no form for."""
    check(gmm.batch_shape == (), f"expected one mixture, got a batch of shape {gmm.batch_shape}.")
    name = gmm.covariance.name
    arithmetic = arithmetic_of(name) if name in COVARIANCES else None
    if arithmetic is None:
        raise InputError(f"{name} covariances have no form in scikit-learn: keep them with jgmm.save.")
    found = in_numpy(gmm)
    parts = np.exp(found.log_weights), found.means, arithmetic.dense(found.leaf)
    return name, dict(zip(NAMES, map(np.ascontiguousarray, parts), strict=True))


def _made(path: Path, arrays: dict[str, Any], family: Any) -> GMM:
    missing = [name for name in NAMES if name not in arrays]
    check(not missing, f"{path} has no {', '.join(missing)}: expected weights, means, covariances, covariance_type.")
    check(family is not None, f"{path} does not say covariance_type.")
    return from_arrays(arrays["weights"], arrays["means"], arrays["covariances"], str(family))


def read_npz(path: Path) -> GMM:
    """Raises InputError for anything else."""
    with refusing(path, ".npz file of numbers"), np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return _made(path, arrays, arrays.get("covariance_type"))


def write_npz(path: Path, gmm: GMM) -> None:
    """Raises InputError for a family without scikit-learn's form."""
    name, parts = _parts(gmm)
    arrays: dict[str, Any] = {**parts, "covariance_type": np.array(name)}
    with path.open("wb") as file:
        np.savez(file, **arrays)


def read_safetensors(path: Path) -> GMM:
    """Raises InputError for anything else, and where safetensors is not installed."""
    library = installed("safetensors")
    with refusing(path, ".safetensors file"), library.safe_open(path, framework="numpy") as file:
        metadata, arrays = file.metadata() or {}, {name: file.get_tensor(name) for name in list(file.keys())}
    return _made(path, arrays, metadata.get("covariance_type"))


def write_safetensors(path: Path, gmm: GMM) -> None:
    """Raises InputError for a family without scikit-learn's form, and where safetensors is not installed."""
    installed("safetensors")
    from safetensors.numpy import save_file

    name, parts = _parts(gmm)
    save_file(parts, path, metadata={"covariance_type": name})


def installed(name: str) -> ModuleType:
    """A library that jgmm does not need otherwise. Raises InputError where it is missing."""
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"such files need {name}: pip install 'jgmm[convert]'.") from error
