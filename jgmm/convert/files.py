"""`read` and `write`: models by the endings of their files."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jgmm.checkpoint.files import as_path, whole
from jgmm.checkpoint.models import load, save
from jgmm.conditional import ConditionalGMM
from jgmm.convert.estimators import from_estimator, to_estimator
from jgmm.convert.images import content_from, source_from
from jgmm.convert.pickles import Held, read_pickle, write_pickle
from jgmm.convert.tables import installed, read_npz, read_safetensors, write_npz, write_safetensors
from jgmm.convert.tensors import read_tensors, write_tensors
from jgmm.convert.zuko import from_state_dict, to_state_dict
from jgmm.errors import InputError, check
from jgmm.mixture import GMM
from jgmm.source import Source

Model = GMM | Source | ConditionalGMM


def read(
    path: str | Path, *, statistics: str | Path | None = None, shape: tuple[int, int, int] | None = None, **options: Any
) -> Model:
    """The model in a file or folder, by its ending (`jgmm.convert`).

    Args:
        path: A file, or a folder that `jgmm.save` or `python -m jgmm.fit` has written.
        statistics: Of {'gmm', 'pca'} of images: the .pt file of their mean and std; None for NAME_stats.pt beside
            NAME.pkl, if it is there.
        shape: Of these images (H, W, C), where nothing else says it.
        options: Those of `jgmm.convert.zuko.from_state_dict`, for a .pt file.
    Raises:
        InputError: For a file that is missing, damaged, or holds anything that is no such model; nothing of it is run.
    """
    path = as_path("path", path)
    if path.is_dir():
        return load(path)
    check(path.exists(), f"{path} does not exist.")
    ending = path.suffix.lower()
    check(ending in READERS, f"{path}: expected a folder or a file {', '.join(READERS)}.")
    known = {"features", "components", "covariance_type", "tied", "epsilon", "activation"}
    others = [name for name in options if name not in known]
    check(not others, f"unknown option {', '.join(others)}: a .pt file has {', '.join(sorted(known))}.")
    if ending in (".pkl", ".joblib"):
        beside = statistics_of(path) if statistics is None else as_path("statistics", statistics)
        check(statistics is None or beside.exists(), f"the statistics {beside} do not exist.")
        return READERS[ending](path, beside, shape)
    return READERS[ending](path, **options) if ending in (".pt", ".pth") else READERS[ending](path)


def write(path: str | Path, model: Model, *, force: bool = False) -> list[Path]:
    """Write a model to a file, or a new folder, by its ending (`jgmm.convert`), and return what was written.

    Raises:
        InputError: For a model that such files do not hold, and a file that exists, unless `force`. Nothing is written
            then.
    """
    path = as_path("path", path)
    ending = path.suffix.lower()
    if ending not in WRITERS:
        near = difflib.get_close_matches(ending, WRITERS, n=1)
        check(not near, f"{path} is neither a name of a folder nor ends in one of {', '.join(WRITERS)}.")
        save(path, model)
        return [path]
    parts = WRITERS[ending](path, model)
    for file in parts:
        check(force or not file.exists(), f"{file} exists: choose another name, or pass --force (force=True).")
    for file, put in parts.items():
        with whole(file) as temporary:
            put(temporary)
    return list(parts)


def statistics_of(path: Path) -> Path:
    """Where the statistics of a pickle of images are.

    >>> from pathlib import Path
    >>> from jgmm.convert.files import statistics_of
    >>> statistics_of(Path("cifar10_gmm10_pca3072_full.pkl")).name
    'cifar10_gmm10_pca3072_full_stats.pt'
    """
    return path.with_name(f"{path.stem}_stats.pt")


def _read_pickle(path: Path, statistics: Path, shape: tuple[int, int, int] | None) -> Model:
    content = read_pickle(path)
    if isinstance(content, Held):
        return from_estimator(content)
    check(isinstance(content, dict), f"{path} holds a {type(content).__name__}, and no fitted mixture.")
    return source_from(content, read_tensors(statistics) if statistics.exists() else None, shape)


def _read_skops(path: Path) -> GMM:
    library = installed("skops.io")
    try:
        return from_estimator(library.load(path, trusted=["jgmm.em.estimator.GaussianMixture"]))
    except Exception as error:  # whatever a damaged file makes of it
        raise InputError(f"{path} is refused ({error}).") from error


def _read_torch(path: Path, **options: Any) -> ConditionalGMM:
    return from_state_dict(read_tensors(path), **options)


def _single(model: Model) -> GMM:
    if isinstance(model, ConditionalGMM) and model.context == 0:
        return model()
    if not isinstance(model, GMM):
        raise InputError(f"such files hold a mixture without an encoder or a context, got {model!r}.")
    return model


def _pickle_parts(path: Path, model: Model) -> dict[Path, Callable[[Path], None]]:
    if not isinstance(model, Source):
        estimator = to_estimator(_single(model))
        return {path: lambda file: write_pickle(file, estimator)}
    content, statistics = content_from(model)
    return {
        path: lambda file: write_pickle(file, content),
        statistics_of(path): lambda file: write_tensors(file, statistics),
    }


def _skops_parts(path: Path, model: Model) -> dict[Path, Callable[[Path], None]]:
    library, estimator = installed("skops.io"), to_estimator(_single(model))
    return {path: lambda file: file.write_bytes(library.dumps(estimator))}


def _torch_parts(path: Path, model: Model) -> dict[Path, Callable[[Path], None]]:
    network = model if isinstance(model, ConditionalGMM) else ConditionalGMM.of(_single(model))
    state = to_state_dict(network)
    return {path: lambda file: write_tensors(file, state)}


def _parts_by(put: Callable[[Path, GMM], None]) -> Callable[[Path, Model], dict[Path, Callable[[Path], None]]]:
    def parts(path: Path, model: Model) -> dict[Path, Callable[[Path], None]]:
        gmm = _single(model)
        return {path: lambda file: put(file, gmm)}

    return parts


READERS: dict[str, Callable[..., Model]] = {
    ".pkl": _read_pickle,
    ".joblib": _read_pickle,
    ".skops": _read_skops,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".npz": read_npz,
    ".safetensors": read_safetensors,
}
WRITERS = {
    ".pkl": _pickle_parts,
    ".joblib": _pickle_parts,
    ".skops": _skops_parts,
    ".pt": _torch_parts,
    ".pth": _torch_parts,
    ".npz": _parts_by(write_npz),
    ".safetensors": _parts_by(write_safetensors),
}
