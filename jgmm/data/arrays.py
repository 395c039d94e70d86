"""A user's own array: FILE.npy or FILE.npz, of shape [N, D] or [N, H, W, C]."""

import zipfile
from pathlib import Path

import numpy as np

from jgmm.data.images import Images
from jgmm.errors import InputError, check

KEYS = ("pixels", "images", "x", "data", "arr_0")


def load(path: Path) -> Images:
    """The array of a .npy file, or of a .npz file: its only one, or the one named as in KEYS; `labels` beside it.

    uint8 is read as pixels; floating point is taken as it is. Object arrays are refused, never unpickled.
    Raises:
        InputError: For a missing or unreadable file, a wrong shape or dtype, and NaN or infinite values.
    """
    check(path.is_file(), f"no file at {path}. --data expects a .npy or .npz file.")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                pixels = content[_key(path, content.files)]
                labels = content["labels"] if "labels" in content.files else None
        else:
            pixels, labels = content, None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is not a whole .npy or .npz file of numbers; pickles and object arrays are never unpickled."
        ) from error
    _check_pixels(path, pixels)
    if labels is not None:
        check(labels.shape == pixels.shape[:1], f"{path}: labels {labels.shape} for {len(pixels)} examples.")
    pixels = pixels if pixels.dtype == np.uint8 else pixels.astype(np.result_type(pixels.dtype, np.float32))
    return Images(path.stem, np.ascontiguousarray(pixels), labels, str(path))


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
