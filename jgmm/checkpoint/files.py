"""Small files of a run folder: their names, how they are written whole, and the digests that tell whether they still
are."""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

import jgmm
from jgmm.errors import Fault, InputError, check, fault, short

CONFIG = "config.json"
PARAMS = "params"
PROGRESS = "progress"
TRAIN_LOG_PROB = "log_prob_train.npy"
# What a prior that was learned believes in, so that a finished fit can go on.
PRIOR = {"variance": "prior_variance.npy", "mean": "prior_mean.npy"}
SEAL = "sha256"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """The name of a file, or of a folder, to write; once the block ends well it takes the place of `path`.

    Readers see what was there before, or all of the new. If the block fails nothing of it is left.

    Raises:
        Fault: If the disk is full, or it cannot be written for another reason of the system's.
    """
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        yield temporary
        if temporary.is_file():
            _on_disk(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        discard(temporary)
        said = fault(error)
        if said is not None:
            raise Fault(f"cannot write {path}: {said}.") from error
        raise


def _on_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def discard(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with a seal, a digest of its content, which `read_json` checks. Raises InputError as `whole`."""
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(sealed(content), file, indent=2)


def read_json(path: Path, sealed_from: int = 0) -> dict[str, Any]:
    """What `write_json` wrote; content whose `format` is older than `sealed_from` had no seal yet.

    Raises:
        InputError: For a file that cannot be read, or whose content is not what was written.
    """
    remedy = "it is damaged, or was changed by hand"
    with reading(path):
        text = path.read_bytes()
    try:
        found = json.loads(text.decode())
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({first_line(error)}): {remedy}.") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no JSON object: {remedy}.")
    form = found.get("format", 0)
    if SEAL not in found and isinstance(form, int) and form < sealed_from:
        return found
    content = unsealed(found)
    if content is None:
        raise InputError(f"{path} is not as it was written: {remedy}.")
    return content


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """JSON content with its sha256, whatever the order of its keys and its spaces."""
    return {**content, SEAL: hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def unsealed(found: dict[str, Any]) -> dict[str, Any] | None:
    """The inverse of `sealed`; None if the content is not what was sealed."""
    content = {name: value for name, value in found.items() if name != SEAL}
    return content if sealed(content) == found else None


def write_array(path: Path, array: np.ndarray) -> str:
    """Write a .npy file; returns its digest. Raises InputError as `whole`."""
    return _written(path, lambda file: np.save(file, array))


def write_arrays(path: Path, arrays: dict[str, Any]) -> str:
    """Write a .npz file; returns its digest. Raises InputError as `whole`."""
    return _written(path, lambda file: np.savez(file, **arrays))


def _written(path: Path, write: Callable[[Any], None]) -> str:
    with whole(path) as temporary:
        with temporary.open("wb") as file:
            write(file)
        return digest_of_file(temporary)


def read_arrays(path: Path, sha256: str | None) -> Any:
    """The array of a .npy file, or a dictionary of those of a .npz file, of this digest; None for files that old
    versions wrote without. Nothing is unpickled.

    Raises:
        InputError: For a file that is missing, damaged, or cannot be read.
    """
    with reading(path):
        check(sha256 is None or digest_of_file(path) == sha256, f"{path} is damaged: it is not as it was written.")
        try:
            content = np.load(path, allow_pickle=False)
            found = content if isinstance(content, np.ndarray) else {name: content[name] for name in content.files}
        except Exception as error:  # numpy raises many kinds for a file that is none of its own
            if fault(error) is not None:
                raise
            raise InputError(f"{path} is damaged: {first_line(error)}.") from error
        arrays = [found] if isinstance(found, np.ndarray) else list(found.values())
        check(all(isinstance(a, np.ndarray) for a in arrays), f"{path} is damaged: not all in it are arrays.")
        return found


def digest_of_file(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """`faults` while a path is read; a file that is missing is said to be."""
    try:
        with faults(f"read {path}"):
            yield
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing.") from error


@contextmanager
def faults(doing: str) -> Iterator[None]:
    """Faults of the system while something is done become an InputError that names both, but for missing files."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        said = fault(error)
        if said is None:
            raise
        raise Fault(f"cannot {doing}: {said}.") from error


def as_path(name: str, path: Any) -> Path:
    """A path. Raises InputError for anything that is none."""
    check(isinstance(path, str | os.PathLike) and str(path) != "", f"{name} must be a path, got {short(path)}.")
    check_encodable(name, str(path))
    return Path(path)


def check_encodable(name: str, text: str) -> None:
    """Raise InputError for a path that Python could not decode, with which orbax can do nothing."""
    whole = not any("\ud800" <= character <= "\udfff" for character in text)
    check(whole, f"{name} has letters that this locale does not: set LC_ALL=C.UTF-8, or PYTHONUTF8=1.")


def first_line(error: Exception) -> str:
    """The beginning of what an error says."""
    return str(error).strip().split("\n")[0][:200]


def versions() -> dict[str, str]:
    """The versions of Python and of what the numbers depend on."""
    packages = ("jax", "jaxlib", "numpy", "orbax-checkpoint")
    ours = {"jgmm": jgmm.__version__, "python": platform.python_version()}
    return ours | {p: importlib.metadata.version(p) for p in packages}
