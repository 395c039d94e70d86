"""A user's own examples, of shape [N, D] or [N, H, W, C]: FILE.npy or FILE.npz, or what is streamed from disk."""

from pathlib import Path
from typing import Any

import numpy as np

from jgmm.checkpoint.files import reading
from jgmm.data.images import Images
from jgmm.data.pixels import Judged, judge
from jgmm.data.streams import ENDINGS, Mapped, stream
from jgmm.errors import InputError, check, fault

KEYS = ("pixels", "images", "x", "data", "arr_0")


# Files of at least so many bytes are read anew in every pass, and never held in memory as a whole.
STREAMED = 2**29


def load(path: Path, pixels: str = "auto", streamed: bool | None = None) -> Images:
    """What a file or a folder holds: an array in memory (`load_array`), or a stream (`jgmm.data.streams`), which large
    .npy files are, folders, and files of other kinds.

    Args:
        path: The file or folder.
        pixels: The convention of images (`jgmm.data.pixels`).
        streamed: Whether a .npy file is a stream; None leaves that to its size.
    Raises:
        InputError: As `load_array`, and for a file that cannot be streamed.
    """
    with reading(path):
        large = path.suffix == ".npy" and path.is_file() and path.stat().st_size >= STREAMED
        other = path.is_dir() or path.suffix in ENDINGS and path.suffix != ".npy"
    return _stream(path, pixels) if streamed or other or large and streamed is None else load_array(path, pixels)


def _stream(path: Path, pixels: str) -> Images:
    values = stream(path)
    _check_kind(path, values)
    if values.dtype != np.uint8:
        values = Mapped(values, lambda piece: piece.astype(np.result_type(piece.dtype, np.float32), copy=False))
        for piece in values.pieces():
            check(np.isfinite(piece).all(), f"{path} contains NaN or infinite values: remove those examples first.")
    found = _judged(path, values, pixels)
    return Images(path.stem, found.pixels, None, str(path), found.convention, found.remark)


def load_array(path: Path, pixels: str = "auto") -> Images:
    """The array of a .npy file, or of a .npz file: its only one, or the one named as in KEYS; `labels` beside it.

    Args:
        path: The file. Object arrays are refused, never unpickled.
        pixels: The convention of images (`jgmm.data.pixels`).
    Raises:
        InputError: For a missing or unreadable file, a wrong shape or dtype, NaN or infinite values, and numbers that
            are not of the convention.
    """
    with reading(path):
        there = path.is_file()
    check(there, f"no file at {path}: expected a .npy or .npz file of examples.")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                values = content[_key(path, content.files)]
                labels = content["labels"] if "labels" in content.files else None
        else:
            values, labels = content, None
    except InputError:
        raise
    except Exception as error:  # numpy raises many kinds for a file that is none of its own
        said = fault(error)
        if said is not None:
            raise InputError(f"cannot read {path}: {said}.") from error
        raise InputError(
            f"{path} is not a whole .npy or .npz file of numbers; pickles and object arrays are never unpickled."
        ) from error
    if not isinstance(values, np.ndarray):
        raise InputError(f"{path} holds something else than arrays: expected a .npy or .npz file of examples.")
    _check_pixels(path, values)
    if labels is not None:
        fits = isinstance(labels, np.ndarray) and labels.shape == values.shape[:1]
        check(fits, f"{path}: labels {getattr(labels, 'shape', '')} for {len(values)} examples.")
    values = values if values.dtype == np.uint8 else values.astype(np.result_type(values.dtype, np.float32))
    found = _judged(path, values, pixels)
    return Images(path.stem, np.ascontiguousarray(found.pixels), labels, str(path), found.convention, found.remark)


def _judged(path: Path, values: Any, pixels: str) -> Judged:
    try:
        return judge(values, pixels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def load_weights(path: Path, n: int) -> np.ndarray:
    """How often each of n examples counts: the numbers of a .npy file. Raises InputError for anything else."""
    with reading(path):
        there = path.is_file() and path.suffix == ".npy"
    check(there, f"no .npy file at {path}: expected one of {n} numbers, how often each example counts.")
    try:
        weight = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is no .npy file of numbers: {error}.") from error
    numbers = np.issubdtype(weight.dtype, np.number) and not np.iscomplexobj(weight)
    check(numbers and weight.shape == (n,), f"{path} must hold {n} numbers, got {weight.dtype} {list(weight.shape)}.")
    weight = weight.astype(np.float64)
    check(bool(np.isfinite(weight).all()) and bool((weight >= 0).all()), f"{path} must hold numbers from 0.")
    check(bool((weight > 0).any()), f"{path} holds zeros alone: there is nothing to fit.")
    return weight


def _key(path: Path, names: list[str]) -> str:
    others = [name for name in names if name != "labels"]
    if len(others) == 1:
        return others[0]
    for key in KEYS:
        if key in others:
            return key
    raise InputError(f"{path} holds {others}: expected one array, or one named {', '.join(KEYS)}.")


def _check_pixels(path: Path, pixels: np.ndarray) -> None:
    _check_kind(path, pixels)
    check(np.isfinite(pixels).all(), f"{path} contains NaN or infinite values: remove those examples first.")


def _check_kind(path: Path, pixels: Any) -> None:
    check(
        pixels.dtype == np.uint8 or np.issubdtype(pixels.dtype, np.floating),
        f"{path} holds {pixels.dtype}: expected uint8 pixels or floating point. Convert it with .astype.",
    )
    check(
        pixels.ndim in (2, 4),
        f"{path} has shape {pixels.shape}: expected [N, D] or [N, H, W, C]; gray images need a last axis of length 1.",
    )
    check(np.prod(pixels.shape) > 0, f"{path} is empty: its shape is {pixels.shape}.")
