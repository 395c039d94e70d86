"""`jgmm.save` and `jgmm.load`: a source, a mixture or a conditional mixture in a folder of its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jgmm.checkpoint.arrays import by_name, digest, load_arrays, save_arrays
from jgmm.checkpoint.files import CONFIG, PARAMS, PROGRESS, versions, write_json
from jgmm.checkpoint.legacy import abstract_of_format_1, upgraded
from jgmm.checkpoint.structure import abstract, describe
from jgmm.conditional import ConditionalGMM, family_of
from jgmm.errors import InputError, check
from jgmm.mixture import GMM
from jgmm.registry import ACTIVATIONS
from jgmm.source import Source

FORMAT = 2


class Kind(NamedTuple):
    """How models of one type are kept.

    Attributes:
        type: Theirs.
        summary: model -> what a reader of config.json wants to know, with the dtype.
        structure: model -> JSON that rebuilds it.
        arrays: model -> its arrays.
        rebuild: JSON -> the shapes of its arrays, and arrays of those shapes -> model.
    """

    type: type
    summary: Callable[[Any], dict[str, Any]]
    structure: Callable[[Any], Any]
    arrays: Callable[[Any], Any]
    rebuild: Callable[[Any], tuple[Any, Callable[[Any], Any]]]


def _gmm_summary(gmm: GMM) -> dict[str, Any]:
    return {"k": gmm.k, "d": gmm.d, "covariance_type": gmm.covariance.name, "dtype": str(gmm.means.dtype)}


def _source_summary(source: Source) -> dict[str, Any]:
    return _gmm_summary(source.gmm) | {"encoder": source.encoder.name, "shape": list(source.shape)}


def _conditional_structure(model: ConditionalGMM) -> dict[str, Any]:
    activation, family = ACTIVATIONS.name_of(model.activation), model.covariance_type
    if activation is None:
        raise InputError("the activation has no name to be saved under: jgmm.registry.ACTIVATIONS.register it first.")
    if not isinstance(family, str):
        blank = jax.eval_shape(lambda: model(jnp.zeros(model.context) if model.context else None))
        family = family_of(blank)
        check(isinstance(family, str), "the covariance family has no name: register it in jgmm.registry.COVARIANCES.")
    names = ("features", "context", "components", "epsilon", "hidden_features")
    options = {name: getattr(model, name) for name in names}
    dtype = str(model.bias[...].dtype)
    return options | {"covariance_type": family, "activation": activation, "param_dtype": dtype}


def _rebuild_conditional(structure: dict[str, Any]) -> tuple[Any, Callable[[Any], ConditionalGMM]]:
    options = structure | {
        "activation": ACTIVATIONS[structure["activation"]],
        "param_dtype": jnp.dtype(structure["param_dtype"]),
    }
    graph, state = nnx.split(nnx.eval_shape(lambda: ConditionalGMM(**options, rngs=nnx.Rngs(0))))
    return state, lambda arrays: nnx.merge(graph, arrays)


def _conditional_summary(model: ConditionalGMM) -> dict[str, Any]:
    structure = _conditional_structure(model)
    return {"components": model.components, "features": model.features, "dtype": structure["param_dtype"]}


def _rebuild_tree(structure: Any) -> tuple[Any, Callable[[Any], Any]]:
    return abstract(structure), lambda tree: tree


KINDS = {
    "jgmm.source": Kind(Source, _source_summary, describe, lambda model: model, _rebuild_tree),
    "jgmm.gmm": Kind(GMM, _gmm_summary, describe, lambda model: model, _rebuild_tree),
    "jgmm.conditional": Kind(
        ConditionalGMM, _conditional_summary, _conditional_structure, nnx.state, _rebuild_conditional
    ),
}


def save(path: str | Path, model: Any, info: dict[str, Any] | None = None) -> None:
    """Write a `Source`, `GMM` or `ConditionalGMM` to a folder, which is made if need be.

    Args:
        path: The folder.
        model: What `load` gives back, bit by bit.
        info: JSON that goes into its config.json besides.
    Raises:
        InputError: For anything else, parameters that are not finite, types that no registry knows, and a folder that
            holds a finished run already or cannot be written. Nothing is written then.

    >>> import jgmm, tempfile
    >>> gmm = jgmm.GMM.from_parameters([1.0], [[0.0, 1.0]], [4.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     jgmm.save(folder + "/mixture", gmm)
    ...     jgmm.load(folder + "/mixture")
    GMM(k=1, d=2, covariance='spherical', dtype=float32)
    """
    path = Path(path).absolute()
    check(not (path / CONFIG).exists(), f"{path} already holds a finished run: choose another folder.")
    name = next((name for name, kind in KINDS.items() if isinstance(model, kind.type)), None)
    if name is None:
        raise InputError(f"expected a jgmm.Source, GMM or ConditionalGMM to save, got {type(model).__name__}.")
    kind = KINDS[name]
    arrays = kind.arrays(model)
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(arrays))
    check(finite, "the model has parameters that are not finite: it is not saved.")
    config = {
        **(info or {}),
        "kind": name,
        "format": FORMAT,
        "model": kind.summary(model),
        "structure": kind.structure(model),
        "arrays_sha256": digest(arrays),
        "versions": versions(),
    }
    try:
        json.dumps(config)
    except (TypeError, ValueError) as error:
        raise InputError(f"info must be JSON: {error}.") from error
    try:
        path.mkdir(parents=True, exist_ok=True)
        save_arrays(path / PARAMS, by_name(arrays))
        write_json(path / CONFIG, config)
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error}") from error


def load(path: str | Path) -> Any:
    """The `Source`, `GMM` or `ConditionalGMM` in a folder written by `save` or `python -m jgmm.fit`, on the default
    device.

    Raises:
        InputError: If the folder is none, was left half-written or by a newer version, or was computed in float64 while
            JAX runs without it.

    >>> import jgmm
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     jgmm.save(folder + "/mixture", jgmm.GMM.from_parameters([1.0], [[0.0, 1.0]], [4.0]))
    ...     jgmm.load(folder + "/mixture").means.tolist()
    [[0.0, 1.0]]
    """
    path = Path(path).absolute()
    config = read_config(path)
    dtype = config["model"]["dtype"]
    check(
        jax.dtypes.canonicalize_dtype(dtype) == dtype,
        f"{path} was computed in float64: call jax.config.update('jax_enable_x64', True) first.",
    )
    named = config["format"] > 1
    try:
        target, finish = KINDS[config["kind"]].rebuild(config["structure"]) if named else abstract_of_format_1(config)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path / CONFIG} is damaged: it describes no model ({error!r}).") from error
    try:
        arrays = load_arrays(path / PARAMS, by_name(target) if named else target)
    except Exception as error:  # orbax raises a plain Exception for arrays it cannot read
        raise InputError(f"{path} is damaged: its arrays cannot be read, or are not those of its {CONFIG}.") from error
    tree = jax.tree.unflatten(jax.tree.structure(target), list(arrays[n] for n in by_name(target))) if named else arrays
    model = finish(tree)
    same = digest(KINDS[config["kind"]].arrays(model)) == config["arrays_sha256"]
    check(same, f"{path} is damaged: its arrays are not those that were saved.")
    return model


def read_config(path: str | Path) -> dict[str, Any]:
    """The config.json of a saved model; `model` in it says what it is. Raises InputError as `load` does."""
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
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path / CONFIG} is not valid JSON ({error}): the run is damaged.") from error
    kind = config.get("kind") if isinstance(config, dict) else None
    check(kind in KINDS, f"{path} is a checkpoint of another kind ({kind!r}): expected {', '.join(KINDS)}.")
    known = isinstance(config.get("format"), int) and config["format"] <= FORMAT
    check(known, f"{path} has format {config.get('format')}, newer than the {FORMAT} this version reads: upgrade jgmm.")
    config = upgraded(config)
    missing = {"model", "structure", "arrays_sha256"} - config.keys()
    check(not missing, f"{path / CONFIG} is damaged: a part of it is missing.")
    return config


def load_source(path: str | Path) -> Source:
    """The source in a folder. Raises InputError for any other model, and as `load`."""
    model = load(path)
    if not isinstance(model, Source):
        raise InputError(f"{path} holds a {type(model).__name__}: expected a run of `python -m jgmm.fit`, or a Source.")
    return model
