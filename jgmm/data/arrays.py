"""A user's own array: FILE.npy or FILE.npz, of shape [N, D] or [N, H, W, C]."""

from pathlib import Path

import numpy as np

from jgmm.checkpoint.files import reading
from jgmm.data.images import Images
from jgmm.data.pixels import judge
from jgmm.errors import InputError, check, fault

KEYS = ("pixels", "images", "x", "data", "arr_0")


def load(path: Path, pixels: str = "auto") -> Images:
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
    try:
        found = judge(values, pixels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return Images(path.stem, np.ascontiguousarray(found.pixels), labels, str(path), found.convention, found.remark)


def _key(path: Path, names: list[str]) -> str:
    others = [name for name in names if name != "labels"]
    if len(others) == 1:
        return others[0]
    for key in KEYS:
        if key in others:
            return key
    raise InputError(f"{path} holds {others}: expected one array, or one named {', '.join(KEYS)}.")


def _check_pixels(path: Path, pixels: np.ndarray) -> None:
    check(
        pixels.dtype == np.uint8 or np.issubdtype(pixels.dtype, np.floating),
        f"{path} holds {pixels.dtype}: expected uint8 pixels or floating point. Convert it with .astype.",
    )
    check(
        pixels.ndim in (2, 4),
        f"{path} has shape {pixels.shape}: expected [N, D] or [N, H, W, C]; gray images need a last axis of length 1.",
    )
    check(pixels.size > 0, f"{path} is empty: its shape is {pixels.shape}.")
    check(np.isfinite(pixels).all(), f"{path} contains NaN or infinite values: remove those examples first.")
