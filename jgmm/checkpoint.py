"""A source on disk: a folder with orbax arrays in params/ and a readable config.json.

config.json is written last, in one step: a folder without it is not a finished run. `progress/` holds an
interrupted fit (`jgmm.progress`).
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jgmm
from jgmm.checks import InputError, check
from jgmm.mixture import GMM, covariance_name
from jgmm.pca import PCA, Identity, Rotation
from jgmm.source import Source
from jgmm.tables import COVARIANCES

KIND = "jgmm.source"
FORMAT = 1
CONFIG = "config.json"
PARAMS = "params"
PROGRESS = "progress"
TRAIN_LOG_PROB = "log_prob_train.npy"


def save(path: str | Path, params: Source, info: dict[str, Any] | None = None) -> None:
    """Write a source to a folder, which is made if need be; `info` (JSON) goes into its config.json beside the rest.

    Raises InputError if the folder already holds a finished run, or cannot be written.
    """
    path = Path(path).absolute()
    check(not (path / CONFIG).exists(), f"{path} already holds a finished run: choose another folder.")
    config = {
        "kind": KIND,
        "format": FORMAT,
        "source": describe(params),
        "arrays_sha256": digest(params),
        "versions": versions(),
        **(info or {}),
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        save_arrays(path / PARAMS, params)
        write_json(path / CONFIG, config)
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error}") from error


def load(path: str | Path) -> Source:
    """The source in a folder written by `python -m jgmm.fit` or `save`, on the default device.

    Raises InputError if the folder is none, was left half-written or by a newer version, or was computed in float64
    while JAX runs without it.
    """
    path = Path(path).absolute()
    config = read_config(path)
    description = config["source"]
    check(
        jax.dtypes.canonicalize_dtype(description["dtype"]) == description["dtype"],
        f"{path} was computed in float64: call jax.config.update('jax_enable_x64', True) first.",
    )
    try:
        params = load_arrays(path / PARAMS, blank(description))
    except Exception as error:  # orbax raises a plain Exception for arrays it cannot read
        raise InputError(f"{path} is damaged: its arrays cannot be read, or are not those of its {CONFIG}.") from error
    check(digest(params) == config["arrays_sha256"], f"{path} is damaged: its arrays are not those that were saved.")
    return params


def digest(params: Source) -> str:
    """The sha256 of all arrays of a source, in the order of the tree."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        total.update(np.ascontiguousarray(leaf).data)
    return total.hexdigest()


def read_config(path: str | Path) -> dict[str, Any]:
    """The config.json of a finished run. Raises InputError as `load` does."""
    path = Path(path).absolute()
    check(path.is_dir(), f"no run folder at {path}: expected one written by `python -m jgmm.fit`.")
    if not (path / CONFIG).is_file():
        interrupted = (path / PROGRESS).is_dir() or (path / PARAMS).is_dir()
        check(
            not interrupted,
            f"{path} is half-written: its fit was interrupted. Finish it with "
            f"`python -m jgmm.fit --out {path} --resume`.",
        )
        raise InputError(f"{path} is not a jgmm run: it has no {CONFIG}.")
    try:
        config = json.loads((path / CONFIG).read_text())
    except ValueError as error:
        raise InputError(f"{path / CONFIG} is not valid JSON ({error}): the run is damaged.") from error
    kind = config.get("kind") if isinstance(config, dict) else None
    check(kind == KIND, f"{path} is a checkpoint of another kind ({kind!r}): expected {KIND!r}.")
    check(
        isinstance(config.get("format"), int) and config["format"] <= FORMAT,
        f"{path} has format {config.get('format')}, newer than the {FORMAT} this version reads: upgrade jgmm.",
    )
    check({"source", "arrays_sha256"} <= config.keys(), f"{path / CONFIG} is damaged: a part of it is missing.")
    return config


def describe(params: Source) -> dict[str, Any]:
    """What `blank` needs to rebuild the structure of a source."""
    gmm, rotation = params.gmm, params.rotation
    return {
        "k": gmm.k,
        "n_codes": gmm.d,
        "covariance_type": covariance_name(gmm),
        "rotation": list(rotation.components.shape) if isinstance(rotation, PCA) else None,
        "normalization_shape": list(params.mean.shape),
        "shape": list(params.shape),
        "dtype": str(gmm.means.dtype),
    }


def blank(description: dict[str, Any]) -> Source:
    """A source of the structure described, with shapes and dtypes in place of arrays."""
    d = description
    dtype, n_codes = np.dtype(d["dtype"]), d["n_codes"]

    def build() -> Source:
        rotation: Rotation = Identity(n_codes)
        if d["rotation"]:
            m, p = d["rotation"]
            rotation = zero_pca(m, p, n_codes, dtype)
        norm = jnp.zeros(d["normalization_shape"], dtype)
        gmm = zero_gmm(d["k"], n_codes, d["covariance_type"], dtype)
        return Source(gmm, rotation, norm, norm, tuple(d["shape"]))

    return jax.eval_shape(build)


def zero_gmm(k: int, d: int, covariance_type: str, dtype: Any) -> GMM:
    """A mixture of the structure of a fitted one, its values of no meaning."""
    return GMM(jnp.zeros(k, dtype), jnp.zeros((k, d), dtype), COVARIANCES[covariance_type](k, d, dtype))


def zero_pca(m: int, p: int, n_codes: int, dtype: Any) -> PCA:
    """A rotation of m rows and p features of the structure of a fitted one, its values of no meaning."""
    return PCA(jnp.zeros(p, dtype), jnp.zeros((m, p), dtype), jnp.zeros(m, dtype), n_codes)


def save_arrays(path: Path, tree: Any) -> None:
    """Write a pytree of arrays with orbax, replacing what is there once it is complete."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree, force=True)


def load_arrays(path: Path, target: Any) -> Any:
    """Read a pytree written by `save_arrays`, of the structure of `target`, onto the default device."""
    import orbax.checkpoint as ocp

    # A read that fails is raised below; the other reads in flight would report theirs here, with tracebacks.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, on_default_device(target))


def on_default_device(target: Any) -> Any:
    """The shapes and dtypes of a pytree, placed on the default device."""
    sharding = jax.sharding.SingleDeviceSharding(jnp.zeros(()).device)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), target)


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one step: readers see the old file or the whole new one."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def versions() -> dict[str, str]:
    """Of Python and of what the numbers depend on."""
    packages = ("jax", "jaxlib", "numpy", "orbax-checkpoint")
    ours = {"jgmm": jgmm.__version__, "python": platform.python_version()}
    return ours | {p: importlib.metadata.version(p) for p in packages}
