"""`jgmm.save` and `jgmm.load`: a source, a mixture, a product or a conditional mixture in a folder of its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jgmm.checkpoint.arrays import by_name, digest, load_arrays, save_arrays
from jgmm.checkpoint.files import (
    CONFIG,
    PARAMS,
    PROGRESS,
    as_path,
    discard,
    read_arrays,
    read_json,
    reading,
    versions,
    whole,
    write_array,
    write_json,
)
from jgmm.checkpoint.legacy import abstract_of_format_1, upgraded
from jgmm.checkpoint.structure import abstract, describe
from jgmm.conditional import ConditionalGMM
from jgmm.covariance.families import family_of
from jgmm.em.stepwise import Stepwise
from jgmm.errors import InputError, check
from jgmm.mixture import GMM
from jgmm.product.mixture import ProductMixture
from jgmm.registry import ACTIVATIONS
from jgmm.source import Mixture, Source

# Format 2 had no seal, and format 1 no structure (`jgmm.checkpoint.legacy`).
FORMAT = 3


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


def _product_summary(mixture: ProductMixture) -> dict[str, Any]:
    found = {"k": mixture.k, "d": mixture.d, "covariance_type": mixture.parts[0].covariance.name}
    labels = mixture.labels
    return found | {"dtype": str(mixture.dtype), "blocks": labels.n_blocks, "classes": labels.n_classes}


def _mixture_summary(mixture: Mixture) -> dict[str, Any]:
    return _gmm_summary(mixture) if isinstance(mixture, GMM) else _product_summary(mixture)


def _source_summary(source: Source) -> dict[str, Any]:
    return _mixture_summary(source.gmm) | {"encoder": source.encoder.name, "shape": list(source.shape)}


def _conditional_structure(model: ConditionalGMM) -> dict[str, Any]:
    activation, family = ACTIVATIONS.name_of(model.activation), model.covariance_type
    if activation is None:
        raise InputError("the activation has no name to be saved under: jgmm.registry.ACTIVATIONS.register it first.")
    if not isinstance(family, str):
        blank = jax.eval_shape(lambda: model(jnp.zeros(model.context) if model.context else None))
        family = family_of(blank.covariance, blank.k, blank.d)
        family = family if isinstance(family, str) else describe(blank.covariance)
    names = ("features", "context", "components", "epsilon", "hidden_features")
    options = {name: getattr(model, name) for name in names}
    dtype = str(model.bias[...].dtype)
    return options | {"covariance_type": family, "activation": activation, "param_dtype": dtype}


def _rebuild_conditional(structure: dict[str, Any]) -> tuple[Any, Callable[[Any], ConditionalGMM]]:
    family = structure["covariance_type"]
    if not isinstance(family, str):  # such as low-rank covariances of another rank than the name has
        family = family_of(abstract(family), structure["components"], structure["features"])
    options = structure | {
        "covariance_type": family,
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


def _stepwise_summary(state: Stepwise) -> dict[str, Any]:
    return _gmm_summary(state.z_gmm) | {"rows": float(state.seen)}


KINDS = {
    "jgmm.source": Kind(Source, _source_summary, describe, lambda model: model, _rebuild_tree),
    "jgmm.gmm": Kind(GMM, _gmm_summary, describe, lambda model: model, _rebuild_tree),
    "jgmm.product": Kind(ProductMixture, _product_summary, describe, lambda model: model, _rebuild_tree),
    "jgmm.stepwise": Kind(Stepwise, _stepwise_summary, describe, lambda model: model, _rebuild_tree),
    "jgmm.conditional": Kind(
        ConditionalGMM, _conditional_summary, _conditional_structure, nnx.state, _rebuild_conditional
    ),
}


def save(path: str | Path, model: Any, info: dict[str, Any] | None = None) -> None:
    """Write a `Source`, `GMM`, `ProductMixture`, `ConditionalGMM` or `Stepwise` to a new folder, which appears whole.

    Args:
        path: The folder.
        model: What `load` gives back, bit by bit.
        info: JSON that goes into its config.json besides.
    Raises:
        InputError: For anything else, parameters that are not finite, types that no registry knows, and a folder that
            holds something already or cannot be written. Nothing is written then.

    >>> import jgmm, tempfile
    >>> gmm = jgmm.GMM.from_parameters([1.0], [[0.0, 1.0]], [4.0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     jgmm.save(folder + "/mixture", gmm)
    ...     jgmm.load(folder + "/mixture")
    GMM(k=1, d=2, covariance='spherical', dtype=float32)
    """
    path = as_path("path", path).absolute()
    check_new(path)
    prepared = _prepared(model, info)
    with whole(path) as temporary:
        temporary.mkdir(parents=True)
        _write(temporary, *prepared, {})


def check_new(folder: Path) -> None:
    """Raise InputError unless a folder is new, or empty, so that nothing of somebody else's is lost in it."""
    with reading(folder):
        check(not (folder / CONFIG).exists(), f"{folder} already holds a finished run: choose another folder.")
        check(not folder.exists() or folder.is_dir(), f"cannot write to {folder}: it is not a folder.")
        there = sorted(p.name for p in folder.iterdir()) if folder.exists() else []
    check(not there, f"{folder} is not empty, it holds {there[0] if there else ''}: choose another folder.")


def save_run(folder: Path, model: Any, info: dict[str, Any], others: dict[str, np.ndarray]) -> None:
    """`save` into a folder that holds other things, with arrays `others` under their file names beside the model. One
    that was there before is the run's until all of the new one is on disk."""
    taken = _files_of(read_config(folder) if (folder / CONFIG).exists() else {})
    _write(folder, *_prepared(model, info), others, taken)
    for name in taken:
        discard(folder / name)


def read_other(folder: Path, config: dict[str, Any], name: str) -> np.ndarray | None:
    """An array that `save_run` put beside a model, or None. Raises InputError if it is damaged."""
    kept = config.get("files", {}).get(name)
    if kept is not None:
        return read_arrays(folder / kept["name"], kept["sha256"])
    # Formats before 3 had no list of files.
    return read_arrays(folder / name, None) if (folder / name).exists() else None


def _prepared(model: Any, info: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """The arrays of a model, and its config.json. Raises InputError as `save`."""
    name = next((name for name, kind in KINDS.items() if isinstance(model, kind.type)), None)
    if name is None:
        kinds = ", ".join(kind.type.__name__ for kind in KINDS.values())
        raise InputError(f"expected a model of jgmm to save ({kinds}), got {type(model).__name__}.")
    kind = KINDS[name]
    arrays = kind.arrays(model)
    check(_is_finite(arrays), "the model has parameters that are not finite: it is not saved.")
    check(info is None or isinstance(info, dict), f"info must be a dictionary, got {type(info).__name__}.")
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
        return arrays, json.loads(json.dumps(config))
    except (TypeError, ValueError) as error:
        raise InputError(f"info must be JSON: {error}.") from error


def _write(
    folder: Path,
    arrays: Any,
    config: dict[str, Any],
    others: dict[str, np.ndarray],
    taken: frozenset[str] = frozenset(),
) -> None:
    params = _beside(PARAMS, taken)
    save_arrays(folder / params, by_name(arrays))
    files = {}
    for name, array in others.items():
        there = _beside(name, taken)
        files[name] = {"name": there, "sha256": write_array(folder / there, array)}
    write_json(folder / CONFIG, config | {"arrays": params, "files": files})


def _beside(name: str, taken: frozenset[str]) -> str:
    """The name, or a second one where the first is taken."""
    stem, dot, ending = name.partition(".")
    return f"{stem}-2{dot}{ending}" if name in taken else name


def _files_of(config: dict[str, Any]) -> frozenset[str]:
    """The names of what a config.json stands for."""
    if not config:
        return frozenset()
    return frozenset({config.get("arrays", PARAMS), *(file["name"] for file in config.get("files", {}).values())})


def _is_finite(arrays: Any) -> bool:
    """Whether parameters are; a component may have the weight zero, whose logarithm is -inf."""
    named = by_name(arrays).items()
    finite = (jnp.isfinite(a) | (name.endswith("log_weights") & jnp.isneginf(a)) for name, a in named)
    return all(bool(one.all()) for one in finite)


def load(path: str | Path) -> Any:
    """The `Source`, `GMM`, `ProductMixture`, `ConditionalGMM` or `Stepwise` in a folder of `save` or
    `python -m jgmm.fit`, on the default device.

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
    path = as_path("path", path).absolute()
    config = read_config(path)
    dtype = config["model"]["dtype"]
    check(
        jax.dtypes.canonicalize_dtype(dtype) == dtype,
        f"{path} was computed in float64: call jax.config.update('jax_enable_x64', True) first.",
    )
    named = config["format"] > 1
    try:
        target, finish = KINDS[config["kind"]].rebuild(config["structure"]) if named else abstract_of_format_1(config)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path / CONFIG} is damaged: it describes no model ({error!r}).") from error
    arrays = load_arrays(path / config.get("arrays", PARAMS), by_name(target) if named else target)
    tree = jax.tree.unflatten(jax.tree.structure(target), list(arrays[n] for n in by_name(target))) if named else arrays
    model = finish(tree)
    found = KINDS[config["kind"]].arrays(model)
    same = digest(found) == config["arrays_sha256"]
    check(same, f"{path} is damaged: its arrays are not those that were saved.")
    check(_is_finite(found), f"{path} holds parameters that are not finite: fit it again.")
    return model


def read_config(path: str | Path) -> dict[str, Any]:
    """The config.json of a saved model; `model` in it says what it is. Raises InputError as `load` does."""
    path = as_path("path", path).absolute()
    with reading(path):
        check(path.is_dir(), f"no run folder at {path}: expected one written by `python -m jgmm.fit`.")
        there = (path / CONFIG).is_file()
        interrupted = (path / PROGRESS).is_dir()
    if not there:
        check(
            not interrupted,
            f"{path} is half-written: its fit was interrupted. Finish it with "
            f"`python -m jgmm.fit --out {path} --resume`.",
        )
        raise InputError(f"{path} is not a jgmm run: it has no {CONFIG}.")
    config = read_json(path / CONFIG, sealed_from=FORMAT)
    kind = config.get("kind")
    check(kind in KINDS, f"{path} is a checkpoint of another kind ({kind!r}): expected {', '.join(KINDS)}.")
    form = config.get("format")
    if not isinstance(form, int):
        raise InputError(f"{path / CONFIG} is damaged: its format is {form!r}.")
    check(form <= FORMAT, f"{path} has format {form}, newer than the {FORMAT} this version reads: upgrade jgmm.")
    try:
        config = upgraded(config)
    except (KeyError, TypeError) as error:
        raise InputError(f"{path / CONFIG} is damaged: a part of it is missing ({error!r}).") from error
    missing = {"model", "structure", "arrays_sha256"} - config.keys()
    check(not missing, f"{path / CONFIG} is damaged: a part of it is missing.")
    return config


def load_source(path: str | Path) -> Source:
    """The source in a folder. Raises InputError for any other model, and as `load`."""
    model = load(path)
    if not isinstance(model, Source):
        raise InputError(f"{path} holds a {type(model).__name__}: expected a run of `python -m jgmm.fit`, or a Source.")
    return model
